"""The viewer that MONAI Label carries (OHIF) in a real browser: a study of an archive, and what a bundle sees in it."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from neurobundle.cli import main

from ..browser import needs_browser
from ..conftest import ROOT
from ..helpers import require_weights
from ..label.client import SlicerClient
from ..label.conftest import SERVED, free_port, served
from ..load.dicom import make
from .conftest import Archive, archive, on_archive
from .devtools import Page, browser
from .scans import SHAPE, template_series

pytestmark = [pytest.mark.slow, needs_browser]

#: What a page that took a name for HTML would ask for, and call itself.
PLANTED, TITLE = "planted.png", "76"
MARKUP = f"<img src=/{PLANTED} onerror=document.title={TITLE}>"
WORDS = ("PatientName", "PatientID", "StudyDescription", "SeriesDescription", "AccessionNumber")

#: In JavaScript's unit.
SECOND = 1000

#: Of the slices, counted from below: what three planes begin with.
MIDDLE = SHAPE[2] // 2

#: Numbers of the studies.
AXIAL, SAGITTAL, MARKED, SEGMENTED = range(4)


class Place(NamedTuple):
    """A server on an archive with four studies.

    Attributes:
        client: of the server.
        folder: where it runs.
        result: what `neurobundle run` wrote of the last study, which is in the archive.
    """

    client: SlicerClient
    folder: Path
    result: Path


def study_uid(number: int) -> str:
    return f"{make.STUDY}.{number + 1}"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study, and what our command says of it."""
    require_weights(ROOT / "bundles" / SERVED)
    folder = tmp_path_factory.mktemp("segmented")
    template_series(folder / "study", SEGMENTED)
    words = ["run", str(ROOT / "bundles" / SERVED), "-i", str(folder / "study"), "-o", str(folder / "out")]
    assert main([*words, "--output", "nifti,dicom-seg,dicom-sr", "--no-pictures", "--device", "cpu"]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def store(result: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp("archive")
    with archive(folder / "orthanc") as one:
        one.store(template_series(folder / "axial", AXIAL).files)
        one.store(template_series(folder / "sagittal", SAGITTAL, sagittal=True).files)
        short = {word: MARKUP[:16] if word == "AccessionNumber" else MARKUP for word in WORDS}
        one.store(template_series(folder / "marked", MARKED, **short).files)
        one.store([*(result.parent / "study").iterdir(), *result.glob("*.dcm")])
        yield one


@contextmanager
def ours(store: Archive, folder: Path, python: Path) -> Iterator[SlicerClient]:
    """Our app on the archive, behind its guard."""
    port = free_port()
    words = [python, "-m", "neurobundle", "label", ROOT / "bundles" / SERVED, "--studies", store.address]
    words += ["--store", folder / "store", "--port", port]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    with served([*map(str, words)], folder, variables, port, folder / "server.txt") as client:
        yield client


@pytest.fixture(scope="module", params=["stock", "ours"])
def place(
    request: pytest.FixtureRequest,
    store: Archive,
    result: Path,
    label_python: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Place]:
    """MONAI Label's own app, and ours."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "stock":
        with on_archive(store, folder, label_python, [SERVED]) as server:
            yield Place(server.client, folder, result)
    else:
        with ours(store, folder, label_python) as client:
            yield Place(client, folder, result)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A browser's page."""
    with browser(tmp_path) as one:
        yield one


def open_study(page: Page, address: str, number: int) -> None:
    """The viewer at a study."""
    page.open(f"{address}/ohif/monai-label?StudyInstanceUIDs={study_uid(number)}")
    page.wait_for("document.getElementById('monailabelServerURL')")
    page.wait_for("document.querySelectorAll('canvas.cornerstone-canvas').length == 3")


def segment(page: Page, address: str) -> None:
    """Connect the panel to the server, and let it run its model, as a person does."""
    page.run(f"""(() => {{
        const field = document.getElementById('monailabelServerURL');
        field.value = {json.dumps(address + "/")};
        field.dispatchEvent(new FocusEvent('focusout', {{bubbles: true}}));
    }})()""")
    page.run("document.querySelector('.monaiLabelPanel .settingsTable button').click()")
    run = "document.querySelector('.monaiLabelPanel button[title=\"Run Segmentation\"]')"
    page.wait_for(run)
    # The panel makes an empty label map first, a second after it was connected.
    page.run(f"new Promise(done => setTimeout(done, {3 * SECOND}))")
    page.run(f"{run}.click()")
    for _ in range(60):
        page.run(f"new Promise(done => setTimeout(done, {SECOND}))")
        if any("updated the segmentation" in line for line in page.console):
            return
    raise AssertionError(page.console[-20:])


def axial_plane(page: Page) -> np.ndarray:
    """What the first of the three planes shows once it no longer changes, RGB, ``(row, column, 3)``."""
    last = None
    for _ in range(60):
        url = page.run("document.querySelector('canvas.cornerstone-canvas').toDataURL()")
        with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
            shown = np.asarray(image.convert("RGB"))
        if last is not None and shown.any() and np.array_equal(shown, last):
            return shown
        last = shown
        page.run(f"new Promise(done => setTimeout(done, {2 * SECOND}))")
    raise AssertionError("the plane never came to rest")


def coloured(picture: np.ndarray) -> np.ndarray:
    """Where it is no shade of grey."""
    values = picture.astype(int)
    return values.max(axis=2) - values.min(axis=2) > 12


def on_voxels(picture: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Which voxels of an axial slice are mostly drawn over, ``(i, j)``, i to the left and j to the back.

    The slice is the box of what is not black.
    """
    rows, columns = np.nonzero(picture.max(axis=2) > 20)
    box = drawn[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = box.shape
    assert height / width == pytest.approx(SHAPE[1] / SHAPE[0], rel=0.05)
    small = Image.fromarray((255 * box).astype(np.uint8)).resize((SHAPE[0], SHAPE[1]), Image.Resampling.BOX)
    return np.asarray(small).T > 127


def axial_slice(label_map: Path) -> np.ndarray:
    """What of the slice in the middle is labelled, ``(i, j)``, i to the left and j to the back."""
    mask = nib.as_closest_canonical(nib.load(label_map))
    assert mask.shape == SHAPE
    found = np.asarray(mask.dataobj)[::-1, ::-1, MIDDLE - 1] > 0
    assert found.sum() > 50
    return found


@pytest.mark.parametrize("number", [AXIAL, SAGITTAL], ids=["axial", "sagittal"])
def test_a_study_with_what_the_bundle_sees(place: Place, page: Page, tmp_path: Path, number: int) -> None:
    """The viewer draws the mask voxel by voxel, whatever its header says of the grid, so the order must be right."""
    address = place.client.address
    open_study(page, address, number)
    before = axial_plane(page)
    assert before.std() > 20, "the image is shown"
    assert not coloured(before).any()
    segment(page, address)
    after = axial_plane(page)
    page.picture(place.folder / f"viewer_{number}.png")  # for a person to look at
    content, _ = place.client.infer(SERVED, f"{study_uid(number)}.1", output="image", result_extension=".nii.gz")
    assert content
    (tmp_path / "mask.nii.gz").write_bytes(content)
    assert np.array_equal(on_voxels(before, coloured(after)), axial_slice(tmp_path / "mask.nii.gz"))


def test_a_segmentation_of_ours_opens(place: Place, page: Page) -> None:
    """A double click, and the mask lies where it was found, with its structures' names; a report is there too."""
    page.open(f"{place.client.address}/ohif/viewer?StudyInstanceUIDs={study_uid(SEGMENTED)}")
    page.wait_for("document.querySelector('canvas.cornerstone-canvas')")
    axial_plane(page)
    listed = "[...document.querySelectorAll('[data-cy=study-browser-thumbnail-no-image]')]"
    assert page.run(f"{listed}.map(one => one.innerText.split('\\n')[0])") == ["SEG", "SR"]
    page.run(f"{listed}[0].firstElementChild.dispatchEvent(new MouseEvent('dblclick', {{bubbles: true}}))")
    page.wait_for("document.querySelector('[data-cy=yes-hydrate-btn]')")
    page.run("document.querySelector('[data-cy=yes-hydrate-btn]').click()")
    page.wait_for("!document.querySelector('[data-cy=yes-hydrate-btn]')")
    axial_plane(page)
    for _ in range(MIDDLE - 1):
        page.press("ArrowDown", 40)
    page.wait_for(f"document.body.innerText.includes('({MIDDLE}/{SHAPE[2]})')")
    page.run("document.querySelector('[data-cy=panelSegmentation-btn]').click()")
    page.wait_for("document.body.innerText.includes('posterior')")
    shown = axial_plane(page)
    page.picture(place.folder / "segmentation.png")  # for a person to look at
    (label_map,) = place.result.glob("*_seg.nii.gz")
    assert np.array_equal(on_voxels(shown, coloured(shown)), axial_slice(label_map))


def test_76_a_name_that_is_html(place: Place, page: Page) -> None:
    """It is shown as the text that it is, in the list of studies and at the study; no script ran, nobody was asked."""
    address = place.client.address
    page.open(f"{address}/ohif/")
    page.wait_for("document.body?.innerText.includes('MADE, CASE 0')")
    text = page.run("document.body.innerText")
    assert MARKUP in text
    assert text.count("<img src") >= 2, "a name ends for DICOM at its first equals sign"
    open_study(page, address, MARKED)
    page.wait_for(f"document.body?.innerText.includes({json.dumps(MARKUP)})")
    assert page.run("document.title") != TITLE
    assert not [request for request in page.requests if urlsplit(request).path.endswith(PLANTED)]
    assert page.run(f"[...document.images].filter(one => one.src.includes({json.dumps(PLANTED)})).length") == 0


def test_76_behind_the_guard_nothing_is_asked_of_others(place: Place, page: Page) -> None:
    """Our pages say whom they may ask: this server. MONAI Label's own ask others for a font."""
    address = place.client.address
    open_study(page, address, AXIAL)
    segment(page, address)
    others = [one for one in page.requests if not one.startswith((address, "data:", "blob:"))]
    if (place.folder / "store").exists():
        assert others == []
        assert any("Content Security Policy" in line for line in page.console)
    else:
        assert others
        assert all("fonts.googleapis.com" in one for one in others), others
