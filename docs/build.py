"""Builds the documentation: ``python docs/build.py`` writes ``docs/_site``, ``--check`` only checks.

A *page* is a Markdown file under ``docs/``, the README, the changelog and its siblings, a bundle's card, or a reference
page that is made here from the public docstrings of a room. A link to a page, to a heading of it, to a file or to a
picture of the repository must lead somewhere, or the build fails and lists each one that does not.
"""

from __future__ import annotations

import argparse
import ast
import html
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from urllib.parse import unquote, urlsplit

import markdown

SITE = "docs/_site"

#: Pages in the repository's root.
ROOT_PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")

#: Order of the navigation; pages of other folders come last.
SECTIONS = {"": "", "docs": "", "docs/concepts": "Concepts", "docs/how-to": "How to", "docs/reference": "Reference"} | {
    "docs/decisions": "Decisions",
    "bundles": "Bundles",
}

EXTENSIONS = ("tables", "fenced_code", "toc", "sane_lists", "attr_list")

STYLE = """\
body{display:flex;gap:2rem;max-width:72rem;margin:0 auto;padding:1rem;font:16px/1.5 system-ui,sans-serif;color:#222}
nav{flex:0 0 14rem;font-size:.9rem}nav ul{list-style:none;padding:0}nav h2{font-size:.9rem;margin:1rem 0 0}
main{min-width:0;flex:1}pre{background:#f4f4f4;padding:.7rem;overflow:auto}code{font-size:.9em}
table{border-collapse:collapse;display:block;overflow:auto}td,th{border:1px solid #ccc;padding:.2rem .5rem}
img{max-width:100%}a{color:#0645ad}.here{font-weight:bold}
@media(max-width:50rem){body{display:block}}"""


@dataclass
class Page:
    """One page.

    Args:
        source: its path in the repository, with slashes; made-up for reference pages.
        text: its Markdown.
    """

    source: str
    text: str
    body: str = ""
    title: str = ""
    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)

    @property
    def target(self) -> str:
        """Its path in the site."""
        inside = self.source.removeprefix("docs/")
        name = "readme.md" if self.source == "README.md" else inside
        return str(PurePosixPath(name).with_suffix(".html"))


class _Reader(HTMLParser):
    """Collects ids, links and pictures of a rendered page."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value)
            elif (tag, name) in (("a", "href"), ("img", "src"), ("source", "src")):
                self.links.append(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build or check; 1 if a link is broken."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1], help="the repository")
    options = parser.parse_args(arguments)
    pages = load_pages(options.root)
    broken = [line for page in pages.values() for line in broken_links(page, pages, options.root)]
    for line in broken:
        print(f"BROKEN {line}")
    if broken:
        return 1
    if not options.check:
        write_site(pages, options.root)
    print(f"{len(pages)} pages, every link leads somewhere" + ("" if options.check else f": {SITE}/index.html"))
    return 0


def load_pages(root: Path) -> dict[str, Page]:
    """All pages of a repository, rendered, by source."""
    paths = [root / name for name in ROOT_PAGES]
    paths += sorted((root / "docs").rglob("*.md")) + sorted(root.glob("bundles/*/docs/**/*.md"))
    pages = {}
    for path in paths:
        source = path.relative_to(root).as_posix()
        if path.is_file() and not source.startswith(SITE):
            pages[source] = Page(source, path.read_text(encoding="utf-8"))
    for source, text in reference_pages(root):
        pages.setdefault(source, Page(source, text))
    for page in pages.values():
        render(page)
    return pages


def render(page: Page) -> None:
    """Fill in a page's HTML, title, anchors and links."""
    options = {"toc": {"slugify": slug}}
    page.body = markdown.markdown(page.text, extensions=list(EXTENSIONS), extension_configs=options)
    heading = re.search(r"<h1[^>]*>(.*?)</h1>", page.body, re.DOTALL)
    page.title = html.unescape(re.sub(r"<[^>]+>", "", heading.group(1))).strip() if heading else page.source
    reader = _Reader()
    reader.feed(page.body)
    page.anchors, page.links = reader.anchors, reader.links


def slug(text: str, separator: str) -> str:
    """A heading's anchor as GitHub makes it, so that a link works here and there."""
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", separator)


def broken_links(page: Page, pages: dict[str, Page], root: Path) -> Iterator[str]:
    """One line for each link of a page that leads nowhere."""
    for link in page.links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        source = _resolved(page, parts.path)
        if source.startswith("../") or parts.path.startswith("/"):
            yield f"{page.source}: {link} leaves the repository"
        elif source in pages:
            if parts.fragment and unquote(parts.fragment) not in pages[source].anchors:
                yield f"{page.source}: {link} has no such heading"
        elif not (root / source).exists():
            yield f"{page.source}: {link} is not there"


