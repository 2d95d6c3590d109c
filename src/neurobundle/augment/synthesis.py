"""Heads that nobody has: images of several sequences made from one label map, with tumours and their labels.

The generative model is SynthSeg's (Billot et al. 2023, Med Image Anal 86:102789): deform a label map, draw a Gaussian a
tissue, blur, multiply by a bias field, sample as a scanner does, add noise. What differs: the sequences of a head share
its geometry and its tissues, whose means follow from relaxation times (:mod:`neurobundle.augment.tissues`) or are
drawn at random, and lesions are painted in (:mod:`neurobundle.augment.lesions`).

A *plan* is all that chance decides of one head; the same plan and label map give the same images on the same kind of
device.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable

from neurobundle.augment.acquisition import Acquisition, acquire, draw_acquisition, normal
from neurobundle.augment.deform import (
    Deformation,
    DeformationRange,
    Shape,
    Warp,
    check_grid,
    draw_deformation,
    smooth_field,
)
from neurobundle.augment.lesions import (
    Lesion,
    Painted,
    blend,
    box_mean,
    box_of,
    dilated,
    draw_tumour,
    draw_white_matter_lesions,
    freedom,
    is_one_of,
    mass_effect,
    paint,
    place_of,
    radius_map,
)
from neurobundle.augment.tissues import (
    BRAIN,
    INDEX,
    SEQUENCES,
    TISSUE_OF,
    Contrast,
    check_sequences,
    draw_contrasts,
    draw_random_contrast,
    tissues_of,
)
from neurobundle.errors import InputError, SettingError

#: The brightness of white matter where a scanner's arbitrary unit is wanted.
WHITE_LEVEL = 400.0
#: Fewer voxels of brain than this are no head.
FEWEST_BRAIN = 64


@dataclass(frozen=True)
class HeadSettings:
    """What heads are drawn from.

    Attributes:
        shape: of the new images.
        spacing_mm: of their voxels, RAS+.
        sequences: names of :data:`neurobundle.augment.tissues.SEQUENCES`.
        contrast: ``priors``, or ``random``: any brightness for any tissue, any sequence.
        tumour: probability that there is one.
        white_matter_lesions: at most so many.
        skull: whether the head is there, or the brain alone; ``None`` draws one of the two.
        deformation: how far shapes differ.
        bias: largest standard deviation of the log field.
        noise: largest standard deviation of the noise, of white matter's brightness.
        thick_mm: largest slice thickness.
        thick: probability that a sequence has thick slices.
        gamma: largest absolute logarithm of the exponent.
    """

    shape: Shape = (160, 192, 160)
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    sequences: tuple[str, ...] = SEQUENCES
    contrast: str = "priors"
    tumour: float = 1.0
    white_matter_lesions: int = 6
    skull: bool | None = True
    deformation: DeformationRange = field(default_factory=DeformationRange)
    bias: float = 0.12
    noise: float = 0.05
    thick_mm: float = 5.0
    thick: float = 0.35
    gamma: float = 0.12

    def __post_init__(self) -> None:
        check_grid(self.shape, self.spacing_mm)
        check_sequences(self.sequences)
        for name, right in (
            ("contrast", self.contrast in ("priors", "random")),
            ("tumour", 0 <= self.tumour <= 1),
            ("thick", 0 <= self.thick <= 1),
            ("white_matter_lesions", self.white_matter_lesions >= 0),
            *((name, getattr(self, name) >= 0) for name in ("bias", "noise", "thick_mm", "gamma")),
        ):
            if not right:
                raise SettingError(
                    f"{name} is {getattr(self, name)!r}", "See neurobundle.augment.synthesis.HeadSettings."
                )


@dataclass(frozen=True, eq=False)
class Plan:
    """All that chance decided of one head.

    Attributes:
        settings: what it was drawn from.
        deformation: of the label map.
        contrasts: one a sequence.
        acquisitions: one a sequence.
        tumours: none, one or more foci.
        spots: white-matter lesions.
        skull: whether it is shown.
        strip_mm: how far a brain mask reaches beyond the brain.
        fat: ``(n, n, n)``: lattice of what parts fat from muscle.
        seed: of the texture and the noise.
    """

    settings: HeadSettings
    deformation: Deformation
    contrasts: tuple[Contrast, ...]
    acquisitions: tuple[Acquisition, ...]
    tumours: tuple[Lesion, ...]
    spots: tuple[Lesion, ...]
    skull: bool
    strip_mm: float
    fat: np.ndarray
    seed: int


class Head(NamedTuple):
    """What was made.

    Attributes:
        images: ``(sequence, i, j, k)`` float32; white matter is about 1.
        label: ``(i, j, k)`` uint8, BraTS 2023's numbers: 1 core, 2 oedema, 3 enhancing.
        tissue: ``(i, j, k)`` uint8, numbers of tissues, without lesions.
        spots: ``(i, j, k)`` bool: white-matter lesions, which are no tumour.
    """

    images: torch.Tensor
    label: torch.Tensor
    tissue: torch.Tensor
    spots: torch.Tensor


def draw_head(rng: np.random.Generator, settings: HeadSettings) -> Plan:
    """Draw all that chance decides.

    Args:
        rng: what it is drawn from; the same state gives the same plan.
        settings: how far it goes.
    """
    deformation = draw_deformation(rng, settings.deformation)
    if settings.contrast == "random":
        contrasts = tuple(draw_random_contrast(rng) for _ in settings.sequences)
    else:
        contrasts = draw_contrasts(rng, settings.sequences)
    tumours = draw_tumour(rng) if rng.random() < settings.tumour else ()
    spots = draw_white_matter_lesions(rng, settings.white_matter_lesions)
    scanner = {name: getattr(settings, name) for name in ("bias", "noise", "thick", "thick_mm", "gamma")}
    acquisitions = tuple(draw_acquisition(rng, settings.spacing_mm, **scanner) for _ in contrasts)
    skull = bool(rng.random() < 0.5) if settings.skull is None else settings.skull
    return Plan(
        settings=settings,
        deformation=deformation,
        contrasts=contrasts,
        acquisitions=acquisitions,
        tumours=tumours,
        spots=spots,
        skull=skull,
        strip_mm=float(rng.uniform(1, 3)),
        fat=rng.standard_normal((14, 14, 14)).astype(np.float32),
        seed=int(rng.integers(2**62)),
    )


def synthesize_head(
    labels: torch.Tensor,
    plan: Plan,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    table: Mapping[int, int] = TISSUE_OF,
) -> Head:
    """Make the images that a plan says, from a label map.

    Args:
        labels: ``(i, j, k)``, whole numbers, axes R, A, S; on the device that shall do the work. It is left as it is.
        plan: of :func:`draw_head`.
        spacing_mm: of the label map.
        table: label -> number of a tissue.

    Raises:
        InputError: for a label that has no tissue, or a map without a brain.
    """
    with torch.no_grad():
        settings = plan.settings
        warp = Warp(labels, spacing_mm, plan.deformation, settings.shape, settings.spacing_mm, _about(labels, table))
        tissue = tissues_of(warp.sample(), table)
        pushed = torch.zeros((3, *tissue.shape), device=tissue.device)
        painted, spots = (
            [one for lesion in lesions for one in _grown(lesion, tissue, warp, table, pushed, settings.spacing_mm)]
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
        return Head(torch.stack(images), label, tissue, spot_mask & (label == 0))


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
    warp: Warp,
    table: Mapping[int, int],
    pushed: torch.Tensor,
    spacing_mm: Sequence[float],
) -> list[Painted]:
    """One lesion in a head; nothing if there is no place. ``tissue`` gives way, ``pushed`` adds up, both in place."""
    middle = place_of(lesion, tissue, spacing_mm)
    if middle is None:
        return []
    box = box_of(lesion, middle, tissue.shape, spacing_mm)
    if lesion.mass:
        radius = radius_map(lesion, middle, box, spacing_mm, tissue.device)
        shift = pushed[(slice(None), *box)]
        shift += mass_effect(lesion, middle, box, radius, freedom(tissue[box], spacing_mm))
        tissue[box] = tissues_of(warp.sample(box, shift), table)
    return [paint(lesion, middle, box, tissue[box], spacing_mm)]


def _labels(painted: Sequence[Painted], tissue: torch.Tensor) -> torch.Tensor:
    """All tumours in one map; where two meet, enhancing tumour and core go before oedema."""
    label = torch.zeros_like(tissue)
    rank = torch.tensor([0, 2, 1, 3], dtype=torch.uint8, device=tissue.device)
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
        label_key: where the tumour labels go; one head has one.
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
        device: str | torch.device | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise SettingError(f"keys are {self.keys!r}", "Give one key: that of the label map.")
        self.settings = settings_of(settings)
        self.label_key, self.device = label_key, device
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
            result[self.label_key] = MetaTensor(head.label[None], affine=grid, meta=dict(meta))
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


def settings_of(given: HeadSettings | Mapping[str, Any] | None) -> HeadSettings:
    """Settings from a config's words; lists become tuples.

    Raises:
        SettingError: for a word that is none.
    """
    if isinstance(given, HeadSettings):
        return given
    words: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in (given or {}).items()
    }
    try:
        if isinstance(words.get("deformation"), Mapping):
            words["deformation"] = DeformationRange(**words["deformation"])
        return HeadSettings(**words)
    except TypeError as error:
        raise SettingError(str(error), "See neurobundle.augment.synthesis.HeadSettings.") from error


def grid_affine(settings: HeadSettings) -> np.ndarray:
    """Voxel index to RAS+ millimetres, 0 in the image's middle."""
    affine = np.diag([*settings.spacing_mm, 1.0])
    affine[:3, 3] = -(np.asarray(settings.shape) - 1) / 2 * np.asarray(settings.spacing_mm)
    return affine
