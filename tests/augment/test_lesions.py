"""Lesions: their labels are BraTS's and lie in the brain, they push outwards, and they look as they should."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurobundle.augment.grafting import paint_lesion
from neurobundle.augment.head_plan import HeadSettings, draw_head
from neurobundle.augment.lesions import (
    CORE,
    ENHANCING,
    KINDS,
    OEDEMA,
    Lesion,
    Painted,
    blend,
    box_of,
    draw_tumour,
    draw_white_matter_lesions,
    freedom,
    mass_effect,
    paint,
    place_of,
    radius_map,
)
from neurobundle.augment.synthesis import synthesize_head
from neurobundle.augment.tissues import BRAIN, INDEX, INTRACRANIAL, SEQUENCES, TISSUES, Contrast, draw_contrasts
from neurobundle.errors import InputError, SettingError

from .test_synthesis import SHAPE, SMALL, make, nested_head, still

STEP = (4.0, 4.0, 4.0)


def ball(**changes: object) -> Lesion:
    """A smooth ball of 8 mm: core to 4 mm, a rim, and no oedema; 1 mm voxels make it countable."""
    lesion = draw_tumour(np.random.default_rng(0), "high_grade")[0]
    plain = {
        "radii_mm": np.full(3, 8.0),
        "axes": np.eye(3),
        "warp": np.zeros_like(lesion.warp),
        "roughness": 0.0,
        "core": 0.5,
        "oedema": 1.0,
        "mass": 0.0,
        "offset_mm": np.zeros(3),
        "strength": 1.0,
        "patchy": 0.0,
        "cyst": 0.0,
    }
    return dataclasses.replace(lesion, **{**plain, **changes})


def white_box(size: int = 64) -> torch.Tensor:
    return torch.full((size,) * 3, INDEX["white"], dtype=torch.uint8)


def painted_ball(lesion: Lesion, tissue: torch.Tensor) -> torch.Tensor:
    middle = np.full(3, 32.0)
    box = box_of(lesion, middle, tissue.shape, (1, 1, 1))
    label = torch.zeros_like(tissue)
    label[box] = paint(lesion, middle, box, tissue[box], (1, 1, 1)).label
    return label


def test_core_rim_and_nothing_along_a_line() -> None:
    """From the middle outwards: core under 4 mm, rim to 8 mm, then nothing."""
    line = painted_ball(ball(), white_box())[32:, 32, 32]
    assert line[:4].tolist() == [CORE] * 4
    assert line[4:9].tolist() == [ENHANCING] * 5
    assert not line[9:].any()


def test_oedema_goes_along_white_matter_and_not_into_fluid() -> None:
    """Half of the box is fluid: oedema on the other side only, between 8 mm and 16."""
    tissue = white_box()
    tissue[:32] = INDEX["fluid"]
    label = painted_ball(ball(oedema=2.0), tissue)
    assert label[32 + 11, 32, 32] == OEDEMA
    assert not label[32 + 20, 32, 32]
    assert not (label[:31] == OEDEMA).any()


def test_without_a_core_all_of_it_enhances_and_a_low_grade_does_not() -> None:
    assert set(painted_ball(ball(core=0.0), white_box()).unique().tolist()) == {0, ENHANCING}
    assert set(painted_ball(ball(core=1.0), white_box()).unique().tolist()) == {0, CORE}


def test_a_patch_is_bright_in_flair_and_dark_in_t1() -> None:
    """A tissue of mean 2 in a patch of log 2: 2 * 2 in FLAIR, 2 * 2^-.4 in T1; a voxel that is half lesion has half."""
    one = (slice(0, 1), slice(0, 1), slice(0, 2))
    painted = Painted(
        box=one,
        tissue=torch.full((1, 1, 2), INDEX["solid"], dtype=torch.uint8),
        share=torch.tensor([[[1.0, 0.5]]]),
        label=torch.ones((1, 1, 2), dtype=torch.uint8),
        patches=torch.full((1, 1, 2), float(np.log(2))),
    )
    means = tuple(2.0 for _ in TISSUES)
    for sequence, factor in (("FLAIR", 2.0), ("T1", 2**-0.4)):
        image = torch.zeros(1, 1, 2)
        blend(image, painted, Contrast(sequence, means, means))
        assert image.flatten().tolist() == pytest.approx([2 * factor, factor])


def test_a_cyst_is_fluid_inside_the_core_and_has_its_label() -> None:
    tissue, middle = white_box(), np.full(3, 32.0)
    warp = np.ones((2, 12, 12, 12), np.float32)
    lesion = ball(core=1.0, cyst=1.0, tissues=(INDEX["solid"], INDEX["oedema"], INDEX["enhancing"]), warp=warp)
    box = box_of(lesion, middle, tissue.shape, (1, 1, 1))
    painted = paint(lesion, middle, box, tissue[box], (1, 1, 1))
    at = tuple(int(32 - side.start) for side in box)
    assert painted.tissue[at] == INDEX["necrosis"]
    assert painted.label[at] == CORE
    assert bool((painted.tissue[painted.label > 0] == INDEX["solid"]).any()), "it does not reach the surface"
    solid = paint(dataclasses.replace(lesion, cyst=0.0), middle, box, tissue[box], (1, 1, 1))
    assert torch.equal(solid.label, painted.label)


def test_mass_effect_moves_labels_outwards() -> None:
    """A shell of 10 mm about the middle is a wider one afterwards; the middle stays, and nothing overtakes."""
    lesion = ball(mass=0.5)
    middle = np.full(3, 32.0)
    box = box_of(lesion, middle, (64, 64, 64), (1, 1, 1))
    radius = radius_map(lesion, middle, box, (1, 1, 1), torch.device("cpu"))
    shift = mass_effect(lesion, middle, box, radius, torch.ones_like(radius))
    at = int(32 - box[0].start)
    along = torch.arange(at, radius.shape[0]) + shift[0, at:, at, at]
    assert along[0] == at
    assert bool((along.diff() > 0).all())
    # What lay at 10 mm is now seen further out.
    seen_at = int((along - at <= 10).sum()) - 1
    assert seen_at > 10
    assert abs(float(shift[0, -1, at, at])) < 0.2  # and it ends where the box ends


def test_nothing_moves_at_the_skull() -> None:
    tissue = white_box()
    tissue[:10] = INDEX["bone"]
    free = freedom(tissue, (1, 1, 1))
    assert float(free[:10].max()) == 0
    assert float(free[32, 32, 32]) == 1


def test_mass_effect_in_a_head_keeps_its_bone() -> None:
    plan = draw_head(np.random.default_rng(2), SMALL)
    tumour = dataclasses.replace(
        draw_tumour(np.random.default_rng(0), "high_grade")[0], mass=0.5, radii_mm=np.full(3, 20.0)
    )
    without, with_ = (make(still(plan, tumours=t)).tissue for t in ((), (tumour,)))
    assert torch.equal(without == INDEX["bone"], with_ == INDEX["bone"])
    assert not torch.equal(without, with_)


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(KINDS)))
def test_labels_are_braTS_values_inside_the_head(seed: int, kind: str) -> None:
    """0 to 3, never outside the skull, a glioma's never outside the brain and its sulci."""
    rng = np.random.default_rng(seed)
    plan = dataclasses.replace(draw_head(rng, SMALL), tumours=draw_tumour(rng, kind))
    head = make(plan)
    assert set(head.label.unique().tolist()) <= {0, CORE, OEDEMA, ENHANCING}
    inside = torch.isin(head.tissue, torch.tensor(INTRACRANIAL, dtype=torch.uint8))
    assert bool(inside[head.label > 0].all())
    oedema = head.tissue[head.label == OEDEMA]
    assert bool(torch.isin(oedema, torch.tensor(BRAIN, dtype=torch.uint8)).all())
    if kind in ("low_grade", "diffuse"):
        assert not (head.label == ENHANCING).any()
    if kind == "meningioma":
        assert not (head.label == CORE).any()


