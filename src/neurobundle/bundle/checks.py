"""Checks of a bundle that only read its files: nothing of it is imported, instantiated or executed.

Each check yields what is wrong; nothing means that all is well. :mod:`neurobundle.bundle.doctor` lists them.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import neurobundle
from neurobundle.bundle import configfile
from neurobundle.bundle.find import CLASS_NAMES, answers_of
from neurobundle.bundle.finding import CONFIG_STEMS, BundleFiles, Finding, Level
from neurobundle.export.dicom_codes import BLOCK

#: MONAI Label reads the kind of task off the folder's name.
TASK_SUFFIXES = ("_segmentation", "_classification", "_detection")

#: Top-level ids that every config of ours has; overlays set only these.
SHARED_IDS = (
    "bundle_root",
    "dataset_dir",
    "output_dir",
    "ckpt_dir",
    "datalist",
    "fold",
    "device",
    "amp",
    "max_cases",
    "num_workers",
    "cache_rate",
    "seed",
    "resume",
    "network_size",
)
TRAIN_IDS = ("epochs", "val_interval", "store")

#: Metadata field -> the distribution that it speaks of.
VERSION_FIELDS = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}

#: Names of factories that training and inference share; a locator of a structure in a head, say, is not one.
PREPROCESSING_TARGET = r"neurobundle\.prepare\.(\w+\.)*\w*preprocessing"

_REQUIRED_FILES = ("LICENSE", "configs/logging.conf", "docs/README.md", "docs/data_license.txt")


def layout(bundle: BundleFiles) -> Iterator[Finding]:
    """The files that the ecosystem's programs read are there."""
    for name in _REQUIRED_FILES:
        if not (bundle.root / name).is_file():
            yield Finding("layout", bundle.strict, f"{name} is missing", "Add it.")
    present = {path.stem for path in (bundle.root / "configs").iterdir()}
    if not present & {"train", "inference"}:
        yield Finding("layout", "fail", "there is neither a train nor an inference config", "Add configs/train.yaml.")
    for stem in CONFIG_STEMS:
        if stem not in present:
            yield Finding("layout", bundle.strict, f"configs/{stem}.yaml is missing", "Add it.")


def name(bundle: BundleFiles) -> Iterator[Finding]:
    """The folder's name says what the bundle does."""
    folder = bundle.root.resolve().name
    if not folder.endswith(TASK_SUFFIXES):
        yield Finding(
            "name",
            bundle.strict,
            f"the folder's name {folder!r} ends in none of {', '.join(TASK_SUFFIXES)}",
            "Rename the folder: MONAI Label takes the task from its name.",
        )


def configs(bundle: BundleFiles) -> Iterator[Finding]:
    """Every config parses, its references lead somewhere, and overlays change what is there."""
    for error in bundle.unreadable:
        yield Finding("configs", "fail", str(error).partition(". ")[0], error.way_out)
    overlaid = bundle.overlaid()
    for stem, config in (bundle.merged() | overlaid).items():
        whole = {**config, configfile.META_ID: bundle.metadata}
        for place, value in configfile.walk(config):
            for reference in configfile.references(value):
                if not _leads_somewhere(whole, reference):
                    message = f"{stem}: {place} refers to {reference!r}, which is not there"
                    yield Finding("configs", "fail", message, "Correct the id, or define it.")
    train = bundle.configs.get("train", {})
    for stem in ("evaluate", "multi_gpu_train", *overlaid):
        nested = [key for key in bundle.configs.get(stem, {}) if len(configfile.split_id(key)) > 1]
        for message in configfile.unknown_overrides(train, [configfile.ID_SEPARATOR.join(_above(k)) for k in nested]):
            yield Finding("configs", "fail", f"{stem} overrides what train lacks: {message}", "Correct the id.")


def python(bundle: BundleFiles) -> Iterator[Finding]:
    """A bundle is configs, weights and text: no code travels with it."""
    if (bundle.root / "scripts").exists():
        yield Finding("python", bundle.strict, "it has a scripts/ folder", "Move the code into an installed package.")
    for path in sorted(bundle.root.rglob("*.py")):
        message = f"it holds Python: {path.relative_to(bundle.root)}"
        yield Finding("python", bundle.strict, message, "Move the code into an installed package.")
    for stem, config in bundle.configs.items():
        for place, value in configfile.walk(config):
            if isinstance(value, str) and value.startswith("$") and "sys.path" in value:
                yield Finding("python", bundle.strict, f"{stem}: {place} changes sys.path", "Install the package.")


