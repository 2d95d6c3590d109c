"""One prediction out of several: of further weights, of mirror images, of dropout.

A *member* is what one network says of an image, or of a mirror image, mirrored back, once. The members' *mean* is that
of their probabilities; their *variance* and *mutual information* say how far they are from each other, which is what
more training data could mend, as far as the members know (:mod:`neurobundle.infer.uncertainty`).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SimpleInferer
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from neurobundle.errors import SettingError
from neurobundle.infer.uncertainty import (
    Activation,
    checked_activation,
    entropies,
    logits_of,
    mutual_information,
    probabilities_of,
)
from neurobundle.networks.manifest import verify
from neurobundle.networks.weights import load_weights

#: In the metadata of the logits: voxels of each class in each member, ``(batch, member, class)``.
MEMBER_VOXELS = "member_voxels"

#: Channels after the classes: mutual information, variance.
SPREAD_CHANNELS = 2

#: What chance begins with in every image, so that a case's result does not depend on the cases before it.
_SEED = 0


class Member(NamedTuple):
    """Further weights.

    Attributes:
        path: the file.
        sha256: of its bytes, so that whoever describes the inferer describes them.
    """

    path: Path
    sha256: str


class RunningMembers:
    """Mean, variance and mutual information of members that are seen one after another; none is kept.

    Args:
        activation: how logits become probabilities, ``softmax`` or ``sigmoid``.
        spread: also follow variance and mutual information.

    Source of the running sums: Welford 1962, Technometrics 4:419 (10.1080/00401706.1962.10490022).
    """

    def __init__(self, activation: Activation = "softmax", spread: bool = False) -> None:
        self.activation, self.spread = activation, spread
        self.count = 0
        self.mean = self._squares = self._entropies = torch.empty(0)

    def add(self, logits: torch.Tensor) -> None:
        """See one more member.

        Args:
            logits: ``(batch, class, ...)``.
        """
        found = probabilities_of(logits.movedim(1, 0), self.activation)
        self.count += 1
        if self.count == 1:
            self.mean = torch.zeros_like(found)
            self._squares = found.new_zeros(found.shape[1:])
            self._entropies = torch.zeros(())
        away = found - self.mean
        self.mean += away / self.count
        if self.spread:
            self._squares += away.mul_(found - self.mean).mean(dim=0)
            said = entropies(found, self.activation)
            self._entropies = said if self.count == 1 else self._entropies.lerp_(said, 1 / self.count)

    def logits(self) -> torch.Tensor:
        """Those of the mean, ``(batch, class, ...)``: see :func:`neurobundle.infer.uncertainty.logits_of`."""
        return logits_of(self.mean, self.activation).movedim(0, 1)

    def variance(self) -> torch.Tensor:
        """The mean over classes of the members' variance (over their number, not one less), ``(batch, 1, ...)``."""
        return (self._squares / self.count)[:, None]

    def mutual_information(self) -> torch.Tensor:
        """See :func:`neurobundle.infer.uncertainty.mutual_information`, ``(batch, 1, ...)``."""
        return mutual_information(self.mean, self._entropies, self.activation)[:, None]


