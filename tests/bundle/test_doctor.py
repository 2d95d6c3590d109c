"""The doctor names each thing that is wrong with a bundle, and passes a good one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from neurobundle.bundle.doctor import as_json, as_table, examine, verdict
from neurobundle.errors import ExitCode, SettingError
from neurobundle.networks.manifest import write_entry


def problems(bundle: Any, *, level: str = "fail", thorough: bool = False) -> dict[str, list[str]]:
    """Messages of one level, by check."""
    found: dict[str, list[str]] = {}
    for finding in examine(bundle.root, thorough=thorough):
        if finding.level == level:
            found.setdefault(finding.check, []).append(finding.message)
    return found


def test_good_bundle(bundle):
    """A bundle that follows the conventions has nothing but ok."""
    findings = examine(bundle.root)
    assert [finding for finding in findings if finding.level != "ok"] == []
    assert verdict(findings) == ExitCode.OK
    assert "0 failures" in as_table(findings)
    assert json.loads(as_json(findings))["exit_code"] == 0


def test_not_a_bundle(tmp_path):
    """A folder without metadata is refused, with exit code 1."""
    with pytest.raises(SettingError, match="no bundle") as caught:
        examine(tmp_path)
    assert caught.value.exit_code == ExitCode.USAGE


def test_without_weights(bare_bundle):
    """A bundle that was not trained yet is a warning, not a failure."""
    findings = examine(bare_bundle.root)
    assert verdict(findings) == ExitCode.OK
    assert [finding.message for finding in findings if finding.level == "warn"] == ["models/model.pt is missing"]


def rewrite(file: str, **ids: Any) -> Callable[[Any], None]:
    return lambda bundle: bundle.change(file, **ids)


def text(file: str, content: str) -> Callable[[Any], None]:
    def write(bundle: Any) -> None:
        (bundle.root / file).parent.mkdir(exist_ok=True)
        (bundle.root / file).write_text(content)

    return write


def inside(file: str, place: str, value: Any) -> Callable[[Any], None]:
    """Change a nested id."""

    def change(bundle: Any) -> None:
        content = bundle.read(file)
        *parents, last = place.split("::")
        node = content
        for parent in parents:
            node = node[parent]
        if value is ...:
            del node[last]
        else:
            node[last] = value
        bundle.change(file, **content, **({last: ...} if value is ... and not parents else {}))

    return change


def renamed(side: str, first: str, second: str) -> Callable[[Any], None]:
    """One entry of the metadata's format more, which stands before or in place of the right one."""

    def change(bundle: Any) -> None:
        metadata = bundle.read("metadata.json")
        formats = metadata["network_data_format"][side]
        right = next(iter(formats.values()))
        metadata["network_data_format"][side] = {first: right, second: right} if second == "pred" else {second: right}
        bundle.change("metadata.json", **metadata)

    return change


