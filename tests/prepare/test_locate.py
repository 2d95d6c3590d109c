"""Places in heads: the template, MS patients, garbage; crops that come back to where they were."""

import nibabel
import numpy as np
import pytest

from neurobundle import geometry
from neurobundle.errors import InputError, SettingError
from neurobundle.prepare.locate import (
    LEFT_CENTRE_MM,
    Place,
    PlaceError,
    TemplateLocator,
    check_place,
    crop_to,
    kind_of_input,
    looks_like_crop,
    paste_back,
    place_outline,
)
from neurobundle.prepare.register import Registration, load_template

EYE = np.eye(4)


def place_at(corner, shape=(4, 4, 4), side="left", mirrored=False):
    affine = np.eye(4)
    affine[:3, 3] = corner
    return Place(side, shape, affine, mirrored)


def reoriented(array, affine, codes):
    image = nibabel.Nifti1Image(array, affine)
    start = nibabel.io_orientation(affine)
    other = image.as_reoriented(nibabel.orientations.ornt_transform(start, nibabel.orientations.axcodes2ornt(codes)))
    return np.asarray(other.dataobj), other.affine


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_crop_is_what_lies_in_the_box(mirrored):
    """On whole voxels a crop is a slice, turned round if mirrored."""
    image = np.random.default_rng(0).random((20, 20, 20), np.float32)
    crop = crop_to(image, EYE, place_at((5, 6, 7), mirrored=mirrored))
    expected = image[5:9, 6:10, 7:11]
    assert np.allclose(crop, expected[::-1] if mirrored else expected, atol=1e-4)


def test_outside_the_image_a_crop_is_empty():
    assert not crop_to(np.ones((5, 5, 5)), EYE, place_at((50, 50, 50))).any()


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPI", "PIR"])
def test_crop_then_paste(codes, mirrored):
    """Labels cut out of a head on its own voxels come back as they were, for every orientation."""
    labels = np.zeros((12, 13, 14), np.uint8)
    labels[4:7, 4:6, 4:8], labels[4:7, 6:8, 4:8] = 2, 1
    native, affine = reoriented(labels, EYE, codes)
    place = place_at((3, 3, 3), (6, 7, 8), mirrored=mirrored)
    crop = np.rint(crop_to(native, affine, place, order=1)).astype(np.uint8)
    back = paste_back(crop, place, native.shape, affine)
    assert back.dtype == np.uint8
    assert np.array_equal(back, native)


def test_the_right_side_has_labels_of_its_own():
    """Crop labels 1 and 2 are 3 and 4 on the person's right; the left's stay."""
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1], labels[2] = 1, 2
    left = paste_back(labels, place_at((0, 0, 0)), (12, 4, 4), EYE)
    both = paste_back(labels, place_at((6, 0, 0), side="right"), (12, 4, 4), EYE, onto=left)
    assert both[:, 0, 0].tolist() == [0, 1, 2, 0, 0, 0, 0, 3, 4, 0, 0, 0]
    assert left[:, 0, 0].tolist() == [0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]


def test_a_thick_voxel_takes_the_label_of_its_larger_part():
    """Native voxels of 4 mm along x hold crop voxels 0 1 1 1 and 0 0 0 2: label 1, then background."""
    labels = np.zeros((8, 1, 1), np.uint8)
    labels[1:4], labels[7] = 1, 2
    affine = np.diag([4.0, 1, 1, 1])
    affine[0, 3] = 1.5
    assert paste_back(labels, place_at((0, 0, 0), (8, 1, 1)), (2, 1, 1), affine).ravel().tolist() == [1, 0]


def test_probabilities_are_pasted_as_well():
    shares = np.zeros((3, 2, 2, 2), np.float32)
    shares[0], shares[2] = 0.4, 0.6
    assert (paste_back(shares, place_at((0, 0, 0), (2, 2, 2)), (2, 2, 2), EYE) == 2).all()


