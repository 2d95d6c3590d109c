"""Networks that answer a class: their head, their mask head, their blocks, and what an export has of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.visualize import GradCAMpp
from torch import nn

from neurobundle.errors import SettingError
from neurobundle.networks.blocks import blocks_of, lowers, steps_of
from neurobundle.networks.classifier import Classifier, classifier
from neurobundle.networks.mask_head import MaskHead, levels_of
from neurobundle.networks.weights import load_weights, save_weights

IN_BOTH = [("resnet18", 2), ("resnet18", 3), ("densenet121", 2), ("densenet121", 3)]
SIDE = {2: 40, 3: 32}


def tiny(backbone: str = "resnet18", **settings: object) -> Classifier:
    torch.manual_seed(0)
    return classifier(backbone, 1, 3, **{"size": "tiny", **settings})  # type: ignore[arg-type]


def image(dims: int = 2, channels: int = 1, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, channels, *[SIDE[dims]] * dims, generator=torch.Generator().manual_seed(1))


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("backbone", "dims"), IN_BOTH)
def test_logits_and_mask_have_the_shapes_of_the_contract(backbone: str, dims: int) -> None:
    network = tiny(backbone, spatial_dims=dims, mask=True).eval()
    logits, mask = network.with_mask(image(dims))
    assert logits.shape == (2, 3)
    assert mask.shape == (2, 1, *[SIDE[dims]] * dims)
    assert torch.equal(network(image(dims)), logits), "one pass gives what forward gives"
    assert all(torch.equal(a, b) for a, b in zip(network(image(dims), mask=True), (logits, mask), strict=True))


def test_a_picture_of_odd_sides_gets_a_mask_of_its_own_size() -> None:
    _, mask = tiny(mask=True).with_mask(torch.randn(1, 1, 37, 61))
    assert mask.shape == (1, 1, 37, 61)


def test_without_a_mask_head_there_is_no_mask() -> None:
    with pytest.raises(SettingError, match="no mask head"):
        tiny().with_mask(image())


def test_a_mask_head_changes_no_logit() -> None:
    """Weights of a network with one fit one without, but for the mask head's own."""
    with_one, without = tiny(mask=True).eval(), tiny().eval()
    extra = with_one.load_state_dict(without.state_dict(), strict=False)
    assert extra.missing_keys
    assert all(name.startswith("mask_head.") for name in extra.missing_keys)
    assert torch.equal(with_one(image()), without(image()))


def test_a_mask_teaches_the_backbone() -> None:
    network = tiny(mask=True)
    network.with_mask(image())[1].sum().backward()
    assert all(parameter.grad is not None for parameter in network.trunk.parameters())
    assert network.head.fc.weight.grad is None


def test_the_finding_of_levels_leaves_no_trace() -> None:
    """Statistics of batch norms are as new, and the network is in training mode."""
    network = tiny(mask=True)
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    assert all(int(norm.num_batches_tracked) == 0 and not norm.running_mean.any() for norm in norms)
    assert all(part.training for part in network.modules())


def test_levels_are_the_last_features_before_the_next_halving() -> None:
    steps = [nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 5, 3), nn.Conv2d(5, 7, 3, 2)]
    assert levels_of(steps, 1, 2) == ([1, 3, 4], [2, 5, 7], [128, 62, 30])


def test_a_mask_head_is_light() -> None:
    """Levels of 2 and 3 channels, 4 inside: 1 x 1 across, twice a 3 x 3 with its norm, and the logit."""
    head = MaskHead([3, 2], 2, width=4)
    assert count(head) == (3 * 4 + 4) + (2 * 4 + 4) + 2 * (9 * 16 + 4 + 8) + (9 * 4 + 1)
    assert count(classifier("resnet18", 1, 3, mask=True)) < 1.01 * 11_200_000