BREAKAGES = [
    ("layout", "LICENSE is missing", lambda bundle: (bundle.root / "LICENSE").unlink()),
    ("layout", "evaluate.yaml is missing", lambda bundle: (bundle.root / "configs/evaluate.yaml").unlink()),
    ("configs", "cannot be parsed", text("configs/train.yaml", "a: [1\n")),
    ("configs", "'a' stands twice", text("configs/train.yaml", "a: 1\na: 2\n")),
    ("configs", "'a' stands twice", text("configs/extra.json", '{"a": 1, "a": 2}')),
    ("configs", "merge key '<<'", text("configs/train.yaml", "a: &a {b: 1}\nc:\n  <<: *a\n")),
    ("configs", "the tag", text("configs/train.yaml", "a: !!python/object/apply:os.system ['true']\n")),
    ("configs", "refers to 'nowhere'", rewrite("inference.yaml", inferer="@nowhere")),
    ("configs", "refers to 'train::nowhere'", rewrite("train.yaml", run=["$@train#nowhere.run()"])),
    ("configs", "overrides what train lacks", rewrite("evaluate.yaml", **{"valdate::dataset": 1})),
    ("configs", "wider: network_def", text("configs/wider.yaml", "network_def: '@nowhere'\n")),
    ("configs", "wider overrides what train lacks", text("configs/wider.yaml", "valdate::dataset: 1\n")),
    ("python", "scripts/ folder", text("scripts/__init__.py", "")),
    ("python", "changes sys.path", rewrite("train.yaml", run=["$sys.path.append('.')"])),
    ("expressions", "it is no Python", rewrite("train.yaml", run=["$@train::trainer.run("])),
    ("expressions", "importing 'shutil'", rewrite("train.yaml", imports=["$import shutil"])),
    ("expressions", "weights_only must be True", rewrite("train.yaml", a="$torch.load('x', weights_only=False)")),
    ("metadata", "'licenses' is a required property", rewrite("metadata.json", licenses=...)),
    ("metadata", "'version' is a required property", rewrite("metadata.json", version=...)),
    ("metadata", "'pred' is a required property", inside("metadata.json", "network_data_format::outputs", {"x": {}})),
    ("metadata", "no entry for version '9.0.0'", rewrite("metadata.json", version="9.0.0")),
    ("ids", "network_size", lambda bundle: [rewrite(f, network_size=...)(bundle) for f in ("train.yaml",)]),
    ("label", "top-level id 'network'", rewrite("train.yaml", network=...)),
    ("label", "not a literal list", inside("train.yaml", "train::handlers", "$[]")),
    ("label", "CheckpointLoader", inside("train.yaml", "train::handlers", [{"_target_": "CheckpointLoader"}])),
    ("label", "@device.", rewrite("inference.yaml", network="$@network_def.half() if @device.type else None")),
    ("label", "requires 'fold'", rewrite("train.yaml", datalist="$[x for x in [] if x['fold'] == 1]")),
    ("label", "requires 'case'", inside("inference.yaml", "preprocessing::keys", ["image", "case"])),
    (
        "label",
        "channel_def is empty",
        inside("metadata.json", "network_data_format::outputs::pred::channel_def", {}),
    ),
    ("label", "lacks the top-level id 'postprocessing'", rewrite("inference.yaml", postprocessing=...)),
    ("label", "ckpt_dir is '/elsewhere'", rewrite("train.yaml", ckpt_dir="/elsewhere")),
    ("label", "nothing saves model.pt", inside("train.yaml", "train::handlers", [{"_target_": "StatsHandler"}])),
    ("label", "the first of network_data_format::inputs is 'scan'", renamed("inputs", "image", "scan")),
    ("label", "the first of network_data_format::outputs is 'mask'", renamed("outputs", "mask", "pred")),
    ("agreement", "network_def of train", inside("train.yaml", "network_def::out_channels", 3)),
    ("agreement", "network_def of train", rewrite("train.yaml", network_size="tiny")),
    ("agreement", "network_def of evaluate", rewrite("evaluate.yaml", **{"network_def::bias": False})),
    ("agreement", "preprocessing of train", inside("train.yaml", "train::preprocessing::spacing_mm", [1, 1, 2])),
    ("agreement", "preprocessing of train", inside("inference.yaml", "preprocessing", {"_target_": "Identityd"})),
]


@pytest.mark.parametrize(("check", "message", "break_it"), BREAKAGES, ids=[f"{b[0]}-{b[1]}" for b in BREAKAGES])
def test_breakage(bare_bundle, check, message, break_it):
    """Each breakage is found by the check that is there for it."""
    break_it(bare_bundle)
    found = problems(bare_bundle)
    assert any(message in text for text in found.get(check, [])), found


def classifying(bundle: Any) -> None:
    bundle.root = bundle.root.rename(bundle.root.with_name("tiny_classification"))


def test_a_server_that_puts_a_class_on_a_grid(bare_bundle):
    """MONAI Label resamples each result, unless the image has forgotten its shape."""
    classifying(bare_bundle)
    assert any("fails with a class" in message for message in problems(bare_bundle)["label"])
    last = {"_target_": "neurobundle.postprocess.answers.ForgetGridd", "keys": "image"}
    bare_bundle.change("inference.yaml", postprocessing={"_target_": "Compose", "transforms": [last]})
    assert "label" not in problems(bare_bundle)


def test_a_server_that_begins_with_other_weights(bundle):
    """Of names alike in length it takes whichever the disk names first; a longer one is no rival."""
    models = bundle.root / "models"
    for name in ("fold10.pt", "fold0.pt"):
        (models / name).write_bytes((models / "model.pt").read_bytes())
        write_entry(models, name, "released")
        found = problems(bundle).get("label", [])
        assert bool(found) == (name == "fold0.pt"), found
    assert any("may begin with fold0.pt" in message for message in found)
    choice = {
        "model_filename": {"_target_": "neurobundle.networks.weights_names", "folder": "$@bundle_root + '/models'"}
    }
    bundle.change("inference.yaml", displayable_configs=choice)
    assert problems(bundle) == {}


def channels(number: int, **more: Any) -> Callable[[Any], None]:
    def change(bundle: Any) -> None:
        metadata = bundle.read("metadata.json")
        image = metadata["network_data_format"]["inputs"]["image"]
        image.update(num_channels=number, channel_def={str(n): f"sequence {n}" for n in range(number)})
        bundle.change("metadata.json", **metadata, **more)

    return change


