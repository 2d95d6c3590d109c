"""Weights in and out of a network, so that nothing is loaded in part, in silence, or from an unknown file.

A *state* is what ``network.state_dict()`` returns: names of tensors and tensors. A weights file of ours is a plain
state, float16 or float32, that ``torch.load(weights_only=True)`` reads, listed in the manifest beside it.
"""

from __future__ import annotations

import fnmatch
import io
import logging
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from neurobundle.errors import WeightsError
from neurobundle.files import write_atomic
from neurobundle.networks import manifest

logger = logging.getLogger(__name__)

State = dict[str, torch.Tensor]

#: What DistributedDataParallel and DataParallel put before each name.
PARALLEL_PREFIX = "module."

#: Under this name ignite's Checkpoint stores the network when it stores more than that.
WRAPPED_NAME = "model"

#: How many names an error message lists.
_SHOWN_NAMES = 3


def load_weights(
    network: torch.nn.Module, path: str | Path, *, verify: bool = True, allow_missing: Sequence[str] = ()
) -> list[str]:
    """Fill a network from a weights file, completely or not at all.

    Args:
        network: where they go, in place. Stored float16 becomes the network's own dtype.
        path: the weights file.
        verify: check the file's sha256 against the manifest beside it first.
        allow_missing: shell patterns (``head.*``) of tensor names that may be absent, of another shape or surplus,
            for fine-tuning with another head.

    Returns:
        The names of the network's tensors that kept their values (all of them match ``allow_missing``).

    Raises:
        WeightsError: for a file that is missing, damaged, a pickle with code, no state, not listed, not for this
            network, or with values that are NaN or infinite. The network is unchanged then.
    """
    path = Path(path)
    state = read_state(path, verify=verify)
    own = network.state_dict()
    if not _fits_any(own, state) and _fits_any(own, _without_prefix(state)):
        logger.info("%s: names begin with %r (parallel training); the prefix is taken off", path.name, PARALLEL_PREFIX)
        state = _without_prefix(state)
    kept = _check_names(own, state, path, allow_missing)
    _check_finite(state, path)
    network.load_state_dict({**{name: own[name] for name in kept}, **{n: t for n, t in state.items() if n in own}})
    logger.info("%s: %d of %d tensors loaded", path.name, len(own) - len(kept), len(own))
    return kept