def write_site(pages: dict[str, Page], root: Path) -> None:
    """Write the HTML, and copy the files that pages link to."""
    site = root / SITE
    shutil.rmtree(site, ignore_errors=True)
    for page in pages.values():
        body = re.sub(r'(href|src)="([^"]*)"', lambda match, page=page: _rewritten(match, page, pages, root), page.body)
        depth = "../" * page.target.count("/")
        text = (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(page.title)}</title>'
            f'<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="{depth}style.css"></head>'
            f"<body>{navigation(page, pages)}<main>{body}</main></body></html>\n"
        )
        path = site / page.target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (site / "style.css").write_text(STYLE, encoding="utf-8")


def navigation(here: Page, pages: dict[str, Page]) -> str:
    """The list of pages, by section, as seen from one of them."""
    groups: dict[str, list[Page]] = {section: [] for section in SECTIONS}
    for page in pages.values():
        folder = str(PurePosixPath(page.source).parent)
        folder = "bundles" if folder.startswith("bundles/") else "" if folder == "." else folder
        groups.setdefault(folder, []).append(page)
    lines = []
    for section, members in groups.items():
        heading = SECTIONS.get(section, section)
        lines.append(f"<h2>{html.escape(heading)}</h2><ul>" if heading else "<ul>")
        for page in members:
            link = relpath(page.target, str(PurePosixPath(here.target).parent))
            mark = ' class="here"' if page is here else ""
            lines.append(f'<li><a{mark} href="{html.escape(link)}">{html.escape(page.title)}</a></li>')
        lines.append("</ul>")
    return f"<nav>{''.join(lines)}</nav>"


def reference_pages(root: Path) -> Iterator[tuple[str, str]]:
    """A page for each room of the library, from the source alone; nothing is imported."""
    package = root / "src" / "neurobundle"
    if not package.is_dir():
        return
    floor = sorted(path for path in package.glob("*.py") if path.stem not in ("__init__", "__main__"))
    if floor:
        yield "docs/reference/floor.md", _reference("neurobundle", floor, package / "__init__.py")
    for room in sorted(path.parent for path in package.glob("*/__init__.py")):
        files = sorted(path for path in room.rglob("*.py") if not path.stem.startswith("_"))
        yield f"docs/reference/{room.name}.md", _reference(f"neurobundle.{room.name}", files, room / "__init__.py")


def _reference(name: str, files: Sequence[Path], init: Path) -> str:
    """The Markdown of a reference page: each module with its public names, signatures and first lines."""
    lines = [f"# {name}", "", _first_line(ast.parse(init.read_text(encoding="utf-8"))), ""]
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        public = [
            node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"
        ]
        module = ".".join(path.relative_to(init.parent).with_suffix("").parts)
        lines += [f"## {name}.{module}", "", _first_line(tree), ""]
        for node in public:
            lines += [f"- `{_signature(node)}`: {_first_line(node)}"]
        lines.append("")
    return "\n".join(lines)


def _signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    if isinstance(node, ast.FunctionDef):
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return f"{node.name}({ast.unparse(node.args)}){returns}"
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            arguments = re.sub(r"^self(, )?", "", ast.unparse(item.args))
            return f"{node.name}({arguments})"
    return node.name


def _first_line(node: ast.FunctionDef | ast.ClassDef | ast.Module) -> str:
    """The first paragraph of a docstring; roles and double backquotes as Markdown has them."""
    text = (ast.get_docstring(node) or "").partition("\n\n")[0]
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text).replace("``", "`")
    return html.escape(" ".join(text.split()), quote=False)


def _resolved(page: Page, path: str) -> str:
    """The path in the repository that a link leads to."""
    if not path:
        return page.source
    return normpath(str(PurePosixPath(page.source).parent / unquote(path)))


def _rewritten(match: re.Match[str], page: Page, pages: dict[str, Page], root: Path) -> str:
    """A link as it must be in the site; a linked file is copied there."""
    attribute, link = match.groups()
    parts = urlsplit(html.unescape(link))
    if parts.scheme or parts.netloc or not parts.path:
        return match.group(0)
    source = _resolved(page, parts.path)
    if source in pages:
        target = pages[source].target
    elif (root / source).is_dir():
        return f'{attribute}="{relpath(source, str(PurePosixPath(SITE, page.target).parent))}"'
    else:
        target = f"files/{source}"
        (root / SITE / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / source, root / SITE / target)
    new = relpath(target, str(PurePosixPath(page.target).parent))
    return f'{attribute}="{html.escape(new)}{"#" + parts.fragment if parts.fragment else ""}"'


if __name__ == "__main__":
    sys.exit(main())