WARNINGS = [
    (
        "MONAI Label keeps nothing of what it learned",
        inside("train.yaml", "train::handlers", [{"_target_": "ValidationHandler", "a": "model.pt"}]),
    ),
    ("refers to 'epochs'", rewrite("train.yaml", lr_scheduler={"_target_": "LinearLR", "total_iters": "@epochs"})),
    ("wants 2 channels", channels(2)),
    (
        "calls the labels blob, which are core, rim",
        inside(
            "metadata.json",
            "network_data_format::outputs::pred::label_def",
            {"0": "background", "2": "rim", "1": "core"},
        ),
    ),
]


@pytest.mark.parametrize(("message", "change"), WARNINGS, ids=[warning[0] for warning in WARNINGS])
def test_a_server_that_serves_it_with_reservations(bare_bundle, message, change):
    """What works there, but not as one would think."""
    change(bare_bundle)
    assert any(message in text for text in problems(bare_bundle, level="warn")["label"])
    assert "label" not in problems(bare_bundle)


def test_a_4d_file_is_one_file(bare_bundle):
    channels(2, accepts_4d=True)(bare_bundle)
    assert "label" not in problems(bare_bundle, level="warn")


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("preprocessing", {"_target_": "Compose", "transforms": ["@loading"]}, "finds no LoadImaged"),
        (
            "postprocessing",
            {"_target_": "Compose", "transforms": [{"_target_": "SaveClassificationd", "keys": "pred"}]},
            "SaveClassificationd of postprocessing would write",
        ),
    ],
)
def test_transforms_that_a_server_does_not_know(bundle, part, value, message):
    """The loader inside another Compose; a writer that is no SaveImaged."""
    loading = {"_target_": "Compose", "transforms": [{"_target_": "LoadImaged", "keys": "image"}]}
    bundle.change("inference.yaml", loading=loading, **{part: value})
    assert any(message in text for text in problems(bundle, thorough=True)["label_parts"])


def test_other_preparation_is_no_preprocessing(bare_bundle):
    """What only inference does, such as looking for the structure in a head, need not be in train."""
    bare_bundle.change("inference.yaml", head={"_target_": "neurobundle.prepare.TemplateLocator"})
    assert problems(bare_bundle) == {}


def test_name(bare_bundle):
    """A folder's name without a task is found."""
    bare_bundle.root = bare_bundle.root.rename(bare_bundle.root.with_name("tiny"))
    assert "name" in problems(bare_bundle)


def test_others_bundle_is_judged_mildly(bare_bundle):
    """What is only our convention is a warning for a bundle that does not require us."""
    bare_bundle.change("metadata.json", required_packages_version={}, licenses=..., intended_use=..., schema=...)
    bare_bundle.change("train.yaml", network_size=..., network_def={"_target_": "torch.nn.Conv3d"})
    bare_bundle.change(
        "inference.yaml", network_def={"_target_": "torch.nn.Conv3d"}, datalist="$[x for x in y['case']]"
    )
    (bare_bundle.root / "LICENSE").unlink()
    assert problems(bare_bundle) == {}
    assert {"layout", "ids", "label"} <= set(problems(bare_bundle, level="warn"))


def test_fault_49_code_in_an_expression(bundle, tmp_path):
    """Python that no config needs is named, and nothing of the bundle is executed."""
    bundle.change("inference.yaml", inferer=f"$__import__('pathlib').Path('{tmp_path}/trace').touch()")
    found = problems(bundle, thorough=True)
    assert any("__import__" in message for message in found["expressions"])
    assert not (tmp_path / "trace").exists()


def test_fault_50_target_is_a_system_call(bundle, tmp_path):
    """A ``_target_`` outside the allowed packages is named and not called."""
    bundle.change("inference.yaml", inferer={"_target_": "os.system", "command": f"touch {tmp_path}/trace"})
    found = problems(bundle, thorough=True)
    assert any("os.system" in message for message in found["targets"])
    assert not (tmp_path / "trace").exists()


