"""What of a slice made a network answer as it did.

A *class activation map* is large where features spoke for a class: Grad-CAM++ (Chattopadhay et al. 2018), by MONAI. It
shows where a network looked, coarsely, and not why; a map on the tumour does not make an answer right.

Feature n along an axis sees the image around the pixel *start + n x step*. A convolution of stride 2 that pads
by half its kernel looks at every second pixel from the first one on, not at the middle of every two: to stretch the map
over the image, as is usual, would move it by half a step, which is 8 pixels of 144 for a ResNet. Source of
the arithmetic: Araujo et al. 2019, computing receptive fields (10.23915/distill.00021).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from monai.visualize import GradCAMpp
from torch import nn

from neurobundle.errors import SettingError
from neurobundle.networks.blocks import steps_of
from neurobundle.networks.classifier import Classifier

#: What changes the size of feature maps.
_SLIDING = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
)


class Place(NamedTuple):
    """Where features lie along an axis of the image, in pixels: the first one, and from one to the next."""

    start: float
    step: float


def has_features(network: nn.Module) -> bool:
    """Whether there are feature maps to look at; the encoder of a transformer has none."""
    try:
        return bool(last_features(network))
    except SettingError:
        return False


def last_features(network: nn.Module) -> str:
    """The layer whose features are looked at: what the network calls ``cam_layer``, else its last convolution.

    A blank ``cam_layer`` says that there is none: the convolution that cuts an image into tokens has seen nothing yet.

    Raises:
        SettingError: for a network without feature maps.
    """
    named = getattr(network, "cam_layer", None)
    if named:
        return str(named)
    convolutions = [
        name for name, part in network.named_modules() if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    ]
    if named == "" or not convolutions:
        raise SettingError("the network has no feature maps to look at", "Leave the pictures out with --no-pictures.")
    return convolutions[-1]


class ClassActivation:
    """Class activation maps of one network, slice by slice.

    Of a :class:`~neurobundle.networks.classifier.Classifier` only what follows the layer is run with gradients, and
    what comes before it not at all for a slice that the network has just seen (:meth:`watching`).

    MONAI's hooks stay on the network as long as it lives, so there is one of these a network.

    Args:
        network: from ``(1, channel, column, row)`` to logits ``(1, class)``, in eval mode.

    Raises:
        SettingError: for a network without feature maps.
    """

    def __init__(self, network: nn.Module) -> None:
        name = last_features(network)
        self._network, self._layer = network, network.get_submodule(name)
        self._rest = _rest_of(network, name)
        if self._rest is None:
            # Before MONAI's hooks, so that they see gradients from this layer on, and torch computes no others.
            self._layer.register_forward_pre_hook(_begin_gradients)
        module, target = (network, name) if self._rest is None else (self._rest, "features")
        # MONAI's own postprocessing maps the largest to 0 and the smallest to 1, for its colours.
        self._cam = GradCAMpp(
            nn_module=module, target_layers=target, upsampler=lambda _: _as_it_is, postprocessing=_as_it_is
        )
        self._places: dict[torch.Size, list[Place]] = {}
        #: Images and their features, ``(batch, channel, *spatial)`` each.
        self._seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Around the network's work on a case: features are kept for its maps, until the next one."""
        self._seen = []
        if self._rest is None:
            yield
            return
        images: list[torch.Tensor] = []

        def enter(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            images[:] = inputs[:1]

        def keep(_: nn.Module, __: Any, features: torch.Tensor) -> None:
            if images:
                self._seen.append((images.pop().detach(), features.detach()))

        hooks = [self._network.register_forward_pre_hook(enter), self._layer.register_forward_hook(keep)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def __call__(self, image: torch.Tensor, answer: int) -> torch.Tensor:
        """The map of one slice.

        Args:
            image: ``(channel, column, row)``, as the network sees it.
            answer: the class's number.

        Returns:
            ``(column, row)``, from 0 where the least spoke for the class to 1 where the most did; 0 throughout where
            nothing spoke for it, or everything alike.
        """
        begin = image[None] if self._rest is None else self._features(image)
        with torch.enable_grad(), _fixed(self._network if self._rest is None else self._rest):
            given = begin.detach().requires_grad_(self._rest is not None)
            coarse = torch.as_tensor(self._cam(x=given, class_idx=answer))[0, 0].detach().clamp_min(0)
        if image.shape not in self._places:
            self._places[image.shape] = places_of(self._network, self._layer, image[None])
        heat = coarse
        for axis, place in enumerate(self._places[image.shape]):
            heat = _spread(heat, axis, image.shape[axis + 1], place)
        heat = heat - heat.min()
        largest = heat.max()
        return heat / largest if largest > 0 else heat

    def _features(self, image: torch.Tensor) -> torch.Tensor:
        """What the layer gives for a slice, ``(1, channel, *spatial)``."""
        for images, features in self._seen:
            # In half precision, as autocast gives it, the rest would not take it.
            if (images.dtype, images.device) != (image.dtype, image.device) or features.dtype != image.dtype:
                continue
            for n, each in enumerate(images):
                if torch.equal(each, image):
                    return features[n : n + 1]
        with torch.no_grad(), self.watching():
            self._network(image[None])
            return self._seen.pop()[1]


class _Rest(nn.Module):
    """What of a classifier follows the features of a layer."""

    def __init__(self, steps: Sequence[nn.Module]) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.steps = nn.Sequential(*steps)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.steps(self.features(features))
        return logits


def _rest_of(network: nn.Module, layer: str) -> _Rest | None:
    """What follows a step of a classifier's trunk; None of another network, or where the layer lies inside a step."""
    if not isinstance(network, Classifier):
        return None
    steps = list(steps_of(network.trunk, "trunk."))
    names = [name for name, _ in steps]
    if layer not in names:
        return None
    after = [step for _, step in steps[names.index(layer) + 1 :]]
    return _Rest([*after, network.neck, network.head]).eval()


@torch.no_grad()
def places_of(network: nn.Module, layer: nn.Module, image: torch.Tensor) -> list[Place]:
    """Where the features of a layer lie in an image, for each axis.

    Each change of size on the way to the layer counts once: side branches make the same ones. What is padded by a step
    of its own, before a convolution that pads nothing, is not known here, and moves the map by that.

    Args:
        network: is called once.
        layer: one of its modules.
        image: ``(batch, channel, *spatial)``.
    """
    steps: dict[tuple[torch.Size, torch.Size], nn.Module] = {}
    reached: list[nn.Module] = []

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        sizes = (inputs[0].shape[2:], output.shape[2:])
        if not reached and sizes[0] != sizes[1]:
            steps.setdefault(sizes, module)

    hooks = [part.register_forward_hook(note) for part in network.modules() if isinstance(part, _SLIDING)]
    hooks.append(layer.register_forward_hook(lambda module, *_: reached.append(module)))
    try:
        network(image)
    finally:
        for hook in hooks:
            hook.remove()
    places = []
    for axis in range(image.ndim - 2):
        start, step = 0.0, 1.0
        for module in steps.values():
            kernel, stride, dilation = (_along(module, name, axis) for name in ("kernel_size", "stride", "dilation"))
            half = dilation * (kernel - 1) / 2
            padding = half if isinstance(getattr(module, "padding", 0), str) else _along(module, "padding", axis)
            start, step = start + (half - padding) * step, step * stride
        places.append(Place(start, step))
    return places


def _along(module: nn.Module, name: str, axis: int) -> float:
    """A number of a convolution or a pooling, which may be one for all axes; poolings by the mean do not dilate."""
    value = getattr(module, name, {"dilation": 1}.get(name, 0))
    return float(value[axis] if isinstance(value, tuple | list) else value)


def _spread(values: torch.Tensor, axis: int, size: int, place: Place) -> torch.Tensor:
    """Values of features as those of pixels: linear between features, constant beyond the outermost."""
    last = values.shape[axis] - 1
    wanted = ((torch.arange(size, device=values.device) - place.start) / place.step).clamp(0, last)
    lower = wanted.floor().long()
    share = (wanted - lower).reshape([-1 if n == axis else 1 for n in range(values.ndim)]).to(values.dtype)
    upper = values.index_select(axis, (lower + 1).clamp_max(last))
    return values.index_select(axis, lower) * (1 - share) + upper * share


@contextlib.contextmanager
def _fixed(network: nn.Module) -> Iterator[None]:
    """A network whose parameters want no gradients."""
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


def _begin_gradients(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
    """Let gradients begin at a layer's input, where any are computed; torch warns of hooks where none reach it."""
    if not torch.is_grad_enabled():
        return None
    return tuple(value.detach().requires_grad_() for value in inputs)


def _as_it_is(heat: torch.Tensor) -> torch.Tensor:
    return heat
