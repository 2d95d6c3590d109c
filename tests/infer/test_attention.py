"""Class activation maps of a network that is known to look at one place."""

import pytest
import torch
from monai.visualize import GradCAMpp
from torch import nn

from neurobundle.errors import SettingError
from neurobundle.infer.attention import ClassActivation, Place, has_features, last_features, places_of
from neurobundle.networks.classifier import Classifier, classifier


def bright_against_dark() -> nn.Sequential:
    """Class 1 is as likely as there is brightness; class 0 does not care."""
    features, head = nn.Conv2d(1, 1, 1, bias=False), nn.Linear(1, 2, bias=False)
    nn.init.ones_(features.weight)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[0.0], [1.0]]))
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()


def image() -> torch.Tensor:
    picture = torch.zeros(1, 16, 12)
    picture[0, 3:5, 8:10] = 7
    return picture


def test_the_bright_spot_spoke_for_the_answer() -> None:
    heat = ClassActivation(bright_against_dark())(image(), 1)
    assert torch.equal(heat, (image()[0] > 0).float())


def test_nothing_spoke_for_the_other_one() -> None:
    assert not ClassActivation(bright_against_dark())(image(), 0).any()


def test_it_works_without_gradients_and_more_than_once() -> None:
    activation = ClassActivation(bright_against_dark())
    with torch.no_grad():
        assert torch.equal(activation(image(), 1), activation(image(), 1))


def test_a_network_may_name_the_layer() -> None:
    network = bright_against_dark()
    network.cam_layer = "1"  # type: ignore[assignment]
    assert last_features(network) == "1"
    assert last_features(bright_against_dark()) == "0"


def test_a_network_without_convolutions() -> None:
    with pytest.raises(SettingError, match="no feature maps"):
        last_features(nn.Linear(2, 2))
    assert not has_features(nn.Linear(2, 2))
    assert has_features(bright_against_dark())
    tokens = bright_against_dark()
    tokens.cam_layer = ""  # type: ignore[assignment]
    assert not has_features(tokens), "it says so"


def test_gradients_begin_at_the_layer_and_the_network_stays_as_it_was() -> None:
    """Nothing before the layer is derived, and its parameters want gradients again, or not, as before."""
    asked: list[bool] = []
    first, second = nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1)
    nn.init.ones_(first.weight)
    first.register_forward_hook(lambda _, inputs, output: asked.append(output.requires_grad))
    network = nn.Sequential(first, nn.ReLU(), second, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.ones_(second.weight)
    second.bias.requires_grad_(False)  # type: ignore[union-attr]
    wanted = [parameter.requires_grad for parameter in network.parameters()]
    heat = ClassActivation(network.eval())(image(), 0)
    assert heat.argmax() == image()[0].argmax()
    assert asked == [False, False], "for the map, and for where the features lie"
    assert [parameter.requires_grad for parameter in network.parameters()] == wanted
    assert all(parameter.grad is None for parameter in network.parameters())


def every_second(kernel: int, padding: int) -> nn.Conv2d:
    """The value in the middle of the kernel, of every second pixel."""
    layer = nn.Conv2d(1, 1, kernel, stride=2, padding=padding, bias=False)
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.weight[0, 0, kernel // 2, kernel // 2] = 1
    return layer


def test_a_map_lies_where_its_features_look() -> None:
    """Four layers of stride 2 that pad by half their kernel: feature 2 looks at pixel 32, and feature 1 at 16."""
    features = nn.Sequential(every_second(7, 3), every_second(3, 1), every_second(1, 0), every_second(3, 1))
    head = nn.Linear(1, 2, bias=False)
    nn.init.ones_(head.weight)
    network = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()
    network.cam_layer = "0"  # type: ignore[assignment]
    picture = torch.zeros(1, 64, 48)
    picture[0, 32, 16] = 5
    assert places_of(network, features, picture[None]) == [Place(0.0, 16.0)] * 2
    heat = ClassActivation(network)(picture, 1)
    assert heat.shape == (64, 48)
    assert divmod(int(heat.argmax()), 48) == (32, 16)
    assert heat[24, 16] == heat[40, 16] == heat[32, 8] == heat[32, 24] == 0.5, "half-way to the next feature"
    assert heat[16, 16] == heat[48, 16] == 0


def test_poolings_without_padding_look_at_the_middle() -> None:
    """Two poolings of 2 x 2: feature 0 is the mean of pixels 0 to 3, whose middle is 1.5."""
    pooled = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.AvgPool2d(2), nn.MaxPool2d(2))
    assert places_of(pooled, pooled, torch.zeros(1, 1, 16, 8)) == [Place(1.5, 4.0)] * 2


def test_side_branches_count_once() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(1, 1, 3, stride=2, padding=1), nn.Conv2d(1, 1, 1, stride=2)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.left(image) + self.right(image)

    network = Branches()
    assert places_of(network, network, torch.zeros(1, 1, 8, 8)) == [Place(0.0, 2.0)] * 2


def a_classifier() -> Classifier:
    torch.manual_seed(0)
    return classifier("resnet18", 1, 3, size="tiny", mask=True).eval()


def by_the_whole_network(network: Classifier, picture: torch.Tensor, answer: int) -> torch.Tensor:
    """The coarse map as MONAI makes it of the network as it is."""
    cam = GradCAMpp(network, network.cam_layer, upsampler=lambda _: lambda x: x, postprocessing=lambda x: x)
    return cam(x=picture[None], class_idx=answer)[0, 0].detach().clamp_min(0)


@pytest.mark.parametrize("watched", [False, True])
def test_of_a_classifier_only_the_end_is_run(watched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its map is that of the whole network, to a rounding; and of what was just seen the first part is not run."""
    network, picture = a_classifier(), torch.rand(1, 64, 64)
    coarse = [by_the_whole_network(network, picture, answer) for answer in range(3)]
    activation = ClassActivation(network)
    activation(picture, 0)  # finds where the features lie
    runs: list[int] = []
    network.register_forward_hook(lambda *_: runs.append(1))
    with activation.watching(), torch.no_grad():
        if watched:
            network(torch.stack([picture.flip(1), picture]), mask=True)
    runs.clear()
    monkeypatch.setattr("neurobundle.infer.attention._spread", lambda heat, *_: heat)
    for answer, whole in enumerate(coarse):
        low, high = whole.min(), whole.max()
        assert high > low, "there is a map"
        assert torch.allclose(activation(picture, answer), (whole - low) / (high - low), atol=1e-4)
    assert len(runs) == (0 if watched else 3)


def test_features_of_another_slice_are_not_taken() -> None:
    network, first, second = a_classifier(), torch.rand(1, 64, 64), torch.rand(1, 64, 64)
    activation = ClassActivation(network)
    alone = activation(second, 1)
    with activation.watching(), torch.no_grad():
        network(first[None])
    assert torch.equal(activation(second, 1), alone)
    assert not torch.equal(activation(first, 1), alone)
