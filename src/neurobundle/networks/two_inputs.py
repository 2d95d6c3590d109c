"""A classifier with two inputs that are made of one slice: all of it, and the tumour enlarged.

The *whole branch* is a backbone that sees the slice, with a mask head that outlines the tumour. The *crop* is the
part of the slice around that outline, resampled to the slice's own size; the *crop branch*, a backbone of the same
kind with weights of its own, sees the crop. The features of both go into one head. A *zoom* is the crop's share of
the slice's side: 1 is all of it.

The crop comes from the network's own outline in training as in inference, since at inference there is no other: what
the head learns from then has the errors that it will meet. The outline is learned from the masks alone; no gradient
goes through the place of the crop. While the mask head has learned nothing, or where a slice has no tumour, the crop is
the whole slice, so that nothing depends on the outline being there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from neurobundle.errors import SettingError
from neurobundle.networks.blocks import Chain, learning_layers
from neurobundle.networks.classifier import Classifier, classifier

#: To each side of the outline's centre the crop has so many standard deviations of it: of a disc, half its radius more.
DEVIATIONS = 3.0

#: The least zoom: what is smaller is enlarged four times and no more.
LEAST_ZOOM = 0.25

#: In training the crop is moved by up to this share of its side, and enlarged or shrunk by up to this share.
JITTER = 0.15


class TwoInputs(nn.Module):
    """Made by :func:`two_inputs`. Called as :class:`neurobundle.networks.classifier.Classifier` is.

    It cannot be scripted: the parts of the mask head that a scripted classifier leaves out are needed here.

    Args:
        whole: the whole branch, with a mask head; its own head is taken off.
        crop: the crop branch; likewise.
        classes: how many.
        dropout: probability of dropping a feature before the head.
    """

    def __init__(self, whole: Classifier, crop: Classifier, classes: int, dropout: float) -> None:
        super().__init__()
        self.backbone, self.spatial_dims = whole.backbone, whole.spatial_dims
        self.cam_layer = f"whole.{whole.cam_layer}"
        fc = nn.Linear(sum(int(branch.head.fc.in_features) for branch in (whole, crop)), classes)  # type: ignore
        for branch in (whole, crop):
            branch.head = nn.Identity()  # type: ignore[assignment]
        self.whole, self.crop = whole, crop
        self.head = nn.Sequential(OrderedDict(dropout=nn.Dropout(dropout), fc=fc))

    def forward(self, image: torch.Tensor, mask: bool = False) -> torch.Tensor:
        """From ``(batch, in_channels, column, row)`` to logits ``(batch, classes)``.

        Args:
            image: the batch.
            mask: return what :meth:`with_mask` does.
        """
        both = self.with_mask(image)
        return both if mask else both[0]  # type: ignore[return-value]

    def with_mask(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both outputs.

        Args:
            image: ``(batch, in_channels, column, row)``.

        Returns:
            Logits ``(batch, classes)``, and mask logits ``(batch, 1, column, row)``.
        """
        seen, mask = self.whole.with_mask(image)
        zoom, centre = place_of(mask.detach())
        if self.training:
            zoom, centre = moved(zoom, centre)
        closer = self.crop(cropped(image, zoom, centre))
        return self.head(torch.cat([seen, closer], dim=1)), mask

    def chain(self) -> Chain:
        """The steps of both branches, level by level, so that a level of both is one block."""
        return list(_together(self.whole.chain(), self.crop.chain()))

    def heads(self) -> list[nn.Module]:
        """The head and the mask head."""
        return [self.head, *self.whole.heads()]

    def backbones(self) -> list[Classifier]:
        """The two branches, for what fills a backbone with weights."""
        return [self.whole, self.crop]


def _together(first: Chain, second: Chain) -> Iterator[tuple[str, nn.Module]]:
    """Steps of several layers as pairs, others one after the other: blocks are found as in one branch."""
    for (name, one), (_, other) in zip(first, second, strict=True):
        if learning_layers(one) > 1:
            yield name, nn.ModuleList([one, other])
        else:
            yield from ((name, one), (name, other))


