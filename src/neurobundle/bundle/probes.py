"""Checks of a bundle that import MONAI and build its parts; they run only if nothing in the bundle looks unsafe.

Nothing here needs data or a network connection: engines and datasets are not built, and a network sees noise.
"""

from __future__ import annotations

import ast
import importlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neurobundle.bundle import configfile
from neurobundle.bundle.finding import BundleFiles, Finding
from neurobundle.errors import WeightsError

#: The largest weights file, and all of them, that a repository of bundles carries.
MAX_FILE_BYTES = 15 * 2**20
MAX_TOTAL_BYTES = 40 * 2**20

#: Parts that can be built without data.
PARTS = {
    "inference": ("network_def", "preprocessing", "inferer", "postprocessing"),
    "train": (
        "network_def",
        "loss",
        "train::preprocessing",
        "train::inferer",
        "train::postprocessing",
        "validate::preprocessing",
        "validate::inferer",
        "validate::postprocessing",
    ),
}

#: A side of the noise that the network sees is at least this, where the metadata leave it open.
PROBE_SIDE_VOXELS = 32

_PROBE_SEED = 0


def importable(bundle: BundleFiles) -> Iterator[Finding]:
    """Every ``_target_`` exists in what is installed."""
    from monai.bundle.config_item import ComponentLocator

    locator = ComponentLocator()
    seen: dict[str, bool] = {}
    for stem, config in bundle.configs.items():
        for place, value in configfile.walk(config):
            target = value.get("_target_") if isinstance(value, dict) else None
            if not isinstance(target, str):
                continue
            if target not in seen:
                module = locator.get_component_module_name(target) if "." not in target else None
                seen[target] = bool(module) if "." not in target else _exists(target)
            if not seen[target]:
                message = f"{stem}: {place}: {target!r} cannot be imported"
                yield Finding("importable", "fail", message, "Correct the name, or install its package.")


def properties(bundle: BundleFiles) -> Iterator[Finding]:
    """MONAI's own check_properties() finds all that its applications look for."""
    for stem in bundle.alone():
        path = next(
            p for p in sorted((bundle.root / "configs").glob(f"{stem}.*")) if p.suffix in (".yaml", ".yml", ".json")
        )
        try:
            missing = _structure(path, "train" if stem == "train" else "inference").check_properties()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            message = f"{stem}: check_properties() of MONAI fails: {type(error).__name__}: {error}"
            yield Finding("properties", bundle.strict, message, "Refer to the parts by '@id', as MONAI expects.")
            continue
        if missing:
            message = f"{stem}: check_properties() of MONAI misses {', '.join(missing)}"
            yield Finding("properties", bundle.strict, message, "Define them under MONAI's ids, and refer to them.")


def components(bundle: BundleFiles) -> Iterator[Finding]:
    """The parts of a run that need no data can be built."""
    for stem, config in bundle.alone().items():
        with tempfile.TemporaryDirectory() as scratch:
            parser = parser_of(bundle, stem, scratch)
            for part in PARTS[stem]:
                if configfile.lookup(config, part) is None:
                    continue
                try:
                    parser.get_parsed_content(part)
                except Exception as error:  # whatever a stranger's config raises is what the user wants to read
                    level = "warn" if isinstance(_root_cause(error), FileNotFoundError) else bundle.strict
                    message = f"{stem}: {part} cannot be built: {_reason(error)}"
                    yield Finding("components", level, message, "Correct its arguments.")


def listed(bundle: BundleFiles) -> Iterator[Finding]:
    """Weights are small, and are the ones that the manifest lists. Reads bytes only."""
    from neurobundle.networks import manifest

    models = bundle.root / "models"
    files = sorted(models.glob("*.pt"))
    if not (models / "model.pt").is_file():
        yield Finding("manifest", "warn", "models/model.pt is missing", "Train the bundle, or copy its weights there.")
    for path in files:
        if path.stat().st_size > MAX_FILE_BYTES:
            message = f"models/{path.name} has {path.stat().st_size / 2**20:.1f} MiB, more than 15"
            yield Finding("manifest", bundle.strict, message, "Store float16, or a smaller network.")
    if sum(path.stat().st_size for path in files) > MAX_TOTAL_BYTES:
        yield Finding("manifest", bundle.strict, "the weights have more than 40 MiB together", "Ship fewer of them.")
    if files and not (models / manifest.MANIFEST_NAME).is_file():
        message = f"models/{manifest.MANIFEST_NAME} is missing, so that damaged weights would not be noticed"
        yield Finding("manifest", bundle.strict, message, "List each file: sha256sum *.pt > MANIFEST.sha256.")
        return
    try:
        names = {path.name for path in files} | set(manifest.read_manifest(models))
    except WeightsError as error:
        yield Finding("manifest", "fail", error.cause, error.way_out)
        return
    for name in sorted(names):
        try:
            manifest.verify(models / name)
        except WeightsError as error:
            yield Finding("manifest", "fail", f"models/{name}: {error.cause}", error.way_out)


