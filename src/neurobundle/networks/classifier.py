"""Networks that answer a class: a backbone, and a head of one linear layer.

A *backbone* turns an image into features; the *head* turns these into one logit a class; a *mask head* is an
auxiliary output that outlines the tumour. See :mod:`neurobundle.networks.backbones` for trunk and
neck, and :mod:`neurobundle.networks.blocks` for what fine-tuning freezes.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

from neurobundle.errors import SettingError
from neurobundle.networks.backbones import BACKBONES, Parts, build
from neurobundle.networks.blocks import Block, Chain, blocks_of, steps_of
from neurobundle.networks.imported import load_foreign
from neurobundle.networks.mask_head import PROBE, MaskHead, levels_of

__all__ = ["BACKBONES", "Block", "Classifier", "blocks_of", "classifier"]

#: Class activation maps are of the last maps that have a pixel for this many of the image, a side. The last of all have
#: one for 32, which are five a side of a slice of 144, and each of them sees nearly the whole slice.
CAM_STRIDE = 16


class Classifier(nn.Module):
    """A backbone with a head, and perhaps a mask head. Made by :func:`classifier`.

    Args:
        backbone: its name.
        parts: of the backbone.
        in_channels: image channels.
        classes: how many.
        spatial_dims: 2 or 3.
        dropout: probability of dropping a feature before the head.
        mask: whether it has a mask head.

    Raises:
        SettingError: for a mask head on a backbone that gives no feature maps.
    """

    def __init__(
        self, backbone: str, parts: Parts, in_channels: int, classes: int, spatial_dims: int, dropout: float, mask: bool
    ) -> None:
        super().__init__()
        self.backbone, self.spatial_dims = backbone, spatial_dims
        self.cam_layer = ""
        self.trunk, self.neck = parts.trunk, parts.neck
        ends, channels, sizes = _levels(parts, in_channels, spatial_dims)
        if ends:
            # Whose maps a class activation map weighs: hooks need an output that nothing writes over.
            fine = [end for end, size in zip(ends, sizes, strict=True) if size * CAM_STRIDE >= PROBE[spatial_dims]]
            name, last = list(steps_of(self.trunk))[(fine or ends)[-1]]
            self.cam_layer = f"trunk.{name}"
            if isinstance(last, nn.ReLU):
                last.inplace = False
        fc = nn.Linear(parts.features, classes)
        self.head = nn.Sequential(OrderedDict(dropout=nn.Dropout(dropout), fc=fc))
        self.mask_head: MaskHead | None = None
        self.levels: tuple[int, ...] = ()
        if mask:
            if not ends:
                raise SettingError(
                    f"{backbone} has no feature maps for a mask head", "All backbones but coca have them."
                )
            self.levels = tuple(ends)
            self.mask_head = MaskHead(channels[::-1], spatial_dims)

    def forward(self, image: torch.Tensor, mask: bool = False) -> torch.Tensor:
        """From ``(batch, in_channels, *spatial)`` to logits ``(batch, classes)``.

        Args:
            image: the batch.
            mask: return what :meth:`with_mask` does; through this door, so that wrappers for many processes see it. A
                scripted network has the logits alone.
        """
        if not torch.jit.is_scripting() and mask:
            return self.with_mask(image)  # type: ignore[return-value]
        return self.head(self.neck(self.trunk(image)))

    @torch.jit.unused
    def with_mask(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both outputs of one pass through the backbone.

        Args:
            image: ``(batch, in_channels, *spatial)``.

        Returns:
            Logits ``(batch, classes)``, and mask logits ``(batch, 1, *spatial)``.

        Raises:
            SettingError: if the network was made without a mask head.
        """
        if self.mask_head is None:
            raise SettingError("this network has no mask head", "Make it with mask=True.")
        features, pyramid = image, []
        for n, (_, step) in enumerate(steps_of(self.trunk)):
            features = step(features)
            if n in self.levels:
                pyramid.append(features)
        mask = self.mask_head(pyramid[::-1], list(image.shape[2:]))
        return self.head(self.neck(features)), mask

    @torch.jit.unused
    def chain(self) -> Chain:
        """The steps of trunk and neck, in the order of execution."""
        return [*steps_of(self.trunk), *steps_of(self.neck)]

    @torch.jit.unused
    def heads(self) -> list[nn.Module]:
        """The head, and the mask head if there is one."""
        return [self.head] if self.mask_head is None else [self.head, self.mask_head]


def _levels(parts: Parts, in_channels: int, spatial_dims: int) -> tuple[list[int], list[int], list[int]]:
    """Of each level the step that ends it, its channels and its side in an image of zeros; none without maps."""
    if not parts.maps:
        return [], [], []
    training = parts.trunk.training
    found = levels_of([step for _, step in steps_of(parts.trunk.eval())], in_channels, spatial_dims)
    parts.trunk.train(training)
    return found


def classifier(
    backbone: str,
    in_channels: int,
    classes: int,
    *,
    spatial_dims: int = 2,
    weights: str | Path | None = None,
    size: str = "full",
    width: float = 1.0,
    dropout: float = 0.0,
    mask: bool = False,
) -> Classifier:
    """A network that answers a class.

    Args:
        backbone: one of :data:`neurobundle.networks.backbones.BACKBONES`.
        in_channels: image channels.
        classes: how many.
        spatial_dims: 2 or 3; 3 for residual and dense networks only.
        weights: of somebody else's backbone, by path, address or name (:func:`neurobundle.networks.load_foreign`);
            None leaves random ones.
        size: ``full``, or ``tiny`` for smoke tests.
        width: channels of a residual or dense network, as a share of the usual ones.
        dropout: probability of dropping a feature before the head.
        mask: adds the mask head.

    Returns:
        A network from ``(batch, in_channels, *spatial)`` to logits ``(batch, classes)``.

    Raises:
        SettingError: for a backbone, size, width or dropout that there is not.
        MissingPackageError: if the backbone's package is not installed.
        WeightsError: if the weights are not those of this backbone.

    >>> network = classifier("resnet18", in_channels=1, classes=3, width=0.5)
    >>> round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 1)
    2.8
    """
    if classes < 1 or not 0 <= dropout < 1:
        raise SettingError(
            f"classes is {classes!r} and dropout {dropout!r}", "Give a class or more, and a dropout from 0 to below 1."
        )
    parts = build(backbone, in_channels, spatial_dims, size, width)
    network = Classifier(backbone, parts, in_channels, classes, spatial_dims, dropout, mask)
    if weights is not None:
        load_foreign(network, weights)
    return network
