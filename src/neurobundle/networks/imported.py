"""Weights that other people trained, into a backbone of ours: all of it, or nothing.

A *layout* is how a file names its tensors. Known are those of torchvision and timm (ImageNet), of RadImageNet's PyTorch
files, of MedicalNet (3D), of open_clip (CoCa), and our own, of a network with another head. The *first layer* looks at
image channels: where a file has another number of them, its kernels are summed or repeated. A *mask head* is in files
of our own alone, and is filled as well where the network has one.

Their licences are their authors'; nothing is downloaded unless a name or an address is given.
"""

from __future__ import annotations

import fnmatch
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine
from torch import nn

from neurobundle.errors import SettingError, WeightsError, closest, require
from neurobundle.networks.hub import HUB, Source, fetch
from neurobundle.networks.loader import WeightsLoader
from neurobundle.networks.manifest import sha256_of
from neurobundle.networks.weights import PARALLEL_PREFIX, State, read_state

logger = logging.getLogger(__name__)

#: Under these names a checkpoint holds its network.
WRAPPERS = ("state_dict", "model")

#: RadImageNet's files number the children of a torchvision network instead of naming them.
NUMBERED = re.compile(r"backbone\.(\d+)\.")

Rules = tuple[tuple[str, str], ...]

#: From a layout's names to ours: patterns, applied one after the other. The layout that fits most tensors is taken.
LAYOUTS: dict[str, Rules] = {
    # torchvision's ResNet and InceptionV3, timm's, MedicalNet's
    "the same names": (),
    # and files from before 2018, with one more dot
    "torchvision's DenseNet": (
        (r"(features\.denseblock\d+\.denselayer\d+)\.(norm|relu|conv)\.?([12])\.", r"\1.layers.\2\3."),
    ),
    "torchvision's VGG": ((r"classifier\.0\.", "pre_logits.fc1."), (r"classifier\.3\.", "pre_logits.fc2.")),
    # a stem, four stages, and a step between any two of them
    "torchvision's ConvNeXt": (
        (r"classifier\.0\.", "head.norm."),
        (r"features\.0\.([01])\.", r"stem.\1."),
        *((rf"features\.{2 * n + 1}\.(\d+)\.", rf"stages.{n}.blocks.\1.") for n in range(4)),
        *((rf"features\.{2 * n}\.([01])\.", rf"stages.{n}.downsample.\1.") for n in range(1, 4)),
        (r"(blocks\.\d+)\.layer_scale", r"\1.gamma"),
        (r"(blocks\.\d+)\.block\.0\.", r"\1.conv_dw."),
        (r"(blocks\.\d+)\.block\.2\.", r"\1.norm."),
        (r"(blocks\.\d+)\.block\.3\.", r"\1.mlp.fc1."),
        (r"(blocks\.\d+)\.block\.5\.", r"\1.mlp.fc2."),
    ),
    "open_clip's CoCa": (
        (r"visual\.(conv1|class_embedding|positional_embedding|ln_pre)", r"embed.\1"),
        (r"visual\.transformer\.resblocks\.(\d+)\.", r"block\1."),
        (r"visual\.(attn_pool|ln_post|proj)", r"gather.\1"),
    ),
    "a classifier of ours": ((r"^(trunk|neck)\.", ""),),
}

#: What the files hold beside a backbone: their own heads, and CoCa's half that reads text.
NOT_BACKBONE = (
    *("fc.*", "classifier.*", "last_linear.*", "head.*", "mask_head.*", "AuxLogits.*", "conv_seg.*"),
    *("text.*", "text_decoder.*", "logit_scale", "logit_bias"),
)

#: What the names of a mask head's tensors begin with, in our files and in our networks.
MASK_HEAD = "mask_head."

#: A counter that torch files before 0.4.1 lack, and that no forward pass reads.
COUNTER = ".num_batches_tracked"

_SHOWN_NAMES = 3


@dataclass(frozen=True)
class Matched:
    """What of a network somebody else's weights filled.

    Args:
        loaded: tensors that they filled.
        total: tensors of the network.
        missing: the network's tensors that kept their values.
        unused: the file's tensors that went nowhere.
    """

    loaded: int
    total: int
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def __str__(self) -> str:
        """For the log.

        >>> str(Matched(120, 122, ("head.fc.weight", "head.fc.bias"), ("fc.weight", "fc.bias")))
        'loaded 120 of 122 tensors; missing: head.*; not used: fc.*'
        """
        text = f"loaded {self.loaded} of {self.total} tensors"
        for what, names in (("missing", self.missing), ("not used", self.unused)):
            if names:
                text += f"; {what}: " + ", ".join(dict.fromkeys(f"{name.split('.')[0]}.*" for name in names))
        return text


