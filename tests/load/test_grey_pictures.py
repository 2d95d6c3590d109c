"""Grey that was saved in colour is grey; what is in colour is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neurobundle.errors import InputError
from neurobundle.load.gate import LABEL
from neurobundle.load.pictures import read_picture

GREY = np.random.default_rng(0).integers(0, 255, (20, 24)).astype(np.uint8)


def stored(change: Callable[[Image.Image], Image.Image], path: Path) -> Path:
    change(Image.fromarray(GREY)).save(path)
    return path


def with_hole(picture: Image.Image) -> Image.Image:
    pixels = np.array(picture.convert("RGBA"))
    pixels[:5, :, 3] = 0
    return Image.fromarray(pixels)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_grey_in_any_mode(mode: str, tmp_path: Path) -> None:
    path = stored(lambda picture: picture.convert(mode), tmp_path / "a.png")
    assert np.array_equal(read_picture(path), GREY)


def test_a_table_of_colours_is_looked_up(tmp_path: Path) -> None:
    path = stored(lambda picture: picture.convert("RGB").quantize(256), tmp_path / "a.png")
    with Image.open(path) as picture:
        assert picture.mode == "P"
    assert np.array_equal(read_picture(path), GREY)


def test_a_jpeg_that_a_program_saved_in_colour(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    for mode in ("L", "RGB"):
        Image.fromarray(smooth).convert(mode).save(tmp_path / f"{mode}.jpg", quality=95)
    grey, coloured = (read_picture(tmp_path / f"{mode}.jpg").astype(int) for mode in ("L", "RGB"))
    assert np.abs(grey - coloured).max() <= 1


def test_sixteen_bits_stay(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 200
    Image.fromarray(deep).save(tmp_path / "a.png")
    assert np.array_equal(read_picture(tmp_path / "a.png"), deep)


@pytest.mark.parametrize(
    ("change", "name", "cause"),
    [
        (lambda picture: picture.convert("CMYK"), "a.jpg", "CMYK images are not supported"),
        (with_hole, "a.png", "transparent in places"),
        (lambda picture: Image.merge("RGB", [picture, picture.rotate(180), picture]), "a.png", "it is in colour"),
    ],
    ids=["cmyk", "transparent", "colour"],
)
def test_what_is_no_grey_is_refused(
    change: Callable[[Image.Image], Image.Image], name: str, cause: str, tmp_path: Path
) -> None:
    path = stored(change, tmp_path / name)
    with pytest.raises(InputError, match=cause) as caught:
        read_picture(path)
    assert caught.value.file == str(path)
    assert "one number a voxel" in caught.value.way_out


def test_numbers_of_a_label_map_are_no_colours(tmp_path: Path) -> None:
    """A palette is there to be looked at: its numbers are the labels."""
    labels = (GREY % 3).astype(np.uint8)
    picture = Image.new("P", (24, 20))
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.putdata(labels.flatten().tolist())
    picture.save(tmp_path / "a.png")
    assert np.array_equal(read_picture(tmp_path / "a.png", LABEL), labels)
    Image.fromarray(labels).convert("RGB").save(tmp_path / "b.png")
    with pytest.raises(InputError, match="RGB label maps are not supported"):
        read_picture(tmp_path / "b.png", LABEL)