def metadata(bundle: BundleFiles) -> Iterator[Finding]:
    """metadata.json is what the specification asks for."""
    if not bundle.metadata:
        return
    schema = json.loads(files("neurobundle.bundle").joinpath("metadata_schema.json").read_text(encoding="utf-8"))
    yield from _validate(bundle.metadata, schema)
    changelog, version = bundle.metadata.get("changelog"), bundle.metadata.get("version")
    if isinstance(changelog, dict) and version not in changelog:
        message = f"the changelog has no entry for version {version!r}"
        yield Finding("metadata", bundle.strict, message, "Add one.")


def dicom(bundle: BundleFiles) -> Iterator[Finding]:
    """Where the metadata name structures for DICOM, they name each structure and each region."""
    block = bundle.metadata.get(BLOCK)
    outputs = configfile.lookup(bundle.metadata, "network_data_format::outputs", {})
    pred = outputs.get("pred") if isinstance(outputs, dict) else None
    if block is None or not isinstance(pred, dict):
        return
    labels: dict[str, str] = pred.get("label_def") or pred.get("channel_def") or {}
    names = {str(name) for name in [*labels.values(), *pred.get("regions", {})] if str(name).lower() != "background"}
    if missing := sorted(names - set(configfile.lookup({BLOCK: block}, f"{BLOCK}::structures", {}))):
        message = f"metadata.json {BLOCK} has no codes of {', '.join(missing)}"
        yield Finding("dicom", "fail", message, "Add them: docs/concepts/dicom-objects.md.")


def versions(bundle: BundleFiles) -> Iterator[Finding]:
    """The packages that the bundle asks for are installed, in a fitting version."""
    wanted = {dist: bundle.metadata.get(key) for key, dist in VERSION_FIELDS.items()}
    required = bundle.metadata.get("required_packages_version")
    wanted.update(required if isinstance(required, dict) else {})
    for package, version in wanted.items():
        if not isinstance(version, str):
            continue
        installed = installed_version(package)
        if installed is None:
            message = f"it requires {package} {version}, which is not installed"
            yield Finding("versions", "fail", message, f"Install it: pip install '{package}>={version}'.")
        elif problem := compare_versions(version, installed):
            message = f"it was made for {package} {version}; {installed} is installed, {problem[1]}"
            # NumPy computes no network, and this library runs with each version that it lets pip install.
            level: Level = "warn" if package == "numpy" else problem[0]
            yield Finding("versions", level, message, f"Install {package} {version}, or test the bundle anew.")


def ids(bundle: BundleFiles) -> Iterator[Finding]:
    """The top-level ids that overlays set are there."""
    for stem, config in bundle.alone().items():
        wanted = SHARED_IDS + (TRAIN_IDS if stem == "train" else ())
        missing = [identifier for identifier in wanted if identifier not in config]
        if missing:
            message = f"{stem} lacks the top-level ids {', '.join(missing)}, so that overlays cannot set them"
            yield Finding("ids", bundle.strict, message, "Define them (None is a value).")


def agreement(bundle: BundleFiles) -> Iterator[Finding]:
    """Train, evaluate and inference build the same network and prepare a scan alike; classes are the metadata's."""
    runs = {stem: config for stem, config in bundle.merged().items() if stem != "multi_gpu_train"}
    classes = answers_of(bundle.root) if bundle.metadata else None
    for stem, config in runs.items():
        if classes is not None and config.get(CLASS_NAMES, classes) != classes:
            message = (
                f"{CLASS_NAMES} of {stem} is {config[CLASS_NAMES]}, and the metadata's channel_def names {classes}"
            )
            yield Finding("agreement", "fail", message, "Make them equal.")
    if not {"train", "inference"} <= set(runs):
        return
    networks = {stem: configfile.resolve(config, config.get("network_def")) for stem, config in runs.items()}
    blocks = {stem: _preparation(config) for stem, config in runs.items()}
    for stem in runs:
        if networks[stem] != networks["inference"]:
            message = f"network_def of {stem} is not that of inference: {networks[stem]} and {networks['inference']}"
            yield Finding("agreement", "fail", message, "Make them equal; the weights fit one of them only.")
        for here, there in _differences(blocks[stem], blocks["inference"]):
            message = f"the preprocessing of {stem} is not that of inference: {here} and {there}"
            yield Finding("agreement", bundle.strict, message, "Make them equal, apart from the keys.")