def load_foreign(network: nn.Module, path_or_hub_name: str | Path, *, sha256: str = "") -> Matched:
    """Fill a classifier's backbone with somebody else's weights, completely or not at all; its head keeps its own.

    A mask head is filled, completely, if the file has one too: a network of ours that was trained for something else,
    or without labels (:mod:`neurobundle.train.reconstruction`).

    Args:
        network: a :class:`neurobundle.networks.classifier.Classifier`, filled in place.
        path_or_hub_name: a file; an address that begins with ``https://``; or ``imagenet``, ``radimagenet``,
            ``medicalnet`` or ``laion2b``, for the file that :data:`neurobundle.networks.hub.HUB` has for this backbone.
        sha256: what the file's sha256 is, or begins with.

    Returns:
        What was loaded, which is logged as well.

    Raises:
        SettingError: if there is no such name for this backbone, or the network is no classifier.
        WeightsError: for a file that is missing, damaged, of another sha256, not of this backbone in every tensor, or
            with values that are NaN or infinite. The network is unchanged then.
    """
    names, full = _backbone_names(network), network.state_dict()
    path = _file(network, path_or_hub_name, sha256)
    theirs = read_foreign(path)
    if any(name.startswith(MASK_HEAD) for name in theirs):
        names |= {name: name for name in full if name.startswith(MASK_HEAD)}
    own = {bare: full[name] for bare, name in names.items()}
    state = _renamed(network, own, theirs)
    unused = tuple(name for name in state if name not in own)
    found = _fitted(own, state)
    _refuse(own, found, unused, path)
    network.load_state_dict({**full, **{names[bare]: tensor for bare, tensor in found.items()}})
    kept = tuple(name for name in full if name not in {names[bare] for bare in found})
    matched = Matched(len(found), len(full), kept, unused)
    logger.info("%s (sha256 %s): %s", path.name, sha256_of(path), matched)
    return matched


def read_foreign(path: str | Path) -> State:
    """The tensors in somebody's file, by their names there, executing nothing that the file says.

    Args:
        path: written by ``torch.save`` or as safetensors; a state dict, or a checkpoint with one in it.

    Raises:
        WeightsError: if it is missing, damaged, a pickle with code, or holds no state dict.
    """
    path = Path(path)
    content = _read(path)
    for wrapper in WRAPPERS:
        inner = content.get(wrapper) if isinstance(content, Mapping) else None
        content = inner if isinstance(inner, Mapping) else content
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise WeightsError(
            "the file holds no state dict: names and tensors",
            "Save network.state_dict() alone, or as 'state_dict' in a checkpoint.",
            file=path,
        )
    return {str(name).removeprefix(PARALLEL_PREFIX): tensor for name, tensor in content.items()}


def channels_fitted(kernels: torch.Tensor, channels: int) -> torch.Tensor:
    """The kernels of a first layer for another number of image channels.

    For one channel they are summed: an image that stands in all channels gives what it gave before. For others they
    are repeated in turn, and scaled so that this holds for whole multiples of the old number.

    Args:
        kernels: ``(out, old channels, ...)``.
        channels: the new number.

    Returns:
        ``(out, channels, ...)``.

    >>> channels_fitted(torch.tensor([[[1.0], [2.0], [3.0]]]), 1).flatten().tolist()
    [6.0]
    >>> channels_fitted(torch.tensor([[[1.0], [2.0], [3.0]]]), 6).flatten().tolist()
    [0.5, 1.0, 1.5, 0.5, 1.0, 1.5]
    """
    old = kernels.shape[1]
    if channels == 1:
        return kernels.sum(dim=1, keepdim=True)
    return kernels[:, [n % old for n in range(channels)]] * (old / channels)


class ForeignWeights(WeightsLoader):
    """Loads somebody else's backbone when a training starts; see :class:`neurobundle.networks.WeightsLoader`.

    Args:
        weights: as for :func:`load_foreign`; None loads nothing, so that a config can name this always.
        network: a classifier; may be wrapped for several processes. All of its ``backbones()``, where it has several.
        average: :class:`neurobundle.train.AveragedWeights` that begins with them.
        unless: a training state that the run goes on from: where this file is, nothing is loaded.
    """

    def __init__(
        self,
        weights: str | Path | None,
        network: nn.Module,
        average: Any = None,
        unless: str | Path | None = None,
    ) -> None:
        super().__init__("" if weights is None else weights, network, average, unless)
        self.weights = weights

    def __call__(self, engine: Engine) -> None:
        """Load, the first time."""
        if self.weights is None or self.loaded or (self.unless is not None and self.unless.exists()):
            return
        branches = getattr(self.network, "backbones", None)
        for backbone in [self.network] if branches is None else branches():
            load_foreign(backbone, self.weights)
        if self.average is not None:
            self.average.begin()
        self.loaded = True


