"""Other people's weights: all of a backbone or nothing, whatever their names for it are. No test reaches a network."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from neurobundle.errors import SettingError, WeightsError
from neurobundle.networks import hub
from neurobundle.networks.classifier import Classifier, classifier
from neurobundle.networks.hub import HUB
from neurobundle.networks.imported import ForeignWeights, channels_fitted, load_foreign, read_foreign
from neurobundle.networks.manifest import sha256_of
from neurobundle.networks.weights import save_weights

from .test_backbones import package

State = dict[str, torch.Tensor]


def network(backbone: str = "resnet18", channels: int = 3, dims: int = 2, seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return classifier(backbone, channels, 3, size="tiny", spatial_dims=dims)


def theirs(backbone: str = "resnet18", channels: int = 3, dims: int = 2) -> tuple[Classifier, State]:
    """A network with other weights, and these by the names that torchvision, timm and MedicalNet give them."""
    other = network(backbone, channels, dims, seed=1)
    state = {name.split(".", 1)[1]: value for name, value in other.state_dict().items() if "head.fc" not in name}
    return other, state


def same_backbone(one: Classifier, other: Classifier) -> bool:
    pairs = zip(one.trunk.state_dict().values(), other.trunk.state_dict().values(), strict=True)
    necks = zip(one.neck.state_dict().values(), other.neck.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in [*pairs, *necks])


def write(content: Any, folder: Path, name: str = "theirs.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def head(classes: int = 1000, features: int = 32, name: str = "fc") -> State:
    return {f"{name}.weight": torch.zeros(classes, features), f"{name}.bias": torch.zeros(classes)}


def test_all_but_the_head_is_loaded_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A ResNet18 has 20 convolutions, and 20 norms of five tensors; the head has two."""
    ours, (other, state) = network(), theirs()
    own_head = ours.head.fc.weight.clone()
    with caplog.at_level(logging.INFO):
        matched = load_foreign(ours, write({**state, **head()}, tmp_path))
    assert str(matched) == "loaded 120 of 122 tensors; missing: head.*; not used: fc.*"
    assert matched.missing == ("head.fc.weight", "head.fc.bias")
    assert str(matched) in caplog.text
    assert sha256_of(tmp_path / "theirs.pth") in caplog.text
    assert same_backbone(ours, other)
    assert torch.equal(ours.head.fc.weight, own_head)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_a_checkpoint_of_a_parallel_training(tmp_path: Path, wrapper: str) -> None:
    """As MedicalNet's files are: the network under a name, `module.` before each tensor."""
    for backbone in ("resnet18", "resnet34", "resnet50"):
        ours, (other, state) = network(backbone, 1, 3), theirs(backbone, 1, 3)
        content = {"epoch": 3, wrapper: {f"module.{name}": value for name, value in state.items()}}
        load_foreign(ours, write(content, tmp_path))
        assert same_backbone(ours, other)


def test_medicalnets_small_networks_have_shortcuts_without_weights() -> None:
    """As in MedicalNet's ResNet18 and 34, which MONAI calls shortcut type A; its ResNet50 has weights there."""
    from monai.networks.nets.resnet import get_medicalnet_pretrained_resnet_args

    for depth in (18, 34, 50):
        bias, kind = get_medicalnet_pretrained_resnet_args(depth)
        names = theirs(f"resnet{depth}", 1, 3)[1]
        assert any("downsample" in name for name in names) == (kind == "B")
        assert not any(name.endswith("downsample.0.bias") for name in names), bias


def test_radimagenets_files_number_the_children(tmp_path: Path) -> None:
    """conv1, bn1, an activation, a pooling, four stages: 0 to 7."""
    ours, (other, state) = network("resnet50"), theirs("resnet50")
    numbers = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    numbered = {}
    for name, value in state.items():
        child, rest = name.split(".", 1)
        numbered[f"backbone.{numbers[child]}.{rest}"] = value
    load_foreign(ours, write(numbered, tmp_path))
    assert same_backbone(ours, other)


