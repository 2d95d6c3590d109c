"""Runs an inference plan over cases, one at a time, so that one case's fault is that case's alone.

What guards a case is here, for ``neurobundle run`` and for the evaluator that stock MONAI runs: :func:`guarded` makes
any exception an error of ours, and :func:`infer` tries the CPU where a GPU is too small. A case can be *prepared* up to
the network while the network runs on another one.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import threading
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


class NoMemoryError(InputError):
    """A case for which memory does not suffice; it may where nothing is held beside it."""


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
        return NoMemoryError("memory is exhausted", _MORE_MEMORY, case=case, file=file)
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


def require_memory(shape: Sequence[int], classes: int, available: int | None = None, promised: int = 0) -> int:
    """Refuse a case that this machine's memory cannot hold; the system would kill the run in the midst of it.

    Args:
        shape: voxels along each axis, on the larger of the network's and the native grid.
        classes: how many logits a voxel has; 0 of a case that is prepared only.
        available: bytes; what is free now, if None.
        promised: bytes of it that another case may still take.

    Returns:
        The bytes that it needs.

    Raises:
        NoMemoryError: if it needs more than there is.
    """
    free = memory.available_bytes() if available is None else available
    needed = math.prod(shape) * (BYTES_PER_VOXEL + BYTES_PER_LOGIT * classes)
    if free is not None and needed > (free := max(0, free - promised)):
        raise NoMemoryError(
            f"memory is exhausted: {' x '.join(map(str, shape))} voxels and {classes} classes need about "
            f"{needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free",
            _MORE_MEMORY,
        )
    return needed


def require_memory_of(images: Any, classes: int, postprocessing: Any, promised: int = 0) -> int:
    """Refuse a prepared batch that this machine's memory cannot hold.

    Args:
        images: ``(batch, channel, i, j, k)``, with MONAI's metadata or without.
        classes: how many logits a voxel has.
        postprocessing: a transform; one of its steps may say that it takes the native grid's logits class by class.
        promised: bytes that another case may still take.

    Returns:
        The bytes that it needs.

    Raises:
        NoMemoryError: if it needs more than there is.
    """
    steps = getattr(postprocessing, "transforms", ())
    few = any(getattr(step, "class_by_class", False) for step in steps)
    alone = require_memory(images.shape[2:], classes, promised=promised) if few else 0
    native = require_memory(largest_grid(images), min(classes, CLASS_BY_CLASS) if few else classes, promised=promised)
    return max(alone, native)


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
        self._parser = threading.Lock()
        #: Batches that were prepared ahead, by case and files.
        self._ahead: dict[tuple[str, ...], Any] = {}
        #: Bytes that the case in the network may still take, and the one that is being prepared ahead.
        self._promised: dict[tuple[str, ...], int] = {}
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
        self.network.eval().requires_grad_(False)

    def loaders(self) -> list[Any]:
        """The config's handlers that load weights; ours, and MONAI's in other people's bundles."""
        return weight_loaders(self.part("handlers"))

    def members(self) -> list[Any]:
        """The further weights of an ensemble."""
        from neurobundle.infer.ensemble import member_weights

        return list(member_weights(self.inferer))

    def part(self, name: str) -> Any:
        """A built part of the config."""
        with self._parser:
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
        from monai.data.utils import decollate_batch

        this = _named(images, case)
        batch = self._ahead.pop(this, None) or self._prepared(images, case)
        try:
            others = sum([*self._promised.values()])
            self._promised[this] = require_memory_of(batch["image"], self.classes, self.postprocessing, others)
            with torch.no_grad():
                batch["pred"] = infer(self.inferer, batch["image"].to(self.evaluator.state.device), self.network)
            (item,) = decollate_batch(batch)
            result: dict[str, Any] = self.postprocessing(item)
            return result
        finally:
            self._promised.pop(this, None)

    def prepare_ahead(self, images: Sequence[Path], case: str, shape: Sequence[int]) -> bool:
        """Do what :meth:`predict` does before the network, and keep it for that call; from a thread of its own.

        What cannot be prepared is left to that call, which will say why.

        Args:
            images: as for :meth:`predict`.
            case: as for :meth:`predict`.
            shape: voxels along each axis of the scan.

        Returns:
            Whether it was done: not where memory is short beside the case in the network.
        """
        this = _named(images, case)
        try:
            self._promised[this] = require_memory(shape, 0, promised=sum([*self._promised.values()]))
            self._ahead[this] = self._prepared(images, case)
        except Exception:
            return False
        finally:
            self._promised.pop(this, None)  # what it took is no longer free
        return True

    def forget_ahead(self, case: str | None = None) -> None:
        """Drop what was prepared ahead, of one case or of all."""
        for this in [this for this in [*self._ahead] if case in (None, this[0])]:
            del self._ahead[this]

    def _prepared(self, images: Sequence[Path], case: str) -> Any:
        """A batch of one case, before the network."""
        from monai.data.utils import list_data_collate

        paths = [str(path) for path in images]
        return list_data_collate([self.preprocessing({"image": paths if len(paths) > 1 else paths[0], "case": case})])


def _named(images: Sequence[Path], case: str) -> tuple[str, ...]:
    return (case, *map(str, images))


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
