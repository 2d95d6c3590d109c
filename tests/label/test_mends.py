"""What env/label_mends.py does to an environment, without one that has MONAI Label."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from neurobundle.networks import vision

from ..conftest import ROOT

SCRIPT = ROOT / "env" / "label_mends.py"


@pytest.fixture
def mends(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script as each Python of that environment imports it."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    spec = importlib.util.spec_from_file_location("label_mends", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("torchvision", None)


def fake(folder: Path, message: str) -> None:
    """A torchvision whose import fails unless its operators have names."""
    (folder / "torchvision").mkdir()
    text = f"import builtins\nif not hasattr(builtins, 'named'):\n    raise RuntimeError({message!r})\nvalue = 1\n"
    (folder / "torchvision" / "__init__.py").write_text(text)


def test_torchvision_is_imported_once_its_operators_have_names(
    mends: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import builtins

    fake(tmp_path, "operator torchvision::nms does not exist")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(builtins, "named", None, raising=False)
    monkeypatch.delattr(builtins, "named")
    monkeypatch.setattr(vision, "name_the_operators", lambda: setattr(builtins, "named", True))
    import torchvision

    assert torchvision.value == 1


def test_another_failure_is_not_hidden(mends: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, "out of memory")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(vision, "name_the_operators", lambda: pytest.fail("that is not what is missing"))
    with pytest.raises(RuntimeError, match="out of memory"):
        import torchvision  # noqa: F401


def test_what_is_written(mends: ModuleType, tmp_path: Path) -> None:
    """A module that pydicom-seg asks for, with the names of pydicom's; and a line that each Python reads."""
    pytest.importorskip("pydicom")
    (tmp_path / "pydicom").mkdir()
    mends.write(tmp_path)
    names = runpy.run_path(str(tmp_path / "pydicom" / "_storage_sopclass_uids.py"))
    assert names["SegmentationStorage"] == "1.2.840.10008.5.1.4.1.1.66.4"
    assert (tmp_path / "label_mends.pth").read_text() == "import label_mends\n"
    assert (tmp_path / "label_mends.py").read_bytes() == SCRIPT.read_bytes()


def pins(file: str) -> dict[str, str]:
    lines = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]
    return {name.lower().replace("_", "-"): version for name, version in (line.split("==") for line in lines)}


def test_a_server_computes_with_the_versions_of_the_main_environment() -> None:
    """But for numpy, which MONAI Label wants below 2. torch comes first: another package would bring a CUDA build."""
    ours, label = pins("constraints.txt"), pins("env/label.txt")
    assert next(iter(label)) == "torch"
    for name in ("torch", "monai", "scipy", "nibabel", "pytorch-ignite", "scikit-image", "itk-io", "pydicom", "isal"):
        assert label[name] == ours[name], name
