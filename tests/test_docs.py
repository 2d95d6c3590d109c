"""The documentation's links lead somewhere, and the checker sees those that do not."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]

MODULE = '''"""One file."""


def read(path: str, *, strict: bool = True) -> int:
    """Read it.

    Long.
    """


def _hidden(): ...
'''


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """docs/build.py as a module."""
    pytest.importorskip("markdown")
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def repository(tmp_path):
    """A repository whose links are all good."""
    (tmp_path / "docs" / "how-to").mkdir(parents=True)
    (tmp_path / "src" / "neurobundle" / "load").mkdir(parents=True)
    (tmp_path / "src/neurobundle/load/__init__.py").write_text('"""Reads ``files``."""\n')
    (tmp_path / "src/neurobundle/load/nifti.py").write_text(MODULE)
    (tmp_path / "picture.png").write_bytes(b"png")
    (tmp_path / "README.md").write_text(
        "# Hello, World!\n\n![p](picture.png) [how](docs/how-to/a%20b.md#two-words) [out](https://example.org/x)\n"
        "[src](src/neurobundle) [ref](docs/reference/load.md) [here](#hello-world)\n"
    )
    (tmp_path / "docs/index.md").write_text("# Index\n\n[readme](../README.md)\n")
    (tmp_path / "docs/how-to/a b.md").write_text("# A\n\n## Two words\n\n```\n[no](link.md)\n```\n")
    return tmp_path


def test_good_pages(build, repository, capsys):
    """Nothing is broken; pages, pictures and the reference are in the site, and links are rewritten."""
    assert build.main(["--root", str(repository)]) == 0
    site = repository / "docs/_site"
    readme = (site / "readme.html").read_text()
    assert 'href="how-to/a b.html#two-words"' in readme
    assert 'src="files/picture.png"' in readme
    assert (site / "files/picture.png").is_file()
    assert "read(path: str, *, strict: bool=True) -&gt; int" in (site / "reference/load.html").read_text()
    assert "_hidden" not in (site / "reference/load.html").read_text()
    assert 'href="../readme.html"' in (site / "how-to/a b.html").read_text()
    assert build.main(["--root", str(repository)]) == 0  # the site is no source of pages


def test_check_writes_nothing(build, repository):
    assert build.main(["--root", str(repository), "--check"]) == 0
    assert not (repository / "docs/_site").exists()


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ("[x](nowhere.md)", "nowhere.md is not there"),
        ("[x](how-to/a%20b.md#three)", "has no such heading"),
        ("[x](#nowhere)", "has no such heading"),
        ("![x](missing.png)", "missing.png is not there"),
        ('<img src="gone.png">', "gone.png is not there"),
        ("[x](../../outside.md)", "leaves the repository"),
        ("[x](/etc/hostname)", "leaves the repository"),
        ("[x][y]\n\n[y]: gone.md", "gone.md is not there"),
    ],
)
def test_broken_link(build, repository, capsys, link, message):
    """Each kind of broken link fails the build, is listed with its page, and nothing is written."""
    (repository / "docs/index.md").write_text(f"# Index\n\n{link}\n")
    assert build.main(["--root", str(repository)]) == 1
    assert re.search(f"BROKEN docs/index.md: .*{re.escape(message)}", capsys.readouterr().out)
    assert not (repository / "docs/_site").exists()


def test_our_own_pages(build, capsys):
    """Every link of this repository leads somewhere."""
    assert build.main(["--check"]) == 0, capsys.readouterr().out