def test_a_turned_box_keeps_its_volume():
    """A ball of labels in a box turned by 20 degrees has its volume on the native grid, within 2 %."""
    angle = np.radians(20)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    place = Place("left", (32, 32, 32), geometry.grid_about([30, 30, 30], turn, (32, 32, 32)), False)
    away = np.linalg.norm(np.indices((32, 32, 32)).T - 15.5, axis=-1).T
    ball = (away < 10).astype(np.uint8)
    back = paste_back(ball, place, (60, 60, 60), EYE)
    assert (back == 1).sum() == pytest.approx(ball.sum(), rel=0.02)
    assert np.argwhere(back).mean(axis=0) == pytest.approx([30, 30, 30], abs=0.1)


def test_labels_of_another_shape():
    with pytest.raises(ValueError, match="shape"):
        paste_back(np.zeros((3, 3, 3)), place_at((0, 0, 0)), (9, 9, 9), EYE)


def test_the_outline_of_two_boxes():
    mask = place_outline([place_at((0, 0, 0)), place_at((6, 0, 0), side="right")], (12, 4, 4), EYE)
    assert mask[:, 0, 0].tolist() == [1, 1, 1, 1, 0, 0, 2, 2, 2, 2, 0, 0]


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((35, 50, 36), "crop"), ((43, 59, 47), "crop"), ((81, 40, 40), "unsure"), ((99, 180, 180), "unsure")],
)
def test_kind_of_input(shape, kind):
    assert kind_of_input(shape, EYE) == kind


def test_a_head_is_no_crop():
    assert not looks_like_crop((182, 218, 182), EYE)
    assert not looks_like_crop((320, 320, 39), np.diag([0.72, 0.72, 3, 1]))


def test_neither_crop_nor_head():
    """The message names the size and the option that decides."""
    with pytest.raises(InputError, match="90 x 90 x 90 mm") as caught:
        looks_like_crop((90, 90, 90), EYE)
    assert "--input" in caught.value.way_out


def test_every_training_crop_is_a_crop(real_data):
    files = sorted((real_data / "hippocampus" / "imagesTr").glob("*.nii.gz"))
    assert files
    for image in map(nibabel.load, files):
        assert looks_like_crop(image.shape, image.affine), image.get_filename()


@pytest.mark.parametrize("settings", [{"mirror": "both"}, {"turn": "bed"}, {"shape": (48, 64)}], ids=str)
def test_unknown_settings(settings):
    with pytest.raises(SettingError):
        TemplateLocator(**settings)


def test_a_tilted_head_has_tilted_boxes():
    """With turn="head" a box turns with the head; with turn="scanner" only its centre moves."""
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[0.8, -0.6], [0.6, 0.8]]
    found = Registration(tilt, 0.9, 1.0)
    turned, straight = TemplateLocator().places(found)[0], TemplateLocator(turn="scanner").places(found)[0]
    assert np.allclose(turned.affine[:3, :3], tilt[:3, :3])
    assert np.allclose(straight.affine[:3, :3], np.eye(3))
    assert np.allclose(turned.centre_mm, straight.centre_mm)


@pytest.mark.parametrize(("mirror", "flags"), [("left", [1, 0]), ("right", [0, 1]), (None, [0, 0])])
def test_the_side_that_is_mirrored(mirror, flags):
    places = TemplateLocator(mirror=mirror).places(Registration(EYE, 0.9, 1.0))
    assert [place.side for place in places] == ["left", "right"]
    assert [place.mirrored for place in places] == flags
    assert places[0].centre_mm.tolist() == list(LEFT_CENTRE_MM)