def read_state(path: str | Path, *, verify: bool = True) -> State:
    """The state in a weights file, on the CPU, executing nothing that the file says.

    Args:
        path: the weights file.
        verify: check the file's sha256 against the manifest beside it first.

    Raises:
        WeightsError: if the file is missing, damaged, a pickle with code, no state, or not listed.
    """
    path = Path(path)
    if verify:
        manifest.verify(path)
    if not path.is_file():
        raise WeightsError("the weights file does not exist", "Train the bundle, or copy the weights there.", file=path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"the file asks for Python code to be run when it is loaded, and was not loaded ({_fingerprint(path)})",
            "Use weights saved as a plain state dict, from somebody you trust.",
            file=path,
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(
            f"checkpoint {path.name} is damaged, or no checkpoint ({_fingerprint(path)})",
            "Copy the original weights there again.",
            file=path,
        ) from error
    return _as_state(content, path)


def save_weights(
    network_or_state: torch.nn.Module | Mapping[str, torch.Tensor],
    path: str | Path,
    *,
    half: bool = True,
    origin: str,
    parent: str | None = None,
) -> manifest.Entry:
    """Write a weights file and its line in the manifest; a kill at any moment leaves the old file or the new one.

    Args:
        network_or_state: a network, or its state.
        path: the file, replaced if it is there.
        half: store floating tensors as float16 (half the size; about three decimal digits).
        origin: ``released`` or ``trained-here``.
        parent: the sha256 of the weights that training began with, or None.

    Returns:
        The file's entry in the manifest.

    Raises:
        WeightsError: if a value is NaN or infinite, or becomes so in float16.
        EnvironmentFault: if it cannot be written.
    """
    path = Path(path)
    state = network_or_state.state_dict() if isinstance(network_or_state, torch.nn.Module) else network_or_state
    state = _stored(_as_state(dict(state), path), half)
    _check_finite(state, path)
    buffer = io.BytesIO()
    torch.save(state, buffer)

    def check(temporary: Path) -> None:
        read_state(temporary, verify=False)
        manifest.announce(path.parent, manifest.make_entry(temporary, origin, parent, name=path.name))

    write_atomic(path, buffer.getvalue(), check)
    return manifest.write_entry(path.parent, path.name, origin, parent)


def _stored(state: State, half: bool) -> State:
    """Copies to store; a tensor with two names (DynUNet's blocks have them) stays one tensor, and is stored once."""
    copies: dict[tuple, torch.Tensor] = {}
    stored = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
        if key not in copies:
            value = tensor.detach().cpu()
            copies[key] = (value.half() if half and value.is_floating_point() else value).clone()
        stored[name] = copies[key]
    return stored


def _fingerprint(path: Path) -> str:
    return f"{path.stat().st_size} bytes, sha256 {manifest.sha256_of(path)}"


def _as_state(content: object, path: Path) -> State:
    """The state in what was loaded, looking one level into a checkpoint that holds more than the network."""
    if isinstance(content, Mapping) and isinstance(content.get(WRAPPED_NAME), Mapping):
        logger.info("%s: a full checkpoint; its %r is used", path.name, WRAPPED_NAME)
        content = content[WRAPPED_NAME]
    if not isinstance(content, Mapping) or not content:
        what = "an empty mapping" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise WeightsError(f"the file holds {what}, not a state dict", "Save network.state_dict().", file=path)
    wrong = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if wrong:
        raise WeightsError(
            f"the file is not a plain state dict: {_some(wrong)} are not tensors",
            "Save network.state_dict() alone.",
            file=path,
        )
    return {str(name): tensor for name, tensor in content.items()}


def _without_prefix(state: State) -> State:
    return {name.removeprefix(PARALLEL_PREFIX): tensor for name, tensor in state.items()}


def _fits_any(own: Mapping[str, torch.Tensor], state: State) -> bool:
    return any(name in own for name in state)


def _check_names(own: Mapping[str, torch.Tensor], state: State, path: Path, allow_missing: Sequence[str]) -> list[str]:
    """Refuse a state that is not this network's; drop what ``allow_missing`` names from ``state``, and return it."""

    def allowed(name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in allow_missing)

    reshaped = [name for name in state if name in own and state[name].shape != own[name].shape]
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own and not allowed(name)]
    kept = [name for name in own if (name in missing or name in reshaped) and allowed(name)]
    bad_missing = [name for name in missing if name not in kept]
    bad_shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}" for name in reshaped if name not in kept
    ]
    if bad_missing or unexpected or bad_shapes:
        fitting = len(own) - len(missing) - len(reshaped)
        parts = [
            f"{len(names)} {what} ({_some(names)})"
            for what, names in (("missing", bad_missing), ("unexpected", unexpected), ("of another shape", bad_shapes))
            if names
        ]
        raise WeightsError(
            f"the weights are for another network: {fitting} of {len(own)} tensors fit; {'; '.join(parts)}",
            "Use the weights of this bundle, or the network_size that they were trained with.",
            file=path,
        )
    for name in kept:
        state.pop(name, None)
    return kept


def _check_finite(state: State, path: Path) -> None:
    for name, tensor in state.items():
        bad = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0
        if bad:
            raise WeightsError(
                f"the weights hold values that are NaN or infinite: {bad} of {tensor.numel()} in {name}",
                "Use another checkpoint; that training diverged, or its values do not fit into float16.",
                file=path,
            )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN_NAMES])
    return f"{shown}, ..." if len(names) > _SHOWN_NAMES else shown
