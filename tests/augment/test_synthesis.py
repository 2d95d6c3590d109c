"""Images from label maps: what is drawn is what is seen, geometry is shared, and labels are never mixed."""

from __future__ import annotations

import dataclasses

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose

from neurobundle.augment.acquisition import Acquisition, acquire
from neurobundle.augment.deform import (
    Deformation,
    DeformationRange,
    Warp,
    deform_labels,
    draw_deformation,
    integrated,
    swap_sides,
)
from neurobundle.augment.head_plan import HeadSettings, Plan, draw_head, grid_affine, settings_of
from neurobundle.augment.synthesis import Head, SynthesizeHeadd, synthesize_head
from neurobundle.augment.tissues import (
    INDEX,
    SEQUENCES,
    TISSUE_OF,
    TISSUES,
    Contrast,
    draw_contrasts,
    draw_random_contrast,
    mprage,
    tissues_of,
)
from neurobundle.errors import InputError, SettingError

SHAPE = (48, 56, 48)
SMALL = HeadSettings(shape=SHAPE, spacing_mm=(4.0, 4.0, 4.0))
STILL = DeformationRange(0, 0, 0, 0, 40, 0, 0)


def nested_head(shape: tuple[int, int, int] = SHAPE, step: float = 4.0) -> torch.Tensor:
    """Ellipsoids in each other: skin, soft tissue, bone, fluid, cortex, white matter, ventricle; left and right."""
    grid = torch.meshgrid(*[(torch.arange(n) - (n - 1) / 2) * step for n in shape], indexing="ij")
    radius = torch.sqrt((grid[0] / 80) ** 2 + (grid[1] / 95) ** 2 + (grid[2] / 80) ** 2)
    labels = torch.zeros(shape, dtype=torch.int16)
    left = grid[0] < 0
    for size, (ours, theirs) in (
        (1.0, (511, 511)),
        (0.95, (507, 507)),
        (0.9, (515, 515)),
        (0.83, (24, 24)),
        (0.76, (3, 42)),
        (0.66, (2, 41)),
        (0.2, (4, 43)),
    ):
        labels[(radius < size) & left] = ours
        labels[(radius < size) & ~left] = theirs
    return labels


def no_deformation() -> Deformation:
    """The one that shows the label map as it is."""
    return Deformation(np.eye(3), np.zeros(3), np.zeros(3), np.zeros((3, 4, 4, 4), np.float32), 260.0)


def still(plan: Plan, **changes: object) -> Plan:
    """A plan without deformation, lesions, blur, bias, slices, noise or gamma."""
    clean = Acquisition((0.0, 0.0, 0.0), np.zeros((4, 4, 4), np.float32), 2, 0.0, 0.0, 1.0)
    quiet = {
        "deformation": no_deformation(),
        "acquisitions": (clean,) * len(plan.acquisitions),
        "tumours": (),
        "spots": (),
        **changes,
    }
    return dataclasses.replace(plan, **quiet)


def make(plan: Plan, labels: torch.Tensor | None = None) -> Head:
    return synthesize_head(nested_head() if labels is None else labels, plan, (4.0, 4.0, 4.0))


def test_two_classes_have_the_means_that_were_drawn() -> None:
    """A box of white matter in air: 1 within, 0 outside, in every sequence, when nothing varies."""
    labels = torch.zeros((16, 16, 16), dtype=torch.int16)
    labels[4:12, 4:12, 4:12] = 2
    means = [0.0] * len(TISSUES)
    means[INDEX["white"]] = 3.0
    contrast = Contrast("T1", tuple(means), (0.0,) * len(TISSUES))
    settings = HeadSettings(shape=(16, 16, 16), sequences=("T1",))
    head = synthesize_head(labels, still(draw_head(np.random.default_rng(0), settings), contrasts=(contrast,)))
    assert head.images.shape == (1, 16, 16, 16)
    torch.testing.assert_close(head.images[0], 3.0 * (labels == 2))
    assert not head.label.any()


def test_spreads_are_those_that_were_drawn() -> None:
    """Texture of twice the stated spread before the point spread, none where the spread is 0."""
    spreads = [0.0] * len(TISSUES)
    spreads[INDEX["white"]] = 0.1
    contrast = Contrast("T1", (1.0,) * len(TISSUES), tuple(spreads))
    settings = HeadSettings(shape=SHAPE, spacing_mm=(4, 4, 4), sequences=("T1",))
    image = make(still(draw_head(np.random.default_rng(0), settings), contrasts=(contrast,))).images[0]
    labels = nested_head()
    white = (labels == 2) | (labels == 41)
    assert float(image[white].std()) == pytest.approx(0.2, rel=0.05)
    torch.testing.assert_close(image[~white], torch.ones_like(image[~white]))