@pytest.mark.parametrize(
    ("registration", "cause"),
    [
        (Registration(EYE, 0.3, 1.0), "agrees with the template to 0.30"),
        (Registration(EYE, 0.9, 0.5), "only 50% of a brain"),
        (Registration(np.diag([0.4, 1, 1, 1]), 0.9, 1.0), "0.40 to 1.00 times"),
    ],
    ids=["similarity", "coverage", "size"],
)
def test_an_unsure_fit(registration, cause):
    """A refusal names the figure and carries the places for a picture."""
    template, places = load_template(), TemplateLocator().places(registration)
    with pytest.raises(PlaceError, match=cause) as caught:
        check_place(registration, places, template.array.shape, template.affine)
    assert caught.value.places == places


def test_a_hippocampus_outside_the_image():
    template, found = load_template(), Registration(EYE, 0.9, 1.0)
    with pytest.raises(PlaceError, match="right hippocampus would lie outside"):
        check_place(found, TemplateLocator().places(found), (98, *template.array.shape[1:]), template.affine)


def test_noise_is_refused():
    noise = np.random.default_rng(0).random((120, 140, 120), np.float32)
    with pytest.raises(PlaceError, match="not found with certainty"):
        TemplateLocator().locate(noise, EYE)


@pytest.mark.slow
@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("blank", [True, False])
def test_half_a_head_is_refused(axis, blank):
    """The template cut at its middle, by the field of view or by zeros."""
    template = load_template()
    half = template.array.shape[axis] // 2
    kept = np.moveaxis(template.array, axis, 0)[:half]
    rest = np.zeros_like(np.moveaxis(template.array, axis, 0)[half:])
    image = np.moveaxis(np.concatenate([kept, rest]) if blank else kept, 0, axis)
    with pytest.raises(PlaceError):
        TemplateLocator().locate(image, template.affine)


@pytest.mark.slow
def test_a_crop_given_as_a_head_is_refused(real_data):
    image = nibabel.load(min((real_data / "hippocampus" / "imagesTr").glob("*.nii.gz")))
    with pytest.raises(PlaceError):
        TemplateLocator().locate(np.asarray(image.dataobj), image.affine)


@pytest.mark.parametrize(
    "codes", ["LPI", *(pytest.param(codes, marks=pytest.mark.slow) for codes in ("RAS", "LAS", "PIR"))]
)
def test_left_is_left(codes):
    """The person's left hippocampus is at negative x, however the voxels are ordered."""
    template = load_template()
    array, affine = reoriented(template.array, template.affine, codes)
    left, right = TemplateLocator().locate(array, affine)
    assert left.centre_mm == pytest.approx(LEFT_CENTRE_MM, abs=1)
    assert right.centre_mm == pytest.approx(np.array(LEFT_CENTRE_MM) * (-1, 1, 1), abs=1)


#: Centres of the boxes in two MS patients (LAS, stripped), mm, judged by eye: the boxes hold both hippocampi.
MS_CENTRES_MM = {
    "patient07": [(-22.0, -22.0, -8.0), (24.0, -21.0, -8.0)],
    "patient26": [(-22.0, -20.0, -7.0), (23.0, -20.0, -8.0)],
}


@pytest.mark.slow
@pytest.mark.parametrize("patient", MS_CENTRES_MM)
def test_ms_patients(real_data, patient):
    image = nibabel.load(next((real_data / "ms_lesions" / patient).glob("T1_*.nii.gz")))
    places = TemplateLocator().locate(np.asarray(image.dataobj), image.affine)
    for place, seen in zip(places, MS_CENTRES_MM[patient], strict=True):
        assert place.centre_mm == pytest.approx(seen, abs=3)


@pytest.mark.slow
def test_a_scan_with_skull_and_thick_slices_is_refused(real_data):
    """The fit fails on this scan, and says so: it must never be labelled in the wrong place."""
    image = nibabel.load(real_data / "ms_lesions_raw" / "patient01" / "study2_T1W.nii.gz")
    with pytest.raises(PlaceError, match="agrees with the template"):
        TemplateLocator().locate(np.asarray(image.dataobj), image.affine)
