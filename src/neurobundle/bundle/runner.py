"""Runs an inference plan over cases, one at a time, so that one case's fault is that case's alone.

What guards a case is here, for ``neurobundle run`` and for the evaluator that stock MONAI runs: :func:`guarded` makes
any exception an error of ours, and :func:`infer` tries the CPU where a GPU is too small.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurobundle import memory
from neurobundle.bundle.find import read_metadata
from neurobundle.bundle.workflow import Plan
from neurobundle.errors import ExitCode, InputError, NeurobundleError, causes_of, ours_in
from neurobundle.files import FULL, fault

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

#: Bytes that a voxel takes while a case is computed: its image as it is prepared, and the logits of each class, in the
#: windows' sum and on the native grid. Measured with three classes on the CPU: 45 without resampling, at most 90 with.
BYTES_PER_VOXEL, BYTES_PER_LOGIT = 48, 16

#: As many classes' memory a chain takes on the native grid that brings them back one by one. Measured with 33 of them,
#: each everywhere: 125 bytes a voxel.
CLASS_BY_CLASS = 6

#: Where an object lies in memory, in its repr: two equal runs would have unequal reports.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")

_MORE_MEMORY = "Close other programs, crop the scan, or use a machine with more memory."


@contextlib.contextmanager
def guarded(case: str, file: str | Path) -> Iterator[None]:
    """Around the work on one case: whatever is raised becomes an error of ours that names case and file.

    Args:
        case: the case's name.
        file: what it is made from; empty where it shall not be named.

    Raises:
        EnvironmentFault: if the disk is full; it would be full for the next case too.
        NeurobundleError: for anything else; the next case can go on.
    """
    try:
        yield
    except Exception as error:
        raise understood(error, case, file) from error


def understood(error: Exception, case: str, file: str | Path) -> NeurobundleError:
    """An exception of another library as an error of ours; our own cause, if there is one, wins."""
    ours = ours_in(error)
    if ours is not None:
        ours.file = ours.file or str(file)
        return ours.for_case(case)
    causes = causes_of(error)
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in FULL:
            return fault(Path(cause.filename or file), cause).for_case(case)
    if any(memory.is_exhaustion(cause) for cause in causes):
        return InputError("memory is exhausted", _MORE_MEMORY, case=case, file=file)
    text = _ADDRESS.sub("", " ".join(str(_root(error)).split())) or type(_root(error)).__name__
    return InputError(
        f"cannot be processed ({text[:200]})", "Run it again with --debug to see where.", case=case, file=file
    )


def _root(error: BaseException) -> BaseException:
    """What an exception was raised from, to the end; MONAI's own says only which transform it happened in."""
    chain = causes_of(error)
    return next((cause for cause in chain if cause.__cause__ is None), chain[-1])


def ends_the_run(error: NeurobundleError) -> bool:
    """Whether what stopped one case would stop the next one too."""
    return error.exit_code is ExitCode.ENVIRONMENT


def require_memory(shape: Sequence[int], classes: int, available: int | None = None) -> None:
    """Refuse a case that this machine's memory cannot hold; the system would kill the run in the midst of it.

    Args:
        shape: voxels along each axis, on the larger of the network's and the native grid.
        classes: how many logits a voxel has.
        available: bytes; what is free now, if None.

    Raises:
        InputError: if it needs more than there is.
    """
    free = memory.available_bytes() if available is None else available
    needed = math.prod(shape) * (BYTES_PER_VOXEL + BYTES_PER_LOGIT * classes)
    if free is not None and needed > free:
        raise InputError(
            f"memory is exhausted: {' x '.join(map(str, shape))} voxels and {classes} classes need about "
            f"{needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free",
            _MORE_MEMORY,
        )


def require_memory_of(images: Any, classes: int, postprocessing: Any) -> None:
    """Refuse a prepared batch that this machine's memory cannot hold.

    Args:
        images: ``(batch, channel, i, j, k)``, with MONAI's metadata or without.
        classes: how many logits a voxel has.
        postprocessing: a transform; one of its steps may say that it takes the native grid's logits class by class.

    Raises:
        InputError: if it needs more than there is.
    """
    steps = getattr(postprocessing, "transforms", ())
    few = any(getattr(step, "class_by_class", False) for step in steps)
    if few:
        require_memory(images.shape[2:], classes)
    require_memory(largest_grid(images), min(classes, CLASS_BY_CLASS) if few else classes)