def test_without_deformation_the_label_map_is_shown_as_it_is() -> None:
    labels = nested_head()
    warp = Warp(labels, (4, 4, 4), no_deformation(), SHAPE, (4, 4, 4))
    assert torch.equal(warp.sample(), labels)


def test_a_shift_of_two_voxels() -> None:
    """The image's middle lies 8 mm to the right of the map's: everything seems to move two voxels to the left."""
    labels = nested_head()
    moved = dataclasses.replace(no_deformation(), shift_mm=np.array([8.0, 0, 0]))
    found = Warp(labels, (4, 4, 4), moved, SHAPE, (4, 4, 4)).sample()
    assert torch.equal(found[:-2], labels[2:])
    assert not found[-2:].any()


def test_a_flip_exchanges_the_sides_of_labels() -> None:
    labels = nested_head()
    flip = dataclasses.replace(no_deformation(), matrix=np.diag([-1.0, 1, 1]))
    found = deform_labels(labels, (4, 4, 4), flip, shape=SHAPE, new_spacing_mm=(4, 4, 4))
    # The head is its own mirror image, but for the names of its sides.
    assert torch.equal(found, labels)
    assert torch.equal(swap_sides(labels, {2: 41, 41: 2}) == 41, labels == 2)


def test_a_crop_shows_a_part_of_the_brain() -> None:
    """Place -1 and 1 are the two ends along an axis."""
    labels = nested_head()
    ends = []
    for place in (-1.0, 1.0):
        crop = dataclasses.replace(no_deformation(), place=np.array([place, 0, 0]))
        about = ([10, 10, 10], [37, 45, 37])
        ends.append(Warp(labels, (4, 4, 4), crop, (8, 8, 8), (4, 4, 4), about).sample())
    assert torch.equal(ends[0], labels[10:18, 24:32, 20:28])
    assert torch.equal(ends[1], labels[30:38, 24:32, 20:28])


@given(st.integers(0, 2**32 - 1))
def test_labels_are_never_mixed(seed: int) -> None:
    labels = nested_head()
    deformation = draw_deformation(np.random.default_rng(seed), DeformationRange())
    found = Warp(labels, (4, 4, 4), deformation, (20, 24, 20), (6.0, 8.0, 9.0)).sample()
    assert found.dtype == labels.dtype
    assert set(found.unique().tolist()) <= set(labels.unique().tolist())


@given(st.integers(0, 2**32 - 1))
def test_the_elastic_field_folds_nowhere(seed: int) -> None:
    """The volume of every cell of the lattice stays positive."""
    deformation = draw_deformation(np.random.default_rng(seed), DeformationRange(elastic_mm=6.0))
    axes = [torch.arange(-110.0, 111.0, 10.0)] * 3
    field = integrated(deformation, axes) + torch.stack(torch.meshgrid(*axes, indexing="ij"))
    x, y, z = (torch.diff(field, dim=1 + a)[:, :22, :22, :22].movedim(0, -1) / 10 for a in range(3))
    assert float(torch.linalg.det(torch.stack([x, y, z], dim=-1)).min()) > 0


def test_same_seed_same_bytes_and_another_seed_other_bytes() -> None:
    settings = dataclasses.replace(SMALL, tumour=1.0)
    first, again, other = (make(draw_head(np.random.default_rng(seed), settings)) for seed in (5, 5, 6))
    for a, b in zip(first, again, strict=True):
        assert a.numpy().tobytes() == b.numpy().tobytes()
    assert not torch.equal(first.images, other.images)


def test_the_input_is_left_as_it_is() -> None:
    labels = nested_head()
    kept = labels.clone()
    make(draw_head(np.random.default_rng(0), SMALL), labels)
    assert torch.equal(labels, kept)


def test_sequences_of_one_head_share_its_geometry() -> None:
    """Without noise, slices, lesions and texture, the edges of all four sequences lie in the same voxels."""
    plan = still(draw_head(np.random.default_rng(3), SMALL))
    moved = draw_deformation(np.random.default_rng(3), DeformationRange())
    plain = tuple(dataclasses.replace(c, spreads=(0.0,) * len(TISSUES)) for c in plan.contrasts)
    head = make(dataclasses.replace(plan, deformation=moved, contrasts=plain))
    for number in range(len(TISSUES)):
        there = head.tissue == number
        # Fluid beside bone becomes dura, soft tissue becomes fat or muscle.
        if there.any() and TISSUES[number].name not in ("fluid", "muscle"):
            for image in head.images:
                assert len(image[there].unique()) == 1


