"""A description changes with all that can change a voxel, and with nothing else."""

import functools
import json
import logging
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Lambdad
from scipy import ndimage

from neurobundle.errors import SettingError
from neurobundle.prepare.bias_correction import N4BiasFieldCorrectiond
from neurobundle.prepare.store_description import described


def text(value: Any) -> str:
    return json.dumps(described(value))


class Holds:
    """A step that a user wrote, set by one value of any kind."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self, image: Any) -> Any:
        return image * self.value


class Slotted:
    __slots__ = ("factor", "never_set")

    def __init__(self, factor: float) -> None:
        self.factor = factor


class Both(Slotted):
    def __init__(self, factor: float, shift: float) -> None:
        super().__init__(factor)
        self.shift = shift


@dataclass(frozen=True)
class Settings:
    factor: float = 1.0


class Pair(NamedTuple):
    first: float
    second: float


class Way(Enum):
    UP = 1
    DOWN = 2


class Counted(dict[str, int]):
    """A dictionary of one's own."""


def closed_over(factor: float) -> Callable[[float], float]:
    return lambda x: x * factor


def with_default(factor: float) -> Callable[[float], float]:
    return lambda x, y=factor: x * y


def with_keyword(factor: float) -> Callable[[float], float]:
    return lambda x, *, y=factor: x * y


def recursive(stop: int) -> Callable[[int], int]:
    def down(n: int) -> int:
        return n if n <= stop else down(n - 1)

    return down


def cached(factor: float) -> Callable[[float], float]:
    return functools.cache(closed_over(factor))


def listed(value: Any) -> Any:
    """An array of objects, whose bytes are addresses."""
    array = np.empty(1, object)
    array[0] = value
    return array


#: What makes a value from a number.
MAKERS: dict[str, Callable[[Any], Any]] = {
    "number": lambda k: k,
    "np.float32": np.float32,
    "np.float64": np.float64,
    "array": lambda k: np.array([k, 0]),
    "masked array": lambda k: np.ma.MaskedArray([1, 1], [k == 2, False]),
    "array of objects": lambda k: listed([k]),
    "tensor": lambda k: torch.tensor([[1, k]]),
    "tensor without an axis": lambda k: torch.tensor(float(k)),
    "tensor of bfloat16": lambda k: torch.tensor([k], dtype=torch.bfloat16),
    "weight": lambda k: torch.nn.Parameter(torch.tensor([float(k)])),
    "network": lambda k: torch.nn.Conv1d(k, 1, 1, bias=False).apply(lambda net: torch.nn.init.ones_(net.weight)),
    "place": lambda k: MetaTensor(torch.zeros(1), affine=torch.eye(4) * k),
    "range": range,
    "slice": slice,
    "complex": complex,
    "bytes": bytes,
    "set": lambda k: {"a", "b", k},
    "key": lambda k: {k: 1},
    "lambda": lambda k: (lambda x: x * 2) if k == 2 else (lambda x: x * 3),
    "operation": lambda k: (lambda x: x * 2) if k == 2 else (lambda x: x + 2),
    "inner lambda": lambda k: (lambda x: [y * 2 for y in x]) if k == 2 else (lambda x: [y * 3 for y in x]),
    "closure": closed_over,
    "default": with_default,
    "keyword": with_keyword,
    "recursion": recursive,
    "cached": cached,
    "partial": lambda k: functools.partial(torch.mul, other=k),
    "partial's function": lambda k: functools.partial(torch.mul if k == 2 else torch.add, other=2),
    "partial's argument": lambda k: functools.partial(pow, k),
    "method": lambda k: Holds(k).__call__,
    "bound in C": lambda k: {1: k}.get,
    "installed": lambda k: ndimage.gaussian_filter if k == 2 else ndimage.median_filter,
    "builtin": lambda k: abs if k == 2 else round,
    "ufunc": lambda k: np.sin if k == 2 else np.cos,
    "torch method": lambda k: torch.Tensor.abs if k == 2 else torch.Tensor.neg,
    "slots": Slotted,
    "slots of a base": lambda k: Both(k, 0.0),
    "beside slots": lambda k: Both(0.0, k),
    "dataclass": Settings,
    "named tuple": lambda k: Pair(1.0, k),
    "enum": lambda k: Way.UP if k == 2 else Way.DOWN,
    "mapping": lambda k: Counted(a=k),
    "proxy": lambda k: types.MappingProxyType({"a": k}),
    "deep": lambda k: functools.reduce(lambda inner, _: [inner], range(30), k),
    "dtype": lambda k: torch.float16 if k == 2 else torch.float32,
}