def infer(inferer: Callable[..., Any], inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Call an inferer; where the GPU's memory does not suffice, once more on the CPU, for this case alone.

    Args:
        inferer: MONAI's or ours.
        inputs: ``(batch, channel, i, j, k)``.
        network: on the device of the inputs; it is there again afterwards.
        args: for the inferer.
        kwargs: for the inferer.

    Returns:
        Logits ``(batch, class, i, j, k)``.
    """
    import torch

    try:
        return inferer(inputs, network, *args, **kwargs)
    except torch.OutOfMemoryError:
        pass  # the exception holds the tensors that were too many until this block is left
    logger.warning("the GPU's memory is exhausted; this case is computed on the CPU")
    device = inputs.device
    torch.cuda.empty_cache()
    try:
        return inferer(inputs.cpu(), network.cpu(), *args, **kwargs)
    finally:
        network.to(device)


def classes_of(bundle_dir: Path) -> int:
    """How many logits a voxel has, from the metadata; 1 if they do not say."""
    outputs = read_metadata(bundle_dir).get("network_data_format", {}).get("outputs", {})
    first: Mapping[str, Any] = next(iter(outputs.values()), {})
    return int(first.get("num_channels", 1))


class CaseRunner:
    """An inference workflow that is built once and then predicts case after case.

    Args:
        plan: of kind ``inference``.

    Raises:
        WeightsError: if the weights cannot be trusted; before any case is touched.
        SettingError: for a config that cannot be built.
    """

    def __init__(self, plan: Plan) -> None:
        self.workflow = plan.workflow()
        self.classes = classes_of(plan.bundle_dir)
        # The cases come one by one below; the config's own list is not looked at.
        self.workflow.parser["dataset::data"] = []
        self.workflow.initialize()
        self.evaluator = self.part("evaluator")
        self.preprocessing = self.part("preprocessing")
        self.inferer, self.network = self.part("inferer"), self.part("network")
        self.postprocessing = self.part("postprocessing")
        for handler in self.loaders():
            handler(self.evaluator)
        self.network.eval()

    def loaders(self) -> list[Any]:
        """The config's handlers that load weights; ours, and MONAI's in other people's bundles."""
        return weight_loaders(self.part("handlers"))

    def part(self, name: str) -> Any:
        """A built part of the config."""
        return self.workflow.parser.get_parsed_content(name)

    def has(self, name: str) -> bool:
        """Whether the config defines a part."""
        return name in self.workflow.parser

    def predict(self, images: Sequence[Path], case: str) -> dict[str, Any]:
        """Run the config's chain on one case, as its evaluator would; its postprocessing writes the result.

        The parts are called here one by one, since an ignite engine does not run again after an exception.

        Args:
            images: a file, or one a channel.
            case: names the output.

        Returns:
            What the chain ends with: the image as the network saw it, and what became of the prediction.
        """
        import torch
        from monai.data.utils import decollate_batch, list_data_collate

        paths = [str(path) for path in images]
        batch = list_data_collate([self.preprocessing({"image": paths if len(paths) > 1 else paths[0], "case": case})])
        require_memory_of(batch["image"], self.classes, self.postprocessing)
        with torch.no_grad():
            batch["pred"] = infer(self.inferer, batch["image"].to(self.evaluator.state.device), self.network)
        (item,) = decollate_batch(batch)
        result: dict[str, Any] = self.postprocessing(item)
        return result


def largest_grid(images: Any) -> list[int]:
    """The shape of a prepared batch, or that of its file where that one has more voxels.

    Args:
        images: ``(batch, channel, i, j, k)``, with MONAI's metadata or without.
    """
    prepared = [int(side) for side in images.shape[2:]]
    meta = getattr(images, "meta", None) or {}
    native = [int(side) for side in _flat(meta.get("spatial_shape", ()))]
    return max(prepared, native, key=lambda shape: math.prod(shape) if shape else 0)


def _flat(value: Any) -> list[Any]:
    return value.flatten().tolist() if hasattr(value, "flatten") else list(value)


def weight_loaders(handlers: Sequence[Any]) -> list[Any]:
    """The handlers that load weights when an engine starts."""
    from monai.handlers import CheckpointLoader

    from neurobundle.networks import WeightsLoader

    return [item for item in handlers or () if isinstance(item, WeightsLoader | CheckpointLoader)]
