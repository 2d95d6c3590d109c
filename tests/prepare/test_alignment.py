"""Agreement that can be counted by hand, planted misalignments that are found, and scans that cannot be compared."""

from itertools import permutations

import nibabel
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from neurobundle import geometry
from neurobundle.errors import InputError
from neurobundle.prepare.alignment import (
    Reference,
    agreement,
    check_alignment,
    checked,
    moved_mm,
    normalised_mutual_information,
    pair_of,
    reference_of,
    rigid_matrix,
    search,
)
from neurobundle.prepare.itk_helpers import Grid

#: A phantom's tissues, mm: middle, radii, and intensities in two contrasts that no line relates.
PARTS = (
    ((0, 0, 0), (72, 90, 72), 60, 200),
    ((0, 0, 0), (66, 84, 66), 10, 20),
    ((0, 0, 0), (62, 80, 62), 100, 110),
    ((0, 5, 4), (46, 62, 46), 150, 70),
    ((-14, 6, 8), (7, 26, 10), 20, 230),
    ((14, 0, 8), (7, 20, 9), 20, 230),
    ((24, -10, -6), (9, 12, 8), 120, 95),
    ((-26, 14, -20), (10, 8, 12), 110, 90),
    ((0, -52, -34), (34, 20, 18), 130, 85),
)


def phantom(contrast, shape=(64, 76, 60), spacing_mm=(3.0, 3.0, 3.0), seed=0):
    """A head of ellipsoids with noise, centred at 0: ``(array, affine)``."""
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = -(np.array(shape) - 1) / 2 * spacing_mm
    places = geometry.apply(affine, np.moveaxis(np.indices(shape), 0, -1))
    array = np.zeros(shape)
    for middle, radii, *values in PARTS:
        array[(((places - middle) / radii) ** 2).sum(axis=-1) <= 1] = values[contrast]
    return (array + 4 * np.random.default_rng(seed).random(shape)).astype(np.float32), affine


def thick(scan, slices):
    """The means of so many slices each."""
    array, affine = scan
    count = array.shape[2] // slices
    averaged = array[:, :, : count * slices].reshape(*array.shape[:2], count, slices).mean(axis=3)
    grow = np.diag([1.0, 1, slices, 1])
    grow[2, 3] = (slices - 1) / 2
    return averaged, affine @ grow


def planted(seed, centre_mm=(0, 0, 0), shift_mm=5.0, degrees=5.0):
    """A shift and a turn of given sizes in random directions, by scipy; (4, 4)."""
    rng = np.random.default_rng(seed)
    shift, axis = (vector / np.linalg.norm(vector) for vector in rng.normal(size=(2, 3)))
    matrix, centre = np.eye(4), np.asarray(centre_mm, float)
    matrix[:3, :3] = Rotation.from_rotvec(np.radians(degrees) * axis).as_matrix()
    matrix[:3, 3] = centre + shift_mm * shift - matrix[:3, :3] @ centre
    return matrix


def moved(scan, matrix):
    """The scan with a header that places it elsewhere; the truth is then ``matrix``."""
    return scan[0], matrix @ scan[1]


def resampled(scan, matrix):
    """The scan's head moved within the scan's own grid, as if the person had moved; the truth is ``matrix``."""
    array, affine = scan
    onto = np.linalg.inv(affine) @ np.linalg.inv(matrix) @ affine
    return ndimage.affine_transform(array, onto[:3, :3], onto[:3, 3], order=1), affine


def cut(scan, part):
    """A part of the scan where it was, ``numpy.s_[i, j, k]``: a partial scan whose header is as right as before."""
    array, affine = scan
    onto = np.eye(4)
    onto[:3, 3] = [axis.start or 0 for axis in part]
    return array[part].copy(), affine @ onto


def raw(real_data, name):
    """A scan of ms_lesions_raw."""
    image = nibabel.load(real_data / "ms_lesions_raw" / "patient01" / f"{name}.nii.gz")
    return np.asarray(image.dataobj), image.affine


def mri(real_data, patient, sequence):
    """A registered scan of ms_lesions."""
    (path,) = (real_data / "ms_lesions" / patient).glob(f"{sequence}_*brain*.nii.gz")
    image = nibabel.load(path)
    return np.asarray(image.dataobj, np.float32), image.affine


