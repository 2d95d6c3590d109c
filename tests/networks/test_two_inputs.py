"""A classifier that sees a slice, and its tumour enlarged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from neurobundle.errors import SettingError
from neurobundle.infer.answers import AnswersInferer, SliceAnswersInferer
from neurobundle.infer.attention import ClassActivation, has_features
from neurobundle.networks.blocks import blocks_of
from neurobundle.networks.classifier import classifier
from neurobundle.networks.imported import ForeignWeights
from neurobundle.networks.two_inputs import JITTER, LEAST_ZOOM, TwoInputs, cropped, moved, place_of, two_inputs
from neurobundle.networks.vision import import_on_torchvision
from neurobundle.networks.weights import load_weights, save_weights
from neurobundle.train.answers import AnswerLoss


def tiny(backbone: str = "resnet18", **settings: object) -> TwoInputs:
    torch.manual_seed(0)
    return two_inputs(backbone, 1, 3, **{"size": "tiny", **settings})  # type: ignore[arg-type]


def image(batch: int = 2, side: int = 40) -> torch.Tensor:
    return torch.randn(batch, 1, side, side, generator=torch.Generator().manual_seed(1))


def disc(side: int, middle: tuple[float, float], radius: float) -> torch.Tensor:
    """Mask logits of one slice: 5 within the disc, -5 outside."""
    i, j = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    inside = (i - middle[0]) ** 2 + (j - middle[1]) ** 2 <= radius**2
    return torch.where(inside, 5.0, -5.0)[None, None]


def outlining(network: TwoInputs, mask: torch.Tensor) -> None:
    """Let the mask head say this of every slice."""

    class Said(nn.Module):
        def forward(self, pyramid: list[torch.Tensor], size: list[int]) -> torch.Tensor:
            return mask.expand(pyramid[0].shape[0], 1, *size)

    network.whole.mask_head = Said()  # type: ignore[assignment]


# --- where the crop is ---


def test_a_disc_is_in_the_middle_of_its_crop_with_half_its_radius_around() -> None:
    zoom, centre = place_of(disc(200, (79.5, 119.5), 30))
    assert float(zoom) * 100 == pytest.approx(45, abs=0.5)
    assert centre[0].tolist() == pytest.approx([-0.2, 0.2], abs=0.005)


def test_a_longer_outline_counts_by_its_longer_side() -> None:
    mask = torch.full((1, 1, 100, 100), -1.0)
    mask[..., 40:60, 10:90] = 1
    zoom, _ = place_of(mask)
    assert float(zoom) == 1, "80 pixels have 23.1 as their deviation, three of which are more than half a slice"
    mask[..., :40], mask[..., 60:] = -1, -1
    assert float(place_of(mask)[0]) == pytest.approx(3 * 20 / 12**0.5 / 50, abs=0.002)


def test_one_pixel_is_enlarged_four_times_and_the_crop_stays_within_the_slice() -> None:
    zoom, centre = place_of(disc(40, (0, 39), 0.5))
    assert float(zoom) == LEAST_ZOOM
    assert centre[0].tolist() == pytest.approx([-0.75, 0.75])


def test_a_stray_pixel_hardly_moves_it() -> None:
    mask = disc(100, (50, 50), 12)
    before = place_of(mask)
    mask[..., 2, 2] = 5
    after = place_of(mask)
    assert float(after[0] - before[0]) < 0.1
    assert float((after[1] - before[1]).abs().max()) < 0.01


def test_where_nothing_is_outlined_the_crop_is_the_slice() -> None:
    zoom, centre = place_of(torch.full((2, 1, 30, 50), -9.0))
    assert zoom.tolist() == [1, 1]
    slices = torch.rand(2, 3, 30, 50)
    assert torch.allclose(cropped(slices, zoom, centre), slices, atol=1e-5)


def test_a_crop_is_the_pixels_around_the_place() -> None:
    """A quarter of 8 x 8 pixels at the corner: pixels 0 and 1 of each axis, each as four by four."""
    slices = torch.zeros(1, 1, 8, 8)
    slices[0, 0, :2, :2] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = cropped(slices, torch.tensor([0.25]), torch.tensor([[-0.75, -0.75]]))[0, 0]
    assert found.shape == (8, 8)
    assert found[0, 0] == 1, "beside the slice its border goes on"
    assert found[2:6, 2:6].mean() == pytest.approx(2.5)
    assert float(found[5, 0]) == pytest.approx(1 + 2 * 0.875)


def test_columns_and_rows_are_not_confused() -> None:
    slices = torch.zeros(1, 1, 40, 60)
    slices[..., 30:34, 9:15] = 1
    mask = slices * 2 - 1
    found = cropped(slices, *place_of(mask))[0, 0]
    assert float(found[20, 30]) == pytest.approx(1)
    assert found.mean() > 2 * slices.mean()


def test_errors_of_an_outline_are_drawn_and_bounded() -> None:
    torch.manual_seed(0)
    zoom, centre = moved(torch.full((500,), 0.5), torch.zeros(500, 2))
    assert float((zoom / 0.5 - 1).abs().max()) <= JITTER + 1e-6
    assert float((zoom / 0.5 - 1).abs().max()) > JITTER / 2
    assert float(centre.abs().max()) <= 2 * JITTER * float(zoom.max())
    zoom, centre = moved(torch.full((500,), 0.9), torch.full((500, 2), 0.1))
    assert bool((centre.abs() <= (1 - zoom)[:, None] + 1e-6).all())


# --- the network ---


def test_it_is_called_as_a_classifier_is() -> None:
    network = tiny().eval()
    logits, mask = network.with_mask(image())
    assert logits.shape == (2, 3)
    assert mask.shape == (2, 1, 40, 40)
    assert torch.equal(network(image()), logits)
    assert all(torch.equal(a, b) for a, b in zip(network(image(), mask=True), (logits, mask), strict=True))
    assert SliceAnswersInferer(mask=True, mirror=True)(torch.rand(1, 1, 40, 40, 3), network).shape == (1, 4, 3)


def test_the_crop_branch_sees_what_the_mask_head_outlines() -> None:
    """Where the outline is moved, the answer is another; where a pixel outside of the crop is changed, not its part."""
    network = tiny().eval()
    seen: list[torch.Tensor] = []
    network.crop.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    slices = image(1)
    answers = []
    for middle in ((10, 10), (30, 28)):
        outlining(network, disc(40, middle, 4))
        answers.append(network(slices))
    assert not torch.allclose(*answers)
    other = slices.clone()
    other[..., 5, 5] += 100
    network(other)
    assert torch.equal(seen[1], seen[2])
    assert not torch.equal(seen[0], seen[1])


def test_the_place_is_moved_in_training_alone() -> None:
    network = tiny()
    outlining(network, disc(40, (20, 20), 6))
    seen: list[torch.Tensor] = []
    network.crop.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for _ in range(2):
        network(image())
    network.eval()
    for _ in range(2):
        network(image())
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], seen[3])


def test_the_answer_teaches_both_branches_and_not_the_outline() -> None:
    network = tiny()
    nn.functional.cross_entropy(network(image()), torch.tensor([0, 2])).backward()
    for part in (network.whole.trunk, network.crop.trunk, network.head):
        assert all(parameter.grad is not None for parameter in part.parameters())
    assert all(parameter.grad is None for parameter in network.whole.mask_head.parameters())


def test_two_steps_a_file_and_back(tmp_path: Path) -> None:
    """With the loss of the bundle every parameter learns; a new network with the saved weights says the same."""
    network, loss = tiny(), AnswerLoss()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = {name: value.clone() for name, value in network.named_parameters()}
    target = {"answer": torch.tensor([0, 2]), "mask": (disc(40, (20, 20), 6) > 0).float().expand(2, 1, 40, 40)}
    for _ in range(2):
        optimizer.zero_grad()
        loss(AnswersInferer(mask=True)(image(), network), target).backward()
        optimizer.step()
    assert all(not torch.equal(value, before[name]) for name, value in network.named_parameters())
    save_weights(network, tmp_path / "model.pt", half=False, origin="trained-here")
    again = tiny()
    load_weights(again, tmp_path / "model.pt")
    assert torch.equal(again.eval()(image()), network.eval()(image()))


def test_the_crop_tells_what_the_whole_slice_hides() -> None:
    """Two textures in a small disc, in noise: told apart within 60 steps, by outlines that are learned on the way."""
    torch.manual_seed(0)
    network, loss = tiny(width=1.0), AnswerLoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    rng = np.random.default_rng(0)

    def made(count: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        labels = torch.from_numpy(rng.integers(0, 2, count))
        masks = torch.cat([disc(64, tuple(rng.uniform(14, 50, 2)), 8) > 0 for _ in range(count)]).float()
        stripes = (torch.arange(64) // 2 % 2).float()
        lines = torch.where(labels[:, None, None] > 0, stripes[:, None], stripes[None])[:, None]
        return 0.3 * torch.randn(count, 1, 64, 64) + masks * (1 + lines), {"answer": labels, "mask": masks}

    for _ in range(60):
        images, target = made(16)
        optimizer.zero_grad()
        loss(AnswersInferer(mask=True)(images, network), target).backward()
        optimizer.step()
    network.eval()
    images, target = made(64)
    with torch.no_grad():
        logits, mask = network.with_mask(images)
    assert float((logits.argmax(1) == target["answer"]).float().mean()) > 0.9
    zoom, _ = place_of(mask)
    assert 0.25 <= float(zoom.median()) < 0.6, "a disc of an eighth of the slice, with half of it around: .375"


# --- blocks, weights, pictures ---


@pytest.mark.parametrize("backbone", ["resnet18", "densenet121", "vgg16"])
def test_blocks_are_those_of_one_branch_each_of_both(backbone: str) -> None:
    if backbone == "vgg16":
        import_on_torchvision("timm", extra="backbones", feature="A test")
    network = tiny(backbone)
    one = blocks_of(classifier(backbone, 1, 3, size="tiny", mask=True))
    both = blocks_of(network)
    assert [block.name for block in both] == [block.name for block in one]
    assert [block.count for block in both[:-1]] == [2 * block.count for block in one[:-1]]
    found = [id(parameter) for block in both for parameter in block.parameters]
    assert sorted(found) == sorted(id(parameter) for parameter in network.parameters())


def test_somebody_elses_weights_fill_both_branches(tmp_path: Path) -> None:
    source = classifier("resnet18", 1, 3, size="tiny")
    torch.save(source.state_dict(), tmp_path / "other.pt")
    network = tiny()
    ForeignWeights(tmp_path / "other.pt", network)(None)  # type: ignore[arg-type]
    for branch in (network.whole, network.crop):
        assert torch.equal(branch.trunk.conv1.weight, source.trunk.conv1.weight)


def test_a_class_activation_map_is_of_the_whole_slice() -> None:
    network = tiny().eval()
    assert network.cam_layer == "whole.trunk.layer3"
    assert has_features(network)
    heat = ClassActivation(network)(image(1)[0], 1)
    assert heat.shape == (40, 40)
    assert bool(torch.isfinite(heat).all())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_onnx_gives_the_same(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    network = tiny().eval()
    torch.onnx.export(network, (image(),), tmp_path / "n.onnx", dynamo=True, verbose=False)
    session = runtime.InferenceSession(tmp_path / "n.onnx", providers=["CPUExecutionProvider"])
    (found, *_) = session.run(None, {session.get_inputs()[0].name: image().numpy()})
    assert np.abs(found - network(image()).detach().numpy()).max() < 1e-4


def test_without_a_mask_head_there_is_no_crop() -> None:
    with pytest.raises(SettingError, match="mask_head"):
        two_inputs("resnet18", 1, 3, mask=False)