@pytest.mark.parametrize("dot", ["", "."], ids=["torchvision", "before-2018"])
def test_densenets_of_torchvision(tmp_path: Path, dot: str) -> None:
    ours, (other, state) = network("densenet121"), theirs("densenet121")
    old = {}
    for name, value in state.items():
        for layer in ("norm", "relu", "conv"):
            name = name.replace(f".layers.{layer}", f".{layer}{dot}")
        old[name] = value
    assert set(old) != set(state)
    load_foreign(ours, write({**old, **head(name="classifier")}, tmp_path))
    assert same_backbone(ours, other)


def test_torchvisions_names_are_those_of_its_networks() -> None:
    """Torchvision's own networks, without weights, have the names that the layouts read."""
    package("torchvision")
    import torchvision

    from neurobundle.networks.imported import _backbone_names, _fitted, _renamed

    names = ("resnet18", "resnet34", "resnet50", "densenet121", "vgg16", "vgg19", "inception_v3", "convnext_tiny")
    for name in names:
        settings = {"init_weights": False} if name[:3] in ("vgg", "inc") else {}
        with torch.device("meta"):
            state = getattr(torchvision.models, name)(**settings).state_dict()
            if name[:3] not in ("res", "den"):
                package("timm")
            ours = classifier(name, 3, 3)
        tensors = ours.state_dict()
        own = {bare: tensors[full] for bare, full in _backbone_names(ours).items()}
        renamed = _renamed(ours, own, dict(state))
        found = _fitted(own, renamed)
        assert set(found) == set(own), name
        assert all(found[bare].shape == own[bare].shape for bare in own), name
        surplus = {bare.split(".")[0] for bare in renamed if bare not in own}
        assert surplus <= {"fc", "classifier", "AuxLogits"}, name


def test_torchvisions_convnext_says_the_same_here(tmp_path: Path) -> None:
    """A layout that renames nearly everything, held against torchvision's own forward pass."""
    package("timm")
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    dims, depths = (8, 16, 32, 64), (1, 1, 2, 1)
    outs = (*dims[1:], None)
    torch.manual_seed(2)
    blocks = [CNBlockConfig(a, b, n) for a, b, n in zip(dims, outs, depths, strict=True)]
    other = ConvNeXt(blocks, num_classes=3).eval()
    for name, value in other.named_parameters():
        if "layer_scale" in name:
            nn.init.normal_(value)
    ours = network("convnext_tiny").eval()
    load_foreign(ours, write(other.state_dict(), tmp_path))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours.head.fc.load_state_dict(other.classifier[2].state_dict())
        torch.testing.assert_close(ours(image), other(image), atol=1e-5, rtol=1e-4)


def test_torchvisions_vgg_has_linear_layers_where_timm_has_convolutions(tmp_path: Path) -> None:
    package("timm")
    ours, (other, state) = network("vgg16"), theirs("vgg16")
    for ours_, theirs_ in (("pre_logits.fc1", "classifier.0"), ("pre_logits.fc2", "classifier.3")):
        state[f"{theirs_}.weight"] = state.pop(f"{ours_}.weight").flatten(1)
        state[f"{theirs_}.bias"] = state.pop(f"{ours_}.bias")
    load_foreign(ours, write({**state, **head(name="classifier.6")}, tmp_path))
    assert same_backbone(ours, other)


def test_open_clips_coca(tmp_path: Path) -> None:
    package("open_clip")
    ours, (other, state) = network("coca"), theirs("coca")
    renamed = {}
    for name, value in state.items():
        for mine, other_name in (("embed.", ""), ("gather.", ""), ("block", "transformer.resblocks.")):
            if name.startswith(mine):
                name = f"visual.{other_name}{name.removeprefix(mine)}"
        renamed[name] = value
    renamed |= {"text.positional_embedding": torch.zeros(2), "logit_scale": torch.zeros(())}
    load_foreign(ours, write(renamed, tmp_path))
    assert same_backbone(ours, other)


