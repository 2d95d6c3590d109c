"""Tumours and small white-matter lesions, drawn apart from the head that they are painted into.

A *tumour* is an ellipsoid whose surface noise has warped. From the inside it has a *core* (1 in BraTS 2023's numbers:
necrosis, or tumour that does not enhance), a *rim* (3: enhances) and *oedema* around it (2), which follows white
matter. *Mass effect*: it pushes what is around it outwards, most at its surface, not at the skull. A *meningioma* lies
at the dura, enhances throughout, and pushes the brain away. A *diffuse* glioma does not enhance, hardly pushes, and
fades out along white matter, which it is mixed with throughout. A *white-matter lesion* is small, bright in T2 and
FLAIR, and no tumour: it has no label.

``share`` says how much of a voxel a lesion is; the rest is what was there. The same drawn lesion goes into a
label map (:mod:`neurobundle.augment.synthesis`) or into real scans (:mod:`neurobundle.augment.grafting`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from neurobundle.augment.cubes import box_mean, dilated
from neurobundle.augment.deform import Box, expand, rotation
from neurobundle.augment.tissues import BRAIN, INDEX, INTRACRANIAL, PARENCHYMA, TISSUES, WHITE, Contrast
from neurobundle.errors import SettingError
from neurobundle.prepare.separable import spline_basis

#: BraTS 2023.
CORE, OEDEMA, ENHANCING = 1, 2, 3
#: Rank of each number, 0 to 3: where two lesions meet the higher one is shown, so that oedema gives way.
RANK = (0, 2, 1, 3)
#: Kinds of tumours, and how often each is drawn unless told otherwise.
KINDS: Mapping[str, float] = {
    "high_grade": 0.4,
    "low_grade": 0.3,
    "metastases": 0.15,
    "meningioma": 0.15,
    "diffuse": 0.0,
}
#: Smallest and largest mean radius of a tumour without its oedema.
RADIUS_MM = (7.0, 26.0)
#: Control points of the noise that warps a surface, along each axis.
ROUGHNESS = 12
#: A tumour's box reaches so many of its radii from its middle.
REACH = 2.4
#: How a patch's brightness in a sequence goes with that in T2.
_PATCHES_IN: Mapping[str, float] = {"T1": -0.4, "T1c": -0.4, "T2": 1.0, "FLAIR": 1.0}
#: Places are looked for on every so many voxels, or fewer in small images.
STRIDE = 3


@dataclass(frozen=True, eq=False)
class Lesion:
    """What was drawn of one lesion.

    Attributes:
        kind: one of :data:`KINDS`, or ``white_matter``.
        place: 0 to 1: which of the voxels where such a lesion may lie is its middle.
        offset_mm: of its middle from there.
        radii_mm: half axes of the tumour without its oedema.
        axes: 3 x 3, directions of the half axes.
        warp: ``(2, n, n, n)`` noise: of its surface and of its core's.
        roughness: how strongly noise warps.
        core: the core's radius, of the tumour's; 0 is none.
        oedema: the oedema's radius, of the tumour's; 1 is none.
        mass: strength of the mass effect, 0 to 0.6.
        tissues: of core, oedema and enhancing part.
        strength: how much of a voxel it is at most.
        patchy: how unevenly bright its parts are: about the standard deviation of the logarithm of their brightness.
        cyst: how much of the core is fluid-filled: 0 is nothing, 1 about half.
    """

    kind: str
    place: float
    offset_mm: np.ndarray
    radii_mm: np.ndarray
    axes: np.ndarray
    warp: np.ndarray
    roughness: float
    core: float
    oedema: float
    mass: float
    tissues: tuple[int, int, int]
    strength: float = 1.0
    patchy: float = 0.0
    cyst: float = 0.0


class Painted(NamedTuple):
    """One lesion in one image.

    Attributes:
        box: where it is; all the following are of this shape.
        tissue: number of the lesion's tissue, 0 where there is none.
        share: 0 to 1, how much of a voxel the lesion is.
        label: BraTS 2023's number, 0 where there is no tumour.
        patches: logarithm of how much brighter a voxel is than its tissue, where long T2 is bright.
    """

    box: Box
    tissue: torch.Tensor
    share: torch.Tensor
    label: torch.Tensor
    patches: torch.Tensor


def check_tumours(kinds: Mapping[str, float], radius_mm: Sequence[float]) -> None:
    """Refuse kinds and radii that no tumour can be drawn from.

    Raises:
        SettingError: for an unknown kind, shares that do not sum to something, or radii that are no lengths.
    """
    unknown = next((kind for kind in kinds if kind not in KINDS), None)
    if unknown is not None:
        raise SettingError(f"there is no kind of tumour {unknown!r}", f"The kinds: {', '.join(KINDS)}.")
    if min(kinds.values(), default=0) < 0 or not sum(kinds.values()) > 0:
        raise SettingError(f"the shares of the kinds are {dict(kinds)}", "Give each a share of 0 or more, one above 0.")
    if len(radius_mm) != 2 or not 0 < radius_mm[0] <= radius_mm[1]:
        raise SettingError(f"radius_mm is {radius_mm!r}", "Give the smallest and the largest, above 0.")


def draw_tumour(
    rng: np.random.Generator,
    kind: str | None = None,
    radius_mm: Sequence[float] = RADIUS_MM,
    kinds: Mapping[str, float] = KINDS,
) -> tuple[Lesion, ...]:
    """A tumour: one lesion, or several that belong together.

    Args:
        rng: what it is drawn from.
        kind: one of :data:`KINDS`; by their shares if None.
        radius_mm: smallest and largest of the mean radius, without oedema.
        kinds: the kinds that are drawn, and the share of each; the shares need not sum to 1.

    Raises:
        SettingError: as :func:`check_tumours`.
    """
    check_tumours({kind: 1.0} if kind else kinds, radius_mm)
    low, high = radius_mm
    if kind is None:
        shares = np.array([kinds.get(name, 0.0) for name in KINDS])
        kind = str(rng.choice(list(KINDS), p=shares / shares.sum()))
    radius = math.exp(rng.uniform(math.log(low), math.log(high)))
    if kind == "metastases":
        # Seldom one, mostly small; each has a place of its own.
        count = int(rng.integers(1, 5))
        return tuple(
            _draw_one(rng, kind, max(low / 2, radius * rng.uniform(0.25, 0.6)), rng.random()) for _ in range(count)
        )
    first = _draw_one(rng, kind, radius, rng.random())
    if kind != "high_grade" or rng.random() > 0.25:
        return (first,)
    # A second focus beside the first one: same place, some radii away.
    away = rng.standard_normal(3)
    away *= radius * rng.uniform(1.2, 2.2) / np.linalg.norm(away)
    return (first, _draw_one(rng, kind, radius * rng.uniform(0.3, 0.6), first.place, away))


def _draw_one(
    rng: np.random.Generator, kind: str, radius: float, place: float, offset: np.ndarray | None = None
) -> Lesion:
    core, oedema, mass, tissues = 0.0, 1.0, rng.uniform(0.1, 0.5), ["necrosis", "oedema", "enhancing"]
    if kind == "high_grade":
        core, oedema = rng.uniform(0.5, 0.92), rng.uniform(1.25, 2.2)
    elif kind == "low_grade":
        core, oedema, mass = 1.0, rng.choice([1.0, rng.uniform(1.1, 1.4)]), rng.uniform(0, 0.3)
        tissues[0] = "solid"
    elif kind == "metastases":
        core, oedema = rng.choice([0.0, rng.uniform(0.3, 0.8)]), rng.uniform(1.3, 2.3)
    elif kind == "meningioma":
        oedema, mass = rng.choice([1.0, rng.uniform(1.2, 1.7)]), rng.uniform(0.3, 0.6)
        tissues[2] = "meningioma"
    elif kind == "diffuse":
        core, oedema, mass = 1.0, rng.uniform(1.25, 2.0), rng.uniform(0, 0.2)
    smooth = kind in ("meningioma", "metastases")
    # A stream of its own: how a lesion looks inside changes nothing that is drawn after it.
    (inside,) = rng.spawn(1)
    patchy = 0.0 if smooth else inside.uniform(0.0, 0.25)
    fluid = {"low_grade": 0.35, "diffuse": 0.2}.get(kind, 0.0)
    if kind == "diffuse":
        # Mostly brain that swells between tumour cells.
        tissues[0] = "oedema" if inside.random() < 0.6 else "solid"
    core_tissue, oedema_tissue, rim_tissue = (INDEX[name] for name in tissues)
    return Lesion(
        kind=kind,
        place=place,
        offset_mm=np.zeros(3) if offset is None else offset,
        radii_mm=radius * np.exp(rng.uniform(-0.25, 0.25, 3)),
        axes=rotation(rng.uniform(0, 2 * math.pi, 3)),
        warp=rng.standard_normal((2, ROUGHNESS, ROUGHNESS, ROUGHNESS)).astype(np.float32),
        roughness=rng.uniform(0.05, 0.12) if smooth else rng.uniform(0.18, 0.45),
        core=float(core),
        oedema=float(oedema),
        mass=mass,
        tissues=(core_tissue, oedema_tissue, rim_tissue),
        strength=rng.uniform(0.55 if kind == "diffuse" else 0.85, 1.0),
        patchy=patchy,
        cyst=float(fluid > 0 and inside.random() < fluid) * inside.uniform(0.2, 1.0),
    )


def draw_white_matter_lesions(
    rng: np.random.Generator, most: int = 12, radius_mm: tuple[float, float] = (1.2, 5.0)
) -> tuple[Lesion, ...]:
    """Up to ``most`` small lesions, periventricular or deep in white matter."""
    number = INDEX["white_matter_lesion"]
    lesions = []
    for _ in range(int(rng.integers(0, most + 1))):
        radius = math.exp(rng.uniform(*np.log(radius_mm)))
        lesion = _draw_one(rng, "low_grade", radius, rng.random())
        changes = {"kind": "white_matter", "mass": 0.0, "oedema": 1.0, "tissues": (number,) * 3, "cyst": 0.0}
        lesions.append(Lesion(**{**vars(lesion), **changes, "strength": rng.uniform(0.5, 1.0)}))
    return tuple(lesions)


def is_one_of(tissue: torch.Tensor, numbers: Iterable[int]) -> torch.Tensor:
    """Where a map holds one of these tissues: boolean, by one look-up."""
    table = torch.zeros(len(TISSUES), dtype=torch.bool, device=tissue.device)
    table[list(numbers)] = True
    return table[tissue.to(torch.int32)]


def place_of(lesion: Lesion, tissue: torch.Tensor, spacing_mm: Sequence[float]) -> np.ndarray | None:
    """The voxel that a lesion's middle falls on; None where the image shows no place for one.

    A glioma's is in cerebral white matter or cortex, a white-matter lesion's in white matter (three in four near a
    ventricle), a meningioma's where brain and the outside of the head's inside are both near.

    Args:
        lesion: as drawn.
        tissue: ``(i, j, k)``, numbers of tissues.
        spacing_mm: of its voxels.
    """
    stride = min(STRIDE, max(1, min(tissue.shape) // 24))
    thin = tissue[::stride, ::stride, ::stride]
    if lesion.kind == "meningioma":
        outside = ~is_one_of(thin, INTRACRANIAL)
        may = (
            ~outside & dilated(outside, 2) & dilated(is_one_of(thin, (INDEX["cortex"], INDEX["cerebellar_cortex"])), 2)
        )
    elif lesion.kind == "white_matter":
        may = thin == INDEX["white"]
        near = may & dilated(thin == INDEX["ventricle"], 1 + round(8 / (stride * max(spacing_mm))))
        may = near if lesion.place < 0.75 and bool(near.any()) else may
    else:
        may = is_one_of(thin, (INDEX["white"], INDEX["cerebellar_white"])) | (thin == INDEX["cortex"])
    found = may.flatten().nonzero()[:, 0]
    if not len(found):
        return None
    # The place's further digits choose, so that what chose the region above does not choose within it.
    chosen = int(found[int((lesion.place * 997.0) % 1.0 * len(found))])
    middle = stride * np.array(np.unravel_index(chosen, thin.shape), float)
    return np.clip(middle + lesion.offset_mm / np.asarray(spacing_mm), 0, np.array(tissue.shape) - 1)


def box_of(lesion: Lesion, middle: np.ndarray, shape: Sequence[int], spacing_mm: Sequence[float]) -> Box:
    """The part of an image that a lesion changes."""
    reach = REACH * float(max(lesion.radii_mm)) / np.asarray(spacing_mm) * max(1.0, lesion.oedema / 1.6) + 2
    low = np.maximum(np.floor(middle - reach), 0).astype(int)
    high = np.minimum(np.ceil(middle + reach) + 1, shape).astype(int)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))  # type: ignore[return-value]


def radius_map(
    lesion: Lesion, middle: np.ndarray, box: Box, spacing_mm: Sequence[float], device: torch.device
) -> torch.Tensor:
    """Distance from a lesion's middle, in its radii: 1 on the ellipsoid; ``(i, j, k)`` of the box."""
    turned = lesion.axes.T / lesion.radii_mm[:, None] * np.asarray(spacing_mm)
    total: torch.Tensor | None = None
    for row in turned:
        i, j, k = (
            (torch.arange(side.start, side.stop, device=device) - float(m)) * float(w)
            for side, m, w in zip(box, middle, row, strict=True)
        )
        along = (i[:, None, None] + j[None, :, None] + k).square_()
        total = along if total is None else total.add_(along)
    assert total is not None
    return total.sqrt_()