class EnsembleInferer(Inferer):
    """Runs another inferer for each member, and gives the logits of the members' mean probability.

    The members are all combinations of network, mirror image and pass. With one member its logits pass through, bit by
    bit, so that this can stand in every config.

    Memory: each of the further weights is a copy of the network on its device, which shares nothing with it; of
    predictions there are the latest one, the mean, and with ``uncertainty`` two maps more (regions: one more each).

    Args:
        inferer: what calls a network; MONAI's ``SimpleInferer`` if None.
        weights: files of further weights for the same network; none is the network alone, as it was loaded. Each is
            checked as the network's own are: against the manifest beside it, and tensor by tensor.
        axes: of the image's spatial axes those that are mirrored, alone and together. Each doubles the work.
        samples: passes with the dropout layers, and only these, as in training (Monte Carlo dropout); 0 is one pass
            without. Chance begins alike in every image.
        activation: ``softmax`` for classes that exclude each other, ``sigmoid`` for regions that overlap.
        uncertainty: give two channels more, the members' mutual information and variance; 0 for one member.
        swap: pairs of class numbers, from 0, that a mirror image along axis 0 exchanges: left and right structures.
        network: where it is given, the further weights are loaded at once, so that a fault ends a run before its first
            case; else when the network is first called.

    Raises:
        SettingError: for an axis that is none of 0, 1, 2 or named twice, a negative number of samples, samples for a
            network without dropout, a weights file named twice, or an exchange that is none.
        WeightsError: for a member that is missing, not as listed, or of another network.

    Source: test-time mirroring as in nnU-Net (Isensee et al. 2021, 10.1038/s41592-020-01008-z); deep ensembles
    (Lakshminarayanan et al. 2017, arXiv:1612.01474); dropout as members (Gal & Ghahramani 2016, arXiv:1506.02142).
    """

    def __init__(
        self,
        inferer: Inferer | None = None,
        weights: Sequence[str | Path] = (),
        axes: Sequence[int] = (),
        samples: int = 0,
        activation: Activation = "softmax",
        uncertainty: bool = False,
        swap: Sequence[Sequence[int]] = (),
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if len(set(axes)) != len(axes) or any(axis not in (0, 1, 2) for axis in axes):
            raise SettingError(f"axes are {list(axes)!r}", "Give some of 0, 1 and 2, each once.")
        if samples < 0:
            raise SettingError(f"samples is {samples!r}", "Give 0 for a pass without dropout, or how many with it.")
        self.inferer = inferer if inferer is not None else SimpleInferer()
        self.axes, self.samples, self.uncertainty = tuple(axes), samples, uncertainty
        self.activation = checked_activation(activation)
        self.swap = _pairs(swap)
        self.members = _members([weights] if isinstance(weights, str | Path) else weights)
        self._copies = _Copies()
        if network is not None:
            self._further(network)
            self._require_dropout(network)

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Infer an image.

        Args:
            inputs: ``(batch, channel, i, j, k)``.
            network: a module, where there are further weights or samples.
            args: for the network.
            kwargs: for the network.

        Returns:
            Logits ``(batch, class, i, j, k)``: log p of softmax, not below -87.3; logit p of sigmoid, within 16.6 of 0,
            which is what float32 tells from 0 and 1. With ``uncertainty`` mutual information and variance after them,
            and with metadata :data:`MEMBER_VOXELS` among these.
        """
        if any(axis + 2 >= inputs.ndim for axis in self.axes):
            raise SettingError(f"axes are {list(self.axes)!r}", f"The image has {inputs.ndim - 2} axes, from 0.")
        ways = [way for count in range(len(self.axes) + 1) for way in combinations(self.axes, count)]
        networks: list[Callable[..., torch.Tensor]] = [network, *self._further(network)]
        self._require_dropout(network)
        count = len(networks) * len(ways) * max(1, self.samples)
        if count == 1 and not self.uncertainty:
            (logits,) = self._said(inputs, networks, ways, *args, **kwargs)
            return logits
        with torch.no_grad():
            return self._together(self._said(inputs, networks, ways, *args, **kwargs), count)

    def _together(self, members: Iterator[torch.Tensor], count: int) -> torch.Tensor:
        """The logits of so many members become one."""
        running = RunningMembers(self.activation, self.uncertainty)
        voxels, meta, found = [], None, torch.empty(0)
        for logits in members:
            if isinstance(logits, MetaTensor):
                meta = meta if meta is not None else MetaTensor(torch.empty(0)).copy_meta_from(logits)
                logits = logits.as_tensor()
            found = logits.float()
            running.add(found)
            voxels.append(_voxels(found, self.activation))
        # A mean of one would differ from it by rounding.
        found = running.logits() if count > 1 else found
        if self.uncertainty:
            found = torch.cat([found, running.mutual_information(), running.variance()], dim=1)
        if meta is None:
            return found
        result = MetaTensor(found).copy_meta_from(meta)
        if self.uncertainty:
            result.meta[MEMBER_VOXELS] = torch.stack(voxels, dim=1).cpu()
        return result

    def _said(
        self,
        inputs: torch.Tensor,
        networks: Sequence[Callable[..., torch.Tensor]],
        ways: Sequence[Sequence[int]],
        *args: Any,
        **kwargs: Any,
    ) -> Iterator[torch.Tensor]:
        """The logits of one member after the other."""
        with _chance(inputs.device) if self.samples else contextlib.nullcontext():
            for network in networks:
                with _dropping(network) if self.samples else contextlib.nullcontext():
                    for way in ways:
                        flipped = [axis + 2 for axis in way]
                        image = inputs.flip(flipped) if way else inputs
                        for _ in range(max(1, self.samples)):
                            logits = self.inferer(image, network, *args, **kwargs)
                            if not isinstance(logits, torch.Tensor):
                                raise SettingError("the network has several outputs", "Leave the ensemble out.")
                            yield self._exchanged(logits.flip(flipped), way) if way else logits

    def _exchanged(self, logits: torch.Tensor, way: Sequence[int]) -> torch.Tensor:
        """With the classes of left and right exchanged, where they were mirrored."""
        if not self.swap or 0 not in way:
            return logits
        order = list(range(logits.shape[1]))
        if max(max(pair) for pair in self.swap) >= len(order):
            raise SettingError(f"swap is {[list(pair) for pair in self.swap]}", f"There are {len(order)} classes.")
        for one, other in self.swap:
            order[one], order[other] = other, one
        return logits[:, order]

    def _further(self, network: Callable[..., torch.Tensor]) -> list[nn.Module]:
        """A network for each of the further weights, where the given one lies."""
        if not self.members:
            return []
        if not isinstance(network, nn.Module):
            raise SettingError("further weights want a torch network", "Leave weights out with this backend.")
        if not self._copies.networks:
            copies = [copy.deepcopy(network).eval().requires_grad_(False) for _ in self.members]
            for member, another in zip(self.members, copies, strict=True):
                load_weights(another, member.path)
            self._copies.networks = copies
        device = next(network.parameters()).device
        return [another.to(device) for another in self._copies.networks]

    def _require_dropout(self, network: Callable[..., torch.Tensor]) -> None:
        if self.samples and not _dropouts(network):
            raise SettingError(
                f"samples is {self.samples}, but the network has no dropout",
                "Set samples to 0; mirror images (axes) and further weights are members too.",
            )


class _Copies:
    """Networks that a description of their owner leaves out: whether they are loaded yet is no setting of it."""

    __slots__ = ("networks",)

    def __init__(self) -> None:
        self.networks: list[nn.Module] = []


def member_weights(inferer: Any) -> list[Member]:
    """The further weights of an inferer, or of one inside it; what a result depends on beside the network's own."""
    found: list[Member] = []
    while inferer is not None:
        found += inferer.members if isinstance(inferer, EnsembleInferer) else []
        inferer = getattr(inferer, "inferer", None)
    return found


def _members(weights: Sequence[str | Path]) -> tuple[Member, ...]:
    paths = [Path(path) for path in weights]
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise SettingError("the weights of a member are named twice", "Name each file once.", file=twice)
    return tuple(Member(path, verify(path).sha256) for path in paths)


def _pairs(swap: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    pairs = [tuple(pair) for pair in swap]
    numbers = [number for pair in pairs for number in pair]
    if any(len(pair) != 2 for pair in pairs) or len(set(numbers)) != len(numbers) or min(numbers, default=0) < 0:
        raise SettingError(f"swap is {[list(pair) for pair in swap]}", "Give pairs of class numbers, each number once.")
    return tuple((int(one), int(other)) for one, other in pairs)


def _voxels(logits: torch.Tensor, activation: Activation) -> torch.Tensor:
    """How many voxels each class has, or each region, ``(batch, class)``."""
    if activation == "sigmoid":
        return (logits > 0).flatten(2).sum(dim=2)
    labels = logits.argmax(dim=1).flatten(1)
    return torch.stack([torch.bincount(each, minlength=logits.shape[1]) for each in labels])


def _dropouts(network: Any) -> list[nn.Module]:
    modules = network.modules() if isinstance(network, nn.Module) else ()
    return [module for module in modules if isinstance(module, _DropoutNd) and module.p > 0]


@contextlib.contextmanager
def _dropping(network: Any) -> Iterator[None]:
    """A network whose dropout layers drop, and whose other layers stay as they are."""
    layers = [layer for layer in _dropouts(network) if not layer.training]
    for layer in layers:
        layer.train()
    try:
        yield
    finally:
        for layer in layers:
            layer.eval()


@contextlib.contextmanager
def _chance(device: torch.device) -> Iterator[None]:
    """Chance of its own, the same each time."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(_SEED)
        yield