def test_a_network_of_ours_with_another_head(tmp_path: Path) -> None:
    """Pre-trained here, on another task."""
    torch.manual_seed(1)
    other = classifier("resnet18", 3, 9, size="tiny", mask=True)
    save_weights(other, tmp_path / "model.pt", half=False, origin="trained-here")
    ours = network()
    matched = load_foreign(ours, tmp_path / "model.pt")
    assert same_backbone(ours, other)
    assert {name.split(".")[0] for name in matched.unused} == {"head", "mask_head"}


def test_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    ours, (other, state) = network(), theirs()
    safetensors.save_file(state, tmp_path / "theirs.safetensors")
    load_foreign(ours, tmp_path / "theirs.safetensors")
    assert same_backbone(ours, other)
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "theirs.safetensors").read_bytes()[:900])
    with pytest.raises(WeightsError, match="damaged"):
        load_foreign(network(), tmp_path / "half.safetensors")


def test_kernels_are_summed_for_one_channel_and_repeated_for_more() -> None:
    """1 + 2 + 3 = 6; in two channels 1 and 2, each times 3 / 2; in six all of them twice, each times 3 / 6."""
    kernels = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)
    assert channels_fitted(kernels, 1).flatten().tolist() == [6.0]
    assert channels_fitted(kernels, 2).flatten().tolist() == [1.5, 3.0]
    assert channels_fitted(kernels, 6).flatten().tolist() == [0.5, 1.0, 1.5, 0.5, 1.0, 1.5]
    assert channels_fitted(kernels[:, :1], 2).flatten().tolist() == [0.5, 0.5]


@pytest.mark.parametrize("channels", [1, 6])
def test_a_grey_image_gives_what_it_gave_in_three_channels(tmp_path: Path, channels: int) -> None:
    other, state = theirs()
    ours = network(channels=channels)
    load_foreign(ours, write(state, tmp_path))
    grey = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        here, there = ours.eval().trunk(grey.repeat(1, channels, 1, 1)), other.eval().trunk(grey.repeat(1, 3, 1, 1))
    torch.testing.assert_close(here, there, atol=1e-4, rtol=1e-4)


def test_old_files_count_no_batches(tmp_path: Path) -> None:
    ours, (other, state) = network(), theirs()
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert load_foreign(ours, write(old, tmp_path)).loaded == 100
    assert torch.equal(ours.trunk.conv1.weight, other.trunk.conv1.weight)


def refused(path: Path, message: str, **settings: Any) -> WeightsError:
    """Refused, and the network is as it was."""
    ours = network()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(WeightsError, match=message) as caught:
        load_foreign(ours, path, **settings)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())
    return caught.value


def test_less_than_the_whole_backbone_is_refused(tmp_path: Path) -> None:
    _, state = theirs()
    del state["layer4.1.conv2.weight"]
    error = refused(write(state, tmp_path), r"119 of 120 tensors of it fit; 1 missing \(layer4\.1\.conv2\.weight\)")
    assert error.file.endswith("theirs.pth")


def test_more_than_the_backbone_is_refused(tmp_path: Path) -> None:
    """A ResNet34 has all that a ResNet18 has, and more."""
    refused(write(theirs("resnet34")[1], tmp_path), "unexpected.*layer1.2.conv1.weight")


def test_another_width_is_refused(tmp_path: Path) -> None:
    wide = classifier("resnet18", 3, 3, width=0.5).state_dict()
    refused(write(wide, tmp_path), "of another shape")


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = write(theirs()[1], tmp_path)
    path.write_bytes(path.read_bytes()[:5000])
    refused(path, "damaged")


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    _, state = theirs()
    state["layer2.0.bn1.running_var"][3] = float("nan")
    refused(write(state, tmp_path), "NaN or infinite, in layer2.0.bn1.running_var")


def test_a_missing_file_and_one_without_tensors(tmp_path: Path) -> None:
    refused(tmp_path / "none.pth", "does not exist")
    refused(write({"accuracy": 0.9}, tmp_path), "no state dict")
    refused(write([1, 2], tmp_path), "no state dict")


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (shutil.rmtree, ("/nowhere-at-all",))


def test_code_is_not_run(tmp_path: Path) -> None:
    refused(write({"conv1.weight": Payload()}, tmp_path), "asks for Python code")