# --- counted by hand -------------------------------------------------------------------------------------------------


def test_the_measure_of_two_coins():
    """Equal coins: each has ln 2, both together ln 2. Independent coins: both together 2 ln 2."""
    assert normalised_mutual_information([[1, 0], [0, 1]]) == pytest.approx(2)
    assert normalised_mutual_information([[1, 1], [1, 1]]) == pytest.approx(1)


def test_one_bin_tells_nothing():
    assert normalised_mutual_information([[7, 0], [0, 0]]) == 1.0


def test_half_of_the_places_inside():
    """Of four places, two lie in a grid of two voxels; the levels there are equal, and so agree wholly."""
    image = Grid(np.array([0.0, 1.0], np.float32).reshape(2, 1, 1), np.eye(4))
    places = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]])
    reference = Reference(places, np.array([0, 31, 0, 31]), geometry.corners((4, 1, 1)))
    assert agreement(reference, image, np.eye(4)) == pytest.approx((2.0, 0.5))


def test_no_place_inside_is_no_agreement():
    image = Grid(np.array([0.0, 1.0], np.float32).reshape(2, 1, 1), np.eye(4))
    reference = Reference(np.array([[9.0, 0, 0]]), np.array([0]), geometry.corners((2, 2, 2)))
    assert agreement(reference, image, np.eye(4)) == (1.0, 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_turns_are_those_of_scipy(seed):
    """A turn about x, then y, then z of the turned axes."""
    degrees = np.random.default_rng(seed).uniform(-90, 90, 3)
    ours = rigid_matrix([0, 0, 0], degrees, [0, 0, 0])[:3, :3]
    assert np.allclose(ours, Rotation.from_euler("XYZ", degrees, degrees=True).as_matrix())


def test_the_centre_moves_by_the_shift_alone():
    matrix = rigid_matrix([1, 2, 3], [10, 20, 30], [7, 8, 9])
    assert geometry.apply(matrix, [7, 8, 9]) == pytest.approx([8, 10, 12])


def test_a_corner_goes_furthest():
    """Half a turn about z takes the corner (1, 1) of a cube of edge 2 to (-1, -1)."""
    box = geometry.corners((2, 2, 2)) * 2 - 1
    assert moved_mm(rigid_matrix([0, 0, 0], [0, 0, 180], [0, 0, 0]), box) == pytest.approx(2 * np.sqrt(2))


def test_the_head_s_box():
    """A bright cube from 20 to 59 in a dark cube of 80 voxels of 1 mm."""
    array = np.zeros((80, 80, 80), np.float32)
    array[20:60, 20:60, 20:60] = np.random.default_rng(0).uniform(50, 100, (40, 40, 40))
    reference = reference_of(checked((array, np.eye(4)), "it"))
    assert reference.box_mm.min(axis=0) == pytest.approx([19.5] * 3)
    assert reference.box_mm.max(axis=0) == pytest.approx([59.5] * 3)


def cubes(*sizes):
    """Bright cubes of so many mm in grids of their own, 1 mm, each in the middle at 0; checked."""
    found = []
    for size in sizes:
        array = np.zeros((80, 80, 80), np.float32)
        part = slice(40 - size // 2, 40 + size // 2)
        array[part, part, part] = np.random.default_rng(size).uniform(50, 100, (size, size, size))
        affine = np.eye(4)
        affine[:3, 3] = -39.5
        found.append(checked((array, affine), "it"))
    return found


@pytest.mark.parametrize(
    ("sizes", "turned", "share"),
    [((40, 40), False, 1), ((64, 32), True, 1 / 8), ((32, 64), False, 1 / 8), ((64, 56), False, 0.875**3)],
)
def test_the_lesser_head_is_compared(sizes, turned, share):
    """Half as many mm along each axis are an eighth of the head; seven eighths are more than half of it."""
    pair = pair_of(*cubes(*sizes))
    assert pair.turned is turned
    assert pair.share == pytest.approx(share, rel=0.15)  # its edges, one voxel of 4 mm, are no head
    side = min(sizes) if turned else sizes[0]
    assert np.ptp(pair.compared.box_mm, axis=0) == pytest.approx([side] * 3)


def test_a_turned_pair_speaks_of_the_same_matrices():
    """The small cube's header lies 8 mm to the right: in it the reference's 0 is at 8, whichever head is compared."""
    large, (array, affine) = cubes(64, 32)
    truth = rigid_matrix([8, 0, 0], [0, 0, 0], [0, 0, 0])
    pair = pair_of(large, Grid(array, truth @ affine))
    back = pair_of(Grid(array, truth @ affine), large)
    assert pair.turned
    assert not back.turned
    assert pair.moved_mm(truth) == pytest.approx(8)
    assert pair.agreement(truth) == back.agreement(np.linalg.inv(truth))
    assert pair.agreement(truth).overlap == 1
    assert np.allclose(pair.search(np.eye(4)), np.linalg.inv(back.search(np.eye(4))))


# --- the check -------------------------------------------------------------------------------------------------------


def test_a_phantom_in_two_contrasts_is_aligned():
    found = check_alignment(phantom(0), phantom(1, seed=1))
    assert not found.suspicious
    assert "no clearly better place" in found.reason
    assert found.agreement.overlap > 0.95


@pytest.mark.parametrize("move", [moved, resampled])
@pytest.mark.parametrize("seed", range(3))
def test_a_planted_misalignment_is_found(seed, move):
    """5 mm and 5 degrees, in the header or in the head; the search comes near it."""
    truth = planted(seed)
    found = check_alignment(phantom(0), move(phantom(1, seed=1), truth))
    box = reference_of(checked(phantom(0), "it")).box_mm
    assert found.suspicious
    assert "misaligned" in found.reason
    assert moved_mm(np.linalg.inv(truth) @ found.matrix, box) < moved_mm(truth, box) / 2
    assert found.best.nmi > found.agreement.nmi


def test_thick_slices_and_half_a_field_of_view():
    """Slices of 6 mm over the upper half of the head: aligned is aligned, and planted is found."""
    array, affine = thick(phantom(1, seed=1), 2)
    half = array[:, :, array.shape[2] // 2 :]
    affine = affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, array.shape[2] // 2], [0, 0, 0, 1.0]])
    assert not check_alignment(phantom(0), (half, affine)).suspicious
    assert check_alignment(phantom(0), moved((half, affine), planted(0))).suspicious


@pytest.mark.parametrize("part", [np.s_[:, :, :18], np.s_[:, :, 24:34], np.s_[:, :26, :]])
def test_a_partial_scan(part):
    """The bottom, ten slices or the back of a head: aligned is aligned, and planted is found."""
    scan = cut(phantom(1, seed=1), part)
    aligned = check_alignment(phantom(0), scan)
    assert not aligned.suspicious, aligned.reason
    assert aligned.agreement.overlap == 1
    assert check_alignment(phantom(0), moved(scan, planted(0, shift_mm=8, degrees=3))).suspicious


def test_a_sliver_is_too_little():
    """A corner with a hundredth of the head: nobody can tell where it lies."""
    with pytest.raises(InputError, match="too little to tell"):
        check_alignment(phantom(0), cut(phantom(1, seed=1), np.s_[:20, :24, :]))


def test_noise_has_nothing_in_common_with_a_head():
    array, affine = phantom(1)
    noise = np.random.default_rng(0).random(array.shape).astype(np.float32)
    found = check_alignment(phantom(0), (noise, affine))
    assert found.suspicious
    assert "nothing in common" in found.reason


def test_the_same_twice():
    """No chance is left in it."""
    first, second = (check_alignment(phantom(0), moved(phantom(1), planted(1))) for _ in range(2))
    assert first._replace(matrix=0) == second._replace(matrix=0)
    assert np.array_equal(first.matrix, second.matrix)


def test_inputs_stay_as_they_are():
    fixed, other = phantom(0), phantom(1)
    before = [part.copy() for scan in (fixed, other) for part in scan]
    check_alignment(fixed, other)
    assert all(np.array_equal(a, b) for a, b in zip(before, [*fixed, *other], strict=True))


def test_a_search_never_ends_worse_than_it_began():
    reference, other = (checked(phantom(c), "it") for c in (0, 1))
    reference, start = reference_of(reference), planted(4)
    found = search(reference, other, start)
    assert agreement(reference, other, found).nmi >= agreement(reference, other, start).nmi


# --- what cannot be compared -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda a, m: (a[:, :, 0], m), "three axes"),
        (lambda a, m: (a[:, :, :1], m), "three axes"),
        (lambda a, m: (a[None], m), "three axes"),
        (lambda a, m: (np.full_like(a, 7), m), "single value"),
        (lambda a, m: (np.zeros_like(a), m), "single value"),
        (lambda a, m: (np.where(a > 100, np.nan, a), m), "NaN or infinite"),
        (lambda a, m: (a, m @ np.diag([1, 0, 1, 1.0])), "spacing is 0"),
        (lambda a, m: (a, m * np.nan), "spacing is 0"),
        (lambda a, m: (a, np.eye(3)), "affine"),
    ],
    ids=["2D", "one slice", "4D", "constant", "zero", "NaN", "spacing 0", "NaN affine", "3 x 3"],
)
def test_a_scan_that_cannot_be_compared(spoil, match):
    """It is named, with the way out, on whichever side it is."""
    with pytest.raises(InputError, match=match) as caught:
        check_alignment(phantom(0), spoil(*phantom(1)))
    assert "the other scan" in caught.value.cause
    assert caught.value.way_out
    with pytest.raises(InputError, match="the reference"):
        check_alignment(spoil(*phantom(1)), phantom(0))


def test_scans_that_lie_apart():
    """A lost origin: nothing to compare."""
    far = rigid_matrix([500, 0, 0], [0, 0, 0], [0, 0, 0])
    with pytest.raises(InputError, match="share 0%") as caught:
        check_alignment(phantom(0), moved(phantom(1), far))
    assert "origin" in caught.value.way_out


# --- real scans ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_registered_scans_are_not_suspicious(real_data):
    """Every ordered pair of T1, T1c, T2 and FLAIR of one person, as published."""
    scans = [mri(real_data, "patient07", name) for name in ("FLAIR", "T1", "T1POST", "T2")]
    for fixed, other in permutations(scans, 2):
        found = check_alignment(fixed, other)
        assert not found.suspicious, found.reason
        assert found.best_shift_mm < 2.2


@pytest.mark.parametrize("seed", range(3))
def test_a_real_scan_misplaced(real_data, seed):
    """5 mm and 5 degrees between FLAIR and T1."""
    flair, t1 = (mri(real_data, "patient26", name) for name in ("FLAIR", "T1"))
    assert check_alignment(flair, moved(t1, planted(seed, (0, -18, 5)))).suspicious


def test_scans_as_they_came_from_the_scanner(real_data):
    """Within a visit the headers are right; the second visit's lie 24 mm from the first's."""
    for visit in ("study1", "study2"):
        for sequence in ("T1W", "T2W"):
            assert not check_alignment(*(raw(real_data, f"{visit}_{name}") for name in ("FLAIR", sequence))).suspicious
    assert check_alignment(*(raw(real_data, f"study{visit}_FLAIR") for visit in (2, 1))).suspicious


PARTIAL_SCANS = {
    "bottom 10 slices": np.s_[:, :, :10],
    "6 slices": np.s_[:, :, 15:21],
    "left third": np.s_[:96, :, :],
    "window": np.s_[110:210, 110:210, :],
    "corner": np.s_[:130, :130, :],
}


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTIAL_SCANS.values(), ids=PARTIAL_SCANS)
def test_a_partial_scan_as_it_came_from_the_scanner(real_data, part):
    """Its header is right to .5 mm; with 40 mm more it is not."""
    flair, scan = raw(real_data, "study1_FLAIR"), cut(raw(real_data, "study1_T1W"), part)
    found = check_alignment(flair, scan)
    assert not found.suspicious, found.reason
    assert check_alignment(flair, moved(scan, rigid_matrix([0, 0, 40], [0, 0, 0], [0, 0, 0]))).suspicious