def _backbone_names(network: nn.Module) -> dict[str, str]:
    """Names of the backbone's tensors as other people know them, and as the network does."""
    if not (hasattr(network, "trunk") and hasattr(network, "neck")):
        raise SettingError(
            f"a {type(network).__name__} has no backbone to fill", "Make it by neurobundle.networks.classifier."
        )
    return {name.split(".", 1)[1]: name for name in network.state_dict() if name.startswith(("trunk.", "neck."))}


def _file(network: nn.Module, path_or_hub_name: str | Path, sha256: str) -> Path:
    text = str(path_or_hub_name)
    if text.startswith("https://"):
        return fetch(Source(text, sha256))
    path = Path(text)
    if not path.exists() and path.parent == Path() and not path.suffix:
        return fetch(_listed(network, text))
    if sha256 and path.is_file() and not sha256_of(path).startswith(sha256):
        raise WeightsError(
            f"its sha256 is {sha256_of(path)}, not {sha256}", "Copy the original weights there again.", file=path
        )
    return path


def _listed(network: nn.Module, name: str) -> Source:
    backbone, dims = str(network.backbone), network.spatial_dims
    if name not in HUB:
        raise SettingError(
            f"there is no file and no set of weights called {name!r}{closest(name, HUB)}",
            f"Give a path, an address, or one of {', '.join(HUB)}.",
        )
    source = HUB[name].get(backbone)
    if source is None or source.spatial_dims != dims:
        known = ", ".join(f"{own} in {of.spatial_dims}D" for own, of in HUB[name].items())
        raise SettingError(f"no weights called {name!r} are known for {backbone} in {dims}D", f"There are: {known}.")
    return source


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors" and path.is_file():
        package: Any = require("safetensors.torch", extra="backbones", feature="A safetensors file")
        try:
            return package.load_file(path)
        except Exception as error:
            raise WeightsError(
                f"it is damaged, or no safetensors file ({path.stat().st_size} bytes)",
                "Copy it again.",
                file=path,
            ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        read_state(path, verify=False)  # names what is wrong with the file
        raise


def _renamed(network: nn.Module, own: State, state: State) -> State:
    """A state by our names: of the layouts the one that fits most of the backbone."""
    children = [name for part in ("trunk", "neck") for name, _ in getattr(network, part).named_children()]

    def child(match: re.Match[str]) -> str:
        number = int(match[1])
        return f"{children[number]}." if number < len(children) else match[0]

    named = {NUMBERED.sub(child, name): tensor for name, tensor in state.items()}
    tries = []
    for rules in LAYOUTS.values():
        renamed = {}
        for name, tensor in named.items():
            for pattern, replacement in rules:
                name = re.sub(pattern, replacement, name)
            renamed[name] = tensor
        tries.append(renamed)
    return max(tries, key=lambda tried: len(own.keys() & tried.keys()))


def _fitted(own: State, state: State) -> State:
    """What of a state has a place, with the first layer for our channels, and the shapes that only look different."""
    first = next(name for name, tensor in own.items() if tensor.ndim >= 4)
    fitted = {}
    for name, tensor in ((name, state[name]) for name in own if name in state):
        place = own[name].shape
        if name == first and tensor.ndim == len(place) and tensor.shape[1] != place[1]:
            tensor = channels_fitted(tensor, place[1])
        elif tensor.ndim != len(place) and tensor.numel() == own[name].numel() and tensor.shape[0] == place[0]:
            tensor = tensor.reshape(place)  # a linear layer as a convolution, a scale with empty axes
        fitted[name] = tensor
    return fitted


def _refuse(own: State, found: State, unused: tuple[str, ...], path: Path) -> None:
    """Refuse what is less than the whole backbone, more than it, or no numbers."""
    missing = [name for name in own if name not in found and not name.endswith(COUNTER)]
    reshaped = [name for name in found if found[name].shape != own[name].shape]
    surplus = [name for name in unused if not any(fnmatch.fnmatchcase(name, pattern) for pattern in NOT_BACKBONE)]
    if missing or reshaped or surplus:
        shapes = [f"{name} {tuple(found[name].shape)} for {tuple(own[name].shape)}" for name in reshaped]
        parts = [
            f"{len(names)} {what} ({', '.join(names[:_SHOWN_NAMES])}{', ...' if len(names) > _SHOWN_NAMES else ''})"
            for what, names in (("missing", missing), ("of another shape", shapes), ("unexpected", surplus))
            if names
        ]
        raise WeightsError(
            f"the weights are for another backbone: {len(found) - len(reshaped)} of {len(own)} tensors of it fit; "
            + "; ".join(parts),
            "Use weights of the same backbone in the same spatial_dims: others' are of size full and width 1, ours of "
            "the size and width that they were trained with.",
            file=path,
        )
    for name, tensor in found.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"the weights hold values that are NaN or infinite, in {name}", "Use others.", file=path)