def place_of(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the outlined pixels are: a box around their centre that a stray pixel hardly moves.

    Args:
        mask: logits ``(batch, 1, column, row)``; pixels above 0 count.

    Returns:
        The zoom ``(batch,)``, from :data:`LEAST_ZOOM` to 1, and the crop's centre ``(batch, 2)`` along columns and
        rows, both in [-1, 1] over the slice. The crop is within the slice. Without a pixel it is all of it.

    >>> mask = torch.full((1, 1, 8, 8), -1.0)
    >>> place_of(mask)
    (tensor([1.]), tensor([[0., 0.]]))
    >>> mask[..., 0:2, 4:6] = 1
    >>> place_of(mask)
    (tensor([0.3750]), tensor([[-0.6250,  0.2500]]))
    """
    share = (mask[:, 0] > 0).float()
    total = share.sum((1, 2))
    found = total > 0
    centres, spreads = [], []
    for axis, size in ((1, mask.shape[2]), (2, mask.shape[3])):
        place = (2 * torch.arange(size, device=mask.device, dtype=torch.float32) + 1) / size - 1
        weights = share.sum(3 - axis) / total.clamp_min(1)[:, None]
        centre = (weights * place).sum(1)
        centres.append(centre)
        spreads.append((weights * (place - centre[:, None]).square()).sum(1).sqrt())
    zoom = (DEVIATIONS * torch.stack(spreads).amax(0)).clamp_min(LEAST_ZOOM).clamp_max(1)
    return _within(torch.where(found, zoom, torch.ones_like(zoom)), torch.stack(centres, dim=1))


def moved(zoom: torch.Tensor, centre: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A place with errors as an outline has them, drawn at random.

    Args:
        zoom: as :func:`place_of` gives it.
        centre: likewise.
    """
    scale, shift = (torch.rand(shape, device=zoom.device) * 2 - 1 for shape in (zoom.shape, centre.shape))
    wider = (zoom * (1 + JITTER * scale)).clamp_min(LEAST_ZOOM).clamp_max(1)
    return _within(wider, centre + 2 * JITTER * wider[:, None] * shift)


def cropped(image: torch.Tensor, zoom: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """The crops, resampled linearly to the slice's own size.

    Args:
        image: ``(batch, channel, column, row)``.
        zoom: ``(batch,)``.
        centre: ``(batch, 2)``, as :func:`place_of` gives it.

    Returns:
        As the image.
    """
    nothing = torch.zeros_like(zoom)
    # grid_sample counts the last axis first.
    rows = [torch.stack([zoom, nothing, centre[:, 1]], dim=1), torch.stack([nothing, zoom, centre[:, 0]], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(image.shape), align_corners=False)
    return F.grid_sample(image, grid.to(image.dtype), mode="bilinear", padding_mode="border", align_corners=False)


def _within(zoom: torch.Tensor, centre: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A place whose crop is within the slice."""
    most = (1 - zoom)[:, None]
    return zoom, centre.clamp(-most, most)


def two_inputs(
    backbone: str,
    in_channels: int,
    classes: int,
    *,
    size: str = "full",
    width: float = 1.0,
    dropout: float = 0.0,
    mask: bool = True,
) -> TwoInputs:
    """A network that answers a class from a slice and its tumour enlarged.

    Args:
        backbone: of both branches, one of :data:`neurobundle.networks.backbones.BACKBONES` with feature maps; 2D.
        in_channels: image channels.
        classes: how many.
        size: ``full``, or ``tiny`` for smoke tests.
        width: channels of a residual or dense network, as a share of the usual ones.
        dropout: probability of dropping a feature before the head.
        mask: must be true; here so that a config can name it as of any classifier.

    Raises:
        SettingError: without a mask head; and as :func:`neurobundle.networks.classifier.classifier`.
        MissingPackageError: if the backbone's package is not installed.

    >>> network = two_inputs("resnet18", in_channels=1, classes=3, width=0.5)
    >>> round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 1)
    5.7
    """
    if not mask:
        raise SettingError("the crop is found by the mask head, and mask is false", "Set mask_head to true.")
    whole, crop = (
        classifier(backbone, in_channels, classes, size=size, width=width, dropout=dropout, mask=outlines)
        for outlines in (True, False)
    )
    return TwoInputs(whole, crop, classes, dropout)
