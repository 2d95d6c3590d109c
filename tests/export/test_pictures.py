from pathlib import Path

import numpy as np
from PIL import Image

from neurobundle.export.page import figure, table, write_page
from neurobundle.export.pictures import COLOURS, PANEL_PIXELS, View, png_bytes, save_png, three_planes


def a_view(affine: np.ndarray | None = None) -> View:
    image = np.ones((20, 30, 16))
    image[15:, 20:, :] = 5
    labels = np.zeros(image.shape)
    labels[15:18, 24:28, 6:10] = 1
    return View.of(image, labels, np.eye(4) if affine is None else affine)


def test_the_right_side_is_shown_on_the_left() -> None:
    """The structure lies at high x, which is the patient's right: its outline is in the left half, and in front."""
    axial = np.asarray(three_planes(a_view(), at=(16, 26, 8)).crop((0, 0, PANEL_PIXELS, PANEL_PIXELS)))
    rows, columns = np.nonzero((axial == COLOURS[0]).all(axis=2))
    assert len(rows)
    assert columns.mean() < PANEL_PIXELS / 2
    assert rows.mean() < PANEL_PIXELS / 2


def test_orientation_of_the_file_does_not_show() -> None:
    affine = np.diag([-1.0, 1, 1, 1])
    affine[0, 3] = 19
    ras = a_view()
    las = View.of(ras.image[::-1], ras.labels[::-1], affine)
    assert np.array_equal(las.labels, ras.labels)
    assert png_bytes(three_planes(las)) == png_bytes(three_planes(ras))


def test_the_legend_names_what_is_there_in_its_colour() -> None:
    plain, named = (three_planes(a_view(), legend=legend) for legend in (None, {1: "front", 2: "back"}))
    line = np.asarray(named.crop((0, 0, named.width, named.height - plain.height)))
    red_over_blue = line[..., 0].astype(int) - line[..., 2]
    assert red_over_blue.max() > 100, "orange: front"
    assert red_over_blue.min() > -100, "no blue: back is not in the picture"


def test_a_picture_without_labels_is_drawn_too(tmp_path: Path) -> None:
    view = View.of(np.zeros((4, 5, 6)), np.zeros((4, 5, 6)), np.eye(4))
    with Image.open(save_png(tmp_path / "a.png", three_planes(view, title="empty"))) as picture:
        assert picture.width == 3 * PANEL_PIXELS
    assert view.zoom(5).image.shape == (4, 5, 6)


def test_a_page_escapes_what_it_is_given(tmp_path: Path) -> None:
    parts = [table(["<b>"], [{"<b>": "<img onerror=x>"}]), figure(b"png", 'a "quote"')]
    text = write_page(tmp_path / "a.html", "<title>", parts).read_text()
    assert "<img onerror" not in text
    assert "&lt;title&gt;" in text
    assert "http" not in text.split("</style>")[1], "the page must ask nobody for anything"