def test_another_sha256_is_refused(tmp_path: Path) -> None:
    path = write(theirs()[1], tmp_path)
    refused(path, "its sha256 is", sha256="0" * 64)
    load_foreign(network(), path, sha256=sha256_of(path)[:8])


def test_only_a_classifier_has_a_backbone(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="a Linear has no backbone"):
        load_foreign(nn.Linear(1, 1), tmp_path)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A hub that serves one file, and says what it was asked for."""
    asked: list[str] = []
    served = write(theirs()[1], tmp_path, "served.pth")

    def download(url: str, path: str, hash_prefix: str | None = None, progress: bool = True) -> None:
        asked.append(url)
        if hash_prefix and not sha256_of(served).startswith(hash_prefix):
            raise RuntimeError(f'invalid hash value (expected "{hash_prefix}")')
        shutil.copy(served, path)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    return asked


def test_a_name_is_an_address_of_this_backbone(cache: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, (other, _) = network(), theirs()
    monkeypatch.setitem(HUB["imagenet"], "resnet18", hub.Source("https://example.org/resnet18.pth"))
    load_foreign(ours, "imagenet")
    load_foreign(ours, "imagenet")
    assert cache == ["https://example.org/resnet18.pth"], "the second time it is in the cache"
    assert same_backbone(ours, other)


def test_an_address_is_fetched_and_checked(cache: list[str], tmp_path: Path) -> None:
    url = "https://example.org/a/weights.pth?download=true"
    load_foreign(network(), url, sha256=sha256_of(tmp_path / "served.pth"))
    assert (tmp_path / "cache" / "checkpoints" / "weights.pth").is_file()
    with pytest.raises(WeightsError, match="invalid hash value"):
        load_foreign(network(), url, sha256="00000000")
    assert cache == [url, url]


def test_a_hub_that_cannot_be_reached(cache: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **settings: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(WeightsError, match="could not be fetched") as caught:
        load_foreign(network(), "imagenet")
    assert "give its path" in caught.value.way_out


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("imagnet", {}, "did you mean 'imagenet'"),
        ("medicalnet", {}, "no weights called 'medicalnet' are known for resnet18 in 2D"),
        ("imagenet", {"dims": 3, "channels": 1}, "for resnet18 in 3D"),
        ("radimagenet", {}, "for resnet18 in 2D"),
    ],
)
def test_a_name_that_is_none(name: str, settings: dict[str, Any], message: str, cache: list[str]) -> None:
    with pytest.raises(SettingError, match=message):
        load_foreign(network(**settings), name)
    assert not cache


def test_the_hubs_addresses_carry_the_digits_that_are_checked() -> None:
    for of_name in HUB.values():
        for source in of_name.values():
            assert source.url.startswith("https://")
            assert source.sha256 in source.url


def test_a_factory_takes_weights(tmp_path: Path) -> None:
    other, state = theirs()
    ours = classifier("resnet18", 3, 5, size="tiny", weights=write(state, tmp_path))
    assert same_backbone(ours, other)


def test_a_training_begins_with_them_once(tmp_path: Path) -> None:
    ours, (other, state) = network(), theirs()
    handler = ForeignWeights(write(state, tmp_path), nn.DataParallel(ours), unless=tmp_path / "last.pt")
    handler(Engine(lambda engine, batch: None))
    assert same_backbone(ours, other)
    nn.init.zeros_(ours.trunk.conv1.weight)
    handler(Engine(lambda engine, batch: None))
    assert not ours.trunk.conv1.weight.any(), "loaded once"
    (tmp_path / "last.pt").touch()
    fresh = network()
    for again in (
        ForeignWeights(tmp_path / "theirs.pth", fresh, unless=tmp_path / "last.pt"),
        ForeignWeights(None, fresh),
    ):
        again(Engine(lambda engine, batch: None))
    assert same_backbone(fresh, network()), "a resumed run, and one without weights, load nothing"


def test_reading_leaves_names_but_for_the_prefix(tmp_path: Path) -> None:
    path = write({"state_dict": {"module.a": torch.ones(1), "b": torch.ones(1)}}, tmp_path)
    assert sorted(read_foreign(path)) == ["a", "b"]