def test_resnet18_is_counted_by_hand() -> None:
    """Stem, one stage without and three with a shortcut's convolution, and three classes; one channel."""
    stem, first = 49 * 64 + 2 * 64, 4 * (9 * 64 * 64 + 2 * 64)
    stages = sum(9 * n // 2 * n + 3 * 9 * n * n + 4 * 2 * n + (n // 2 * n + 2 * n) for n in (128, 256, 512))
    assert count(classifier("resnet18", 1, 3)) == stem + first + stages + 3 * 512 + 3


def test_half_a_resnet18_is_small_enough_to_ship(tmp_path: Path) -> None:
    save_weights(classifier("resnet18", 1, 3, width=0.5), tmp_path / "model.pt", origin="released")
    assert (tmp_path / "model.pt").stat().st_size < 6_000_000


def test_dropout_is_before_the_head_and_only_there() -> None:
    network = tiny(dropout=0.4)
    drops = [part for part in network.modules() if isinstance(part, nn.Dropout)]
    assert drops == [network.head.dropout]
    assert drops[0].p == 0.4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "resnet81"}, "did you mean 'resnet18'"),
        ({"size": "tiyn"}, "did you mean 'tiny'"),
        ({"backbone": "vgg16", "spatial_dims": 3}, "vgg16 does not come in 3D"),
        ({"spatial_dims": 1}, "resnet18 does not come in 1D"),
        ({"backbone": "xception", "width": 0.5}, "xception does not come in width 0.5"),
        ({"width": 0}, "width 0"),
        ({"in_channels": 0}, "in_channels is 0"),
        ({"classes": 0}, "classes is 0"),
        ({"dropout": 1.0}, "dropout 1.0"),
    ],
)
def test_what_there_is_not_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        classifier(**{"backbone": "resnet18", "in_channels": 1, "classes": 3, **settings})


def test_an_absent_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from neurobundle.errors import MissingPackageError

    for package, backbone, extra in (("timm", "vgg16", "backbones"), ("open_clip", "coca", "coca")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingPackageError, match="not installed") as caught:
            classifier(backbone, 1, 3, size="tiny")
        assert f"neurobundle[{extra}]" in caught.value.way_out


def names(network: nn.Module) -> list[str]:
    return [block.name for block in blocks_of(network)]


def whole(network: nn.Module) -> None:
    """Every parameter stands in exactly one block."""
    found = [id(parameter) for block in blocks_of(network) for parameter in block.parameters]
    assert sorted(found) == sorted(id(parameter) for parameter in network.parameters())


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50"])
@pytest.mark.parametrize("dims", [2, 3])
def test_blocks_of_residual_networks_are_their_stages(backbone: str, dims: int) -> None:
    network = tiny(backbone, spatial_dims=dims, mask=True)
    assert names(network) == ["conv1", "layer1", "layer2", "layer3", "layer4", "head"]
    whole(network)
    assert sum(block.count for block in blocks_of(network)) == count(network)
    assert {id(parameter) for parameter in network.mask_head.parameters()} <= {
        id(parameter) for parameter in blocks_of(network)[-1].parameters
    }


@pytest.mark.parametrize("dims", [2, 3])
def test_blocks_of_a_dense_network(dims: int) -> None:
    network = tiny("densenet121", spatial_dims=dims)
    steps = ["denseblock1", "transition1", "denseblock2", "transition2", "denseblock3", "transition3", "denseblock4"]
    assert names(network) == ["features.conv0", *(f"features.{step}" for step in steps), "head"]
    whole(network)


def test_blocks_are_found_by_structure() -> None:
    """Two layers, a pooling, a layer with its norm, a step of two layers, a norm after it."""

    class Made(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            pair = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1))
            self.trunk = nn.Sequential(
                *(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.MaxPool2d(2)),
                *(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), pair, nn.BatchNorm2d(2)),
            )
            self.out = nn.Linear(2, 1)

        def chain(self) -> list[tuple[str, nn.Module]]:
            return list(steps_of(self.trunk))

        def heads(self) -> list[nn.Module]:
            return [self.out]

    assert [(block.name, block.count) for block in blocks_of(Made())] == [("0", 10), ("4", 10), ("6", 16), ("head", 3)]


