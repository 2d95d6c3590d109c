"""Backbones: what turns an image into features, each taken apart into one chain of steps.

The *trunk* ends in feature maps, the *neck* makes one row of features of them: it pools, and has what stands between
pooling and the last linear layer. Both are plain sequences, with the names that the original network gives its parts,
so that other people's weights fit, a block can be found by its place, and every exporter can read them.

Residual and dense networks come from MONAI, in 2D as torchvision has them and in 3D as MedicalNet has them. The others
come from timm (the extra ``backbones``), and CoCa's image encoder from open_clip (the extra ``coca``).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.layers.factories import Pool
from monai.networks.nets import DenseNet, ResNet
from torch import nn

from neurobundle.errors import SettingError, closest
from neurobundle.networks.coca import coca_parts
from neurobundle.networks.vision import import_on_torchvision

#: ``tiny`` is for smoke tests: the same layout with few channels.
SIZES = ("full", "tiny")

#: What a tiny network of timm's divides its channels by; 48, the least of an inception module, must become whole.
NARROWER = 16

#: Kind of block, blocks a stage (He et al. 2016, 10.1109/CVPR.2016.90).
RESNETS: dict[str, tuple[str, list[int]]] = {
    "resnet18": ("basic", [2, 2, 2, 2]),
    "resnet34": ("basic", [3, 4, 6, 3]),
    "resnet50": ("bottleneck", [3, 4, 6, 3]),
}

#: Channels of the stages, before the expansion of a bottleneck.
PLANES = {"full": [64, 128, 256, 512], "tiny": [4, 8, 16, 32]}

#: Settings of DenseNet121 (Huang et al. 2017, 10.1109/CVPR.2017.243).
DENSENETS: dict[str, dict[str, Any]] = {
    "full": {"init_features": 64, "growth_rate": 32, "block_config": (6, 12, 24, 16)},
    "tiny": {"init_features": 8, "growth_rate": 4, "block_config": (2, 2, 2, 2)},
}

#: Name in timm, and the child at which its trunk ends.
TIMM: dict[str, tuple[str, str]] = {
    "vgg16": ("vgg16", "pre_logits"),
    "vgg19": ("vgg19", "pre_logits"),
    "inception_v3": ("inception_v3", "global_pool"),
    "xception": ("legacy_xception", "global_pool"),
    "efficientnetv2_b3": ("tf_efficientnetv2_b3", "global_pool"),
    "convnext_tiny": ("convnext_tiny", "head"),
}

BACKBONES = (*RESNETS, "densenet121", *TIMM, "coca")


@dataclass(frozen=True)
class Parts:
    """A backbone, taken apart.

    Args:
        trunk: from an image to feature maps.
        neck: from these to ``(batch, features)``.
        features: how many.
        maps: whether the trunk ends in feature maps, of falling resolution: a pyramid.
    """

    trunk: nn.Sequential
    neck: nn.Sequential
    features: int
    maps: bool = True


def build(backbone: str, in_channels: int, spatial_dims: int, size: str, width: float) -> Parts:
    """A backbone with random weights.

    Args:
        backbone: one of :data:`BACKBONES`.
        in_channels: image channels.
        spatial_dims: 2 or 3.
        size: one of :data:`SIZES`.
        width: channels of a residual or dense network, as a share of the usual ones.

    Raises:
        SettingError: for an unknown name or size, or for what the backbone does not come in.
        MissingPackageError: if its package is not installed.
    """
    _check(backbone, in_channels, spatial_dims, size, width)
    if backbone in RESNETS:
        return _resnet(backbone, in_channels, spatial_dims, size, width)
    if backbone == "densenet121":
        return _densenet(in_channels, spatial_dims, size, width)
    if backbone == "coca":
        return Parts(*coca_parts(in_channels, tiny=size == "tiny"), maps=False)
    return _timm(backbone, in_channels, size)


def _check(backbone: str, in_channels: int, spatial_dims: int, size: str, width: float) -> None:
    if backbone not in BACKBONES:
        known = ", ".join(BACKBONES)
        raise SettingError(f"unknown backbone {backbone!r}{closest(backbone, BACKBONES)}", f"Known are: {known}.")
    if size not in SIZES:
        raise SettingError(f"size must be one of {SIZES}, got {size!r}{closest(size, SIZES)}", "Change network_size.")
    if in_channels < 1:
        raise SettingError(f"in_channels is {in_channels}", "An image has a channel or more.")
    ours = backbone in RESNETS or backbone == "densenet121"
    if spatial_dims not in ((2, 3) if ours else (2,)):
        raise SettingError(
            f"{backbone} does not come in {spatial_dims}D",
            "resnet18, resnet34, resnet50 and densenet121 come in 2D and 3D, the others in 2D.",
        )
    if width <= 0 or (width != 1 and not ours):
        raise SettingError(
            f"{backbone} does not come in width {width}", "Leave width at 1; residual and dense networks have others."
        )


class PaddedShortcut(nn.Module):
    """The shortcut without weights: every second voxel, and zeros for the channels that are new.

    MedicalNet's 3D ResNet18 and 34 have it. MONAI's own has the same values, but lets no gradient through and cannot
    be scripted.

    Args:
        stride: of the block that it leads around.
        more: channels that the block adds.
    """

    def __init__(self, stride: int, more: int) -> None:
        super().__init__()
        self.stride, self.more = stride, more

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """From ``(batch, channel, i, j, k)`` to more channels, and half of i, j and k if the stride is 2."""
        taken = F.avg_pool3d(features, kernel_size=1, stride=self.stride)
        return F.pad(taken, [0, 0, 0, 0, 0, 0, 0, self.more])


def _resnet(name: str, in_channels: int, spatial_dims: int, size: str, width: float) -> Parts:
    kind, layers = RESNETS[name]
    network = ResNet(
        kind,
        layers,
        PLANES[size],
        spatial_dims=spatial_dims,
        n_input_channels=in_channels,
        conv1_t_stride=2,
        widen_factor=width,
        feed_forward=False,
        bias_downsample=False,
    )
    stages = [network.layer1, network.layer2, network.layer3, network.layer4]
    if kind == "basic" and spatial_dims == 3:
        for stage in stages[1:]:
            first: Any = stage[0]
            more = first.conv1.out_channels - first.conv1.in_channels
            first.downsample = PaddedShortcut(first.stride, more)
    last: Any = stages[-1][-1]
    features = (last.conv2 if kind == "basic" else last.conv3).out_channels
    return Parts(_until(network, "avgpool"), _pooled(spatial_dims), features)


def _densenet(in_channels: int, spatial_dims: int, size: str, width: float) -> Parts:
    settings = dict(DENSENETS[size])
    settings["init_features"] = max(1, int(settings["init_features"] * width))
    settings["growth_rate"] = max(1, int(settings["growth_rate"] * width))
    network = DenseNet(spatial_dims, in_channels, out_channels=1, **settings)
    # The maps are looked at (Grad-CAM), so this activation writes no other values over them.
    neck = _pooled(spatial_dims, relu=nn.ReLU())
    out: Any = network.class_layers.out
    return Parts(_until(network, "class_layers"), neck, out.in_features)


def _timm(backbone: str, in_channels: int, size: str) -> Parts:
    name, end = TIMM[backbone]
    timm = import_on_torchvision("timm", extra="backbones", feature=f"The backbone {backbone}")
    tiny = size == "tiny"
    settings = {"depths": (1, 1, 2, 1), "dims": (8, 16, 32, 64)} if tiny and backbone == "convnext_tiny" else {}
    with torch.device("meta") if tiny and not settings else nullcontext():
        network = timm.create_model(name, pretrained=False, in_chans=in_channels, num_classes=0, **settings)
    if tiny and not settings:
        narrow(network, NARROWER)
    trunk = _until(network, end)
    if backbone.startswith("vgg"):
        return Parts(trunk, _pooled(2, after={}, pre_logits=network.pre_logits), network.pre_logits.fc2.out_channels)
    if backbone == "convnext_tiny":
        norm = nn.Sequential(OrderedDict(norm=network.head.norm))
        return Parts(trunk, _pooled(2, after={"head": norm}), network.num_features)
    features = math.ceil(network.num_features / NARROWER) if tiny else network.num_features
    return Parts(trunk, _pooled(2), features)


def _until(network: nn.Module, end: str) -> nn.Sequential:
    """The children of a network before one of them, in their order, which is that of execution."""
    children: OrderedDict[str, nn.Module] = OrderedDict()
    for name, child in network.named_children():
        if name == end:
            return nn.Sequential(children)
        children[name] = child
    raise AssertionError(f"{type(network).__name__} has no child {end}")


def _pooled(spatial_dims: int, after: dict[str, nn.Module] | None = None, **before: nn.Module) -> nn.Sequential:
    """A neck that pools; what stands before and after the pooling keeps its name."""
    pool: Callable[[int], nn.Module] = Pool[Pool.ADAPTIVEAVG, spatial_dims]
    return nn.Sequential(OrderedDict(**before, pool=pool(1), **(after or {}), flatten=nn.Flatten(1)))


def narrow(network: nn.Module, divisor: int) -> None:
    """Divide all channels of a 2D network but those of its image, rounded up, and draw new weights; in place.

    Args:
        network: convolutions and batch norms; every layer stays what it is. Its own weights are not read, so that it
            may have been made on torch's meta device, without any.
        divisor: a whole number.
    """
    image = True
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            alone = module.groups == module.in_channels and not image  # one kernel a channel
            module.in_channels = module.in_channels if image else math.ceil(module.in_channels / divisor)
            module.out_channels = math.ceil(module.out_channels / divisor)
            module.groups = module.in_channels if alone else module.groups
            inner = module.in_channels // module.groups
            module.weight = nn.Parameter(torch.empty(module.out_channels, inner, *module.kernel_size))
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                module.bias = nn.Parameter(torch.zeros(module.out_channels))
            image = False
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features = math.ceil(module.num_features / divisor)
            for name, value in (("weight", 1.0), ("bias", 0.0)):
                setattr(module, name, nn.Parameter(torch.full((module.num_features,), value)))
            module.running_mean, module.running_var = torch.zeros(module.num_features), torch.ones(module.num_features)
            module.num_batches_tracked = torch.tensor(0)
