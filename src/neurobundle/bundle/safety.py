"""What a config would execute, judged before anything is executed.

A config is code: ``_target_`` names what is called and ``$`` begins Python. The doctor looks at bundles of strangers,
so it executes nothing of a bundle in which one of these checks fails. This is a screen for what nobody needs in a
config, not a sandbox: a bundle is to be trusted before it is run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from neurobundle.bundle import configfile
from neurobundle.bundle.finding import BundleFiles, Finding

#: Packages whose functions a config may name.
ALLOWED_PACKAGES = ("monai", "torch", "neurobundle")

#: Packages that are known, and harmless to call as configs do, but tie the bundle to one more installation.
TOLERATED_PACKAGES = ("ignite", "numpy", "scipy", "nibabel", "SimpleITK", "itk", "torchvision", "timm", "skimage")

#: Functions of the allowed packages that fetch, run or unpickle.
REFUSED_TARGETS = (
    "torch.hub.",
    "torch.utils.collect_env.",
    "torch.utils.cpp_extension.",
    "torch.utils.model_zoo.",
    "torch.package.",
    "torch.multiprocessing.",
    "torch.jit.load",
    "monai.bundle.run",
    "monai.bundle.load",
    "monai.bundle.download",
    "monai.bundle.scripts.",
    "monai.apps.utils.",
    "monai.apps.download",
    "monai.utils.run_",
    "monai.utils.misc.run_",
)

#: Modules that an expression may import.
ALLOWED_IMPORTS = {
    *ALLOWED_PACKAGES,
    *TOLERATED_PACKAGES,
    *("glob", "os", "pathlib", "json", "math", "datetime", "time", "random", "re", "itertools", "functools"),
    *("collections", "logging", "copy", "typing", "warnings"),
}

_REFUSED_NAMES = {"exec", "eval", "compile", "open", "input", "globals", "locals", "vars", "setattr", "getattr"} | {
    "delattr",
    "breakpoint",
    "subprocess",
    "socket",
    "shutil",
    "ctypes",
    "importlib",
    "pickle",
    "builtins",
}
_REFUSED_ATTRIBUTES = re.compile(r"__\w+__$|system$|popen$|spawn|exec[lv]|fork$|remove$|unlink$|rmtree$|rmdir$|putenv$")
_ANY_REFERENCE = re.compile(r"@(?:::)*\w+(?:::\w+)*")
_HARMLESS_DUNDERS = {"__version__", "__name__", "__len__"}


def targets(bundle: BundleFiles) -> Iterator[Finding]:
    """Every ``_target_`` names a function of MONAI, of torch or of ours."""
    for stem, config in bundle.configs.items():
        for place, value in configfile.walk(config):
            target = value.get("_target_") if isinstance(value, dict) else None
            if target is not None:
                yield from judge_target(f"{stem}: {place}", target)
                if value.get("weights_only", True) is not True:
                    message = f"{stem}: {place} loads a file in a way that executes what the file says"
                    yield Finding("targets", "fail", message, "Use weights_only: true.")


def judge_target(place: str, target: Any) -> Iterator[Finding]:
    """What is to be said of one ``_target_``."""
    if not isinstance(target, str) or target.startswith(("$", "@", "%")):
        message = f"{place}: _target_ is computed ({target!r}), so that it cannot be checked"
        yield Finding("targets", "fail", message, "Write the function's full name.")
        return
    package = target.partition(".")[0]
    if "." not in target or (package in ALLOWED_PACKAGES and not target.startswith(REFUSED_TARGETS)):
        return
    if package in TOLERATED_PACKAGES:
        message = f"{place}: _target_ {target!r} is in none of {', '.join(ALLOWED_PACKAGES)}"
        yield Finding("targets", "warn", message, "Wrap it in a tested function of your package.")
        return
    message = f"{place}: _target_ {target!r} is not allowed; only functions of {', '.join(ALLOWED_PACKAGES)} are"
    yield Finding("targets", "fail", message, "Use another function; do not run this bundle unless you trust it.")


def expressions(bundle: BundleFiles) -> Iterator[Finding]:
    """Every ``$`` expression is Python, and does nothing that a config has no need of."""
    for stem, config in bundle.configs.items():
        for place, value in configfile.walk(config):
            if isinstance(value, str) and value.startswith("$"):
                for problem in judge_expression(value):
                    message = f"{stem}: {place}: {problem}"
                    yield Finding("expressions", "fail", message, "Do not run this bundle unless you trust it.")
            elif isinstance(value, str) and re.match(r"%.*\.(json|ya?ml)", value):
                message = f"{stem}: {place}: a macro reads another file, relative to wherever it is run: {value!r}"
                yield Finding("expressions", bundle.strict, message, "Copy the value.")


def judge_expression(text: str) -> list[str]:
    """What is wrong with an expression; empty if nothing is.

    >>> judge_expression("$@max_epochs * 2"), judge_expression("$import os")
    ([], [])
    >>> judge_expression("$__import__('os').system('true')")
    ["the attribute 'system' is not allowed", "the name '__import__' is not allowed"]
    """
    code = _ANY_REFERENCE.sub("_reference", text[1:].replace("#", "::")).strip()
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError) as error:
        return [f"it is no Python ({error})"]
    problems = [problem for node in ast.walk(tree) if (problem := _judge_node(node))]
    return sorted(set(problems), key=problems.index)


def _judge_node(node: ast.AST) -> str:
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        imported = {name.partition(".")[0] for name in names} - ALLOWED_IMPORTS
        return f"importing {sorted(imported)[0]!r} is not allowed" if imported else ""
    if isinstance(node, ast.Name) and (node.id in _REFUSED_NAMES or node.id.startswith("__")):
        return f"the name {node.id!r} is not allowed"
    if isinstance(node, ast.keyword) and node.arg == "weights_only" and ast.unparse(node.value) != "True":
        return "weights_only must be True"
    if isinstance(node, ast.Attribute) and node.attr not in _HARMLESS_DUNDERS and _REFUSED_ATTRIBUTES.match(node.attr):
        return f"the attribute {node.attr!r} is not allowed"
    if isinstance(node, ast.Attribute) and ast.unparse(node).startswith(REFUSED_TARGETS):
        return f"{ast.unparse(node)!r} is not allowed"
    return ""
