"""What of a slice made a network answer as it did.

A *class activation map* is large where features spoke for a class: Grad-CAM++ (Chattopadhay et al. 2018), by MONAI. It
shows where a network looked, coarsely, and not why; a map on the tumour does not make an answer right.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from monai.visualize import GradCAMpp
from torch import nn

from neurobundle.errors import SettingError


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

    MONAI's hooks stay on the network as long as it lives, so there is one of these a network.

    Args:
        network: from ``(1, channel, column, row)`` to logits ``(1, class)``, in eval mode.

    Raises:
        SettingError: for a network without feature maps.
    """

    def __init__(self, network: nn.Module) -> None:
        name = last_features(network)
        # Before MONAI's hooks, so that they see gradients from this layer on, and torch computes no others.
        network.get_submodule(name).register_forward_pre_hook(_begin_gradients)
        self._network = network
        # MONAI's own postprocessing maps the largest to 0 and the smallest to 1, for its colours.
        self._cam = GradCAMpp(nn_module=network, target_layers=name, postprocessing=_as_it_is)

    def __call__(self, image: torch.Tensor, answer: int) -> torch.Tensor:
        """The map of one slice.

        Args:
            image: ``(channel, column, row)``, as the network sees it.
            answer: the class's number.

        Returns:
            ``(column, row)`` in [0, 1]; 0 throughout where nothing spoke for the class.
        """
        with torch.enable_grad(), _fixed(self._network):
            heat = torch.as_tensor(self._cam(x=image[None].detach(), class_idx=answer))[0, 0].detach().clamp_min(0)
        largest = heat.max()
        return heat / largest if largest > 0 else heat


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
