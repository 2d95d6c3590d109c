"""The reports in a real browser: everything is there, nothing is refused, and nothing is wider than the screen."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .test_page import WRITERS, require_sound

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no chromium and no google-chrome on PATH"),
]

#: A browser that does not answer has failed.
SECONDS = 120
PHONE, DESKTOP = 360, 1400


def browse(folder: Path, page: Path, *options: str) -> tuple[str, list[str]]:
    """A page's DOM after it was loaded, and what its console says."""
    command = [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--enable-logging=stderr", "--v=0", *options, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def measure(folder: Path, report: Path, width: int, address: str = "") -> dict[str, Any]:
    """What a script outside the page finds inside it.

    A browser's window is never as narrow as a phone, and the page lets no script in, so the page stands in a frame.
    """
    look = """
      const page = frame.contentDocument, root = page.documentElement;
      const shown = element => element.checkVisibility();
      const boxes = [...page.querySelectorAll('.scroll')].filter(shown);
      const images = [...page.images];
      images.forEach(image => { image.loading = 'eager'; });
      await new Promise(done => setTimeout(done, 500));
      document.title = JSON.stringify({
        width: root.scrollWidth, room: frame.clientWidth,
        main: shown(page.querySelector('main')),
        cases: [...page.querySelectorAll('section.case')].filter(shown).map(element => element.id),
        tables: page.querySelectorAll('table').length, charts: page.querySelectorAll('svg.chart').length,
        charts_high: [...page.querySelectorAll('main svg.chart')].map(svg => svg.getBoundingClientRect().height),
        images: images.length, broken: images.filter(image => !image.naturalWidth).length,
        scrolling: boxes.filter(box => box.scrollWidth > box.clientWidth).length,
        beyond: [...page.body.querySelectorAll('*')].filter(element => shown(element)
          && !element.closest('.scroll') && element.getBoundingClientRect().right > frame.clientWidth + 1
        ).map(element => element.tagName),
      });
    """
    host = folder / "host.html"
    frame = (
        f'<iframe id="frame" width="{width}" height="900" style="border:0" srcdoc="{html.escape(report.read_text())}">'
    )
    go = f"frame.contentWindow.location.hash = {json.dumps(address)};" if address else ""
    script = f"onload = async () => {{ const frame = document.getElementById('frame'); {go} {look} }}"
    host.write_text(f"<!doctype html><body style='margin:0'>{frame}</iframe><script>{script}</script>")
    dom, console = browse(folder, host, "--window-size=1500,1000", "--virtual-time-budget=20000")
    assert not console
    title = re.search(r"<title>(\{.*?\})</title>", dom, re.DOTALL)
    assert title, "the page was measured"
    return dict(json.loads(html.unescape(title[1])))


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
        "problems": ["/somebodys/folder" * 30],
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
