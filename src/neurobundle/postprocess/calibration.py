"""``calibration.json`` beside a bundle's weights: what was chosen on cases that trained nothing, for new cases.

It holds a *temperature*, which divides logits before softmax or sigmoid, a threshold, what both were *chosen on*, in
words, and the number ``n`` of those cases. The threshold of a network that answers a class is ``abstain_below``; that
of one that outlines structures is ``flag_above``: a case whose *case score*, its uncertainty, is above it should be
looked at by a person. The file is written by ``neurobundle crossval --publish`` and ``neurobundle calibrate``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurobundle.errors import SettingError, WeightsError
from neurobundle.files import write_json
from neurobundle.networks.manifest import MANIFEST_NAME, read_manifest, verify, write_entry

CALIBRATION_FILE = "calibration.json"

#: What the file of a segmentation may hold.
SEGMENTATION_KEYS = frozenset({"temperature", "flag_above", "chosen_on", "n"})


@dataclass(frozen=True)
class SegmentationCalibration:
    """What is done to the logits of structures, and which cases are flagged.

    Attributes:
        temperature: divides the logits.
        flag_above: of the case score; None flags nobody.
    """

    temperature: float = 1.0
    flag_above: float | None = None

    def __post_init__(self) -> None:
        require_temperature(self.temperature)
        if self.flag_above is not None and not math.isfinite(self.flag_above):
            raise SettingError(f"flag_above is {self.flag_above!r}", "Give a case score; leave it out to flag nobody.")


def require_temperature(value: float) -> None:
    """Refuse what no temperature can be.

    Raises:
        SettingError: if it is not above 0.
    """
    if not (math.isfinite(value) and value > 0):
        raise SettingError(f"the temperature is {value!r}", "Give a number above 0; 1 changes nothing.")


def read_segmentation_calibration(path: str | Path | None) -> SegmentationCalibration:
    """What ``neurobundle calibrate`` chose; temperature 1 and no flag where there is no file.

    Raises:
        SettingError: as :func:`read_calibration_file` does, and for a number that cannot be.
    """
    content = read_calibration_file(path, SEGMENTATION_KEYS, "neurobundle calibrate --publish")
    if path is None or not content:
        return SegmentationCalibration()
    try:
        above = content.get("flag_above")
        return SegmentationCalibration(float(content["temperature"]), None if above is None else float(above))
    except (ValueError, KeyError, TypeError) as error:
        raise no_calibration(path, error, "neurobundle calibrate --publish") from error
    except SettingError as error:
        error.file = str(path)
        raise


def read_calibration_file(path: str | Path | None, keys: Collection[str], command: str) -> dict[str, Any]:
    """The content of a ``calibration.json``, whoever's it is.

    Args:
        path: the file.
        keys: what it may hold.
        command: writes it; for the way out.

    Returns:
        What it holds; nothing where there is no file.

    Raises:
        SettingError: for a file that is no such table, or not the one that the manifest beside it lists; it names the
            file.
    """
    if path is None or not Path(path).exists():
        return {}
    _require_as_listed(Path(path))
    try:
        content = json.loads(Path(path).read_bytes())
        if not isinstance(content, dict) or not set(content) <= set(keys) or "temperature" not in content:
            raise ValueError(f"it holds other things than {', '.join(sorted(keys))}")
    except (OSError, ValueError) as error:
        raise no_calibration(path, error, command) from error
    return content


def no_calibration(path: str | Path, error: Exception, command: str) -> SettingError:
    """The error of a file that holds something else."""
    cause = f"this is no calibration ({type(error).__name__}: {error})"
    return SettingError(cause, f"Write it again with `{command}`.", file=path)


def publish_calibration_file(models_dir: Path, content: Mapping[str, Any]) -> Path:
    """Write the file beside the weights, and list it in their manifest.

    Args:
        models_dir: a bundle's ``models``.
        content: what it holds.

    Raises:
        EnvironmentFault: if it cannot be written.
    """
    path = write_json(models_dir / CALIBRATION_FILE, dict(content))
    write_entry(models_dir, CALIBRATION_FILE, origin="released", parent=None)
    return path


def _require_as_listed(path: Path) -> None:
    """A file that stands in no manifest is somebody's own, and may say what it wants."""
    if path.name not in read_manifest(path.parent):
        return
    try:
        verify(path)
    except WeightsError as error:
        cause = f"it is damaged or was changed: its sha256 is not the one in {MANIFEST_NAME}"
        way_out = "Copy the original there again, or name a file of your own: --set calibration=FILE."
        raise SettingError(cause, way_out, file=path) from error
