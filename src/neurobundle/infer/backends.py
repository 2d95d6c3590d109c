"""What computes a network: PyTorch itself, or another runtime that gives the same logits faster.

A *backend* is such a runtime. All but ``eager`` and ``compile`` compute a copy of the network that was *converted* for
them, in memory when it is first called, or *exported* to a file beforehand (``neurobundle export``). A copy knows
nothing of what happens to the network afterwards, so it is made for the values that the network has at that moment, and
made again when they change.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SimpleInferer
from torch import nn

from neurobundle.errors import NeurobundleError, SettingError
from neurobundle.infer.backends_choice import AUTO, EAGER, chosen_backend, version_of
from neurobundle.infer.backends_convert import Engine, convert, load, plain_keywords
from neurobundle.infer.backends_files import Exported, find_exported, holds

logger = logging.getLogger(__name__)

#: Copies of one network that are kept: one for each way of calling it.
_MOST_COPIES = 4

Network = Callable[..., Any]


class BackendInferer(Inferer):
    """Runs another inferer with a network that a backend computes.

    Logits are those of ``eager`` to within 1e-3, in float32 whatever autocast says. What a backend cannot do is refused
    where it was asked for by name, and computed by ``eager``, with one warning, where it was chosen by ``auto``. A
    network in training mode, in whole or in part (Monte Carlo dropout), is always computed by ``eager``.

    Args:
        inferer: what calls the network; MONAI's ``SimpleInferer`` if None.
        backend: one of :data:`~neurobundle.infer.backends_choice.BACKENDS`.
        exported: a file of ``neurobundle export``, or a folder of such; None is the folder of ``weights``. Where a
            folder has no file for this backend and these weights, the network is converted in memory.
        weights: what the network is loaded from, by which exported files are believed; without it none is used.
        device: where the network lies, as ``torch.device`` or its name.

    Raises:
        SettingError: for a backend that there is not, or not on this device.
        MissingPackageError: if its packages are not installed.
        WeightsError: if there is an exported file and it is damaged, or was made from other weights.
    """

    def __init__(
        self,
        inferer: Inferer | None = None,
        backend: str = EAGER,
        exported: str | Path | None = None,
        weights: str | Path | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.inferer = inferer if inferer is not None else SimpleInferer()
        self.asked = backend or EAGER
        self.backend = chosen_backend(self.asked, device, exported=True)
        found = find_exported(self.backend, weights, exported)
        if found is None:
            self.backend = chosen_backend(self.asked, device)
        #: What a result depends on beside the network and its weights: :func:`backend_key`.
        self.key = _key(self.backend, found)
        self._copies = _Copies(found)

    def __call__(self, inputs: torch.Tensor, network: Network, *args: Any, **kwargs: Any) -> Any:
        """Call the wrapped inferer.

        Args:
            inputs: ``(batch, channel, *spatial)``.
            network: a ``torch.nn.Module``; only ``eager`` takes any other callable.
            args: for the network; no backend but ``eager`` and ``compile`` takes further ones.
            kwargs: for the network: numbers, words and switches, which are a part of the copy.

        Returns:
            What the wrapped inferer returns.

        Raises:
            SettingError: if the network cannot be converted, and the backend was asked for by name.
        """
        if self.backend == EAGER:
            return self.inferer(inputs, network, *args, **kwargs)
        if isinstance(network, nn.Module) and any(part.training for part in network.modules()):
            self._copies.warn("the network is in training mode (Monte Carlo dropout?), and is computed by eager")
            return self.inferer(inputs, network, *args, **kwargs)
        return self.inferer(inputs, _StandIn(self, network), *args, **kwargs)

    def use(self, network: nn.Module, engine: Engine) -> None:
        """Compute a network by a copy that is at hand already.

        Args:
            network: whose copy it is.
            engine: the copy.
        """
        self._copies.of(network).append(engine)

    def computed(self, network: Network, window: torch.Tensor, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """What the network gives for one batch of windows, computed by the backend."""
        try:
            if self.backend == "compile":
                return self._compiled(network, window, args, keywords)
            with torch.no_grad(), torch.autocast(window.device.type, enabled=False):
                outputs = self._engine(network, window, args, keywords)(window)
        except NeurobundleError as error:
            if self.asked != AUTO:
                raise
            self._copies.warn(f"{error.cause}; it is computed by {EAGER}")
            return network(window, *args, **keywords)
        return outputs[0] if len(outputs) == 1 else outputs

    def _compiled(self, network: Network, window: torch.Tensor, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """By ``torch.compile``, which follows the network's values and takes any arguments."""
        try:
            return self._copies.compiled(self._itself(network))(window, *args, **keywords)
        except torch._dynamo.exc.TorchDynamoException as error:
            text = " ".join(str(error).split())[:160]
            raise SettingError(
                f"torch cannot compile the network ({text})", f"It wants a C++ compiler; or set the backend to {EAGER}."
            ) from error

    def _engine(
        self, network: Network, window: torch.Tensor, args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> Engine:
        """The copy for such a call; made, if there is none yet."""
        if args or not plain_keywords(keywords):
            raise SettingError(
                f"the backend {self.backend} takes a network of one image, and keywords that are numbers or words",
                f"Set the backend to {EAGER}.",
            )
        module = self._itself(network)
        engines = self._copies.of(module)
        for known in engines:
            if known.fits(window, keywords):
                return known
        engine = self._copies.from_file(self.backend, module, window)
        if engine is None or not engine.fits(window, keywords):
            engine = convert(self.backend, module, window, keywords)
        engines.append(engine)
        del engines[:-_MOST_COPIES]
        return engine

    def _itself(self, network: Network) -> nn.Module:
        if isinstance(network, nn.Module):
            return network
        raise SettingError(
            f"the backend {self.backend} wants the network itself, and was given a {type(network).__name__}",
            "Put BackendInferer around the inferers that change the network.",
        )


class _StandIn:
    """What a wrapped inferer calls in the network's place."""

    def __init__(self, owner: BackendInferer, network: Network) -> None:
        self._owner, self._network = owner, network

    def __call__(self, window: torch.Tensor, *args: Any, **keywords: Any) -> Any:
        # Without the metadata: no backend knows them.
        plain = window.as_tensor() if isinstance(window, MetaTensor) else window
        return self._owner.computed(self._network, plain, args, keywords)


class _Copies:
    """The copies of networks that one inferer has; in slots, since a run's fingerprint looks at attributes."""

    __slots__ = ("_by_network", "_compiled", "_exported", "_said")

    def __init__(self, exported: Exported | None) -> None:
        self._exported = exported
        self._by_network: WeakKeyDictionary[nn.Module, tuple[Any, list[Engine]]] = WeakKeyDictionary()
        self._compiled: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
        self._said: set[str] = set()

    def of(self, network: nn.Module) -> list[Engine]:
        """The copies of a network as it is now; those of values that it had before are dropped."""
        state = _state_of(network)
        known = self._by_network.get(network)
        if known is None or known[0] != state:
            known = self._by_network[network] = (state, [])
        return known[1]

    def compiled(self, network: nn.Module) -> Any:
        """The network under ``torch.compile``."""
        if network not in self._compiled:
            self._compiled[network] = torch.compile(network)
        return self._compiled[network]

    def from_file(self, backend: str, network: nn.Module, window: torch.Tensor) -> Engine | None:
        """The copy that was exported; None if there is none of what the network holds."""
        if self._exported is None:
            return None
        file, weights = self._exported.file, self._exported.weights
        if not holds(network, weights):
            self.warn(f"the network holds other weights than {weights.name}, so {file.name} is not used")
            return None
        engine = load(backend, file, window.device)
        engine.require_channels(window, file)
        return engine

    def warn(self, text: str) -> None:
        """Say something once."""
        if text not in self._said:
            self._said.add(text)
            logger.warning("%s", text)


def backend_key(inferer: Any) -> dict[str, str]:
    """What a result depends on for its backend: its name, its version, and the exported file's sha256.

    Args:
        inferer: one that may hold a :class:`BackendInferer`, at any depth.

    Returns:
        Nothing for ``eager``.
    """
    while inferer is not None:
        if isinstance(inferer, BackendInferer):
            return dict(inferer.key)
        inferer = getattr(inferer, "inferer", None)
    return {}


def _key(backend: str, exported: Exported | None) -> dict[str, str]:
    if backend == EAGER:
        return {}
    return {"backend": backend, "version": version_of(backend), "exported": exported.sha256 if exported else ""}


def _state_of(network: nn.Module) -> tuple[Any, ...]:
    """What changes whenever a value of the network does: where its tensors lie, and how often each was written."""
    tensors = [*network.parameters(), *network.buffers()]
    return tuple((tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors)
