"""The gate as a MONAI reader, so that any config gets it: ``LoadImaged`` with ``reader: neurobundle.load.Reader``.

MONAI's ``LoadImage`` catches whatever a reader's ``read()`` raises and silently falls back to its own readers. So
``read()`` here returns a *handle*, which is nothing but the paths, and every check raises in ``get_data()``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple

from neurobundle.errors import InputError, SettingError, closest
from neurobundle.load.gate import Form, Kind, Nonfinite, Policy
from neurobundle.load.grids import require_same_grid
from neurobundle.load.names import is_nifti_name, is_picture_name
from neurobundle.load.scan import Scan, is_dicom, read_scan


class _Handle(NamedTuple):
    """What ``read()`` gives: the paths, unread."""

    paths: tuple[Path, ...]


class Reader(ImageReader):
    """Reads NIfTI files, DICOM files and folders with one volume, and pictures of a slice if asked, through the gate.

    Several paths become channels, in their order, and must share one grid. The metadata hold the grid, the file's form
    code and unit, and what the gate warned of; never a tag or a text of the file.

    Args:
        kind: ``image``, or ``label``: it may be empty.
        nonfinite: ``refuse`` NaN and infinite voxels, or set them to ``zero``.
        form: which of two contradicting NIfTI forms speaks: ``auto``, ``sform`` or ``qform``.
        assume_ras: take a NIfTI file without form codes as RAS+.
        channels: how many channels a case must have that is one file, 4D; None refuses 4D unless its last axis is 1.
        spatial_dims: 3, or 2 for flat images.
        allow_gaps: fill missing DICOM slices by interpolation.
        allow_empty: let an image without a signal pass, for networks that can do without a channel.
        real_world: take DICOM real-world values where a file maps to some.
        pictures: also take a PNG or JPEG of one slice; a network of volumes has no use for it.
        unknown: anything else is refused.

    Raises:
        SettingError: for an unknown setting or value.
    """

    def __init__(
        self,
        kind: Kind = "image",
        nonfinite: Nonfinite = "refuse",
        form: Form = "auto",
        assume_ras: bool = False,
        channels: int | None = None,
        spatial_dims: int = 3,
        allow_gaps: bool = False,
        allow_empty: bool = False,
        real_world: bool = False,
        pictures: bool = False,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            # A TypeError would make MONAI go on with a reader without any setting.
            name, known = next(iter(unknown)), [*(field.name for field in fields(Policy)), "pictures"]
            raise SettingError(
                f"the reader has no setting {name!r}{closest(name, known)}", f"It has {', '.join(known)}."
            )
        self.pictures = pictures
        self.policy = Policy(
            kind, nonfinite, form, assume_ras, channels, spatial_dims, allow_gaps, allow_empty, real_world
        )

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Whether all paths are NIfTI files by name, or DICOM files or folders; asked only where MONAI chooses."""
        paths = [Path(str(name)) for name in ensure_tuple(filename)]
        return all(is_nifti_name(path.name) or is_dicom(path) for path in paths)

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> _Handle:
        """A handle on the paths; nothing is opened, and nothing is raised."""
        return _Handle(tuple(Path(str(name)) for name in ensure_tuple(data)))

    def get_data(self, img: _Handle) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Read the files through the gate.

        Returns:
            Data ``(i, j, k)``; ``(channel, i, j, k)`` for several files; ``(i, j, k, channel)`` for a 4D file. And the
            metadata that MONAI's own readers give.

        Raises:
            InputError: for the first check that refuses, or if two files do not share a grid.
        """
        for path in img.paths:
            if is_picture_name(path.name) and not self.pictures:
                raise InputError("it is not a NIfTI file, but a picture", "Give a volume: NIfTI or DICOM.", file=path)
        scans = [read_scan(path, self.policy) for path in img.paths]
        first = scans[0]
        for path, scan in zip(img.paths[1:], scans[1:], strict=True):
            require_same_grid(path, scan.data.shape, scan.affine, img.paths[0], first.data.shape, first.affine)
        self._require_channels(img.paths, first)
        data = first.data if len(scans) == 1 else _stacked([scan.data for scan in scans])
        return data, self._metadata(scans)

    def _require_channels(self, paths: Sequence[Path], first: Scan) -> None:
        """One file must hold all channels; of several files, MONAI Label's one path a case has none."""
        wanted = self.policy.channels or 1
        if len(paths) == 1 and wanted > 1 and first.data.ndim == self.policy.spatial_dims:
            cause = f"it holds one volume, and {wanted} channels are wanted"
            raise InputError(cause, "Give one file a channel, or one 4D file with all of them.", file=paths[0])

    def _metadata(self, scans: Sequence[Scan]) -> dict[str, Any]:
        first, axes = scans[0], self.policy.spatial_dims
        channel_dim: float = float("nan")  # MONAI's word for "no channel"
        if len(scans) > 1:
            channel_dim = 0
        elif first.data.ndim > axes:
            channel_dim = -1
        # As NIfTI stores it: a DICOM series then has the very grid of the file that `run` and `convert` write of it.
        affine = first.affine.astype(np.float32).astype(float)
        return {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(first.data.shape[:axes]),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: channel_dim,
            "form_code": first.form_code,
            "units": first.units,
            "warnings": "; ".join(dict.fromkeys(warning for scan in scans for warning in scan.warnings)),
        }


def _stacked(volumes: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """``numpy.stack`` of volumes ``(i, j, ...)``, contiguous.

    NIfTI stores the first axis fastest and MONAI wants it slowest; plane by plane that takes half the time.
    """
    stack = np.empty((len(volumes), *volumes[0].shape), np.result_type(*volumes))
    for channel, volume in zip(stack, volumes, strict=True):
        for j in range(volume.shape[1]):
            channel[:, j] = volume[:, j]
    return stack
