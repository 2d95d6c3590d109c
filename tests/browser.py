"""A real browser, without a window, for the pages that people look at."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

needs_browser = pytest.mark.skipif(BROWSER is None, reason="there is no chromium and no google-chrome on PATH")

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
