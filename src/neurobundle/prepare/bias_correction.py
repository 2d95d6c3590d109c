"""Bias-field correction as a step that a config names, and its cache.

What is kept is the *lattice* of control points, some kilobytes a scan, under a name that is made from the voxels, the
mask and the settings: whoever changes one of them gets another field. A file that is damaged is made again.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Hashable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from neurobundle.errors import InputError, SettingError
from neurobundle.files import write_atomic
from neurobundle.prepare.bias_field import BiasField, N4Level, N4Record, N4Settings, as_float, find_bias_field, look_at
from neurobundle.prepare.channels import file_of

logger = logging.getLogger(__name__)

Method = Literal["n4", "simpleitk", "none"]

#: Under this key of an image's metadata stands what was done to it.
META_KEY = "bias_field"
#: Counts up when the same voxels and settings would give another field.
VERSION = 2


class N4BiasFieldCorrectiond(MapTransform):
    """Divide each channel of an image by its bias field; the metadata says so.

    Args:
        keys: images, each channel first: ``(channel, i, j, k)`` or ``(channel, i, j)``.
        mask_key: a mask ``(1, i, j, k)`` on the same grid; Otsu's threshold makes one of each channel if None.
        shrink: every so many voxels along an axis are looked at.
        method: ``n4`` (ours), ``simpleitk`` (ITK's, slow, from the same voxels), or ``none``.
        cache_dir: a folder that keeps what ``n4`` found; ``simpleitk`` starts anew each time.
        allow_empty: leave a channel that is 0 everywhere as it is: one that a study lacks.
        allow_missing_keys: as in MONAI.
        settings: further fields of :class:`neurobundle.prepare.N4Settings`.

    Raises:
        SettingError: for an unknown method or setting, one that means nothing, or a mask that is not there.
        InputError: for a channel whose field cannot be found, by either method; it names the file.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str | None = None,
        shrink: int = 4,
        method: Method = "n4",
        cache_dir: str | Path | None = None,
        allow_empty: bool = False,
        allow_missing_keys: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if method not in get_args(Method):
            raise SettingError(f"method is {method!r}", f"It is one of {', '.join(get_args(Method))}.")
        self.rule = N4Settings.of(shrink=shrink, **settings)
        #: What a store of prepared cases looks at, too.
        self.version = VERSION
        self.mask_key, self.method, self.allow_empty = mask_key, method, allow_empty
        self.cache_dir = Path(cache_dir) if cache_dir is not None else None

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Correct the images of one case."""
        result = dict(data)
        if self.method == "none":
            return result
        mask = self._mask(result)
        for key in self.key_iterator(result):
            image = result[key]
            try:
                channels = [self._corrected(channel, mask) for channel in _plain(image)]
            except InputError as error:
                error.file = error.file or file_of(image)
                raise
            stacked = torch.stack(channels)
            if isinstance(image, MetaTensor):
                stacked = MetaTensor(stacked).copy_meta_from(image)
                stacked.meta[META_KEY] = f"{self.method}, shrink {self.rule.shrink}"
            result[key] = stacked
        return result

    def _mask(self, data: Mapping[Hashable, Any]) -> torch.Tensor | None:
        if self.mask_key is None:
            return None
        if self.mask_key not in data:
            raise SettingError(f"there is no mask {self.mask_key!r}", "Load it before, or leave mask_key out.")
        mask = _plain(data[self.mask_key])
        if len(mask) != 1:
            raise InputError(f"the mask has {len(mask)} channels", "Give one: (1, i, j, k).")
        return mask[0]

    def _corrected(self, channel: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if self.allow_empty and not bool(channel.any()):
            return channel.float()
        if self.method == "simpleitk":
            return channel.float() / torch.exp(_field_of_itk(channel, mask, self.rule))
        return self._field(channel, mask).apply(channel.float())[0]

    def _field(self, channel: torch.Tensor, mask: torch.Tensor | None) -> BiasField:
        if self.cache_dir is None:
            return find_bias_field(channel, mask, self.rule)
        path = self.cache_dir / f"{cache_key(channel, mask, self.rule)}.npz"
        kept = _read(path, tuple(channel.shape), channel.device)
        if kept is not None:
            return kept
        field = find_bias_field(channel, mask, self.rule)
        _write(path, field)
        return field


def cache_key(image: torch.Tensor, mask: torch.Tensor | None, rule: N4Settings) -> str:
    """The name under which a field is kept: a sha256 of the voxels, the mask and the settings."""
    digest = hashlib.sha256(f"{VERSION} {tuple(image.shape)} {asdict(rule)} {mask is None}".encode())
    digest.update(np.ascontiguousarray(as_float(image).cpu().numpy(), dtype="<f4").data)
    if mask is not None:
        digest.update(np.packbits((mask > 0).cpu().numpy()).tobytes())
    return digest.hexdigest()


def _write(path: Path, field: BiasField) -> None:
    record = {
        "levels": [level._asdict() for level in field.record.levels],
        "shrink": field.record.shrink,
        "n_voxels": field.record.n_voxels,
        "otsu": field.record.otsu,
    }
    lattice = field.lattice.cpu().numpy().astype("<f8")
    digest = hashlib.sha256(lattice.tobytes()).hexdigest()
    buffer = io.BytesIO()
    np.savez(buffer, lattice=lattice, shape=field.shape, record=json.dumps(record), sha256=digest)
    write_atomic(path, buffer.getvalue())


def _read(path: Path, shape: tuple[int, ...], device: torch.device) -> BiasField | None:
    """What was kept; None if there is nothing, or nothing that can be trusted, which is said."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            lattice, record = kept["lattice"], json.loads(str(kept["record"]))
            right = hashlib.sha256(lattice.tobytes()).hexdigest() == str(kept["sha256"])
            right = right and tuple(kept["shape"].tolist()) == shape
        levels = tuple(
            N4Level(level["control_points"], tuple(level["changes"]), level["converged"]) for level in record["levels"]
        )
        whole = N4Record(levels, tuple(record["shrink"]), record["n_voxels"], record["otsu"])
    except Exception as error:  # numpy raises whatever its parts raise on a damaged file
        logger.warning("%s: the kept bias field cannot be read (%s); it is made again.", path, error)
        return None
    if not right:
        logger.warning("%s: the kept bias field is damaged; it is made again.", path)
        return None
    return BiasField(torch.from_numpy(lattice).to(device), shape, whole)


def _field_of_itk(channel: torch.Tensor, mask: torch.Tensor | None, rule: N4Settings) -> torch.Tensor:
    """The log field by SimpleITK, from the voxels that ours looks at and with the same settings."""
    import SimpleITK as sitk

    seen = look_at(channel, mask, rule)
    # An axis of one voxel has no extent for ITK's splines.
    whole, small, inside = (
        part.detach().cpu().squeeze().numpy().T for part in (channel.float(), seen.volume, seen.inside.to(torch.uint8))
    )
    filter_ = sitk.N4BiasFieldCorrectionImageFilter()
    filter_.SetMaximumNumberOfIterations(list(rule.iterations))
    filter_.SetConvergenceThreshold(rule.tolerance)
    filter_.SetNumberOfControlPoints([rule.control_points] * whole.ndim)
    filter_.SetNumberOfHistogramBins(rule.bins)
    filter_.SetBiasFieldFullWidthAtHalfMaximum(rule.fwhm)
    filter_.SetWienerFilterNoise(rule.wiener_noise)
    try:
        filter_.Execute(sitk.GetImageFromArray(small), sitk.GetImageFromArray(inside))
        field = filter_.GetLogBiasFieldAsImage(sitk.GetImageFromArray(whole))
    except (RuntimeError, ValueError) as error:
        raise InputError(f"SimpleITK finds no field: {str(error).splitlines()[-1]}", "Try method: n4.") from error
    log_field = np.ascontiguousarray(sitk.GetArrayFromImage(field).T)
    return torch.from_numpy(log_field).reshape(channel.shape).to(channel.device)


def _plain(image: Any) -> torch.Tensor:
    tensor = torch.as_tensor(image)
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
