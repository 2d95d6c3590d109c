"""The blocks of a network: what fine-tuning freezes and unfreezes as one.

A *step* is one link of the chain of modules that an image goes through. A step *learns* if it has a convolution or a
linear layer. A *block* is one or more steps, in the order of execution; the last block is the head. They are found
by structure alone:

1. A step of several learning layers (a residual stage, a dense block, an inception module) is a block.
2. Single layers between two poolings, or between two such steps, are one block.
3. Norms, activations and poolings belong to the block that they follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn

Chain = list[tuple[str, nn.Module]]

HEAD = "head"

_LEARNING = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class Block:
    """Part of a network that is frozen and unfrozen as one.

    Args:
        name: of its first learning step, or ``head``.
        parameters: its tensors that can be learned.
    """

    name: str
    parameters: list[nn.Parameter] = field(repr=False)

    @property
    def count(self) -> int:
        """Numbers in all of them."""
        return sum(parameter.numel() for parameter in self.parameters)


def blocks_of(network: nn.Module) -> list[Block]:
    """The blocks of a network, from the input to the head.

    Args:
        network: one of :mod:`neurobundle.networks.classifier`; of any other its children are the blocks, in the order
            in which they were registered.

    Returns:
        Blocks with every parameter of the network in exactly one of them (what two share belongs to the first). Of a
        classifier the last one is ``head``, and a mask head belongs to it.
    """
    chain = getattr(network, "chain", None)
    if chain is None:
        groups = [(name, [child]) for name, child in network.named_children()]
    else:
        groups = [*_grouped(chain()), (HEAD, network.heads())]  # type: ignore[operator]
    blocks, taken = [], set()
    for name, modules in groups:
        found = dict.fromkeys(parameter for module in modules for parameter in module.parameters())
        own = [parameter for parameter in found if parameter not in taken]
        taken |= set(own)
        if own:
            blocks.append(Block(name, own))
    return blocks


def steps_of(sequence: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The steps of a sequence; a sequence inside it is taken apart if it lowers the resolution more than once.

    A stage of a residual network lowers it once, and stays whole.
    """
    for name, step in sequence.named_children():
        if type(step) is nn.Sequential and sum(lowers(child) for child in step) > 1:
            yield from steps_of(step, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", step


def lowers(module: nn.Module) -> bool:
    """Whether a module has a layer with a stride."""
    strides = [getattr(part, "stride", 1) for part in module.modules()]
    return any(max(stride) > 1 if isinstance(stride, tuple) else stride > 1 for stride in strides)


def learning_layers(step: nn.Module) -> int:
    """How many convolutions and linear layers a step has."""
    return sum(isinstance(part, _LEARNING) for part in step.modules())


def _grouped(chain: Chain) -> list[tuple[str, list[nn.Module]]]:
    groups: list[tuple[str, list[nn.Module]]] = []
    fresh = True
    for name, step in chain:
        layers = learning_layers(step)
        if not groups or layers > 1 or (layers == 1 and fresh):
            groups.append((name, [step]))
        else:
            groups[-1][1].append(step)
        fresh = layers > 1 if layers else fresh or lowers(step)
    return groups
