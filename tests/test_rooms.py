"""One way through the house: no room imports a room to its right."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "neurobundle"

FLOOR = ("__init__", "errors", "files", "geometry", "lazy", "memory", "types")
# measure writes its reports with what export has; export knows nothing of the truth.
WAY = ("load", "prepare", "augment", "networks", "infer", "postprocess", "export", "measure")
ROOF = ("train", "bundle", "label", "commands", "cli", "__main__")
LEVEL = dict.fromkeys(FLOOR, 0) | {name: 1 + n for n, name in enumerate(WAY)} | dict.fromkeys(ROOF, 100)


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "neurobundle" else [f"neurobundle.{a.name}" for a in node.names]
        for name in names:
            if name.startswith("neurobundle."):
                yield name.split(".")[1]


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_room_imports_a_room_to_its_right(path: Path) -> None:
    here = room(path)
    assert here in LEVEL, f"{here} is no room of the house: see docs/concepts/house.md"
    for other in imported_rooms(path):
        if other in LEVEL:
            assert LEVEL[other] <= LEVEL[here], f"{here} imports {other}, which is to its right"
        else:
            assert other.startswith("__"), f"{here} imports {other}, which is no room"


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_modules_stay_readable(path: Path) -> None:
    """A module of more than about 400 lines is two modules."""
    assert len(path.read_text().splitlines()) <= 420
