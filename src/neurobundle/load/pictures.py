"""PNG and JPEG pictures, for flat data sets. A picture has no affine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neurobundle.errors import require
from neurobundle.load.checks import check_voxels
from neurobundle.load.gate import STRICT, Policy, Verdict, refuse

#: Two colour channels whose mean difference over the bright pixels is below this many grey levels are copies of each
#: other: a JPEG's rounding is about one level.
COPY_LEVELS = 2.0

#: Pixels above this grey level are bright, and a picture that has fewer than this share of them says nothing.
BRIGHT_LEVEL, LEAST_BRIGHT = 16, 0.01

#: What Pillow calls pictures whose numbers stand for colours in a table, and those that may hold grey in disguise.
PALETTE = "P"
GREY_MODES = (PALETTE, "LA", "PA", "RGB", "RGBA")

_AGAIN = "Copy or export the file again."


def read_picture(path: Path, policy: Policy = STRICT) -> npt.NDArray[Any]:
    """A grey picture, ``(row, column)``.

    Grey that was saved in colour is grey: RGB whose channels say the same, a palette, an alpha channel that hides
    nothing. A label map's numbers are taken as they are, and it has one channel.

    Raises:
        InputError: if it is missing, unreadable, coloured, or refused by the gate.
    """
    verdict, data, facts = judge_picture(path, policy)
    if data is not None and (data.ndim != 2 or facts["type"] == PALETTE):
        grey, problem = (data, "") if policy.kind == "label" else _grey_of(path, str(facts["type"]))
        if problem or grey.ndim != 2:
            cause = problem or f"{facts['type']} label maps are not supported"
            verdict = Verdict([refuse("type", cause, "Export it as one number a voxel.", path), *verdict.findings])
        data = grey
    verdict.require(path)
    assert data is not None
    return data


def _grey_of(path: Path, mode: str) -> tuple[npt.NDArray[Any], str]:
    """The grey values of a picture that is stored in another way, and why it has none."""
    pillow: Any = require("PIL.Image", extra="demo", feature="reading PNG and JPEG")
    nothing = np.zeros((0, 0, 0), np.uint8)
    if mode not in GREY_MODES:
        return nothing, f"{mode} images are not supported"
    with pillow.open(path) as picture:
        colours = np.array(picture.convert("RGBA"))
    if (colours[..., 3] != colours[..., 3].max()).any():
        return nothing, "it is transparent in places, and nothing says what is there"
    spread = np.ptp(colours[..., :3].astype(np.int16), axis=2)
    if same_channels(colours) != "0, 1 and 2" and spread.mean() >= COPY_LEVELS:
        return nothing, "it is in colour, and a slice of MRI is grey: RGB images are not supported"
    return np.rint(colours[..., :3].mean(axis=2)).astype(np.uint8), ""


def judge_picture(path: Path, policy: Policy = STRICT) -> tuple[Verdict, npt.NDArray[Any] | None, dict[str, Any]]:
    """What the gate says of a picture; one in colour is let through.

    Returns:
        The verdict, the pixels ``(row, column)`` or ``(row, column, colour)``, and the facts: ``shape``, ``type``, and
        in colour ``same``, the channels that say the same.
    """
    verdict = Verdict()
    if not path.is_file():
        verdict.add(refuse("file", "there is no such file", "Check the path.", path))
        return verdict, None, {}
    pillow: Any = require("PIL.Image", extra="demo", feature="reading PNG and JPEG")
    try:
        with pillow.open(path) as picture:
            data, mode = np.array(picture), str(picture.mode)
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        verdict.add(refuse("file", f"it cannot be read ({_without_path(error, path)})", _AGAIN, path))
        return verdict, None, {}
    data = data.astype(np.uint8) if data.dtype == bool else data
    verdict.extend(check_voxels(data, policy, path))
    facts: dict[str, Any] = {"shape": list(data.shape[:2]), "type": mode}
    if data.ndim == 3 and data.shape[2] >= 3:
        facts["same"] = same_channels(data)
    return verdict, data, facts


def same_channels(data: npt.NDArray[Any]) -> str | None:
    """Which colour channels of a picture say the same.

    Args:
        data: ``(row, column, colour)``.

    Returns:
        ``0 and 1``, say; ``0, 1 and 2`` for grey saved in colour; an empty text if all differ; None if the picture is
        too dark to tell.

    >>> same_channels(np.full((2, 2, 3), (90, 10, 90), np.uint8)), same_channels(np.zeros((2, 2, 3), np.uint8))
    ('0 and 2', None)
    """
    bright = data[..., :3].max(axis=2) > BRIGHT_LEVEL
    if bright.mean() < LEAST_BRIGHT:
        return None
    colours = data[bright][:, :3].astype(np.int16)
    pairs = [(0, 1), (0, 2), (1, 2)]
    same = [(a, b) for a, b in pairs if float(np.abs(colours[:, a] - colours[:, b]).mean()) < COPY_LEVELS]
    if len(same) > 1:
        return "0, 1 and 2"
    return f"{same[0][0]} and {same[0][1]}" if same else ""


def _without_path(error: Exception, path: Path) -> str:
    return str(error).replace(str(path), path.name)
