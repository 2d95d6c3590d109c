"""Whether a stock MONAI Label 0.8.5 server can serve a bundle and teach it, without a server.

What it does with a bundle was read in its source and is tried by tests/label: it takes the task from the folder's name
and the labels from the metadata, runs ``preprocessing``, ``inferer`` and ``postprocessing`` by itself, and trains by
``train.yaml`` with lists of its own, from and to the weights in ``models``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from neurobundle.bundle import configfile, probes
from neurobundle.bundle.finding import BundleFiles, Finding

#: Keys that MONAI Label's data items do not have.
LABEL_LACKS = ("case", "subject", "fold")

#: What the server runs of an inference config; it ignores the evaluator.
SERVED = ("preprocessing", "inferer", "postprocessing")

#: What the server calls an image and a result, whatever the metadata call them.
IMAGE, PRED = "image", "pred"

MODELS = "$@bundle_root + '/models'"
MODEL = "model.pt"
CHOICE = "displayable_configs::model_filename"

_CLASSIFICATION = "_classification"
_FORGETS_GRID = "ForgetGridd"


def label(bundle: BundleFiles) -> Iterator[Finding]:
    """What a stock MONAI Label server needs besides."""
    for stem, config in bundle.alone().items():
        for identifier in ("network", "network_def"):
            if identifier not in config:
                message = f"{stem} lacks the top-level id {identifier!r}"
                yield Finding("label", bundle.strict, message, "Define it.")
        for place, value in configfile.walk(config):
            yield from _data(bundle, stem, place, value)
    if "inference" in bundle.configs:
        yield from _inference(bundle, bundle.configs["inference"])
    if "train" in bundle.configs:
        yield from _training(bundle, bundle.configs["train"])
        yield from _saving(bundle, bundle.configs["train"])
    yield from _format(bundle)
    yield from _labels(bundle)


def parts(bundle: BundleFiles) -> Iterator[Finding]:
    """What the server looks for in the transforms, once they are built."""
    import tempfile

    from monai.transforms import LoadImaged, SaveImaged

    if "inference" not in bundle.configs:
        return
    with tempfile.TemporaryDirectory() as scratch:
        parser = probes.parser_of(bundle, "inference", scratch)
        before, after = (_flat(parser, part) for part in ("preprocessing", "postprocessing"))
    if before and not any(isinstance(step, LoadImaged) for step in before):
        message = "inference: MONAI Label finds no LoadImaged in preprocessing, and gives it paths"
        yield Finding("label_parts", bundle.strict, message, "Give one flat Compose, the loader among its transforms.")
    for step in after or ():
        if type(step).__name__.startswith("Save") and not isinstance(step, SaveImaged):
            message = f"inference: {type(step).__name__} of postprocessing would write in a MONAI Label server as well"
            yield Finding("label_parts", bundle.strict, message, "Derive it from SaveImaged, which the server drops.")


def _flat(parser: Any, part: str) -> list[Any]:
    """A part's transforms as the server sees them; none where it cannot be built, which is another check's to say."""
    try:
        found = parser.get_parsed_content(part)
    except Exception:  # whatever a stranger's config raises
        return []
    return list(getattr(found, "transforms", None) or ([found] if callable(found) else []))


def _data(bundle: BundleFiles, stem: str, place: str, value: Any) -> Iterator[Finding]:
    if isinstance(value, str) and value.startswith("$"):
        if "@device." in value:
            message = f"{stem}: {place} uses @device.…, but MONAI Label gives the device as a string"
            yield Finding("label", bundle.strict, message, "Use $torch.device(@device).")
        wanted = re.findall(rf"\[\s*['\"]({'|'.join(LABEL_LACKS)})['\"]\s*\]", value)
    else:
        keys = value if isinstance(value, list) else [value]
        wanted = [key for key in keys if key in LABEL_LACKS] if re.search(r"keys?$", place) else []
    for key in wanted:
        message = f"{stem}: {place} requires {key!r}; MONAI Label's data has image and label only"
        yield Finding("label", bundle.strict, message, "Use .get(), or a default.")


def _inference(bundle: BundleFiles, config: dict[str, Any]) -> Iterator[Finding]:
    for identifier in SERVED:
        if identifier not in config:
            message = f"inference lacks the top-level id {identifier!r}, which is what MONAI Label runs"
            yield Finding("label", bundle.strict, message, "Define it.")
    steps = configfile.lookup(config, "postprocessing::transforms", [])
    targets = [str(step.get("_target_", "")) for step in steps if isinstance(step, dict)] if steps else []
    if bundle.root.resolve().name.endswith(_CLASSIFICATION) and not any(t.endswith(_FORGETS_GRID) for t in targets):
        message = "inference: MONAI Label puts each result on its image's grid, and fails with a class"
        way_out = "End postprocessing with neurobundle.postprocess.answers.ForgetGridd of the image."
        yield Finding("label", bundle.strict, message, way_out)
    names = {path.name for path in (bundle.root / "models").glob("*.pt")}
    rivals = sorted(name for name in names - {MODEL} if len(name) <= len(MODEL))
    if MODEL in names and rivals and configfile.lookup(config, CHOICE) is None:
        message = f"MONAI Label may begin with {rivals[0]}: it offers the shortest name of models/*.pt first"
        yield Finding("label", bundle.strict, message, f"Give {CHOICE} as neurobundle.networks.weights_names.")


def _training(bundle: BundleFiles, train: dict[str, Any]) -> Iterator[Finding]:
    handlers = configfile.lookup(train, "train::handlers")
    literal = isinstance(handlers, list) and all(isinstance(item, dict) and "_target_" in item for item in handlers)
    if not literal:
        message = "train: train::handlers is not a literal list of mappings with _target_: MONAI Label inserts into it"
        yield Finding("label", bundle.strict, message, "Write the list out.")
    for item in handlers if literal and isinstance(handlers, list) else []:
        name = str(item["_target_"]).rpartition(".")[2]
        if name == "CheckpointLoader":
            message = "train: train::handlers has a CheckpointLoader: MONAI Label then loads no pretrained weights"
            yield Finding("label", bundle.strict, message, "Resume with another handler.")
        if name == "ValidationHandler":
            message = "train: MONAI Label keeps nothing of what it learned in fewer epochs than the interval"
            yield Finding("label", "warn", message, "Validate with neurobundle.train.EpochValidation.")
    for place, value in configfile.walk(train):
        if "epochs" in configfile.references(value) and place != "train::trainer::max_epochs":
            message = f"train: {place} refers to 'epochs'; MONAI Label sets train::trainer::max_epochs"
            yield Finding("label", "warn", message, "Refer to @train::trainer::max_epochs.")


def _saving(bundle: BundleFiles, train: dict[str, Any]) -> Iterator[Finding]:
    """What was learned must be what is served."""
    if train.get("ckpt_dir") != MODELS:
        message = f"train: ckpt_dir is {train.get('ckpt_dir')!r}: a MONAI Label server would not serve what it learned"
        yield Finding("label", bundle.strict, message, f"Set it to {MODELS}.")
    if not any(isinstance(value, str) and MODEL in value for _, value in configfile.walk(train)):
        message = f"train: nothing saves {MODEL}, which is what a MONAI Label server serves"
        yield Finding("label", bundle.strict, message, "Add neurobundle.train.BestWeights to validate::handlers.")


def _format(bundle: BundleFiles) -> Iterator[Finding]:
    for side, wanted in (("inputs", IMAGE), ("outputs", PRED)):
        there = configfile.lookup(bundle.metadata, f"network_data_format::{side}", {})
        first = next(iter(there), None) if isinstance(there, dict) else None
        if first != wanted:
            message = f"metadata: the first of network_data_format::{side} is {first!r}; MONAI Label wants {wanted!r}"
            yield Finding("label", bundle.strict, message, f"Name it {wanted!r}, and put it first.")
    channels = configfile.lookup(bundle.metadata, "network_data_format::inputs::image::num_channels", 1)
    if isinstance(channels, int) and channels > 1 and not bundle.metadata.get("accepts_4d"):
        message = f"the network wants {channels} channels, and a stock MONAI Label server has one file a case"
        yield Finding("label", "warn", message, "Take a 4D file (accepts_4d), or serve it by `neurobundle label`.")


def _labels(bundle: BundleFiles) -> Iterator[Finding]:
    pred = configfile.lookup(bundle.metadata, f"network_data_format::outputs::{PRED}", {})
    channels = pred.get("channel_def") if isinstance(pred, dict) else None
    if not isinstance(channels, dict) or not channels:
        message = "metadata: network_data_format::outputs::pred::channel_def is empty: the server offers no labels"
        yield Finding("label", bundle.strict, message, "Name each output channel.")
        return
    called, meant = _names(channels), _names(pred.get("label_def") or channels)
    if called != meant:
        message = f"MONAI Label calls the labels {', '.join(called)}, which are {', '.join(meant)}"
        yield Finding("label", "warn", message, "Say so to who annotates.")


def _names(named: dict[str, Any]) -> list[str]:
    """Names in the order of their numbers, without the background."""
    ordered = sorted(named.items(), key=lambda item: int(item[0]))
    return [str(name) for _, name in ordered if str(name).lower() != "background"]