@pytest.mark.slow
def test_every_kind_is_there_in_nearly_every_head() -> None:
    for kind in KINDS:
        found = 0
        for seed in range(10):
            rng = np.random.default_rng(seed)
            plan = dataclasses.replace(draw_head(rng, SMALL), tumours=draw_tumour(rng, kind, (16, 26)))
            found += bool((make(plan).label > 0).any())
        assert found >= 9, kind


def test_a_meningioma_lies_at_the_skull_and_a_glioma_starts_in_the_brain() -> None:
    tissue = synthesize_head(nested_head(), still(draw_head(np.random.default_rng(0), SMALL)), STEP).tissue
    for seed in range(20):
        men, gli = (draw_tumour(np.random.default_rng(seed), kind)[0] for kind in ("meningioma", "high_grade"))
        at = place_of(men, tissue, STEP).astype(int)
        near = tissue[tuple(slice(max(0, a - 4), a + 5) for a in at)]
        assert bool((near == INDEX["bone"]).any())
        assert int(tissue[tuple(place_of(gli, tissue, STEP).astype(int))]) in BRAIN


def test_kinds_are_drawn_by_their_shares() -> None:
    """Shares need not sum to 1; a kind that is not named, or has 0, never comes; a diffuse glioma only if asked for."""
    rng = np.random.default_rng(0)
    kinds = [draw_tumour(rng, kinds={"diffuse": 3, "meningioma": 1, "metastases": 0})[0].kind for _ in range(200)]
    assert set(kinds) == {"diffuse", "meningioma"}
    assert 120 < kinds.count("diffuse") < 180
    assert all(draw_tumour(rng)[0].kind != "diffuse" for _ in range(100))
    settings = dataclasses.replace(SMALL, tumour=1.0, tumour_kinds={"diffuse": 1.0}, tumour_radius_mm=(20.0, 20.0))
    (lesion,) = draw_head(rng, settings).tumours
    assert lesion.kind == "diffuse"
    assert 20 * math.exp(-0.25) <= lesion.radii_mm.min() <= lesion.radii_mm.max() <= 20 * math.exp(0.25)


