"""Tumours that are painted into real heads while a network trains."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from neurobundle.augment import RandGraftTumourd, grafted_heads, mixed_dataset, paint_lesion
from neurobundle.augment.grafted import less_enhancing
from neurobundle.augment.grafting import nearest_contrasts, tissue_of
from neurobundle.augment.tissues import INDEX, SEQUENCES, TISSUES, Contrast, draw_contrasts
from neurobundle.errors import InputError, SettingError

from .test_lesions import ball

#: Voxels of 4 mm.
STEP = (4.0, 4.0, 4.0)
GRID = np.diag([4.0, 4.0, 4.0, 1.0])
#: A lesion of this place lies in the midst of a ball of 48 voxels.
PLACE = 0.49995


def brain(size: int = 32) -> torch.Tensor:
    """A ball, 0 outside: white matter inside, a shell of cortex."""
    axes = torch.stack(torch.meshgrid(*[torch.arange(size) - (size - 1) / 2] * 3, indexing="ij"))
    away = axes.square().sum(dim=0).sqrt() / (size / 2 - 2)
    inside = torch.where(away < 0.8, 100.0, 75.0)
    return torch.where(away < 1, inside, 0.0)


def scans(**absent: float) -> MetaTensor:
    """Four sequences, T1 alone with other tissues than white matter."""
    image = torch.stack([brain(), *[(brain() > 0) * 100.0] * 3])
    for name, value in absent.items():
        image[SEQUENCES.index(name)] = value
    return MetaTensor(image, affine=torch.as_tensor(GRID))


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """Anna and Bert, a file a sequence."""
    items = []
    for case in ("anna", "bert"):
        for name, image in zip(SEQUENCES, scans(), strict=True):
            nib.save(nib.Nifti1Image(image.numpy(), GRID), tmp_path / f"{case}_{name}.nii.gz")
        items.append({"case": case, "subject": case, "image": [f"{case}_{name}.nii.gz" for name in SEQUENCES]})
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"training": items}))
    return path


def chain(prob: float = 1.0) -> Compose:
    return Compose([RandGraftTumourd("image", prob=prob, radius_mm=(12.0, 16.0))])


def painted(seed: int, prob: float = 1.0, given: MetaTensor | None = None) -> dict[str, torch.Tensor]:
    transform = RandGraftTumourd("image", prob=prob, radius_mm=(12.0, 16.0))
    transform.set_random_state(seed=seed)
    made: dict[str, torch.Tensor] = transform({"image": scans() if given is None else given})
    return made


def test_without_a_tumour_nothing_changes_and_the_label_is_empty() -> None:
    made = painted(0, prob=0.0)
    assert torch.equal(made["image"], scans())
    assert made["label"].shape == (1, 32, 32, 32)
    assert not made["label"].any()


def test_the_label_is_where_the_image_changed() -> None:
    """No mass effect, no edge that is softer than a voxel: what is labelled is another brightness, and hardly more."""
    lesion = ball(radii_mm=np.full(3, 20.0))
    whole = {name: (brain() > 0) * 100.0 for name in SEQUENCES}
    out = paint_lesion(whole, whole["T1"] > 0, lesion, draw_contrasts(np.random.default_rng(3)), STEP)
    changed = torch.stack([(out.images[name] - whole[name]).abs() > 1e-3 for name in SEQUENCES]).any(dim=0)
    labelled = out.label > 0
    assert labelled.any()
    assert changed[labelled].all()
    # The edge, under half tumour, is one voxel wide.
    grown = torch.nn.functional.max_pool3d(labelled.float()[None], 3, 1, 1)[0] > 0
    assert not changed[~grown].any()


def test_a_second_lesion_pushes_the_first_and_its_label() -> None:
    """The first is three times as bright as white matter, the second as bright as that: what is bright is the first."""
    large = {"place": PLACE, "radii_mm": np.full(3, 16.0)}
    first = ball(core=1.0, offset_mm=np.array([20.0, 0.0, 0.0]), **large)
    second = ball(core=0.0, mass=0.6, **large)
    means = [1.0] * len(TISSUES)
    means[first.tissues[0]] = 3.0
    contrast = Contrast("T1c", tuple(means), (0.0,) * len(TISSUES))
    head = (brain(48) > 0) * 100.0
    both = paint_lesion({"T1c": head}, head > 0, [first, second], [contrast], (2.0, 2.0, 2.0))
    bright, core = both.images["T1c"] > 200, both.label == 1
    assert 2 * float((bright & core).sum()) / float(bright.sum() + core.sum()) > 0.95
    assert 3 in both.label


def test_lesions_of_the_study_stay_unlabelled() -> None:
    """A bright spot that was there is there afterwards, and is no tumour."""
    given = scans()
    given[3, 15:18, 15:18, 15:18] = 300.0
    made = painted(0, prob=0.0, given=given)
    assert float(made["image"][3, 16, 16, 16]) == 300.0
    assert not made["label"].any()


def test_one_seed_one_head() -> None:
    first, again, other = painted(5), painted(5), painted(6)
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["label"], again["label"])
    assert not torch.equal(first["label"], other["label"])
    assert first["label"].any()


def test_the_given_scans_stay_as_they_are() -> None:
    """They are kept in memory, and painted again in the next epoch."""
    given = scans()
    painted(5, given=given)
    assert torch.equal(given, scans())


def test_a_sequence_that_the_study_lacks_stays_absent() -> None:
    made = painted(5, given=scans(T2=0.0))
    assert not made["image"][SEQUENCES.index("T2")].any()
    assert made["label"].any()


def test_a_share_of_heads_has_no_tumour() -> None:
    transform = RandGraftTumourd("image", prob=0.5, radius_mm=(12.0, 16.0))
    transform.set_random_state(seed=0)
    with_one = [bool(transform({"image": scans()})["label"].any()) for _ in range(20)]
    assert 4 <= sum(with_one) <= 16


def test_less_enhancement_changes_what_enhances_in_t1c_alone() -> None:
    """1.8 times white matter is 1.4 times at half the enhancement."""
    means = [0.5] * len(TISSUES)
    means[INDEX["enhancing"]] = 1.8
    t1c = Contrast("T1c", tuple(means), (0.0,) * len(TISSUES))
    half = less_enhancing(t1c, 0.5)
    assert half.means[INDEX["enhancing"]] == pytest.approx(1.4)
    assert [n for n, (a, b) in enumerate(zip(t1c.means, half.means, strict=True)) if a != b] == [INDEX["enhancing"]]
    other = Contrast("T2", tuple(means), t1c.spreads)
    assert less_enhancing(other, 0.5) is other


def test_the_contrast_that_is_most_like_the_scan_is_taken() -> None:
    """Cortex is .75 of white matter in the scan: of .9, .7 and .4 that is nearest to .7."""
    choices = []
    for cortex in (0.9, 0.7, 0.4):
        means = [1.0] * len(TISSUES)
        means[INDEX["cortex"]] = cortex
        choices.append([Contrast("T1", tuple(means), (0.0,) * len(TISSUES))])
    images = {"T1": brain()}
    tissue = tissue_of(images, brain() > 0)
    assert {INDEX["cortex"], INDEX["white"]} <= set(tissue.unique().tolist())
    assert nearest_contrasts(images, tissue, choices) is choices[1]
    white = torch.full_like(tissue, INDEX["white"])
    assert nearest_contrasts(images, white, choices) is choices[0]


def test_only_the_kinds_that_were_asked_for() -> None:
    transform = RandGraftTumourd("image", prob=1.0, radius_mm=(12.0, 16.0), kinds={"low_grade": 1.0})
    transform.set_random_state(seed=0)
    for _ in range(8):
        assert set(transform({"image": scans()})["label"].unique().tolist()) <= {0, 1, 2}
        assert {lesion.kind for lesion in transform.lesions} == {"low_grade"}


def test_each_epoch_has_so_many_grafts_of_all_studies(studies: Path) -> None:
    dataset = grafted_heads(studies, 3, chain(), spacing_mm=STEP)
    assert [dataset[n]["case"] for n in range(3)] == ["anna", "bert", "anna"]
    assert dataset[0]["image"].shape == (4, 32, 32, 32)
    assert set(dataset[0]) == {"image", "label", "case", "subject", "fold"}


def test_the_seed_of_an_epoch_reaches_them(studies: Path) -> None:
    grafts = grafted_heads(studies, 2, chain(), spacing_mm=STEP)
    mixed = mixed_dataset([{"image": 1}], Compose([]), [grafts], progress=False)
    heads = []
    for _ in range(2):
        mixed.transform.set_random_state(seed=3)
        heads.append(mixed[1]["image"].as_tensor())
    assert torch.equal(*heads)


def test_held_out_subjects_give_none(studies: Path) -> None:
    dataset = grafted_heads(studies, 3, chain(), spacing_mm=STEP, held_out=[{"subject": "anna"}])
    assert {dataset[n]["subject"] for n in range(3)} == {"bert"}
    with pytest.raises(SettingError, match="no tumour can be painted: 3 into 0 studies"):
        grafted_heads(studies, 3, chain(), held_out=[{"subject": "anna"}, {"subject": "bert"}])


def test_without_studies_there_are_none(studies: Path) -> None:
    assert len(grafted_heads(None, 3, chain())) == len(grafted_heads(studies, 0, chain())) == 0


def test_a_file_that_is_refused_names_case_and_file(studies: Path) -> None:
    (studies.parent / "bert_T2.nii.gz").write_bytes(b"no image")
    with pytest.raises(InputError) as caught:
        grafted_heads(studies, 1, chain(), spacing_mm=STEP)
    assert caught.value.case == "bert"
    assert "bert_T2" in caught.value.file
    assert caught.value.way_out


def test_negative_intensities_are_no_brain(studies: Path) -> None:
    """Spline interpolation leaves some around a brain."""
    data = scans()[0].numpy()
    data[0, 0, 0] = -20.0
    nib.save(nib.Nifti1Image(data, GRID), studies.parent / "anna_T1.nii.gz")
    image = grafted_heads(studies, 1, chain(prob=0.0), spacing_mm=STEP)[0]["image"]
    assert float(image.min()) == 0.0


def test_heads_with_their_skull_are_refused(studies: Path) -> None:
    """64 x 64 x 64 voxels of 4 mm, all with noise: 16.8 litres."""
    noise = np.random.default_rng(0).uniform(1, 9, (64, 64, 64)).astype(np.float32)
    for name in SEQUENCES:
        nib.save(nib.Nifti1Image(noise, GRID), studies.parent / f"anna_{name}.nii.gz")
    with pytest.raises(InputError, match="16777 ml") as caught:
        grafted_heads(studies, 1, chain(), spacing_mm=STEP)
    assert caught.value.case == "anna"
    assert "strip" in caught.value.way_out


def test_scans_that_show_nothing_are_refused_before_the_training(studies: Path) -> None:
    for name in SEQUENCES:
        nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), np.float32), GRID), studies.parent / f"bert_{name}.nii.gz")
    with pytest.raises(InputError, match="show nothing") as caught:
        grafted_heads(studies, 1, chain(), spacing_mm=STEP)
    assert caught.value.case == "bert"
    assert "bert_T1" in caught.value.file


def test_scans_with_other_channels_are_refused() -> None:
    given = scans()
    with pytest.raises(InputError, match="T1, T1c, T2, FLAIR"):
        painted(0, given=given[:3])


@pytest.mark.parametrize(
    "settings",
    [
        {"prob": 1.5},
        {"sequences": ("T1", "PD")},
        {"radius_mm": (9.0, 4.0)},
        {"kinds": {"abscess": 1.0}},
        {"keys": ("image", "other")},
    ],
)
def test_settings_that_mean_nothing(settings: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        RandGraftTumourd(**{"keys": "image", **settings})  # type: ignore[arg-type]