def test_a_sequence_is_taken_apart_where_it_lowers_the_resolution_twice() -> None:
    stage = nn.Sequential(nn.Conv2d(1, 1, 1, stride=2), nn.Conv2d(1, 1, 1))
    both = nn.Sequential(stage, nn.Sequential(nn.MaxPool2d(2), nn.ReLU()))
    assert lowers(stage)
    assert not lowers(nn.Conv2d(1, 1, 3))
    assert [name for name, _ in steps_of(nn.Sequential(stage))] == ["0"]
    assert [name for name, _ in steps_of(nn.Sequential(both))] == ["0.0", "0.1"]


def test_blocks_of_any_other_network_are_its_children() -> None:
    """What two children share belongs to the first; a child without parameters is none."""
    shared = nn.Linear(2, 2)
    network = nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared, nn.Linear(2, 1)))
    assert [(block.name, block.count) for block in blocks_of(network)] == [("0", 6), ("2", 3)]
    whole(network)


@pytest.mark.parametrize(("backbone", "dims"), IN_BOTH)
def test_torchscript_gives_the_same(backbone: str, dims: int) -> None:
    network = tiny(backbone, spatial_dims=dims, mask=True).eval()
    assert torch.allclose(torch.jit.script(network)(image(dims)), network(image(dims)), atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_onnx_gives_the_same(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    network = tiny(mask=True).eval()
    torch.onnx.export(network, (image(),), tmp_path / "n.onnx", dynamo=True, verbose=False)
    session = runtime.InferenceSession(tmp_path / "n.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: image().numpy()})
    assert np.abs(found - network(image()).detach().numpy()).max() < 1e-4


@pytest.mark.parametrize(("backbone", "dims"), IN_BOTH)
def test_two_steps_a_file_and_back(backbone: str, dims: int, tmp_path: Path) -> None:
    """Every parameter learns, and a new network with the saved weights says the same."""
    network = tiny(backbone, spatial_dims=dims, mask=True)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = {name: value.clone() for name, value in network.named_parameters()}
    for _ in range(2):
        optimizer.zero_grad()
        logits, mask = network.with_mask(image(dims))
        (nn.functional.cross_entropy(logits, torch.tensor([0, 2])) + mask.square().mean()).backward()
        optimizer.step()
    assert all(not torch.equal(value, before[name]) for name, value in network.named_parameters())
    save_weights(network, tmp_path / "model.pt", half=False, origin="trained-here")
    again = tiny(backbone, spatial_dims=dims, mask=True)
    load_weights(again, tmp_path / "model.pt")
    assert torch.equal(again.eval()(image(dims)), network.eval()(image(dims)))


@pytest.mark.parametrize("backbone", ["resnet18", "densenet121"])
def test_a_class_activation_map_finds_its_layer(backbone: str) -> None:
    network = tiny(backbone).eval()
    heat = GradCAMpp(network, target_layers=network.cam_layer)(image(batch=1), class_idx=1)
    assert heat.shape == (1, 1, SIDE[2], SIDE[2])
    assert torch.isfinite(torch.as_tensor(heat)).all()


def test_the_shortcut_without_weights_keeps_every_second_voxel_and_lets_gradients_through() -> None:
    from neurobundle.networks.backbones import PaddedShortcut

    given = torch.arange(64.0).reshape(1, 1, 4, 4, 4).requires_grad_()
    taken = PaddedShortcut(2, 3)(given)
    assert torch.equal(taken[:, :1], given[:, :, ::2, ::2, ::2])
    assert not taken[:, 1:].any()
    assert taken.shape == (1, 4, 2, 2, 2)
    taken.sum().backward()
    assert given.grad is not None
    assert int(given.grad.sum()) == 8
