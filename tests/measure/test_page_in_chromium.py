"""The reports in a real browser: everything is there, nothing is refused, and nothing is wider than the screen."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ..browser import BROWSER, DESKTOP, PHONE, SECONDS, browse, measure, needs_browser
from .test_page import WRITERS, require_sound

pytestmark = [pytest.mark.slow, needs_browser]


each_task = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())


@each_task
def test_a_browser_shows_all_of_it_and_complains_of_nothing(write: Callable[..., Path], tmp_path: Path) -> None:
    """A refused style, picture or request would be an error in the console."""
    report = write(tmp_path / "report.html")
    expected = require_sound(report)
    dom, console = browse(tmp_path, report)
    assert not console
    for tag in ("table", "svg", "img", "section", "tr"):
        assert len(re.findall(rf"<{tag}\b", dom)) == len(expected.all(tag))


def test_a_page_that_asks_for_something_is_noticed(tmp_path: Path) -> None:
    """So an empty console means something."""
    report = WRITERS["detection"](tmp_path / "report.html")
    spoiled = tmp_path / "spoiled.html"
    spoiled.write_text(report.read_text().replace("</main>", "<script>1</script></main>"))
    assert browse(tmp_path, spoiled)[1]


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@each_task
def test_nothing_is_wider_than_the_screen(write: Callable[..., Path], width: int, tmp_path: Path) -> None:
    """Wide tables scroll in boxes of their own, words without blanks are broken, and every picture can be decoded."""
    long = {
        "title": "a_bundle_of_ours_" * 9,
        "problems": {"lost": "/somebodys/folder" * 30},
        "facts": [("word" * 30, "ab" * 200)],
    }
    found = measure(tmp_path, write(tmp_path / "report.html", **long), width)
    assert found["room"] == width
    assert found["width"] <= width
    assert found["beyond"] == []
    assert found["broken"] == 0
    assert found["main"]
    assert found["cases"] == []
    assert found["charts"] == len(found["charts_high"]) > 0
    assert min(found["charts_high"]) > 80
    if width == PHONE:
        assert found["scrolling"] > 0


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_page_of_a_case_hides_the_rest(width: int, tmp_path: Path) -> None:
    report = WRITERS["segmentation"](tmp_path / "report.html")
    found = measure(tmp_path, report, width, "#case-bad-one")
    assert found["cases"] == ["case-bad-one"]
    assert not found["main"]
    assert found["width"] <= width
    assert found["beyond"] == []


def test_a_link_into_the_main_part_leads_back(tmp_path: Path) -> None:
    found = measure(tmp_path, WRITERS["segmentation"](tmp_path / "report.html"), DESKTOP, "#row-case-bad-one")
    assert found["cases"] == []
    assert found["main"]


def test_paper_has_all_of_it(tmp_path: Path) -> None:
    """The main part prints as a few pages; a case's page as one."""
    report = WRITERS["segmentation"](tmp_path / "report.html")
    pages = []
    for address in ("", "#case-bad-one"):
        sheet = tmp_path / "report.pdf"
        command = [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'p'}"]
        command += [f"--print-to-pdf={sheet}", report.as_uri() + address]
        subprocess.run(command, capture_output=True, timeout=SECONDS, check=True)
        pages.append(len(re.findall(rb"/Type\s*/Page\b", sheet.read_bytes())))
    assert 2 <= pages[0] <= 6
    assert pages[1] == 1