@pytest.mark.parametrize("name", MAKERS)
def test_2_a_setting_is_in_the_description(name: str) -> None:
    """Another value gives another text, an equal one made anew the same."""
    make = MAKERS[name]
    first, same, other = (Lambdad("image", func=Holds(make(k))) for k in (2, 2, 3))
    assert text(first) == text(same)
    assert text(first) != text(other)
    assert " at 0x" not in text(first)


def defined(source: str) -> Any:
    """The name ``step`` of a module that a user wrote."""
    names: dict[str, Any] = {"__name__": "mine"}
    exec(source, names)
    return names["step"]


PLAIN = "def helper(x):\n    return x * 2\nFACTOR = 2\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("def step(x):\n return x * FACTOR", "FACTOR = 3"),
        ("def step(x):\n return helper(x)", "def helper(x):\n return x * 3"),
        ("def step(x):\n return [helper(y) for y in x]", "def helper(x):\n return x * 3"),
        ("class step:\n def __call__(self, x): return x * 2", "class step:\n def __call__(self, x): return x * 3"),
        ("class step:\n factor = 2", "class step:\n factor = 3"),
        ("class step:\n @property\n def a(self): return 2", "class step:\n @property\n def a(self): return 3"),
        ("class step:\n @staticmethod\n def a(): return 2", "class step:\n @staticmethod\n def a(): return 3"),
        ("class Base:\n a = 2\nclass step(Base): pass", "class Base:\n a = 3\nclass step(Base): pass"),
        ("class step:\n def __call__(self, x): return helper(x)", "def helper(x):\n return x * 3"),
    ],
)
def test_code_of_ones_own_is_in_the_description(before: str, after: str) -> None:
    """No version stands for it: a function's code and what it uses, and a class's methods, count themselves."""
    first, same, other = (defined(source) for source in (PLAIN + before, PLAIN + before, f"{PLAIN}{before}\n{after}"))
    assert text(first) == text(same)
    assert text(first) != text(other)


def test_where_code_stands_does_not_count() -> None:
    """Neither its line nor its comments."""
    assert text(defined("def step(x):\n return x")) == text(defined("\n\n# a comment\ndef step(x):\n\n return x"))


def test_installed_code_is_a_name_and_a_version() -> None:
    assert described(given)["is"].startswith("hypothesis ")
    assert described(ndimage.label)["is"] == "scipy"  # its version is in every key
    assert described(Lambdad)["is"] == "monai"
    assert described(N4BiasFieldCorrectiond) == {
        "class": "neurobundle.prepare.bias_correction.N4BiasFieldCorrectiond",
        "is": "neurobundle",
    }


def config(factor: int, other: int = 0) -> Any:
    content = {"factor": factor, "other": other, "step": "$lambda x: x * @factor"}
    return ConfigParser(content).get_parsed_content("step")


def test_an_expression_of_a_config() -> None:
    """What it refers to counts, and nothing else that the config holds."""
    assert config(2)(5) == 10
    assert text(config(2)) == text(config(2, other=1))
    assert text(config(2)) != text(config(3))


