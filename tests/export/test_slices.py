"""Label maps of pictures, as pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neurobundle.errors import InputError
from neurobundle.export.slices import save_label_picture


def test_pixels_are_numbers_and_are_seen(tmp_path: Path) -> None:
    """A program reads labels where they were, and a person sees two colours beside black."""
    labels = np.zeros((5, 3, 1), np.uint8)
    labels[4, 0], labels[0, 2] = 1, 2
    with Image.open(save_label_picture(tmp_path / "a.png", labels)) as picture:
        assert np.array_equal(np.array(picture), labels[..., 0].T)
        seen = np.array(picture.convert("RGB"))
    assert len({tuple(colour) for colour in seen.reshape(-1, 3).tolist()}) == 3
    assert seen[1, 1].tolist() == [0, 0, 0]


def test_the_same_map_gives_the_same_bytes(tmp_path: Path) -> None:
    labels = np.eye(6, dtype=np.int16)
    first, second = (save_label_picture(tmp_path / name, labels).read_bytes() for name in ("a.png", "b.png"))
    assert first == second


@pytest.mark.parametrize(
    "labels", [np.zeros((3, 3, 2)), np.full((3, 3), 256), np.full((3, 3), -1), np.full((3, 3), 0.5)]
)
def test_what_a_picture_cannot_hold_is_refused(labels: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        save_label_picture(tmp_path / "a.png", labels)
    assert not list(tmp_path.iterdir())