def installed_version(package: str) -> str | None:
    """The version of an installed distribution, or None."""
    if package == "neurobundle":
        return neurobundle.__version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def compare_versions(wanted: str, installed: str) -> tuple[Level, str] | None:
    """What is to be said of an installed version, or None.

    >>> compare_versions("9.9", "2.13.0"), compare_versions("2.14", "2.13.0+cpu")
    (('fail', 'which is too old'), ('warn', 'which is older'))
    >>> compare_versions("0.1.0", "1.6.1"), compare_versions("2.11", "2.13.0")
    (('warn', 'another major version'), None)
    """
    want, have = _release(wanted), _release(installed)
    if not want or not have:
        return ("warn", "and one of the two is no version")
    if have[0] < want[0]:
        return ("fail", "which is too old")
    if have[0] > want[0]:
        return ("warn", "another major version")
    return ("warn", "which is older") if have < want else None


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r"\D{0,2}(\d+(?:\.\d+)*)", version.strip())
    numbers = [int(part) for part in match.group(1).split(".")] if match else []
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _above(key: str) -> list[str]:
    """The id above the last step: MONAI adds an unknown last step, but fails for an unknown one before."""
    return configfile.split_id(key.removeprefix("+"))[:-1]


def _leads_somewhere(config: dict[str, Any], reference: str) -> bool:
    """Whether an id exists, seen through references on the way (``@a::b`` where a is ``@c``)."""
    here: Any = config
    for part in configfile.split_id(reference):
        if isinstance(here, str):
            return bool(configfile.references(here)) or here.startswith(("$", "%"))
        here = configfile.lookup(here, part, _ABSENT)
        if here is _ABSENT:
            return False
    return True


_ABSENT = object()


def _validate(content: dict[str, Any], schema: dict[str, Any]) -> Iterator[Finding]:
    try:
        jsonschema: Any = importlib.import_module("jsonschema")
    except ImportError:
        missing = [key for key in schema["required"] if key not in content]
        if missing:
            yield Finding("metadata", "fail", f"metadata.json lacks {', '.join(missing)}", "Add them.")
        message = "only looked for missing fields, since the package jsonschema is not installed"
        yield Finding("metadata", "warn", message, "For the full check: pip install 'neurobundle[schema]'.")
        return
    for error in sorted(jsonschema.Draft7Validator(schema).iter_errors(content), key=lambda error: str(error.path)):
        place = configfile.ID_SEPARATOR.join(str(part) for part in error.absolute_path)
        where = f"metadata.json {place}".strip()
        yield Finding("metadata", "fail", f"{where}: {error.message[:200]}", "Correct it.")


def _preparation(config: dict[str, Any]) -> dict[str, Any]:
    """The blocks of our preparation in a config, by target, without the arguments that name keys."""
    blocks: dict[str, Any] = {}
    for place, value in configfile.walk(config):
        target = value.get("_target_") if isinstance(value, dict) else None
        if not isinstance(target, str):
            continue
        if re.fullmatch(PREPROCESSING_TARGET, target):
            arguments = {
                key: item for key, item in value.items() if key != "_target_" and not key.endswith(("key", "keys"))
            }
            blocks.setdefault(target, []).append((place, configfile.resolve(config, arguments)))
    return blocks


def _differences(here: dict[str, Any], there: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for target in sorted(set(here) | set(there)):
        if target not in here or target not in there:
            yield (target if target in here else "nothing", target if target in there else "nothing")
            continue
        for place, arguments in here[target]:
            for other_place, others in there[target]:
                if arguments != others:
                    yield (f"{place} {arguments}", f"{other_place} {others}")