def mass_effect(lesion: Lesion, middle: np.ndarray, box: Box, radius: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
    """Which displacement (voxels) shows what the tumour pushed there: towards its middle, and smooth.

    It has no folds, but for some voxels between a large tumour and the skull beside it, where it must end in 5 mm.

    Args:
        lesion: its ``mass`` says how much.
        middle: voxel of its middle.
        box: part of the image.
        radius: what :func:`radius_map` gave.
        free: 0 to 1, the box's shape: how far each voxel can move; 0 at the skull.
    """
    # r (1 - m exp(-r^2 / 2)) grows with r for m < 1: nothing overtakes what lies further out.
    # It ends where the box may end.
    pull = (torch.exp(radius.square() * -0.5) - math.exp(-(REACH**2) / 2)).clamp_(min=0).mul_(-lesion.mass).mul_(free)
    device = radius.device
    i, j, k = (
        torch.arange(side.start, side.stop, device=device) - float(m) for side, m in zip(box, middle, strict=True)
    )
    return torch.stack([pull * i[:, None, None], pull * j[None, :, None], pull * k])


def paint(lesion: Lesion, middle: np.ndarray, box: Box, tissue: torch.Tensor, spacing_mm: Sequence[float]) -> Painted:
    """Where a lesion is core, rim and oedema, given what is around it.

    Args:
        lesion: as drawn.
        middle: voxel of its middle.
        box: part of the image.
        tissue: numbers of tissues in the box, after mass effect.
        spacing_mm: of the voxels.
    """
    radius = radius_map(lesion, middle, box, spacing_mm, tissue.device)
    surface, inner = _noise(lesion, middle, box, spacing_mm, tissue.device)
    # The edge is a voxel wide where a tumour pushes, and wide where it grows between fibres.
    wide = 0.2 if lesion.kind in ("low_grade", "diffuse") else 0.05
    edge = float(np.mean(np.asarray(spacing_mm) / lesion.radii_mm)) + wide
    outer = radius / torch.exp(lesion.roughness * surface)
    meninges = lesion.kind == "meningioma"
    # Sulci inside a tumour are filled; those beside it are not.
    room = is_one_of(tissue, INTRACRANIAL if meninges else BRAIN)
    if not meninges:
        room = box_mean(room.float(), max(1, round(2 / min(spacing_mm)))) > 0.6
    white = box_mean(is_one_of(tissue, WHITE).float(), 1)
    tumour = ((1 - outer) / edge + 0.5).clamp(0, 1) * room
    core = radius / torch.exp(lesion.roughness * (0.7 * surface + inner)) < lesion.core
    if lesion.core >= 1:
        core = torch.ones_like(room)
    # Oedema goes along white matter, hardly into cortex, never into fluid.
    reach = 1 + (lesion.oedema - 1) * (1 + 0.5 * inner) * (0.15 + 0.85 * white)
    fades = ((reach - outer) / (0.5 * max(lesion.oedema - 1, 1e-3))).clamp(0, 1)
    around = fades * is_one_of(tissue, PARENCHYMA) * (lesion.oedema > 1)
    # No part is the same throughout.
    uneven = (1 - 0.15 * (surface - inner).abs()).clamp(0.5, 1) * lesion.strength
    share = torch.maximum(tumour, around) * uneven
    label = torch.where(tumour >= 0.5, torch.where(core, CORE, ENHANCING), torch.where(around >= 0.4, OEDEMA, 0))
    table = torch.tensor([0, *lesion.tissues, INDEX["necrosis"]], device=tissue.device)
    # Voxels at the edge, under half lesion, show the part that they belong to.
    part = torch.where(
        (label == 0) & (share > 0), torch.where(around > tumour, OEDEMA, torch.where(core, CORE, ENHANCING)), label
    )
    if lesion.cyst:
        # Inside the solid part, where the inner noise is high.
        part = torch.where((part == CORE) & (outer < 0.8) & (inner > 1 - lesion.cyst), len(lesion.tissues) + 1, part)
    if lesion.kind == "white_matter":
        label = torch.zeros_like(label)
    patches = (lesion.patchy * math.sqrt(0.5)) * (inner - surface)
    return Painted(box, table[part].to(torch.uint8), share, label.to(torch.uint8), patches)


def _noise(
    lesion: Lesion, middle: np.ndarray, box: Box, spacing_mm: Sequence[float], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two smooth fields over the box, of about unit deviation, that stand with the lesion and not with the box."""
    lattice = torch.as_tensor(lesion.warp, device=device)
    side_mm = 2 * REACH * float(max(lesion.radii_mm))
    units = [
        (torch.arange(side.start, side.stop, device=device) - float(m)) * (float(step) / side_mm) + 0.5
        for side, m, step in zip(box, middle, spacing_mm, strict=True)
    ]
    # Two octaves: bumps of about a radius, from a corner of the lattice, and of half of one.
    half = (ROUGHNESS + 2) // 2
    coarse = expand(lattice[:, :half, :half, :half], [spline_basis(u, half) for u in units])
    fine = expand(lattice, [spline_basis(u, ROUGHNESS) for u in units])
    fields = coarse.mul_(2.4).add_(fine, alpha=1.8)  # a sum of B-splines has a third of its values' deviation
    return fields[0], fields[1]


def freedom(tissue: torch.Tensor, spacing_mm: Sequence[float]) -> torch.Tensor:
    """How far each voxel can move: 1 in the midst of what is inside the skull, 0 at its wall and beyond."""
    inside = is_one_of(tissue, INTRACRANIAL).float()
    return ((box_mean(inside, max(1, round(5 / min(spacing_mm)))) - 0.5) * 2).clamp(0, 1)


def lesion_means(painted: Painted, contrast: Contrast) -> torch.Tensor:
    """How bright a lesion is at each voxel of its box, ``(i, j, k)`` float32.

    What makes a patch brighter in T2 and FLAIR, water, makes it darker in T1.

    Args:
        painted: the lesion.
        contrast: what its tissues look like.
    """
    means = torch.tensor(contrast.means, device=painted.patches.device)[painted.tissue.to(torch.int32)]
    return means * torch.exp(painted.patches * _PATCHES_IN.get(contrast.sequence, 1.0))


def blend(mean: torch.Tensor, painted: Painted, contrast: Contrast) -> None:
    """Mix a lesion's intensities into an image of means, in place.

    Args:
        mean: ``(i, j, k)``.
        painted: the lesion.
        contrast: what its tissues look like.
    """
    mean[painted.box].lerp_(lesion_means(painted, contrast), painted.share)
