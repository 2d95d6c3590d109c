"""A network over an image, window by window, in the memory that there is.

In place of MONAI's ``SlidingWindowInferer``: windows lie where its windows lie and are blended by its weights, so the
logits are the same to within the rounding of float32 (1e-5 of the largest logit). What differs:

- with ``crop="foreground"`` only the box of what is not air is computed. That moves the windows, so its logits are
  those of other windows, and what it is worth is a matter of Dice;
- a single window is passed on as it is, and others are summed with one pass over memory;
- sums lie where there is room: with the network, else in the machine's memory, else in a file;
- where memory runs out, fewer windows go at a time, then the sums move, and last the windows are halved. A halved
  window is less that the network sees, and a warning says so; the other two change nothing.

The plan is logged before the first window.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.data.utils import compute_importance_map
from monai.inferers import SlidingWindowInferer
from monai.utils import fall_back_tuple
from torch import nn
from tqdm import tqdm

from neurobundle import memory
from neurobundle.errors import InputError, SettingError, closest
from neurobundle.files import fault
from neurobundle.infer.window_plan import (
    Box,
    WindowPlan,
    by,
    counted,
    everything_in,
    foreground_box,
    overlaps,
    plan_windows,
)

logger = logging.getLogger(__name__)

#: Where sums may lie, each with less memory than the one before.
PLACES = ("device", "cpu", "file")
_SAID = {"device": "on the device", "cpu": "in the machine's memory", "file": "in a temporary file"}
#: Halved windows are multiples of this, which networks that halve an image four times can take, and no smaller.
MULTIPLE = 16
#: The logit that says background where no window was: a probability of 2e-9.
SURE = 20.0


class WindowInferer(SlidingWindowInferer):
    """MONAI's ``SlidingWindowInferer`` that plans, crops, and falls back where memory runs out.

    Args:
        roi_size: the window's voxels along each axis; 0 or less is the whole image.
        sw_batch_size: windows at a time, at most.
        overlap: of neighbouring windows, as a share of a window, 0 to below 1.
        mode: ``"constant"`` or ``"gaussian"``: the weights of a window's voxels.
        sigma_scale: of the Gaussian, as a share of the window.
        padding_mode: of an image that is smaller than a window: as ``torch.nn.functional.pad``.
        cval: the value of constant padding.
        crop: ``"foreground"`` computes only the box of voxels that differ from the image's corner in some channel, the
            brain of a skull-stripped scan; ``"none"`` all of them.
        margin: voxels that this box is larger on every side.
        regions: outputs are overlapping regions, a sigmoid each, not classes: where no window was, none of them is.
        stitch: where the sums lie: ``"device"`` (the image's), ``"cpu"``, ``"file"``, or ``"auto"``: the first one
            in whose free memory they fit twice.
        folder: of the file; the system's folder for temporary files if None.
        options: further ones of MONAI's; ``with_coord``, ``buffer_steps`` and ``cpu_thresh`` are for MONAI's own code,
            which then does it all.

    Raises:
        SettingError: for a setting that is none of these.
    """

    def __init__(
        self,
        roi_size: Sequence[int] | int,
        sw_batch_size: int = 1,
        overlap: Sequence[float] | float = 0.25,
        mode: str = "constant",
        sigma_scale: Sequence[float] | float = 0.125,
        padding_mode: str = "constant",
        cval: float = 0.0,
        crop: str = "none",
        margin: int = 0,
        regions: bool = False,
        stitch: str = "auto",
        folder: str | Path | None = None,
        **options: Any,
    ) -> None:
        axes = len(overlap) if isinstance(overlap, Sequence) else 1
        if not any(overlaps(overlap, axes)):
            logger.warning("overlap is 0: windows meet without blending, and seams may show; .25 or .5 has none")
        _require_one_of("crop", crop, ("none", "foreground"))
        _require_one_of("stitch", stitch, ("auto", *PLACES))
        _require_one_of("mode", str(mode), ("constant", "gaussian"))
        if sw_batch_size < 1 or margin < 0:
            cause = f"sw_batch_size is {sw_batch_size!r} and margin {margin!r}"
            raise SettingError(cause, "Give 1 or more windows at a time, and a margin of 0 or more voxels.")
        super().__init__(roi_size, sw_batch_size, overlap, mode, sigma_scale, padding_mode, cval, **options)
        self.crop, self.margin, self.regions, self.stitch, self.folder = crop, margin, regions, stitch, folder
        #: Options that ask for MONAI's own code.
        self._stock = {name for name in ("cpu_thresh", "buffer_steps", "with_coord") if options.get(name)}

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Infer an image.

        Args:
            inputs: ``(batch, channel, *spatial)``.
            network: from windows ``(window, channel, *spatial)`` to logits of the same spatial shape; one that gives
                several outputs, or another shape, is left to MONAI's own code.
            args: for the network.
            kwargs: for the network.

        Returns:
            Logits ``(batch, class, *spatial)``, float32, on the image's device or where the sums lie.

        Raises:
            InputError: if the image has other channels than the network, or cannot be padded to a window.
            EnvironmentFault: if the disk is full where the file is to lie.
            SettingError: if the window has other axes than the image.
        """
        if self._stock or kwargs.keys() & {"condition", "device", "buffer_steps", "buffer_dim"}:
            return super().__call__(inputs, network, *args, **kwargs)
        plain = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        try:
            logits = _Work(self, plain, lambda windows: network(windows, *args, **kwargs)).result()
        except _OtherOutputs:
            return super().__call__(inputs, network, *args, **kwargs)
        except RuntimeError as error:
            _explain(error, plain, network)
            raise
        return MetaTensor(logits).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else logits

    def plan(self, image: torch.Tensor, window: Sequence[int] | None = None) -> WindowPlan:
        """Where windows lie.

        Args:
            image: ``(batch, channel, *spatial)``.
            window: instead of the inferer's own.
        """
        box = foreground_box(image, self.margin) if self.crop == "foreground" else None
        shape = tuple(image.shape[2:])
        if window is None:
            window = self.roi_size if isinstance(self.roi_size, Sequence) else fall_back_tuple(self.roi_size, shape)
        return plan_windows(shape, window, self.overlap, box)


class _OtherOutputs(Exception):
    """The network's outputs are not one tensor of the window's shape."""


class _Work:
    """One image on its way through the windows, and what it has learned of the memory there is."""

    def __init__(self, inferer: WindowInferer, image: torch.Tensor, network: Callable[[torch.Tensor], Any]) -> None:
        self.inferer, self.image, self.network = inferer, image, network
        self.batch = inferer.sw_batch_size
        self.plan = inferer.plan(image)
        self.place = inferer.stitch
        self.device = torch.device(inferer.device or image.device)

    def result(self) -> torch.Tensor:
        """The logits of the image; each attempt that memory does not suffice for is followed by a smaller one."""
        while True:
            logger.info("%s, %d at a time", self.plan, self.batch)
            try:
                return self._attempt()
            except Exception as error:
                if not memory.is_exhaustion(error):
                    raise
                smaller = self._smaller()
                if smaller is None:
                    raise
            # Here, where the failed attempt's tensors are gone.
            logger.warning("memory is exhausted: %s", smaller)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _attempt(self) -> torch.Tensor:
        padded = self._padded()
        places = [(n, window) for n in range(len(padded)) for window in self.plan.windows]
        sums: _Sums | None = None
        starts = range(0, len(places), self.batch)
        for start in tqdm(starts) if self.inferer.progress else starts:
            part = places[start : start + self.batch]
            logits = self._logits(padded, part)
            if len(places) == 1 and self.plan.covers_all:
                return logits[everything_in(self.plan.inside)]
            sums = sums or self._sums(len(padded), logits.shape[1])
            sums.add(part, logits)
        assert sums is not None
        return sums.finish(self.inferer.regions)[everything_in(self.plan.inside)]

    def _padded(self) -> torch.Tensor:
        if self.plan.padded == self.plan.image:
            return self.image
        sides = [n for pad in reversed(self.plan.padding) for n in pad]
        mode = str(self.inferer.padding_mode)
        try:
            return F.pad(self.image, sides, mode=mode, value=self.inferer.cval if mode == "constant" else None)
        except RuntimeError as error:
            if memory.is_exhaustion(error):
                raise
            shape, window = by(self.plan.image), by(self.plan.window)
            raise InputError(
                f"an image of {shape} voxels cannot be padded by {mode} to a window of {window}",
                "Give a smaller window (roi_size), or padding_mode replicate or constant.",
            ) from error

    def _logits(self, padded: torch.Tensor, part: Sequence[tuple[int, Box]]) -> torch.Tensor:
        """Of some windows, ``(window, class, *spatial)``."""
        windows = [padded[n : n + 1][everything_in(window)] for n, window in part]
        together = windows[0] if len(windows) == 1 else torch.cat(windows)
        logits = self.network(together.to(self.inferer.sw_device or self.image.device))
        if not isinstance(logits, torch.Tensor) or logits.shape[2:] != together.shape[2:]:
            raise _OtherOutputs
        return (logits.as_tensor() if isinstance(logits, MetaTensor) else logits).float()

    def _sums(self, images: int, channels: int) -> _Sums:
        need = images * self.plan.bytes_of_sums(channels)
        if self.place == "auto":
            self.place = next((place for place in PLACES[:-1] if 2 * need <= _free_bytes(self._device(place))), "file")
        logger.info("%s: %s", self.plan.memory(images * channels), _SAID[self.place])
        device = self._device(self.place)
        blend = (str(self.inferer.mode), tuple(np.ravel(self.inferer.sigma_scale).tolist()))
        weights = _weights(self.plan.window, *blend, device)
        file = Path(self.inferer.folder or tempfile.gettempdir()) if self.place == "file" else None
        return _Sums(self.plan, (images, channels), device, file, weights)

    def _device(self, place: str) -> torch.device:
        return self.device if place == "device" else torch.device("cpu")

    def _smaller(self) -> str | None:
        """Plan for less memory, and say how; None if there is no less."""
        if self.batch > 1:
            self.batch //= 2
            return f"the same windows again, {self.batch} at a time"
        if self.place in PLACES[:-1]:
            on_cpu = self.place == "cpu" or self.device.type == "cpu"
            self.place = "file" if on_cpu else "cpu"
            return f"the same windows again, with the sums {_SAID[self.place]}"
        window = [_halved(side) for side in self.plan.window]
        if tuple(window) == self.plan.window:
            return None
        said = by(window)
        self.plan = self.inferer.plan(self.image, window)
        return f"windows of {said} from now on, in which the network sees less: the result is not the same"


class _Sums:
    """Weighted logits, summed where windows overlap.

    Args:
        plan: of the windows.
        size: images and channels.
        device: where they lie.
        folder: of a file that they lie in instead; it has no name and is gone with them.
        weights: of a window's voxels.

    Raises:
        EnvironmentFault: if the disk is full.
    """

    def __init__(
        self, plan: WindowPlan, size: tuple[int, int], device: torch.device, folder: Path | None, weights: torch.Tensor
    ) -> None:
        self.plan, self.weights, self.device = plan, weights, device
        shape, box = (*size, *plan.padded), tuple(side.stop - side.start for side in plan.box)
        if folder is None:
            self.total = torch.zeros(shape, device=device)
        else:
            self.total = _zeros_in_file(shape, folder)
        self.weight = torch.zeros(box, device=device)
        for window in plan.windows:
            self.weight[
                tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(window, plan.box, strict=True))
            ] += weights

    def add(self, part: Sequence[tuple[int, Box]], logits: torch.Tensor) -> None:
        """Add the logits of some windows, each an image's number and a place."""
        for (n, window), values in zip(part, logits.to(self.device), strict=True):
            self.total[n][everything_in(window)].addcmul_(values, self.weights)

    def finish(self, regions: bool) -> torch.Tensor:
        """The logits ``(image, channel, *padded)``, background where no window was."""
        self.total[everything_in(self.plan.box)].div_(self.weight)
        for outside in self.plan.outside():
            self.total[everything_in(outside)] = -SURE if regions else 0.0
            if not regions:
                self.total[:, 0][everything_in(outside)] = SURE
        return self.total


