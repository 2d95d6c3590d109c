"""What a preparation does and how it is set, as plain data that changes when a prepared voxel may change.

A *description* is the same in every process and on every machine: it holds no address, no path and no line number.
Code of one's *own* is that of no installed package: no version stands for it, so it is described itself. What cannot
be described is refused: a store that does not know that a preparation changed would give what it made before.
"""

from __future__ import annotations

import copyreg
import dis
import functools
import hashlib
import json
import os
import sys
import sysconfig
import types
from collections.abc import Mapping
from enum import Enum
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from neurobundle.errors import SettingError

#: Who prepares a case; their versions stand for their code.
PACKAGES = ("neurobundle", "monai", "torch", "numpy", "nibabel", "scipy", "SimpleITK", "scikit-image")
#: What is described where it is met first.
_CODE = (type, types.FunctionType, functools._lru_cache_wrapper)
#: The places of a class's own attributes.
_SLOT = (types.MemberDescriptorType, types.GetSetDescriptorType)
#: Types that hold no setting.
_NO_SETTING = ("numpy.random.", "torch._C.Generator", "_thread.", "logging.")
#: MONAI's readers note here what they read last.
_READERS, _LAST_READ = "monai.data.image_reader.", ("filenames", "has_series")
#: Under this name MONAI's config gives an expression all that the config holds.
_CONFIG = "__local_refs"
_WAY_OUT = (
    "Set it with numbers, words, arrays, functions and paths of files; name a folder that changes no voxel cache_dir; "
    "or train without a store."
)


def described(value: Any, name: str = "the preparation") -> Any:
    """Transforms as plain data that says what they do and how they are set, the same in every process.

    An object is what :mod:`pickle` would keep of it, its slots included. Code of an installed package is its name, for
    which the package's version stands; any other function is its code, its defaults, and what it takes from around
    itself, and any other class its methods. A path to a file is the file's bytes. A folder that is called a cache,
    generators of random numbers, threads' states and loggers change no voxel and are left out.

    Args:
        value: a transform, or anything that one holds.
        name: what it is called in an error.

    Raises:
        SettingError: if something has no description: a folder, whose content nobody can watch, or an open file.
    """
    try:
        return _Description().of(value, name)
    except RecursionError as error:
        raise SettingError(f"{name} is nested too deeply for a store", _WAY_OUT) from error


