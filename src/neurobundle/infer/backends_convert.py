"""A network as each backend computes it, in memory and in bytes.

An *engine* is a copy of a network that a backend computes: from windows ``(batch, channel, *spatial)`` to a tuple of
float32 outputs on the windows' device. The keywords of the network's call are a part of it; the batch is free, and the
sizes of the windows are where the format permits. On a CPU an engine uses as many threads as torch does.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neurobundle.errors import NeurobundleError, SettingError, WeightsError
from neurobundle.infer.backends_choice import import_openvino, require_packages
from neurobundle.infer.backends_files import ENDINGS
from neurobundle.infer.backends_norm import spelled_out

#: Under this name each format carries what an engine was made for, as JSON.
ABOUT = "neurobundle"

#: TensorRT's engines take batches of at most so many windows.
MOST_WINDOWS = 16

#: Compiled forms that an OpenVINO engine keeps, one for each size of windows.
_MOST_SIZES = 4

#: Logits may be so far from those of eager.
LOGIT_TOLERANCE = 1e-3

#: Along the axes of windows: sizes that only a network takes that pads by itself, and sizes that U-Nets take.
PROBED_SIZES = ((37, 41, 43), (32, 48, 32))

Outputs = tuple[torch.Tensor, ...]
#: Files by name, each with its bytes.
Files = dict[str, bytes]
#: Writes a converted network under a stem, with what it was made for.
Writer = Callable[[str, str], Files]


class Call(nn.Module):
    """A network whose keywords are given.

    Args:
        network: from ``(batch, channel, *spatial)``.
        keywords: of its forward.
    """

    def __init__(self, network: nn.Module, keywords: Mapping[str, Any]) -> None:
        super().__init__()
        self.network, self.keywords = network, dict(keywords)

    def forward(self, image: torch.Tensor) -> Any:
        """What the network gives: a tensor, or a tuple of some."""
        outputs = self.network(image, **self.keywords)
        if isinstance(outputs, dict):
            raise TypeError("its outputs have names")
        return outputs if isinstance(outputs, torch.Tensor) else tuple(outputs)


class Engine:
    """A copy of a network.

    Args:
        compute: from windows to outputs.
        about: what it was made for, as its file says it: ``keywords``, and the largest ``shape``
            ``(batch, channel, *spatial)``, where a size of None is free.
        device: where it is called.
    """

    def __init__(self, compute: Callable[[torch.Tensor], Outputs], about: str, device: torch.device) -> None:
        said = json.loads(about)
        self._compute, self.device = compute, device
        self.keywords: dict[str, Any] = dict(said["keywords"])
        self.shape: list[int | None] = list(said["shape"])

    def __call__(self, window: torch.Tensor) -> Outputs:
        """The outputs for one batch of windows."""
        with _quiet():
            return self._compute(window.detach().float())

    def fits(self, window: torch.Tensor, keywords: Mapping[str, Any]) -> bool:
        """Whether it can compute these windows, called with these keywords."""
        return (
            self.keywords == dict(keywords)
            and self.device.type == window.device.type
            and len(self.shape) == window.ndim
            and all(want in (None, size) for want, size in zip(self.shape[1:], window.shape[1:], strict=True))
            and (self.shape[0] is None or window.shape[0] <= self.shape[0])
        )

    def require_channels(self, window: torch.Tensor, file: Path) -> None:
        """Refuse windows of other channels.

        Raises:
            SettingError: names both numbers.
        """
        if self.shape[1] not in (None, window.shape[1]):
            raise SettingError(
                f"the exported network takes {self.shape[1]} channels, and the image has {window.shape[1]}",
                "Export the network of this bundle again, with neurobundle export.",
                file=file,
            )


def plain_keywords(keywords: Mapping[str, Any]) -> bool:
    """Whether keywords can be a part of a copy: numbers, words, switches and None."""
    return all(value is None or isinstance(value, bool | int | float | str) for value in keywords.values())


def convert(backend: str, network: nn.Module, window: torch.Tensor, keywords: Mapping[str, Any]) -> Engine:
    """A copy of a network, in memory.

    Args:
        backend: onnx, openvino, torchscript or tensorrt.
        network: in eval mode.
        window: ``(batch, channel, *spatial)`` as it is called with; the values do not matter.
        keywords: of the call.

    Raises:
        SettingError: if it cannot be converted.
    """
    files = export_bytes(backend, network, window, keywords, "network")
    return _load_bytes(backend, files, window.device)


def export_bytes(
    backend: str, network: nn.Module, window: torch.Tensor, keywords: Mapping[str, Any], stem: str
) -> Files:
    """A copy of a network as the bytes of its files.

    Args:
        backend: onnx, openvino, torchscript or tensorrt.
        network: in eval mode.
        window: ``(batch, channel, *spatial)`` as it is called with; the values do not matter.
        keywords: of the call.
        stem: of the files' names.

    Returns:
        The bytes by name, the file that is opened first.

    Raises:
        SettingError: if it cannot be converted.
        MissingPackageError: if a package of the backend is not installed.
    """
    require_packages(backend)
    with _refusing(backend, network):
        call = Call(network, keywords)
        write = _MAKERS[backend](call, window)
        fixed = [MOST_WINDOWS if backend == "tensorrt" else None, *window.shape[1:]]
        free = [None, window.shape[1], *[None] * (window.ndim - 2)]
        files = write(stem, _about(keywords, free))
        if backend != "tensorrt" and _sizes_are_free(call, _load_bytes(backend, files, window.device), window):
            return files
        return write(stem, _about(keywords, fixed))


def load(backend: str, file: Path, device: torch.device) -> Engine:
    """The copy in a file.

    Args:
        backend: whose file it is.
        file: the one that is opened.
        device: of the windows; what knows no GPU computes on the CPU.

    Raises:
        WeightsError: if it cannot be read, or was not written by :func:`export_bytes`.
        MissingPackageError: if the backend's package is not installed.
    """
    require_packages(backend, exported=True)
    try:
        with _quiet():
            return _LOADERS[backend](file, device)
    except Exception as error:  # each runtime has exceptions of its own
        text = " ".join(str(error).split())[:160]
        raise WeightsError(
            f"{backend} cannot read the exported network ({type(error).__name__}: {text})",
            "Write it anew with neurobundle export, with the versions that are installed here.",
            file=file,
        ) from error


@contextlib.contextmanager
def _refusing(backend: str, network: nn.Module) -> Iterator[None]:
    """Whatever a converter raises becomes an error of ours."""
    try:
        with torch.no_grad(), _quiet():
            yield
    except NeurobundleError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:160]
        raise SettingError(
            f"the {type(network).__name__} cannot be converted for {backend} ({type(error).__name__}: {text})",
            "Use another backend; eager computes every network.",
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Converters warn of their own future, and of each branch that they freeze; the copy is compared, not believed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _load_bytes(backend: str, files: Files, device: torch.device) -> Engine:
    with tempfile.TemporaryDirectory(prefix="neurobundle-") as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        return load(backend, Path(folder) / next(iter(files)), device)


def _sizes_are_free(call: Call, engine: Engine, window: torch.Tensor) -> bool:
    """Whether a copy computes windows of other sizes as the network does.

    What a network works out from the size of its input (a padding, a size to stretch to) may be frozen in a copy, and
    no converter says so. Sizes that the network itself refuses say nothing.
    """
    agreed = False
    for sizes in PROBED_SIZES:
        shape = (2, window.shape[1], *sizes[: window.ndim - 2])
        # Noise: where an image is constant, a normalisation magnifies rounding.
        probe = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(window.device)
        try:
            outputs = call(probe)
        except (RuntimeError, ValueError):  # it knows no such size
            continue
        wanted = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
        try:
            found = engine(probe)
        except Exception:  # each runtime has exceptions of its own
            return False
        for one, other in zip(found, wanted, strict=True):
            if one.shape != other.shape or not torch.allclose(one, other, atol=LOGIT_TOLERANCE):
                return False
        agreed = True
    return agreed


def _about(keywords: Mapping[str, Any], shape: list[int | None]) -> str:
    return json.dumps({"keywords": dict(keywords), "shape": shape}, sort_keys=True)


def _make_onnx(call: Call, window: torch.Tensor) -> Writer:
    free = dict.fromkeys((0, *range(2, window.ndim)), torch.export.Dim.AUTO)
    two = torch.cat([window[:1], window[:1]])  # exporters take a size of 1 as fixed
    with contextlib.redirect_stdout(io.StringIO()):
        program = torch.onnx.export(
            spelled_out(copy.deepcopy(call)), (two,), dynamo=True, verbose=False, dynamic_shapes=(free,)
        )
    assert program is not None
    model = program.model_proto

    def write(stem: str, about: str) -> Files:
        del model.metadata_props[:]
        model.metadata_props.add(key=ABOUT, value=about)
        return {f"{stem}.onnx": model.SerializeToString()}

    return write


def _load_onnx(file: Path, device: torch.device) -> Engine:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 4  # a size that it refuses is an exception, and needs no line on the terminal
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider") if device.type == "cuda" else ("CPUExecutionProvider",)
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=providers)
    about = session.get_modelmeta().custom_metadata_map[ABOUT]
    name = session.get_inputs()[0].name

    def compute(window: torch.Tensor) -> Outputs:
        outputs = session.run(None, {name: window.cpu().contiguous().numpy()})
        return tuple(torch.from_numpy(output).to(window.device) for output in outputs)

    return Engine(compute, about, device)


def _make_openvino(call: Call, window: torch.Tensor) -> Writer:
    openvino = import_openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # Not openvino.convert_model: where that fails, it leaves the root logger without its warnings.
    on_cpu = spelled_out(copy.deepcopy(call).cpu())
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(on_cpu, example_input=window.cpu().contiguous())  # the model refers to it
    model = frontend.convert(frontend.load(decoder))
    image = model.inputs[0].get_node()
    image.set_element_type(openvino.Type.f32)
    image.set_partial_shape(openvino.PartialShape([-1, window.shape[1], *[-1] * (window.ndim - 2)]))
    model.validate_nodes_and_infer_types()

    def write(stem: str, about: str) -> Files:
        model.set_rt_info(about, [ABOUT])
        with tempfile.TemporaryDirectory(prefix="neurobundle-") as folder:
            path = Path(folder) / f"{stem}.xml"
            openvino.save_model(model, path, compress_to_fp16=False)
            return {part.name: part.read_bytes() for part in (path, path.with_suffix(".bin"))}

    return write


def _load_openvino(file: Path, device: torch.device) -> Engine:
    openvino = import_openvino()
    core = openvino.Core()
    # From bytes, so that nobody's file is mapped while it is replaced.
    model = core.read_model(file.read_bytes(), file.with_suffix(".bin").read_bytes())
    compiled: dict[tuple[int, ...], Any] = {}
    options = {
        "INFERENCE_PRECISION_HINT": "f32",  # a processor with units for less would be given less
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,
    }

    def compute(window: torch.Tensor) -> Outputs:
        size = tuple(window.shape[1:])
        if size not in compiled:
            if len(compiled) == _MOST_SIZES:
                del compiled[next(iter(compiled))]
            fixed = model.clone()
            fixed.reshape(openvino.PartialShape([-1, *size]))
            compiled[size] = core.compile_model(fixed, "CPU", options)
        outputs = compiled[size](window.cpu().contiguous().numpy())
        return tuple(torch.from_numpy(output.copy()).to(window.device) for output in outputs.values())

    return Engine(compute, str(model.get_rt_info([ABOUT]).value), device)


def _make_torchscript(call: Call, window: torch.Tensor) -> Writer:
    try:
        script = torch.jit.script(call.network) if not call.keywords else None
    except RuntimeError:  # what torch raises for Python that it cannot script
        script = None
    return _script_writer(script or torch.jit.trace(call, window, check_trace=False), "torchscript")


def _make_tensorrt(call: Call, window: torch.Tensor) -> Writer:
    from monai.networks.utils import convert_to_trt

    batches = [1, window.shape[0], max(MOST_WINDOWS, window.shape[0])]
    shape, device = list(window.shape), window.device.index
    engine = convert_to_trt(call, "fp32", shape, batches, use_trace=True, device=device, disable_tf32=True)
    return _script_writer(engine, "tensorrt")


def _script_writer(script: Any, backend: str) -> Writer:
    def write(stem: str, about: str) -> Files:
        buffer = io.BytesIO()
        torch.jit.save(script, buffer, _extra_files={ABOUT: about.encode()})
        return {stem + ENDINGS[backend][0]: buffer.getvalue()}

    return write


def _load_script(file: Path, device: torch.device) -> Engine:
    extra: dict[str, Any] = {ABOUT: ""}
    script = torch.jit.load(io.BytesIO(file.read_bytes()), map_location=device, _extra_files=extra).eval()

    def compute(window: torch.Tensor) -> Outputs:
        outputs = script(window)
        return (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)

    return Engine(compute, extra[ABOUT], device)


def _load_tensorrt(file: Path, device: torch.device) -> Engine:
    import torch_tensorrt  # noqa: F401 - torch reads such a file only with it

    return _load_script(file, device)


_MAKERS: dict[str, Callable[[Call, torch.Tensor], Writer]] = {
    "onnx": _make_onnx,
    "openvino": _make_openvino,
    "torchscript": _make_torchscript,
    "tensorrt": _make_tensorrt,
}
_LOADERS: dict[str, Callable[[Path, torch.device], Engine]] = {
    "onnx": _load_onnx,
    "openvino": _load_openvino,
    "torchscript": _load_script,
    "tensorrt": _load_tensorrt,
}
