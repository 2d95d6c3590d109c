import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.data import MetaTensor

from neurobundle.errors import InputError, SettingError
from neurobundle.prepare.landmarks import HistogramLandmarksd, Landmarks, learn_landmarks

FIVE = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])


def test_one_image_teaches_its_own_shape() -> None:
    """Percentiles 0, 50 and 100 of 1, 2, 9 are 1, 2 and 9; on a scale from 0 to 100 the middle one is 12.5."""
    landmarks = learn_landmarks([torch.tensor([1.0, 2.0, 9.0])], percentiles=(0, 50, 100))
    assert landmarks.values == (0, 12.5, 100)


def test_two_images_teach_their_mean() -> None:
    images = [torch.tensor([1.0, 2.0, 9.0]), torch.tensor([10.0, 60.0, 110.0])]
    assert learn_landmarks(images, percentiles=(0, 50, 100)).values == (0, 31.25, 100)


def test_pieces_between_and_beyond() -> None:
    """Own landmarks 2, 3, 4 of the masked voxels become 0, 10, 40: slope 10 below, 30 above; beyond they go on."""
    landmarks = Landmarks((0, 50, 100), (0, 10, 40))
    mask = torch.tensor([[0, 1, 1, 1, 0]])
    assert landmarks.apply(FIVE, mask).tolist() == [[-10, 0, 10, 40, 70]]


def test_landmarks_that_fall_together_take_the_mean() -> None:
    """Half the voxels are 1: its landmarks 0 and 25 and 50 all are 1, which becomes the mean of 0, 10 and 20."""
    image = torch.tensor([1.0, 1.0, 1.0, 2.0, 3.0])
    found = Landmarks((0, 25, 50, 75, 100), (0, 10, 20, 60, 100)).apply(image)
    assert found.tolist() == [10, 10, 10, 60, 100]


def test_other_units_and_other_gains_meet() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(20, 20, 20, generator=generator) + 0.1
    landmarks = learn_landmarks([image, 300 * image])
    torch.testing.assert_close(landmarks.apply(300 * image), landmarks.apply(image), atol=1e-3, rtol=1e-4)


@given(image=arrays(np.float32, (3, 4, 5), elements=st.floats(0, 1000, width=16)))
def test_brighter_stays_brighter(image: np.ndarray) -> None:
    """The function is monotone, finite, and leaves its input as it was, however few grey values there are."""
    volume = torch.from_numpy(image.copy())
    landmarks = Landmarks((1, 25, 50, 99), (0, 10, 10, 100))
    inside = image[image > 0]
    if not inside.size or np.percentile(inside, 99) <= np.percentile(inside, 1):
        with pytest.raises(InputError, match="no contrast"):
            landmarks.apply(volume)
        return
    found = landmarks.apply(volume)
    assert bool(torch.isfinite(found).all())
    assert np.array_equal(volume.numpy(), image)
    order = torch.from_numpy(np.argsort(image, axis=None, kind="stable"))
    steps = torch.diff(found.flatten()[order])
    assert float(steps.min()) >= -1e-4 * float(found.abs().max())


def test_a_head_so_dark_that_its_slopes_overflow() -> None:
    """The same pieces in another unit; and a slice that does not lie in one piece in memory."""
    landmarks = Landmarks((0.0, 50.0, 100.0), (0.0, 25.0, 100.0))
    image = torch.arange(12.0).reshape(3, 4) + 1
    wanted = landmarks.apply(image)
    assert torch.allclose(landmarks.apply(image.double() * 1e-42).float(), wanted, atol=1e-3)
    assert torch.isfinite(landmarks.apply(image * 1e-40)).all()
    assert torch.equal(landmarks.apply(image.T).T, wanted)


def test_saved_and_loaded(tmp_path: Path) -> None:
    landmarks = learn_landmarks([FIVE, FIVE.square()], [None, torch.tensor([[0, 1, 1, 1, 1]])])
    path = landmarks.save(tmp_path / "new" / "t1.json")
    assert Landmarks.load(path) == landmarks
    assert list(json.loads(path.read_text())) == ["percentiles", "values"]
    assert [p.name for p in path.parent.iterdir()] == ["t1.json"]


def test_each_channel_has_its_own(tmp_path: Path) -> None:
    first, second = Landmarks((0, 100), (0, 1)), Landmarks((0, 100), (0, 10))
    second.save(tmp_path / "t2.json")
    image = MetaTensor(torch.stack([FIVE, FIVE]), affine=3 * torch.eye(4))
    transform = HistogramLandmarksd("image", [{"percentiles": [0, 100], "values": [0, 1]}, str(tmp_path / "t2.json")])
    found = transform({"image": image})["image"]
    assert found.flatten().tolist() == [0, 0.25, 0.5, 0.75, 1, 0, 2.5, 5, 7.5, 10]
    assert torch.equal(found.affine, image.affine)
    assert image[0].flatten().tolist() == [1, 2, 3, 4, 5]
    shared = HistogramLandmarksd("image", tmp_path / "t2.json")({"image": image})["image"]
    assert torch.equal(shared[0], shared[1])
    assert first.apply(FIVE)[0, -1] == 1
    with pytest.raises(InputError, match="more channels than the 1 landmarks"):
        HistogramLandmarksd("image", [first])({"image": image})


def test_an_absent_channel_passes_if_it_may() -> None:
    image = torch.stack([FIVE, torch.zeros_like(FIVE)])
    landmarks = Landmarks((0, 100), (0, 1))
    assert not HistogramLandmarksd("image", landmarks, allow_empty=True)({"image": image})["image"][1].any()
    with pytest.raises(InputError, match="no contrast"):
        HistogramLandmarksd("image", landmarks)({"image": image})


@pytest.mark.parametrize(
    ("images", "masks", "cause"),
    [
        ([], None, "there are no images"),
        ([FIVE, torch.ones(2, 2)], None, "image 1: no contrast: its percentiles 1 and 99 are both 1"),
        ([FIVE * float("nan")], None, "image 0: 5 of its 5 voxels are NaN"),
        ([FIVE], [torch.zeros_like(FIVE)], "image 0: the mask is empty"),
        ([FIVE], [torch.ones(1, 4)], r"image 0: the mask is \(1, 4\) and the image \(1, 5\)"),
        ([FIVE, FIVE], [None], "not as many masks as images"),
        ([FIVE], [None, None], "not as many masks as images"),
    ],
)
def test_images_that_teach_nothing_are_refused(images: list, masks: list | None, cause: str) -> None:
    with pytest.raises(InputError) as caught:
        learn_landmarks(images, masks)
    assert caught.match(cause) or cause in str(caught.value)
    assert caught.value.way_out


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("{", "cannot be read"),
        ("[]", "no mapping"),
        ('{"percentiles": [0, 100]}', "no mapping"),
        ('{"percentiles": [0, "x"], "values": [0, 1]}', "no numbers"),
        ('{"percentiles": [0, 100], "values": [0, 1, 2]}', "2 percentiles have the standard values"),
        ('{"percentiles": [0, 50, 100], "values": [0, 2, 1]}', "3 percentiles have the standard values"),
        ('{"percentiles": [0, 100], "values": [0, NaN]}', "2 percentiles have the standard values"),
        ('{"percentiles": [0, 100], "values": [1, 1]}', "all standard values are 1"),
        ('{"percentiles": [50, 10], "values": [0, 1]}', "the percentiles are"),
        ('{"percentiles": [0, 101], "values": [0, 1]}', "the percentiles are"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str, cause: str) -> None:
    path = tmp_path / "t1.json"
    path.write_text(content)
    with pytest.raises(SettingError, match=cause) as caught:
        HistogramLandmarksd("image", path)
    assert caught.value.file == str(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot be read"):
        HistogramLandmarksd("image", tmp_path / "none.json")
