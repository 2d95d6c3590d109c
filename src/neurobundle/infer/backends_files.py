"""Exported networks on the disk: what they are called, and which of them are believed.

An exported file lies beside weights, or in a folder of its own, and ``MANIFEST.sha256`` lists it there with the sha256
of the weights that it was made from as its *parent*. Its name ends in nothing that MONAI Label offers as a model, as it
does each ``*.pt``.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from neurobundle.errors import SettingError, WeightsError
from neurobundle.networks import manifest
from neurobundle.networks.weights import read_state

#: What the name of each backend's file ends in, after the stem of the weights; the files beside it that belong to it.
ENDINGS: dict[str, tuple[str, ...]] = {
    "onnx": (".onnx",),
    "openvino": (".xml", ".bin"),
    "torchscript": (".ts",),
    "tensorrt": ("_trt.ts",),
}

_SHOWN_DIGITS = 12


class Exported(NamedTuple):
    """An exported network that is believed.

    Attributes:
        file: the one that is opened.
        weights: what it was made from.
        sha256: of its bytes.
    """

    file: Path
    weights: Path
    sha256: str


def exported_names(backend: str, weights: Path) -> list[str]:
    """The names of a backend's files for some weights, first the one that is opened.

    >>> exported_names("openvino", Path("models/fold0.pt"))
    ['fold0.xml', 'fold0.bin']
    """
    return [weights.stem + ending for ending in ENDINGS[backend]]


def find_exported(backend: str, weights: str | Path | None, place: str | Path | None = None) -> Exported | None:
    """The exported network that a run uses.

    Args:
        backend: whose.
        weights: what the run loads; None looks for no file.
        place: a file, or a folder; None is the folder of the weights.

    Returns:
        None if the folder has none, or the backend knows no files.

    Raises:
        SettingError: for a place without weights.
        WeightsError: for a file that is missing though it was named, damaged, not listed, or made from other weights.
    """
    if weights is None and place is not None:
        raise SettingError("exported is set, and weights are not", "Set weights to what the run loads.", file=place)
    if weights is None or backend not in ENDINGS:
        return None
    weights = Path(weights)
    folder = Path(place) if place is not None else weights.parent
    named = place is not None and not folder.is_dir()
    file = folder if named else folder / exported_names(backend, weights)[0]
    if not file.exists() and not named:
        return None
    if not weights.is_file():
        return None  # whoever loads them says so
    believe(file, backend, weights)
    return Exported(file, weights, manifest.sha256_of(file))


def believe(file: Path, backend: str, weights: Path) -> None:
    """Check an exported network against the manifest beside it, and against the weights.

    Args:
        file: the one that is opened.
        backend: whose.
        weights: what it must have been made from.

    Raises:
        WeightsError: if it is missing, damaged, not listed, or made from other weights.
    """
    first, *others = ENDINGS[backend]
    again = f"Write it anew: {command_of(backend, weights)}."
    if not file.name.endswith(first):
        raise WeightsError(f"a file for {backend} ends in {first}", again, file=file)
    loaded = manifest.sha256_of(weights)
    listed = manifest.read_manifest(file.parent)
    for part in [file, *(file.with_name(file.name.removesuffix(first) + ending) for ending in others)]:
        if not part.is_file():
            raise WeightsError("the exported network does not exist", again, file=part)
        if part.name not in listed:
            cause = f"the exported network is not listed in {manifest.MANIFEST_NAME}, so nothing says what it is"
            raise WeightsError(cause, again, file=part)
        try:
            entry = manifest.verify(part)
        except WeightsError as error:
            raise WeightsError("the exported network is damaged or was changed", again, file=part) from error
        if entry.parent != loaded:
            raise WeightsError(
                f"it was made from other weights ({entry.parent[:_SHOWN_DIGITS]}) than {weights.name} holds now "
                f"({loaded[:_SHOWN_DIGITS]})",
                again + " Or remove it.",
                file=part,
            )


def command_of(backend: str, weights: Path) -> str:
    """The command that exports some weights, as a message says it."""
    bundle = weights.absolute().parent.parent
    name = bundle.name if (bundle / "configs").is_dir() else "NAME"
    fold = weights.stem.removeprefix("fold")
    more = f" --set fold={fold}" if fold.isdigit() else ""
    return f"`neurobundle export {name} --to {backend}{more}`"


def holds(network: nn.Module, weights: Path) -> bool:
    """Whether a network's tensors are those of a weights file, to the last bit."""
    own, state = network.state_dict(), read_state(weights, verify=False)
    return own.keys() == state.keys() and all(
        value.shape == state[name].shape and torch.equal(value.cpu(), state[name].to(value.dtype))
        for name, value in own.items()
    )