class _Description:
    """One walk over a value and all that it holds."""

    def __init__(self) -> None:
        #: Functions and classes by address, numbered as they are met; kept, so that no address is used again.
        self.met: dict[int, tuple[int, Any]] = {}
        #: What the walk stands inside of.
        self.above: list[Any] = []

    def of(self, value: Any, where: str) -> Any:
        if value is None or type(value) in (bool, int, float):
            return value
        if type(value) is str or isinstance(value, os.PathLike):
            return self._path(value, where)
        if type(value) in (bytes, bytearray):
            return {"bytes": hashlib.sha256(value).hexdigest()}
        if isinstance(value, np.ndarray | np.generic | torch.Tensor):
            return self._array(value, where)
        if isinstance(value, torch.dtype | torch.device | np.dtype):
            return str(value)
        if isinstance(value, _CODE):
            return self._once(value, where)
        for depth, outer in enumerate(reversed(self.above)):
            if outer is value:
                return {"itself": depth}
        self.above.append(value)
        try:
            return self._holder(value, where)
        finally:
            self.above.pop()

    def _holder(self, value: Any, where: str) -> Any:
        """What holds other values."""
        if type(value) in (list, tuple):
            return [self.of(item, where) for item in value]
        if type(value) in (set, frozenset):
            return {"set": sorted((self.of(item, where) for item in value), key=json.dumps)}
        if type(value) is dict:
            kept = [(key, item) for key, item in value.items() if not _without_effect(key, item)]
            return {"dict": [[self.of(key, where), self.of(item, f"{where}[{key!r}]")] for key, item in kept]}
        if isinstance(value, types.MethodType):
            return {"method": [self.of(value.__func__, where), self.of(value.__self__, where)]}
        if isinstance(value, types.CodeType):
            return self._code(value, where)
        if isinstance(value, types.ModuleType):
            return {"module": value.__name__, "is": _version(value.__name__) or self._source(value, where)}
        return self._object(value, where)

    def _object(self, value: Any, where: str) -> Any:
        kind = type(value)
        name = _name(kind)
        if name.startswith(_NO_SETTING):
            return name
        try:
            reduce = copyreg.dispatch_table.get(kind)
            kept: Any = reduce(value) if reduce else value.__reduce_ex__(4)
        except Exception as error:
            if isinstance(value, Mapping):
                return {name: self.of(dict(value), where)}
            raise _unknown(where, f"is a {name}") from error
        if isinstance(kept, str):  # one of its module's, by name
            home = getattr(value, "__module__", None) or kind.__module__
            if _version(home) is None:
                raise _unknown(where, f"is the {name} {kept}")
            return {name: f"{home}.{kept}", "is": _version(home)}
        make, arguments, state, items, pairs = (*kept, None, None, None)[:5]
        slots = state[1] if type(state) is tuple and len(state) == 2 and isinstance(state[1], dict) else {}
        plain = state[0] if slots else state
        if name.startswith(_READERS) and isinstance(plain, dict):
            plain = {key: item for key, item in plain.items() if key not in _LAST_READ}
        return {
            name: [self.of(part, where) for part in (kind, make, arguments)],
            "state": self._named(plain, where) if isinstance(plain, dict) else self.of(plain, where),
            "slots": self._named(slots, where),
            "items": [self.of(item, where) for item in items or ()],
            "pairs": [[self.of(key, where), self.of(item, where)] for key, item in pairs or ()],
        }

    def _named(self, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Attributes, in the order of their names, without those that no voxel depends on."""
        kept = {str(name): item for name, item in values.items() if not _without_effect(name, item)}
        return {name: self.of(kept[name], f"{where}.{name}") for name in sorted(kept)}

    def _path(self, value: str | os.PathLike[Any], where: str) -> Any:
        path = as_path(value)
        if path is None:
            return value
        if not path.is_file():
            raise _unknown(where, f"is {'a folder' if path.is_dir() else 'a path without a file'}", path)
        with path.open("rb") as stream:
            return {"file": hashlib.file_digest(stream, "sha256").hexdigest()}

    def _array(self, value: Any, where: str) -> Any:
        kind = _name(type(value))
        if isinstance(value, torch.Tensor):
            extra = self.of(value.affine, where) if isinstance(value, MetaTensor) else None
            try:
                array = torch.Tensor.detach(value).as_subclass(torch.Tensor).cpu().contiguous()
                content = array.reshape(-1).view(torch.uint8).numpy().tobytes()
            except (RuntimeError, TypeError, NotImplementedError) as error:
                raise _unknown(where, f"is a {kind} of the layout {value.layout}") from error
            return {kind: [str(value.dtype), list(value.shape), hashlib.sha256(content).hexdigest(), extra]}
        if value.dtype.hasobject:  # whose bytes are addresses
            return {kind: [str(value.dtype), list(value.shape), self.of(value.tolist(), where)]}
        masked = np.ma.getmaskarray(value).tobytes() if isinstance(value, np.ma.MaskedArray) else b""
        both = hashlib.sha256(value.tobytes() + masked).hexdigest()
        return {kind: [str(value.dtype), list(value.shape), both]}

    def _once(self, value: Any, where: str) -> Any:
        """Functions and classes: whole where they are met first, by number from then on."""
        if id(value) in self.met:
            return {"met": self.met[id(value)][0]}
        self.met[id(value)] = len(self.met), value
        if isinstance(value, type):
            return self._class(value, where)
        if isinstance(value, types.FunctionType):
            return self._function(value, where)
        return {"cached": self.of(value.__wrapped__, where)}

    def _function(self, function: types.FunctionType, where: str) -> Any:
        code, name = function.__code__, _name(function)
        where = f"{where}: {function.__name__}"
        version = _version_of_file(code.co_filename)
        own = version is None
        whole: dict[str, Any] = {"function": name, "is": version}
        if own or "<locals>" in name or _version(function.__module__) is None:
            cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
            whole["closure"] = self._named({key: cell.cell_contents for key, cell in cells if _filled(cell)}, where)
            whole["attributes"] = self._named(vars(function), where)
            whole["defaults"] = self.of(function.__defaults__, where)
            whole["keywords"] = self._named(function.__kwdefaults__ or {}, where)
        if own:
            whole["code"] = self.of(code, where)
            whole["globals"] = self._named(_globals_of(function), where)
        return whole

    def _code(self, code: types.CodeType, where: str) -> Any:
        steps = hashlib.sha256(code.co_code + getattr(code, "co_exceptiontable", b"")).hexdigest()
        names = [*code.co_names, *code.co_varnames, *code.co_freevars]
        return [steps, names, [self._constant(item, where) for item in code.co_consts]]

    def _constant(self, value: Any, where: str) -> Any:
        """A constant of code: a text is a text there, whatever it looks like."""
        if isinstance(value, tuple | frozenset):
            items = [self._constant(item, where) for item in value]
            return items if isinstance(value, tuple) else {"set": sorted(items, key=json.dumps)}
        return value if isinstance(value, str) else self.of(value, where)

    def _class(self, kind: type, where: str) -> Any:
        name, version = _name(kind), _version(kind.__module__)
        if version is not None:
            return {"class": name, "is": version}
        members: dict[str, Any] = {}
        for key, member in vars(kind).items():
            inner = _inside(member)
            hidden = (key.startswith("_") and key.endswith("_")) or key == "_abc_impl"
            if inner is not None:
                members[key] = inner
            elif not (hidden or issubclass(kind, Enum) or isinstance(member, _SLOT)):
                members[key] = member
        if issubclass(kind, Enum):
            members |= {key: one.value for key, one in kind.__members__.items()}
        bases = [self.of(base, where) for base in kind.__bases__]
        return {"class": name, "bases": bases, "members": self._named(members, f"{where}: {kind.__name__}")}

    def _source(self, module: types.ModuleType, where: str) -> Any:
        """A module of nobody's package, by its file."""
        file = getattr(module, "__file__", None)
        if not file:
            raise _unknown(where, f"is the module {module.__name__}")
        return self._path(Path(file), where)


def _unknown(where: str, what: str, file: Path | None = None) -> SettingError:
    cause = f"a store must know when a preparation changes, and cannot for {where}: it {what}"
    return SettingError(cause, _WAY_OUT, file=file)


def _without_effect(name: Any, value: Any) -> bool:
    if _name(type(value)).startswith(_NO_SETTING) or name == "_tracing":
        return True
    if "cache" not in str(name).lower() or not (value is None or isinstance(value, str | os.PathLike)):
        return False
    path = as_path(value)
    return path is None or not path.is_file()


def _name(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # a function that is not defined yet
        return False


def _inside(member: Any) -> Any:
    """The functions of a class's member; None if it is none."""
    if isinstance(member, staticmethod | classmethod):
        return member.__func__
    if isinstance(member, property):
        return [member.fget, member.fset, member.fdel]
    if isinstance(member, functools.cached_property):
        return member.func
    return member if isinstance(member, types.FunctionType) else None


def _globals_of(function: types.FunctionType) -> dict[str, Any]:
    """What a function takes from its module by name, inner functions included."""
    found: dict[str, Any] = {}
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        codes += [item for item in code.co_consts if isinstance(item, types.CodeType)]
        for step in dis.get_instructions(code):
            name = step.argval
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and name in function.__globals__:
                value = function.__globals__[name]
                found[name] = {key: value[key] for key in code.co_consts if key in value} if name == _CONFIG else value
    return found


def _version(module: str | None) -> str | None:
    """The version that stands for a module's code; None for code of one's own, that may change without one."""
    found = sys.modules.get(module or "")
    if found is None:
        top = (module or "").partition(".")[0]
        return _version(top) if top and top != module else None
    file = getattr(found, "__file__", None)
    if file is None:
        spec = getattr(found, "__spec__", None)
        return "python" if spec is not None and spec.origin in ("built-in", "frozen") else None
    return _version_of_file(file)


@cache
def _version_of_file(file: str) -> str | None:
    if file.startswith("<frozen "):
        return "python"
    path = Path(file)
    for package in PACKAGES:  # also where it is installed as a working copy
        home = getattr(sys.modules.get(package), "__file__", None)
        if home and path.is_relative_to(Path(home).parent):
            return package
    for n, part in enumerate(path.parts[:-1]):
        if part in ("site-packages", "dist-packages"):
            top = path.parts[n + 1].partition(".")[0]
            known = packages_distributions().get(top)
            return f"{top} {version(known[0])}" if known else top
    if any(path.is_relative_to(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")):
        return "python"
    return None


def as_path(value: Any) -> Path | None:
    """The path that a setting is; None for any other word.

    A word with a dot or a slash is one if it names a file, and any other with slashes if it is absolute or names a
    folder.

    >>> as_path("image"), as_path("/"), as_path("/data/atlas.nii").name
    (None, None, 'atlas.nii')
    """
    if isinstance(value, os.PathLike):
        return Path(value)
    if not isinstance(value, str) or not (os.sep in value or "." in value):
        return None
    try:
        path = Path(value).expanduser()
        if path.is_file():
            return path
        return path if os.sep in value.strip(os.sep) and (path.is_absolute() or path.is_dir()) else None
    except (OSError, RuntimeError):  # too long for a path; nobody's home
        return None
