"""Where windows lie, counted by hand."""

import pytest
import torch
from monai.data.utils import dense_patch_slices

from neurobundle.errors import SettingError
from neurobundle.infer.window_plan import foreground_box, overlaps, plan_windows


def starts(windows: tuple[tuple[slice, ...], ...]) -> list[tuple[int, ...]]:
    return [tuple(side.start for side in window) for window in windows]


def test_steps_of_half_a_window() -> None:
    """Ten voxels, windows of four, steps of two: the last window ends with the image."""
    plan = plan_windows((10,), (4,), 0.5)
    assert starts(plan.windows) == [(0,), (2,), (4,), (6,)]
    assert plan.padding == ((0, 0),)
    assert plan.covers_all


def test_the_last_window_is_moved_back() -> None:
    """Nine voxels, windows of four, no overlap: 0, 4, and 5 instead of 8."""
    assert starts(plan_windows((9,), (4,), 0.0).windows) == [(0,), (4,), (5,)]


@pytest.mark.parametrize("image", [(30, 41, 25), (16, 16, 16), (17, 64, 16)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.7])
def test_where_monai_puts_them(image: tuple[int, ...], overlap: float) -> None:
    window = (16, 16, 16)
    steps = [16 if n == 16 else max(1, int(16 * (1 - overlap))) for n in image]
    assert list(plan_windows(image, window, overlap).windows) == dense_patch_slices(image, window, steps)


def test_a_window_larger_than_the_image() -> None:
    """The image is padded, the odd voxel behind it, and lies in the middle."""
    plan = plan_windows((5, 8), (8, 8))
    assert plan.padding == ((1, 2), (0, 0))
    assert plan.padded == (8, 8)
    assert plan.inside == (slice(1, 6), slice(0, 8))
    assert len(plan.windows) == 1


def test_no_size_is_the_whole_axis() -> None:
    assert plan_windows((5, 9), (4, 0), 0.5).window == (4, 9)


def test_a_box() -> None:
    """Windows cover the box alone, in the image's own numbers."""
    plan = plan_windows((20,), (4,), 0.5, (slice(6, 12),))
    assert starts(plan.windows) == [(6,), (8,)]
    assert not plan.covers_all
    assert list(plan.outside()) == [(slice(0, 6),), (slice(12, 20),)]


def test_a_box_grows_to_a_window() -> None:
    """About its middle where there is room, from the edge where there is none."""
    assert plan_windows((20,), (8,), 0.5, (slice(9, 11),)).box == (slice(6, 14),)
    assert plan_windows((20,), (8,), 0.5, (slice(0, 2),)).box == (slice(0, 8),)
    assert plan_windows((20,), (8,), 0.5, (slice(19, 20),)).box == (slice(12, 20),)


def test_a_box_in_an_image_that_is_padded() -> None:
    """One axis is shorter than the window: all of it is covered."""
    plan = plan_windows((5, 20), (8, 8), 0.5, (slice(1, 3), slice(4, 6)))
    assert plan.box == (slice(0, 8), slice(1, 9))
    assert plan.padded == (8, 20)


def test_what_is_outside_and_inside_is_everything_once() -> None:
    plan = plan_windows((12, 9, 10), (4, 4, 4), 0.5, (slice(3, 8), slice(0, 5), slice(4, 10)))
    counted = torch.zeros(plan.padded)
    for box in (plan.box, *plan.outside()):
        counted[box] += 1
    assert (counted == 1).all()


def test_memory_of_sums() -> None:
    """Three channels of 10 x 10 x 10 voxels and the weights of a box of 5 x 10 x 10, four bytes each."""
    plan = plan_windows((10, 10, 10), (5, 5, 5), 0.5, (slice(0, 5), slice(0, 10), slice(0, 10)))
    assert plan.bytes_of_sums(3) == 4 * (3 * 1000 + 500)


def test_foreground() -> None:
    """Of two channels, what is not 0 in either."""
    image = torch.zeros(1, 2, 6, 7, 8)
    image[0, 0, 2, 3, 4] = -1.0
    image[0, 1, 4, 3, 7] = 2.0
    assert foreground_box(image) == (slice(2, 5), slice(3, 4), slice(4, 8))
    assert foreground_box(image, margin=2) == (slice(0, 6), slice(1, 6), slice(2, 8))


def test_no_foreground() -> None:
    assert foreground_box(torch.zeros(1, 1, 4, 4)) is None


@pytest.mark.parametrize("overlap", [-0.1, 1.0, (0.5, 0.5), (0.5, 0.5, 1.2)])
def test_an_overlap_that_is_none(overlap: float | tuple[float, ...]) -> None:
    with pytest.raises(SettingError, match="overlap is"):
        overlaps(overlap, 3)


def test_a_window_of_other_axes() -> None:
    with pytest.raises(SettingError, match="2 axes and the image 3"):
        plan_windows((4, 4, 4), (4, 4))
