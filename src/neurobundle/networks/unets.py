"""The 3D residual U-Net of the bundles: MONAI's ``DynUNet`` with residual blocks, in sizes that have names.

The first stage keeps the full resolution. On hippocampus crops that mattered more than width: at the same CPU time
a strided ``monai.networks.nets.UNet`` of twice the filters stayed two to three Dice points behind
(docs/decisions/0001-residual-unet-at-full-resolution.md).
"""

from __future__ import annotations

import math

from monai.networks.nets import DynUNet, UNet
from torch import nn

from neurobundle.errors import SettingError, closest

#: Filters per stage. ``tiny`` is for smoke tests: it learns, but not well.
FILTERS: dict[str, tuple[int, ...]] = {"full": (16, 32, 64, 128), "tiny": (4, 8, 16)}


def residual_unet(
    in_channels: int, out_channels: int, size: str = "full", spatial_dims: int = 3, dropout: float | None = None
) -> DynUNet:
    """A residual U-Net with instance normalisation and one stage at full resolution.

    Args:
        in_channels: image channels.
        out_channels: classes, the background among them.
        size: ``full`` or ``tiny`` (the keys of :data:`FILTERS`).
        spatial_dims: 2 or 3.
        dropout: probability of dropping a channel, or None.

    Returns:
        A network from ``(batch, in_channels, i, j, k)`` to logits ``(batch, out_channels, i, j, k)``; i, j and k
        must be multiples of 8 (``full``) or 4 (``tiny``).

    Raises:
        SettingError: for an unknown size.

    Source: Isensee et al. 2021 (nnU-Net, residual blocks), through MONAI's DynUNet.
    """
    if size not in FILTERS:
        raise SettingError(
            f"network_size must be one of {sorted(FILTERS)}, got {size!r}{closest(size, FILTERS)}",
            "Change network_size.",
        )
    filters = FILTERS[size]
    strides = [1] + [2] * (len(filters) - 1)
    return DynUNet(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=[3] * len(filters),
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=filters,
        dropout=dropout,
        res_block=True,
    )


#: Filters per stage of :func:`strided_unet`.
STRIDED_FILTERS: dict[str, tuple[int, ...]] = {"full": (16, 32, 64, 128, 256), "tiny": (4, 8, 16)}


def strided_unet(
    in_channels: int,
    out_channels: int,
    size: str = "full",
    spatial_dims: int = 3,
    residual_units: int = 2,
    features: int | None = None,
    prior: float | None = None,
) -> nn.Module:
    """A U-Net that halves the resolution in its first layer: four times as fast as :func:`residual_unet` on a head.

    Its last layer convolves as many channels as there are classes, at full resolution: for many classes that is most
    of the work. With ``features`` it has these, and a 1 x 1 x 1 convolution makes classes of them (with 33 classes and
    16 features a step of training costs less than half).

    Args:
        in_channels: image channels.
        out_channels: classes or regions.
        size: ``full`` or ``tiny`` (the keys of :data:`STRIDED_FILTERS`).
        spatial_dims: 2 or 3.
        residual_units: convolutions of each residual block; 0 gives the plain U-Net.
        features: channels of the last layer at full resolution; as many as classes if None.
        prior: for sigmoid outputs, about the share of voxels that belong to a region: an untrained network gives this
            probability nearly everywhere, instead of one half, and hundreds of steps are saved (Lin et al. 2017,
            10.1109/ICCV.2017.324).

    Returns:
        A network from ``(batch, in_channels, i, j, k)`` to logits ``(batch, out_channels, i, j, k)``; i, j and k
        must be multiples of 16 (``full``) or 4 (``tiny``).

    Raises:
        SettingError: for an unknown size.

    Source: Kerfoot et al. 2018, residual U-Net, through MONAI's UNet.
    """
    if size not in STRIDED_FILTERS:
        raise SettingError(
            f"network_size must be one of {sorted(STRIDED_FILTERS)}, got {size!r}{closest(size, STRIDED_FILTERS)}",
            "Change network_size.",
        )
    filters = STRIDED_FILTERS[size]
    network: nn.Module = UNet(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=out_channels if features is None else features,
        channels=filters,
        strides=[2] * (len(filters) - 1),
        num_res_units=residual_units,
    )
    if features is not None:
        classes = (nn.Conv2d, nn.Conv3d)[spatial_dims - 2](features, out_channels, 1)
        network = nn.Sequential(network, nn.PReLU(), classes)
    if prior is not None:
        if not 0 < prior < 1:
            raise SettingError(f"prior is {prior}", "Give a share between 0 and 1.")
        last = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Conv3d)][-1]
        assert last.bias is not None
        nn.init.constant_(last.bias, math.log(prior / (1 - prior)))
    return network