def test_contrasts_are_those_of_the_sequences() -> None:
    """Order of the brightness of fluid, cortex and white matter, in every one of 50 heads."""
    for seed in range(50):
        t1, t1c, t2, flair = (
            {t.name: m for t, m in zip(TISSUES, c.means, strict=True)}
            for c in draw_contrasts(np.random.default_rng(seed))
        )
        for means in (t1, t1c, t2, flair):
            assert means["white"] == pytest.approx(1.0)
            assert means["air"] == 0
            assert means["bone"] < 0.1
        assert t1["ventricle"] < t1["cortex"] < 1
        assert t2["ventricle"] > t2["cortex"] > 1
        assert flair["ventricle"] < 0.6
        assert t1c["enhancing"] > 1.2 > t1["enhancing"]
        assert t1["oedema"] < 1.1 < flair["oedema"]
        assert t2["oedema"] > 1.3
        assert t2["necrosis"] > t2["enhancing"] > 1
        assert t1["necrosis"] < t1["oedema"]


def test_the_steady_state_of_a_gradient_echo_train_is_what_a_simulation_reaches() -> None:
    """An oracle: the magnetisation followed pulse by pulse over 40 cycles."""
    tr, ti, flip, spacing, echoes, te = 2000.0, 1000.0, np.radians(9), 7.5, 176, 3.0
    t1, t2, m, seen = 1400.0, 95.0, 1.0, 0.0

    def recovered(value: float, time: float) -> float:
        return 1 - (1 - value) * np.exp(-time / t1)

    for _ in range(40):
        m = recovered(-m, ti - echoes / 2 * spacing)
        for echo in range(echoes):
            seen = m if echo == echoes // 2 else seen
            m = recovered(m * np.cos(flip), spacing)
        m = recovered(m, tr - ti - echoes / 2 * spacing)
    signal = mprage(tr, ti, 9.0)(np.array([t1]), np.array([t2]), np.array([0.8]))
    assert float(signal[0]) == pytest.approx(0.8 * abs(seen) * np.exp(-te / (0.67 * t2)), rel=1e-9)


def test_any_contrast() -> None:
    contrast = draw_random_contrast(np.random.default_rng(0))
    assert len(contrast.means) == len(contrast.spreads) == len(TISSUES)
    head = make(draw_head(np.random.default_rng(0), dataclasses.replace(SMALL, contrast="random")))
    assert bool(head.images.isfinite().all())


def test_without_the_skull_only_the_brain_is_left() -> None:
    head = make(draw_head(np.random.default_rng(1), dataclasses.replace(SMALL, skull=False)))
    bone = (head.tissue == INDEX["bone"]) | (head.tissue == INDEX["skin"]) | (head.tissue == INDEX["air"])
    assert float(head.images[:, bone].count_nonzero()) < 0.02 * head.images[:, bone].numel()
    white = head.tissue == INDEX["white"]
    assert float((head.images[0][white] > 0).float().mean()) > 0.99


def test_thick_slices_are_as_many_as_their_thickness_says() -> None:
    """Of 12 voxels of 1 mm, slices of 4 mm show 3 values and lines between them; the total is kept for a constant."""
    truth = torch.zeros(8, 8, 12)
    truth[..., :4] = 1
    flat = np.zeros((4, 4, 4), np.float32)
    thick = Acquisition((0.0, 0.0, 0.0), flat, 2, 4.0, 0.0, 1.0)
    seen = acquire(truth, thick, (1, 1, 1), torch.Generator())
    expected = torch.tensor([1, 1, 0.875, 0.625, 0.375, 0.125, 0, 0, 0, 0, 0, 0])
    torch.testing.assert_close(seen[0, 0], expected)


def test_noise_in_air_is_rician() -> None:
    """The magnitude of two normal parts has the mean sigma sqrt(pi / 2)."""
    noisy = Acquisition((0.0, 0.0, 0.0), np.zeros((4, 4, 4), np.float32), 2, 0.0, 0.1, 1.0)
    air = acquire(torch.zeros(32, 32, 32), noisy, (1, 1, 1), torch.Generator().manual_seed(0))
    assert float(air.mean()) == pytest.approx(0.1 * np.sqrt(np.pi / 2), rel=0.02)
    assert float(air.min()) >= 0