@functools.lru_cache(maxsize=8)
def _weights(window: tuple[int, ...], mode: str, sigma_scale: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """How much each voxel of a window counts, as MONAI has it."""
    scale = sigma_scale if len(sigma_scale) > 1 else sigma_scale[0]
    made = compute_importance_map(window, mode=mode, sigma_scale=scale, device=device)
    return torch.as_tensor(made, dtype=torch.float32)


def _zeros_in_file(shape: tuple[int, ...], folder: Path) -> torch.Tensor:
    """Zeros that are mapped from a file, float32; its space is taken first, since a full disk would kill later."""
    size = 4 * math.prod(shape)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            return torch.from_numpy(np.memmap(file, np.float32, "r+", shape=shape))
    except OSError as error:
        raise fault(folder, error) from error


def _free_bytes(device: torch.device) -> float:
    """What is free on a device; without end where nobody knows."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    free = memory.available_bytes() if device.type == "cpu" else None
    return math.inf if free is None else free


def _halved(side: int) -> int:
    """Half a window's side, a multiple of 16, but no side of less than that.

    >>> [_halved(side) for side in (160, 96, 40, 16, 5)]
    [80, 48, 32, 16, 5]
    """
    return side if side <= MULTIPLE else max(MULTIPLE, -(-side // 2 // MULTIPLE) * MULTIPLE)


def _explain(error: RuntimeError, image: torch.Tensor, network: Any) -> None:
    """Raise an error of ours for what torch says in its own words.

    Raises:
        InputError: if the image's channels are not the network's.
    """
    parts = network.modules() if isinstance(network, nn.Module) else ()
    wanted = next((part.in_channels for part in parts if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d)), None)
    if wanted is not None and wanted != image.shape[1]:
        raise InputError(
            f"the image has {counted(image.shape[1], 'channel')}, and the network takes {wanted}",
            "Give the channels that the bundle's metadata name, in their order.",
        ) from error


def _require_one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise SettingError(f"{name} is {value!r}{closest(value, known)}", f"Give one of: {', '.join(known)}.")