def weights(bundle: BundleFiles) -> Iterator[Finding]:
    """All weights load completely into the bundle's network, are finite, and give a finite output."""
    from neurobundle.networks.weights import load_weights

    stem = "inference" if "inference" in bundle.configs else "train"
    files = sorted((bundle.root / "models").glob("*.pt"))
    if not files or "network_def" not in bundle.configs.get(stem, {}):
        yield Finding("weights", "ok", "not tried: there are no weights, or no network_def to load them into")
        return
    with tempfile.TemporaryDirectory() as scratch:
        network = parser_of(bundle, stem, scratch).get_parsed_content("network_def")
    loaded = False
    for path in files:
        try:
            load_weights(network, path, verify=False)
            loaded = True
        except WeightsError as error:
            yield Finding("weights", "fail", f"models/{path.name}: {error.cause}", error.way_out)
    if loaded:
        yield from _probe(bundle, network)


def _probe(bundle: BundleFiles, network: Any) -> Iterator[Finding]:
    import torch

    inputs = configfile.lookup(bundle.metadata, "network_data_format::inputs::image", {})
    outputs = configfile.lookup(bundle.metadata, "network_data_format::outputs::pred", {})
    shape = probe_shape(inputs.get("spatial_shape", ()))
    noise = torch.randn(
        (1, inputs.get("num_channels", 1), *shape), generator=torch.Generator().manual_seed(_PROBE_SEED)
    )
    try:
        with torch.no_grad():
            output = network.cpu().float().eval()(noise)
    except Exception as error:  # the network is the bundle's own
        message = f"a forward pass on noise of shape {tuple(noise.shape)} fails: {_reason(error)}"
        yield Finding("weights", "fail", message, "Correct spatial_shape or num_channels in the metadata.")
        return
    if not isinstance(output, torch.Tensor):
        message = f"the network returns a {type(output).__name__}, which was not looked into"
        yield Finding("weights", "warn", message)
        return
    if not torch.isfinite(output).all():
        yield Finding("weights", "fail", "a forward pass on noise gives NaN or infinity", "Use other weights.")
    if output.shape[1] != outputs.get("num_channels"):
        message = f"the network gives {output.shape[1]} channels; the metadata say {outputs.get('num_channels')}"
        yield Finding("weights", "fail", message, "Correct num_channels in the metadata.")


def probe_shape(spatial_shape: list[int | str]) -> tuple[int, ...]:
    """A shape that fits the metadata's pattern, at least 32 voxels a side where the pattern leaves it open.

    >>> probe_shape(["8*n", "*", 40, "2**p*n"])
    (32, 32, 40, 64)
    """
    return tuple(_side(side) for side in spatial_shape)


def _side(side: int | str) -> int:
    if isinstance(side, int):
        return side
    if side.strip() == "*":
        return PROBE_SIDE_VOXELS
    for n in range(1, PROBE_SIDE_VOXELS + 1):
        value = _formula(ast.parse(side.strip(), mode="eval").body, n)
        if value >= PROBE_SIDE_VOXELS:
            break
    return value


def _formula(node: ast.expr, n: int) -> int:
    """A product or power of numbers, n and p (both get the same value)."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name) and node.id in ("n", "p"):
        return n
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Pow):
        left, right = _formula(node.left, n), _formula(node.right, n)
        if max(left, right) > 2**10 or (isinstance(node.op, ast.Pow) and right > 2**4):
            raise ValueError("the sizes in spatial_shape are too large to try")
        return left * right if isinstance(node.op, ast.Mult) else left**right
    raise ValueError(f"spatial_shape must be numbers, '*' or formulas of n and p, got {ast.unparse(node)!r}")


def parser_of(bundle: BundleFiles, stem: str, scratch: str) -> Any:
    """MONAI's parser over a copy of a config, its folders led elsewhere, on the CPU."""
    from monai.bundle import ConfigParser

    config = configfile.merge(bundle.configs[stem])
    places = {"bundle_root": str(bundle.root), "device": "cpu"}
    places |= dict.fromkeys(("dataset_dir", "output_dir", "ckpt_dir"), scratch)
    config.update({key: value for key, value in places.items() if key in config})
    parser = ConfigParser(config)
    parser.read_meta(dict(bundle.metadata))
    return parser


def _structure(path: Path, kind: str) -> Any:
    """MONAI's ConfigWorkflow, whose properties are looked up in the config and not built."""
    from monai.bundle import ConfigWorkflow

    class Structure(ConfigWorkflow):
        def _get_property(self, name: str, property: dict) -> Any:
            try:
                identifier = self._get_prop_id(name, property)
            except KeyError as error:
                raise AttributeError(name) from error  # what hasattr() takes for "not there"
            return None if identifier is None else self.parser[identifier]

    return Structure(str(path), workflow_type=kind, logging_file=False)


def _exists(target: str) -> bool:
    module, _, attributes = target.rpartition(".")
    names = [attributes]
    while module:
        try:
            found: Any = importlib.import_module(module)
        except ImportError:
            module, _, last = module.rpartition(".")
            names.insert(0, last)
            continue
        for attribute in names:
            found = getattr(found, attribute, None)
        return callable(found)
    return False


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _reason(error: BaseException) -> str:
    cause = _root_cause(error)
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]}"
