"""Heads that nobody has: images of several sequences made from one label map, with tumours and their labels.

The generative model is SynthSeg's (Billot et al. 2023, Med Image Anal 86:102789): deform a label map, draw a Gaussian a
tissue, blur, multiply by a bias field, sample as a scanner does, add noise. What differs: the sequences of a head share
its geometry and its tissues, whose means follow from relaxation times (:mod:`neurobundle.augment.tissues`) or are
drawn at random, and lesions are painted in (:mod:`neurobundle.augment.lesions`).

A *plan* is all that chance decides of one head (:mod:`neurobundle.augment.head_plan`); the same plan and label map give
the same images on the same kind of device.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable

from neurobundle.augment.acquisition import acquire, normal
from neurobundle.augment.cubes import box_mean, dilated
from neurobundle.augment.deform import Warp, smooth_field, swap_sides
from neurobundle.augment.head_plan import HeadSettings, Plan, draw_head, grid_affine, settings_of
from neurobundle.augment.lesions import (
    RANK,
    Lesion,
    Painted,
    blend,
    box_of,
    freedom,
    is_one_of,
    mass_effect,
    paint,
    place_of,
    radius_map,
)
from neurobundle.augment.tissues import BRAIN, INDEX, MIRRORED, TISSUE_OF, Contrast, tissues_of
from neurobundle.errors import InputError, SettingError

#: The brightness of white matter where a scanner's arbitrary unit is wanted.
WHITE_LEVEL = 400.0
#: Fewer voxels of brain than this are no head.
FEWEST_BRAIN = 64


class Head(NamedTuple):
    """What was made.

    Attributes:
        images: ``(sequence, i, j, k)`` float32; white matter is about 1.
        label: ``(i, j, k)`` uint8, BraTS 2023's numbers: 1 core, 2 oedema, 3 enhancing.
        tissue: ``(i, j, k)`` uint8, numbers of tissues, without lesions.
        spots: ``(i, j, k)`` bool: white-matter lesions, which are no tumour.
        anatomy: ``(i, j, k)``: the label map's numbers, deformed and pushed aside; sides are named right.
    """

    images: torch.Tensor
    label: torch.Tensor
    tissue: torch.Tensor
    spots: torch.Tensor
    anatomy: torch.Tensor


def synthesize_head(
    labels: torch.Tensor,
    plan: Plan,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    table: Mapping[int, int] = TISSUE_OF,
) -> Head:
    """Make the images that a plan says, from a label map.

    Args:
        labels: ``(i, j, k)``, whole numbers, axes R, A, S; on the device that shall do the work. It is left as it is.
        plan: of :func:`neurobundle.augment.draw_head`.
        spacing_mm: of the label map.
        table: label -> number of a tissue.

    Raises:
        InputError: for a label that has no tissue, or a map without a brain.
    """
    with torch.no_grad():
        settings = plan.settings
        warp = Warp(labels, spacing_mm, plan.deformation, settings.shape, settings.spacing_mm, _about(labels, table))
        anatomy = warp.sample()
        tissue = tissues_of(anatomy, table)
        pushed = torch.zeros((3, *tissue.shape), device=tissue.device)
        painted, spots = (
            [one for lesion in lesions for one in _grown(lesion, tissue, anatomy, warp, table, pushed, plan)]
            for lesions in (plan.tumours, plan.spots)
        )
        label = _labels(painted, tissue)
        spot_mask = torch.zeros_like(tissue, dtype=torch.bool)
        for spot in spots:
            spot_mask[spot.box] |= spot.share > 0.25
        shown = _soft_tissue(tissue, plan)
        mask = None if plan.skull else _brain_mask(shown, label, plan)
        lesions = [*spots, *painted]
        generator = torch.Generator(device=labels.device).manual_seed(plan.seed)
        images = [
            acquire(_bright(shown, lesions, contrast, generator), acquisition, settings.spacing_mm, generator, mask)
            for contrast, acquisition in zip(plan.contrasts, plan.acquisitions, strict=True)
        ]
        if np.linalg.det(plan.deformation.matrix) < 0:
            anatomy = swap_sides(anatomy, MIRRORED)
        return Head(torch.stack(images), label, tissue, spot_mask & (label == 0), anatomy)


def _about(labels: torch.Tensor, table: Mapping[int, int]) -> tuple[list[int], list[int]]:
    """The box around the brain; of a large map only every fourth voxel is looked at."""
    if labels.ndim != 3 or not labels.numel():
        raise InputError(f"the label map has the shape {tuple(labels.shape)}", "Give one with axes i, j and k.")
    step = 4 if min(labels.shape) >= 64 else 1
    found = is_one_of(tissues_of(labels[::step, ::step, ::step], table), BRAIN).nonzero()
    if len(found) * step**3 < FEWEST_BRAIN:
        raise InputError(
            "the label map has no brain in it", "Give one with FreeSurfer's labels of cortex and white matter."
        )
    return (found.min(dim=0).values * step).tolist(), (found.max(dim=0).values * step).tolist()


def _grown(
    lesion: Lesion,
    tissue: torch.Tensor,
    anatomy: torch.Tensor,
    warp: Warp,
    table: Mapping[int, int],
    pushed: torch.Tensor,
    plan: Plan,
) -> list[Painted]:
    """One lesion in a head; nothing if there is no place.

    ``tissue`` and ``anatomy`` give way, and ``pushed`` adds up, all in place.
    """
    spacing_mm = plan.settings.spacing_mm
    middle = place_of(lesion, tissue, spacing_mm)
    if middle is None:
        return []
    box = box_of(lesion, middle, tissue.shape, spacing_mm)
    if lesion.mass:
        radius = radius_map(lesion, middle, box, spacing_mm, tissue.device)
        shift = pushed[(slice(None), *box)]
        shift += mass_effect(lesion, middle, box, radius, freedom(tissue[box], spacing_mm))
        anatomy[box] = warp.sample(box, shift)
        tissue[box] = tissues_of(anatomy[box], table)
    return [paint(lesion, middle, box, tissue[box], spacing_mm)]


def _labels(painted: Sequence[Painted], tissue: torch.Tensor) -> torch.Tensor:
    """All tumours in one map; where two meet, enhancing tumour and core go before oedema."""
    label = torch.zeros_like(tissue)
    rank = torch.tensor(RANK, dtype=torch.uint8, device=tissue.device)
    for one in painted:
        there = label[one.box]
        better = rank[one.label.to(torch.int32)] > rank[there.to(torch.int32)]
        label[one.box] = torch.where(better, one.label, there)
    return label


def _soft_tissue(tissue: torch.Tensor, plan: Plan) -> torch.Tensor:
    """A map in which soft tissue is fat or muscle, and the fluid next to bone is dura.

    Label maps of heads have one label for both. Fat is where the layer is thin (under the scalp), around the eyes,
    and between muscles, for which there is noise.
    """
    if not plan.skull:
        return tissue
    spacing = plan.settings.spacing_mm
    coarse = [max(1, round(4 / s)) for s in spacing]
    soft = (tissue == INDEX["muscle"]).float()[None, None]
    eye = (tissue == INDEX["eye"]).float()[None, None]
    pool = F.avg_pool3d(torch.cat([soft, eye], dim=1), coarse, ceil_mode=True, count_include_pad=False)
    bulk = torch.stack([box_mean(part, 2) for part in pool[0]])
    # Bulk is the share of soft tissue within a centimetre, eyes are near if there is any within it.
    score = bulk[0] - 4.0 * bulk[1]
    score = F.interpolate(score[None, None], size=tissue.shape, mode="trilinear")[0, 0]
    field_ = smooth_field(torch.as_tensor(plan.fat, device=tissue.device), tissue.shape)
    out = tissue.clone()
    out[(tissue == INDEX["muscle"]) & (score + field_ < 0.55)] = INDEX["fat"]
    near_bone = dilated(tissue == INDEX["bone"], max(1, round(1 / min(spacing))))
    out[near_bone & (tissue == INDEX["fluid"])] = INDEX["dura"]
    return out


def _brain_mask(tissue: torch.Tensor, label: torch.Tensor, plan: Plan) -> torch.Tensor:
    """What a skull stripper leaves: the brain, its sulci closed, and a little beyond."""
    brain = is_one_of(tissue, (*BRAIN, INDEX["optic"])) | (label > 0)
    far, step = 6.0, min(plan.settings.spacing_mm)
    grown = dilated(brain, max(1, round(far / step)))
    return ~dilated(~grown, max(1, round((far - plan.strip_mm) / step)))


def _bright(
    tissue: torch.Tensor, painted: Sequence[Painted], contrast: Contrast, generator: torch.Generator
) -> torch.Tensor:
    """The brightness of every voxel, lesions and texture included, before a scanner has seen it."""
    numbers = tissue.to(torch.int32)
    mean = torch.tensor(contrast.means, device=tissue.device).index_select(0, numbers.flatten()).view(tissue.shape)
    for one in painted:
        blend(mean, one, contrast)
    spread = torch.tensor(contrast.spreads, device=tissue.device).index_select(0, numbers.flatten()).view(tissue.shape)
    # The point spread takes most of the texture away, as it does of one that is finer than a voxel.
    return mean.addcmul_(spread, normal(tissue.shape, generator), value=2.0)


class SynthesizeHeadd(Randomizable, MapTransform):
    """Online synthesis: a label map becomes a volume of several channels and its tumour labels.

    Args:
        keys: label maps, ``(1, i, j, k)`` or ``(i, j, k)``, in RAS axes; each gives an image under the same key.
        label_key: where the labels go; one head has one map.
        anatomy: FreeSurfer's number -> label, for a network that learns anatomy: the labels are then these, and 0
            elsewhere. None for those of the tumour.
        settings: fields of :class:`HeadSettings`, or one.
        device: where to work; the label map's if None. What is returned lies there.
        allow_missing_keys: as in MONAI.

    Raises:
        InputError: for a label without a tissue or a map without a brain; it names the file.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str = "label",
        settings: HeadSettings | Mapping[str, Any] | None = None,
        anatomy: Mapping[int, int] | None = None,
        device: str | torch.device | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise SettingError(f"keys are {self.keys!r}", "Give one key: that of the label map.")
        self.settings = settings_of(settings)
        self.label_key, self.device = label_key, device
        self.anatomy = None if anatomy is None else {int(key): int(value) for key, value in anatomy.items()}
        self.plan: Plan | None = None

    def randomize(self, data: Any = None) -> None:
        """Draw the next head."""
        self.plan = draw_head(np.random.default_rng(self.R.randint(2**32, size=4, dtype=np.uint32)), self.settings)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Make one head."""
        result = dict(data)
        for key in self.key_iterator(result):
            given = result[key]
            self.randomize()
            assert self.plan is not None
            try:
                head = self._head(given, self.plan)
            except InputError as error:
                name = given.meta.get("filename_or_obj", "") if isinstance(given, MetaTensor) else ""
                error.file = error.file or str(name)
                raise
            meta = {"synthesized": True, "sequences": list(self.settings.sequences)}
            grid = torch.as_tensor(grid_affine(self.settings))
            result[key] = MetaTensor(head.images, affine=grid, meta=dict(meta))
            label = head.label if self.anatomy is None else renumbered(head.anatomy, self.anatomy)
            result[self.label_key] = MetaTensor(label[None], affine=grid, meta=dict(meta))
        return result

    def _head(self, given: Any, plan: Plan) -> Head:
        values = given.as_tensor() if isinstance(given, MetaTensor) else torch.as_tensor(given)
        values = values[0] if values.ndim == 4 else values
        affine = np.asarray(given.affine, float) if isinstance(given, MetaTensor) else np.eye(4)
        # A small rotation does no harm to a head that is rotated at random; other axes do.
        if not (np.abs(affine[:3, :3]).argmax(axis=0) == range(3)).all() or (np.diag(affine)[:3] < 0).any():
            raise InputError("the label map's axes are not R, A and S", 'Put Orientationd(axcodes="RAS") before.')
        steps = np.linalg.norm(affine[:3, :3], axis=0)
        return synthesize_head(values.to(self.device or values.device), plan, steps)


def renumbered(labels: torch.Tensor, numbers: Mapping[int, int]) -> torch.Tensor:
    """A label map in other numbers, 0 for those without one.

    >>> renumbered(torch.tensor([0, 17, 53, 2]), {17: 1, 53: 2}).tolist()
    [0, 1, 2, 0]
    """
    table = torch.zeros(int(labels.max()) + 1, dtype=torch.uint8, device=labels.device)
    for number, label in numbers.items():
        if number < len(table):
            table[number] = label
    return table[labels.to(torch.int64)]