@pytest.mark.parametrize("kind", [str, Path])
def test_2_a_path_counts_by_what_is_in_the_file(kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by its name nor by its folder."""
    for name, content in (("a.txt", "2"), ("b.txt", "3"), ("c.txt", "2")):
        (tmp_path / name).write_text(content)
    a, b, c = (text(Holds(kind(tmp_path / name))) for name in ("a.txt", "b.txt", "c.txt"))
    assert a == c
    assert a != b
    assert str(tmp_path) not in a
    monkeypatch.chdir(tmp_path)
    assert text(Holds(kind("a.txt"))) == a, "relative paths too"


def test_words_are_no_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a file or a folder has their name."""
    monkeypatch.chdir(tmp_path)
    before = text(["image", "label", "/", ".", "image/t1"])
    (tmp_path / "image").write_text("a file")
    (tmp_path / "label").mkdir()
    assert text(["image", "label", "/", ".", "image/t1"]) == before


def test_2_a_cache_does_not_count(tmp_path: Path) -> None:
    """It cannot change a voxel, wherever it is and whatever is in it."""
    (tmp_path / "field.npz").write_bytes(b"kept")
    plain = text(N4BiasFieldCorrectiond("image"))
    assert text(N4BiasFieldCorrectiond("image", cache_dir=tmp_path)) == plain
    assert text(N4BiasFieldCorrectiond("image", cache_dir="/not/there/yet")) == plain
    assert text(N4BiasFieldCorrectiond("image", cache_dir="a_word")) == plain
    assert text({"cached": str(tmp_path / "field.npz")}) != text({"cached": None}), "a file is a setting"
    assert text(N4BiasFieldCorrectiond("image", shrink=3)) != plain
    assert text(functools.partial(pow, cache_dir=tmp_path)) == text(functools.partial(pow))


def test_what_changes_no_voxel_does_not_count() -> None:
    """Chance, locks and loggers are the same whatever they hold."""
    for first, second in (
        (np.random.default_rng(1), np.random.default_rng(2)),
        (np.random.RandomState(1), np.random.RandomState(2)),
        (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)),
        (threading.Lock(), threading.Lock()),
        (logging.getLogger("a"), logging.getLogger("b")),
    ):
        assert text(Holds(first)) == text(Holds(second))
        assert text([first]) == text([second])


@pytest.mark.parametrize(
    ("value", "is_what"),
    [
        ((number for number in ()), "it is a builtins.generator"),
        ({}.keys(), "it is a builtins.dict_keys"),
        (Path("/not/there/atlas.nii"), "it is a path without a file"),
        ("/not/there/atlas.nii", "it is a path without a file"),
        (torch.eye(2).to_sparse(), "it is a torch.Tensor of the layout torch.sparse_coo"),
        (types.ModuleType("made_up"), "it is the module made_up"),
    ],
    ids=["generator", "view", "path", "word", "sparse", "module"],
)
def test_2_what_cannot_be_described_is_refused(value: Any, is_what: str) -> None:
    """With the place, and a way out."""
    with pytest.raises(SettingError) as caught:
        described(Lambdad("image", func=Holds(value)))
    message = str(caught.value)
    assert "for the preparation.func.value: " in message
    assert is_what in message
    assert "train without a store" in message


def test_a_folder_and_an_open_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"for the preparation\.value: it is a folder"):
        described(Holds(tmp_path))
    with (tmp_path / "file").open("w") as stream, pytest.raises(SettingError, match=r"it is a _io\.TextIOWrapper"):
        described(Holds(stream))


def test_what_holds_itself() -> None:
    """It has an end, and its other settings count; without an end it is refused."""
    chains = []
    for factor in (2, 2, 3):
        step = Holds(factor)
        step.again = [step]  # type: ignore[attr-defined]
        chains.append(text(step))
    assert chains[0] == chains[1] != chains[2]
    endless: Any = 1
    for _ in range(10_000):
        endless = [endless]
    with pytest.raises(SettingError, match="nested too deeply"):
        described(endless)


@pytest.mark.slow
def test_the_same_in_another_process(tmp_path: Path) -> None:
    """Whose hashes of words and addresses are others, and whose code lies elsewhere."""
    source = (
        "import json\n"
        "from neurobundle.prepare.pipeline import mri_preprocessing\n"
        "from neurobundle.prepare.store_description import described\n"
        "WORDS = {'a', 'b', 'c', 'd'}\n"
        "class Step:\n"
        "    names = frozenset(WORDS)\n"
        "    def __call__(self, x):\n"
        "        return x in {'e', 'f', 'g'} and x in WORDS\n"
        "print(json.dumps(described([mri_preprocessing(['image'], ['label']), Step(), lambda x: Step()(x)])))\n"
    )
    found = []
    for seed in ("1", "2"):
        script = tmp_path / seed / "script.py"
        script.parent.mkdir()
        script.write_text(source)
        environment = {"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
        ran = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
        found.append(ran.stdout)
    assert found[0] == found[1]
    assert "Step" in found[0]
