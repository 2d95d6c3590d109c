"""Pictures that stand in for slices: a bright ellipse with smooth lumps in it, another one for each seed."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def made_slice(seed: int, size: int = 128) -> np.ndarray:
    """A picture (size, size), uint8, dark around the ellipse."""
    lumps = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(size, size)), size / 32)
    across, down = np.meshgrid(*[np.linspace(-1, 1, size)] * 2)
    head = (across / 0.75) ** 2 + (down / 0.85) ** 2 < 1
    return np.where(head, np.clip(120 + 40 * lumps / lumps.std(), 5, 250), 4).astype(np.uint8)
