"""Each backbone, against the network that it was taken from."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.visualize import GradCAMpp
from torch import nn

from neurobundle.errors import MissingPackageError, SettingError
from neurobundle.networks.backbones import BACKBONES, NARROWER, TIMM, narrow
from neurobundle.networks.blocks import blocks_of
from neurobundle.networks.classifier import Classifier, classifier
from neurobundle.networks.vision import import_on_torchvision, nms
from neurobundle.networks.weights import load_weights, save_weights

#: The least sides that inception's convolutions without padding leave something of are 75.
SIDE = 80

CONVOLUTIONAL = tuple(TIMM)


def package(name: str) -> Any:
    """A package that stands on torchvision; the test is skipped where it is not installed."""
    try:
        return import_on_torchvision(name, extra="backbones", feature="A test")
    except MissingPackageError as error:
        return pytest.skip(str(error))


def tiny(backbone: str, **settings: Any) -> Classifier:
    if backbone in TIMM:
        package("timm")
    if backbone == "coca":
        package("open_clip")
    torch.manual_seed(0)
    return classifier(backbone, 1, 3, size="tiny", **settings)


@functools.lru_cache
def shared(backbone: str) -> Classifier:
    """One network for all tests that only look: in eval mode, with a mask head where there can be one."""
    return tiny(backbone, mask=backbone != "coca").eval()


def image(channels: int = 1, side: int = SIDE) -> torch.Tensor:
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(1))


BLOCKS = {
    "vgg16": ["features.0", "features.5", "features.10", "features.17", "features.24", "pre_logits", "head"],
    "vgg19": ["features.0", "features.5", "features.10", "features.19", "features.28", "pre_logits", "head"],
    "inception_v3": [
        "Conv2d_1a_3x3",
        "Conv2d_3b_1x1",
        *(f"Mixed_{name}" for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")),
        "head",
    ],
    "xception": ["conv1", *(f"block{n}" for n in range(1, 13)), "conv3", "conv4", "head"],
    "efficientnetv2_b3": ["conv_stem", *(f"blocks.{n}" for n in range(6)), "conv_head", "head"],
    "convnext_tiny": ["stem", *(f"stages.{n}" for n in range(4)), "head"],
    "coca": ["embed", "block0", "block1", "gather", "head"],
}


@pytest.mark.parametrize("backbone", BLOCKS)
def test_blocks(backbone: str) -> None:
    """In the order of execution, the head last, every parameter in exactly one."""
    network = shared(backbone)
    blocks = blocks_of(network)
    assert [block.name for block in blocks] == BLOCKS[backbone]
    found = [id(parameter) for block in blocks for parameter in block.parameters]
    assert sorted(found) == sorted(id(parameter) for parameter in network.parameters())


def test_every_backbone_has_its_test() -> None:
    ours = {"resnet18", "resnet34", "resnet50", "densenet121"}  # tests/networks/test_classifier.py
    assert set(BLOCKS) | ours == set(BACKBONES)


@pytest.mark.parametrize("backbone", CONVOLUTIONAL)
def test_taken_apart_it_says_what_it_said_whole(backbone: str) -> None:
    timm = package("timm")
    network = shared(backbone)
    settings = {"depths": (1, 1, 2, 1), "dims": (8, 16, 32, 64)} if backbone == "convnext_tiny" else {}
    with torch.device("cpu" if settings else "meta"):
        whole = timm.create_model(TIMM[backbone][0], in_chans=1, num_classes=0, **settings).eval()
    if not settings:
        narrow(whole, NARROWER)
    parts = {name: value for name, value in network.state_dict().items() if name.startswith(("trunk.", "neck."))}
    whole.load_state_dict({name.split(".", 1)[1]: value for name, value in parts.items()})
    with torch.no_grad():
        assert torch.equal(network.neck(network.trunk(image())), whole(image()))


def test_coca_taken_apart_says_what_it_said_whole() -> None:
    open_clip = package("open_clip")
    from neurobundle.networks.coca import TINY, vision_settings

    network = shared("coca")
    settings = vision_settings(open_clip) | TINY
    visual = open_clip.transformer.VisionTransformer(**settings).eval()
    visual.conv1 = nn.Conv2d(1, 32, 8, 8, bias=False)
    names = {"embed.": "", "gather.": "", "block0.": "transformer.resblocks.0.", "block1.": "transformer.resblocks.1."}
    state = {}
    for name, value in network.state_dict().items():
        short = name.split(".", 1)[1]
        for ours, theirs in names.items():
            if short.startswith(ours):
                state[theirs + short.removeprefix(ours)] = value
    visual.load_state_dict(state)
    with torch.no_grad():
        ours = network.neck(network.trunk(image(side=32)))
        torch.testing.assert_close(ours, visual(image(side=32)), atol=1e-5, rtol=1e-5)


def test_coca_is_as_open_clip_configures_it() -> None:
    """The full encoder has the shapes of open_clip's own, but for the image's channels."""
    open_clip = package("open_clip")
    from neurobundle.networks.coca import MODEL, vision_settings

    settings = vision_settings(open_clip)
    config = open_clip.get_model_config(MODEL)
    assert set(config["vision_cfg"]) - {"output_tokens"} <= set(settings), "a setting that nothing here reads"
    built = open_clip.model._build_vision_tower(config["embed_dim"], config["vision_cfg"])
    with torch.device("meta"):
        ours = open_clip.transformer.VisionTransformer(**settings)
    shapes = {name: tuple(value.shape) for name, value in built.state_dict().items()}
    assert shapes == {name: tuple(value.shape) for name, value in ours.state_dict().items()}


@pytest.mark.parametrize("backbone", CONVOLUTIONAL)
def test_a_mask_of_the_images_size(backbone: str) -> None:
    network = shared(backbone)
    with torch.no_grad():
        logits, mask = network.with_mask(image())
        assert mask.shape == (2, 1, SIDE, SIDE)
        assert torch.equal(network(image()), logits)


def test_coca_has_no_pyramid_for_a_mask() -> None:
    with pytest.raises(SettingError, match="coca has no feature maps"):
        tiny("coca", mask=True)


@pytest.mark.parametrize("backbone", CONVOLUTIONAL)
def test_a_class_activation_map(backbone: str) -> None:
    network, side = shared(backbone), 2 * SIDE
    heat = torch.as_tensor(GradCAMpp(network, target_layers=network.cam_layer)(image(side=side)[:1], class_idx=1))
    assert heat.shape == (1, 1, side, side)
    assert torch.isfinite(heat).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("backbone", BACKBONES)
def test_trains_two_steps_saves_loads_exports_and_infers(backbone: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    network = tiny(backbone)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    before = {name: value.clone() for name, value in network.named_parameters()}
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(image()), torch.tensor([0, 2])).backward()
        optimizer.step()
    still = [name for name, value in network.named_parameters() if torch.equal(value, before[name])]
    assert len(still) <= UNMOVED * len(before), still
    save_weights(network, tmp_path / "model.pt", half=False, origin="trained-here")
    again = tiny(backbone).eval()
    load_weights(again, tmp_path / "model.pt")
    with torch.no_grad():
        expected = network.eval()(image())
        assert torch.equal(again(image()), expected)
        scripted = torch.jit.script(again)
        assert torch.allclose(scripted(image()), expected, atol=1e-4)
        torch.onnx.export(again, (image(),), tmp_path / "n.onnx", dynamo=True, verbose=False)
    session = runtime.InferenceSession(tmp_path / "n.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: image().numpy()})
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)


#: Share of tensors that two small steps may leave as they are (biases before a norm have no gradient).
UNMOVED = 0.1


def test_narrowing_divides_channels_and_leaves_the_image_alone() -> None:
    """A depthwise convolution keeps one kernel a channel; 5 channels of 16 are one, rounded up."""
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 32, 3, groups=32), nn.Conv2d(32, 5, 1)
    )
    narrow(network, 16)
    shapes = [tuple(value.shape) for name, value in network.named_parameters() if name.endswith("weight")]
    assert shapes == [(2, 3, 3, 3), (2,), (2, 1, 3, 3), (1, 2, 1, 1)]
    assert network(torch.zeros(1, 3, 9, 9)).shape == (1, 1, 5, 5)


def test_nms_of_boxes_that_a_reader_can_measure() -> None:
    """The second covers 3/4 of the first, the third a quarter of the second, the fourth touches nothing."""
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3], [0, 2, 4, 5], [9, 9, 10, 10]])
    scores = torch.tensor([0.6, 0.9, 0.8, 0.1])
    assert nms(boxes, scores, 0.5).tolist() == [1, 2, 3]
    assert nms(boxes, scores, 0.8).tolist() == [1, 2, 0, 3]
    assert nms(boxes, scores, 0.1).tolist() == [1, 3]
    assert nms(boxes[:0], scores[:0], 0.5).tolist() == []


def test_torchvisions_operator_is_there_beside_a_cpu_torch() -> None:
    package("torchvision")
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3], [9, 9, 10, 10]])
    assert torch.ops.torchvision.nms(boxes, torch.tensor([0.6, 0.9, 0.1]), 0.5).tolist() == [1, 2]