def test_online_transform() -> None:
    """One key in, image and label out; the same state gives the same head, and the data that came in is kept."""
    labels = MetaTensor(nested_head()[None], affine=torch.eye(4) * 4)
    settings = {"shape": list(SHAPE), "spacing_mm": [4, 4, 4], "sequences": ["T1", "FLAIR"]}
    transform = SynthesizeHeadd("image", settings=settings)
    first, second = (Compose([transform]).set_random_state(seed=7)({"image": labels}) for _ in range(2))
    assert first["image"].shape == (2, *SHAPE)
    assert first["label"].shape == (1, *SHAPE)
    assert torch.equal(first["image"], second["image"])
    assert torch.equal(first["label"], second["label"])
    assert not torch.equal(first["image"], transform({"image": labels})["image"])
    assert labels.shape == (1, *SHAPE)
    np.testing.assert_allclose(first["image"].affine, grid_affine(settings_of(settings)))
    assert nib.aff2axcodes(first["image"].affine.numpy()) == ("R", "A", "S")


def test_every_label_of_both_sides_has_the_same_tissue() -> None:
    assert TISSUE_OF[2] == TISSUE_OF[41]
    assert all(number < len(TISSUES) for number in TISSUE_OF.values())
    labels = torch.tensor(sorted(TISSUE_OF))
    assert tissues_of(labels).tolist() == [TISSUE_OF[int(label)] for label in labels]


@pytest.mark.parametrize("labels", [torch.tensor([0, 9999]), torch.tensor([-1]), torch.tensor([0, 600])])
def test_an_unknown_label_is_named(labels: torch.Tensor) -> None:
    with pytest.raises(InputError, match=f"{int(labels[-1])}.*FreeSurfer"):
        raise_with_way_out(labels)


def raise_with_way_out(labels: torch.Tensor) -> None:
    try:
        tissues_of(labels)
    except InputError as error:
        raise InputError(str(error)) from error


@pytest.mark.parametrize("shape", [(0, 8, 8), (8, 8), (16, 16, 16)])
def test_a_map_without_a_brain(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError):
        synthesize_head(torch.zeros(shape, dtype=torch.int16), draw_head(np.random.default_rng(0), SMALL))


@pytest.mark.parametrize(
    "words",
    [
        {"spacing_mm": (0, 1, 1)},
        {"spacing_mm": (1, float("nan"), 1)},
        {"shape": (4, 64, 64)},
        {"sequences": ("T3",)},
        {"sequences": ()},
        {"contrast": "ct"},
        {"tumour": 2},
        {"noise": -1},
        {"nonsense": 1},
        {"deformation": {"scaling": 3}},
        {"deformation": {"nonsense": 3}},
    ],
    ids=str,
)
def test_settings_that_mean_nothing(words: dict) -> None:
    with pytest.raises(SettingError):
        settings_of(words)


def test_a_spacing_of_zero_of_the_label_map() -> None:
    with pytest.raises(InputError, match="spacing"):
        synthesize_head(nested_head(), draw_head(np.random.default_rng(0), SMALL), (0.0, 4, 4))


def test_transform_names_the_file() -> None:
    labels = MetaTensor(torch.full((1, 16, 16, 16), 9999), meta={"filename_or_obj": "anna.nii.gz"})
    with pytest.raises(InputError) as caught:
        SynthesizeHeadd("image", settings=SMALL)({"image": labels})
    assert caught.value.file == "anna.nii.gz"
    with pytest.raises(SettingError):
        SynthesizeHeadd(["a", "b"])


def test_transform_wants_ras_axes() -> None:
    labels = MetaTensor(nested_head()[None], affine=torch.diag(torch.tensor([-4.0, 4, 4, 1])))
    with pytest.raises(InputError, match="axes") as caught:
        SynthesizeHeadd("image", settings=SMALL)({"image": labels})
    assert "Orientationd" in caught.value.way_out


def test_an_image_is_no_label_map() -> None:
    for values in (torch.tensor([0.0, 2.5]), torch.tensor([0.0, float("nan")])):
        with pytest.raises(InputError, match="whole numbers"):
            tissues_of(values)


def test_sequences_have_priors() -> None:
    assert [contrast.sequence for contrast in draw_contrasts(np.random.default_rng(0))] == list(SEQUENCES)
