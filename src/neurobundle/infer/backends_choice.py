"""The names of backends, what each needs, and which one ``auto`` takes."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from typing import Any

import torch

from neurobundle.errors import MissingPackageError, SettingError, closest

EAGER, AUTO = "eager", "auto"

#: What each backend's conversion needs; to run an exported file the first is enough.
NEEDS: dict[str, tuple[str, ...]] = {
    EAGER: (),
    "compile": (),
    "torchscript": (),
    "onnx": ("onnxruntime", "onnx", "onnxscript"),
    "openvino": ("openvino",),
    "tensorrt": ("torch_tensorrt",),
}

#: Every backend's name, in the order of the help.
BACKENDS = (*NEEDS, AUTO)

#: What ``auto`` takes, the first that is installed.
FASTEST = {"cuda": ("tensorrt",), "cpu": ("openvino", "onnx")}

_WAYS_OUT = {
    "onnx": "Install it with: pip install 'neurobundle[onnx]'.",
    "openvino": "Install it with: pip install 'neurobundle[openvino]'.",
    "tensorrt": "On a machine with a CUDA GPU, install it with: pip install torch-tensorrt.",
}


def missing_packages(backend: str, exported: bool = False) -> list[str]:
    """The packages that a backend needs and that are not installed.

    Args:
        backend: one of :data:`BACKENDS`, not ``auto``.
        exported: to run an exported file; what only conversions need is left out.
    """
    needed = NEEDS[backend][:1] if exported else NEEDS[backend]
    return [name for name in needed if importlib.util.find_spec(name) is None]


def chosen_backend(backend: str, device: torch.device | str = "cpu", exported: bool = False) -> str:
    """The backend that a setting means: itself, or what ``auto`` takes.

    Args:
        backend: one of :data:`BACKENDS`.
        device: where the network lies.
        exported: whether there is an exported file for it.

    Raises:
        SettingError: for another name, or TensorRT without a GPU.
        MissingPackageError: if its packages are not installed.
    """
    if backend not in BACKENDS:
        raise SettingError(
            f"there is no backend {backend!r}{closest(str(backend), BACKENDS)}", f"Use one of {', '.join(BACKENDS)}."
        )
    kind = torch.device(device).type
    if backend == AUTO:
        return next((name for name in FASTEST.get(kind, ()) if not missing_packages(name)), EAGER)
    if backend == "tensorrt" and kind != "cuda":
        raise SettingError(
            f"the backend tensorrt wants a CUDA GPU, and the device is {device}", "Use openvino or onnx on a CPU."
        )
    require_packages(backend, exported)
    return backend


def require_packages(backend: str, exported: bool = False) -> None:
    """Refuse a backend whose packages are not installed.

    Raises:
        MissingPackageError: names them, and says how to get them.
    """
    missing = missing_packages(backend, exported)
    if missing:
        many = len(missing) > 1
        raise MissingPackageError(
            f"the backend {backend} needs the package{'s' * many} {', '.join(missing)}, which "
            f"{'are' if many else 'is'} not installed",
            f"{_WAYS_OUT[backend]} Or leave the backend at {EAGER}.",
        )


def version_of(backend: str) -> str:
    """The version of what computes a backend's results; torch's own for what torch computes."""
    return importlib.metadata.version(NEEDS[backend][0]) if NEEDS[backend] else str(torch.__version__)


def import_openvino() -> Any:
    """OpenVINO, which would otherwise send word of each import and each conversion to its makers."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino
