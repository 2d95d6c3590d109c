"""Mixed precision on whatever device can do it.

MONAI's engines autocast on CUDA only, and with float16. This inferer wraps another one and runs the network under
bfloat16 autocast on CUDA, and on a CPU that has units for it; the loss and everything after it stay in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer

from neurobundle.errors import SettingError


def cpu_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware (AVX512-BF16 or AMX).

    Without such units the emulation was seen to be 160 times slower than float32.
    """
    # torch has no public question for this; without the private one the answer is the safe one.
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in asked)


class AutocastInferer(Inferer):
    """Runs another inferer, with the network under bfloat16 autocast if ``amp`` is on.

    Args:
        inferer: what calls the network; MONAI's ``SimpleInferer`` if None.
        amp: whether to use mixed precision.
        device: where the network lies, as ``torch.device`` or its name.

    Raises:
        SettingError: if ``amp`` is on and the device is a CPU without bfloat16 units.
    """

    def __init__(self, inferer: Inferer | None = None, amp: bool = False, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.inferer = inferer if inferer is not None else SimpleInferer()
        self.amp = amp
        self.device_type = torch.device(device).type
        if amp and self.device_type == "cpu" and not cpu_has_bfloat16():
            raise SettingError(
                "amp is on, but the device is a CPU without bfloat16 units, where it would be far slower",
                "Set amp to false, or run on a GPU with --device cuda.",
            )

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Logits of ``inputs``, float32, ``(batch, class, i, j, k)``; of several outputs each, by name."""
        with torch.autocast(self.device_type, dtype=torch.bfloat16, enabled=self.amp):
            logits = self.inferer(inputs, network, *args, **kwargs)
        if isinstance(logits, dict):
            return {name: output.float() for name, output in logits.items()}
        return logits.float()