def test_what_it_looks_like() -> None:
    """Oedema bright in FLAIR and T2, dark in T1; rim bright in T1c alone; necrosis dark in T1, bright in T2."""
    plan = draw_head(np.random.default_rng(4), SMALL)
    big = dataclasses.replace(ball(core=0.6, oedema=1.8, mass=0.2), radii_mm=np.full(3, 22.0), place=0.3)
    quiet = tuple(dataclasses.replace(c, spreads=(0.0,) * len(TISSUES)) for c in plan.contrasts)
    head = make(still(plan, tumours=(big,), contrasts=quiet))
    image = dict(zip(SEQUENCES, head.images, strict=True))
    white = (head.tissue == INDEX["white"]) & (head.label == 0)

    def level(name: str, label: int) -> float:
        return float(image[name][head.label == label].median() / image[name][white].median())

    assert all(bool((head.label == label).any()) for label in (CORE, OEDEMA, ENHANCING))
    assert level("FLAIR", OEDEMA) > 1.15
    assert level("T2", OEDEMA) > 1.2
    assert level("T1", OEDEMA) < 1
    assert level("T1c", ENHANCING) > 1.2 > 1 > level("T1", ENHANCING)
    assert level("T1", CORE) < 0.8 < 1.5 < level("T2", CORE)


def test_white_matter_lesions_are_no_tumour() -> None:
    """They are seen in FLAIR, they have a mask of their own, and no label."""
    rng = np.random.default_rng(0)
    plan = draw_head(rng, SMALL)
    spots = tuple(
        dataclasses.replace(s, radii_mm=np.full(3, 9.0), strength=1.0) for s in draw_white_matter_lesions(rng, 40)
    )
    quiet = tuple(dataclasses.replace(c, spreads=(0.0,) * len(TISSUES)) for c in plan.contrasts)
    head = make(still(plan, spots=spots, contrasts=quiet))
    assert not head.label.any()
    assert bool(head.spots.any())
    flair = head.images[SEQUENCES.index("FLAIR")]
    plain = (head.tissue == INDEX["white"]) & ~head.spots
    assert float(flair[head.spots].max()) > 1.2 * float(flair[plain].median())


def test_no_place_no_lesion() -> None:
    """An image without white matter or cortex gets none, and no error."""
    lesion = draw_tumour(np.random.default_rng(0), "low_grade")[0]
    assert place_of(lesion, torch.zeros((24, 24, 24), dtype=torch.uint8), STEP) is None


def test_a_lesion_in_real_scans() -> None:
    """Scans made here stand in: inside the lesion each sequence changes as it should, outside its box nothing does."""
    made = synthesize_head(
        nested_head(),
        draw_head(np.random.default_rng(8), HeadSettings(shape=SHAPE, spacing_mm=STEP, tumour=0.0, skull=False)),
        STEP,
    )
    images = dict(zip(SEQUENCES, made.images * 250, strict=True))
    brain = made.images[0] > 0
    kept = {name: image.clone() for name, image in images.items()}
    lesion = dataclasses.replace(ball(core=0.5, oedema=1.6, mass=0.3), radii_mm=np.full(3, 20.0))
    contrasts = draw_contrasts(np.random.default_rng(0))
    out = paint_lesion(images, brain, lesion, contrasts, STEP, seed=1)
    assert all(torch.equal(images[name], kept[name]) for name in images)
    assert set(out.label.unique().tolist()) <= {0, 1, 2, 3}
    assert out.painted is not None
    outside = torch.ones_like(out.label, dtype=torch.bool)
    outside[out.painted.box] = False
    assert all(torch.equal(out.images[name][outside], images[name][outside]) for name in images)
    rim = out.label == ENHANCING
    assert float(out.images["T1c"][rim].median()) > 1.2 * float(images["T1c"][brain].median())
    again = paint_lesion(images, brain, lesion, contrasts, STEP, seed=1)
    assert all(torch.equal(again.images[name], out.images[name]) for name in images)


def test_bad_scans_are_refused() -> None:
    lesion, contrasts = ball(), draw_contrasts(np.random.default_rng(0), ("T1",))
    scan = torch.ones(16, 16, 16)
    for images, brain in (
        ({"T1": scan}, torch.zeros(16, 16, 16)),
        ({"T1": scan}, torch.ones(16, 16, 8)),
        ({"T2": scan}, torch.ones(16, 16, 16)),
        ({}, torch.ones(16, 16, 16)),
    ):
        with pytest.raises(InputError) as caught:
            paint_lesion(images, brain, lesion, contrasts)
        assert caught.value.way_out


def test_settings_that_mean_nothing() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(SettingError, match="abscess"):
        draw_tumour(rng, "abscess")
    for radii in ((0, 4), (9, 4)):
        with pytest.raises(SettingError):
            draw_tumour(rng, "low_grade", radii)
    for kinds in ({"abscess": 1.0}, {"diffuse": -1.0, "low_grade": 1.0}, {"diffuse": 0.0}, {}):
        with pytest.raises(SettingError):
            draw_tumour(rng, kinds=kinds)
        with pytest.raises(SettingError):
            HeadSettings(tumour_kinds=kinds)