def test_fault_52_alias_bomb(bare_bundle):
    """Ten levels of ten aliases are refused at once, not expanded."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    text("configs/train.yaml", "\n".join(lines))(bare_bundle)
    assert any("aliases" in message for message in problems(bare_bundle)["configs"])


@pytest.mark.parametrize(
    ("field", "version", "level"),
    [
        ("monai_version", "0.1.0", "warn"),
        ("pytorch_version", "9.9", "fail"),
        ("numpy_version", "1.26", "warn"),
        ("numpy_version", "9.9", "warn"),
    ],
)
def test_fault_55_versions(bare_bundle, field, version, level):
    """A bundle made for another version says so; one from the future fails."""
    bare_bundle.change("metadata.json", **{field: version})
    assert any(version in message for message in problems(bare_bundle, level=level)["versions"])


def test_required_package_is_missing(bare_bundle):
    """A required package that is not installed fails."""
    bare_bundle.change("metadata.json", required_packages_version={"neurobundle": "0.1.0", "no-such-thing": "1.0"})
    assert any("not installed" in message for message in problems(bare_bundle)["versions"])


def test_fault_57_pickle_payload(bundle):
    """A pickle that would run code is refused even if the manifest lists it."""
    torch.save({"weight": Path("a")}, bundle.root / "models/model.pt")
    write_entry(bundle.root / "models", "model.pt", "released")
    assert any("Python code" in message for message in problems(bundle, thorough=True)["weights"])


@pytest.mark.parametrize("size", [0, 100], ids=["empty", "truncated"])
def test_fault_58_damaged(bundle, size):
    """An empty or truncated checkpoint is called damaged."""
    path = bundle.root / "models/model.pt"
    path.write_bytes(path.read_bytes()[:size])
    assert any("damaged" in message for message in problems(bundle)["manifest"])


def test_fault_59_bit_flip(bundle):
    """One changed bit is a sha256 that does not match."""
    path = bundle.root / "models/model.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert any("sha256" in message for message in problems(bundle)["manifest"])


def test_fault_60_weights_of_another_network(bundle):
    """Weights that fit only in part are a failure."""
    torch.save({"weight": torch.zeros(2, 1, 3, 3, 3), "scale": torch.zeros(1)}, bundle.root / "models/model.pt")
    write_entry(bundle.root / "models", "model.pt", "released")
    found = problems(bundle, thorough=True)["weights"]
    assert any("1 of 2 tensors fit" in message for message in found), found


def test_fault_61_nan_weights(bundle):
    """NaN weights are a failure that names the tensor."""
    state = {"weight": torch.full((2, 1, 3, 3, 3), float("nan")), "bias": torch.zeros(2)}
    torch.save(state, bundle.root / "models/model.pt")
    write_entry(bundle.root / "models", "model.pt", "released")
    assert any("NaN" in message and "weight" in message for message in problems(bundle, thorough=True)["weights"])


def test_forward_probe(bundle):
    """Metadata that promise other channels than the network gives are a failure."""
    metadata = bundle.read("metadata.json")
    metadata["network_data_format"]["outputs"]["pred"]["num_channels"] = 5
    bundle.change("metadata.json", **metadata)
    assert any("2 channels" in message for message in problems(bundle, thorough=True)["weights"])


def test_wrong_argument(bundle):
    """A part that cannot be built is named, with the reason."""
    bundle.change("inference.yaml", inferer={"_target_": "SlidingWindowInferer", "roi": 3})
    found = problems(bundle, thorough=True)["components"]
    assert any("inferer" in message and "roi" in message for message in found), found


def test_unknown_target(bundle):
    """A ``_target_`` that does not exist is named."""
    bundle.change("inference.yaml", inferer={"_target_": "monai.inferers.SlidingWindowInfererr"})
    assert any("SlidingWindowInfererr" in message for message in problems(bundle, thorough=True)["importable"])


@pytest.mark.parametrize(
    ("place", "file", "missing"),
    [("train::inferer", "train.yaml", "train_inferer"), ("dataset", "inference.yaml", "dataset")],
)
def test_check_properties(bundle, place, file, missing):
    """MONAI's own check is run, without data."""
    inside(file, place, ...)(bundle)
    assert any(missing in message for message in problems(bundle, thorough=True)["properties"])


def test_unlisted_weights(bundle):
    """MONAI Label offers every models/*.pt, so each must be listed."""
    (bundle.root / "models/fold0.pt").write_bytes((bundle.root / "models/model.pt").read_bytes())
    assert any("fold0.pt is not listed" in message for message in problems(bundle)["manifest"])


def test_without_jsonschema(bare_bundle, monkeypatch):
    """Without the package the doctor says so, and still finds a missing field."""
    monkeypatch.setitem(__import__("sys").modules, "jsonschema", None)
    bare_bundle.change("metadata.json", task=...)
    assert problems(bare_bundle)["metadata"] == ["metadata.json lacks task"]
    assert "jsonschema" in problems(bare_bundle, level="warn")["metadata"][0]


@pytest.mark.filterwarnings(
    "ignore:No hash value provided"
)  # MONAI wants a hash even for a schema that it does not fetch
def test_monai_verify_metadata(bundle):
    """MONAI's own command validates against our schema, offline, and refuses what is wrong."""
    from importlib.resources import files

    from monai.bundle import verify_metadata

    schema = str(files("neurobundle.bundle").joinpath("metadata_schema.json"))
    metadata = str(bundle.root / "configs/metadata.json")
    verify_metadata(meta_file=metadata, filepath=schema)
    bundle.change("metadata.json", authors=3)
    with pytest.raises(ValueError, match="is not of type 'string'"):
        verify_metadata(meta_file=metadata, filepath=schema)
