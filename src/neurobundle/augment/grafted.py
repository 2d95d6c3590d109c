"""Tumours in real heads, painted while a network trains: the scans are a person's, the tumour and its truth are drawn.

A *graft* is a study without a tumour into which one was painted (:mod:`neurobundle.augment.grafting`), or that was left
as it is. What the study has of its own, white-matter lesions for instance, has no label: it is no tumour.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import Dataset, MetaTensor
from monai.transforms import Compose, MapTransform, RandomizableTransform

from neurobundle.augment.artefacts import check_range
from neurobundle.augment.grafting import nearest_contrasts, paint_lesion, tissue_of
from neurobundle.augment.lesions import KINDS, RADIUS_MM, Lesion, check_tumours, draw_tumour
from neurobundle.augment.online import NO_FOLD
from neurobundle.augment.tissues import INDEX, SEQUENCES, Contrast, check_sequences, draw_contrasts
from neurobundle.errors import InputError, SettingError, ours_in
from neurobundle.load.datalist import read_datalist
from neurobundle.prepare.channels import file_of
from neurobundle.prepare.pipeline import mri_preprocessing

#: How much of the enhancement that relaxation times say is shown, at least and at most; and how patchy a tumour is, at
#: least and at most, if it is not more so. Set on slices of ce_mri (docs/concepts/tumours.md): real tumours enhance
#: less, and less evenly.
ENHANCEMENT = (0.3, 1.0)
PATCHY = (0.05, 0.2)

#: So many contrasts are drawn, and the one is taken that is most like the scans'.
CHOICES = 6

#: More signal than this is more than a brain: the skull is there.
MOST_BRAIN_ML = 2500.0


class RandGraftTumourd(RandomizableTransform, MapTransform):
    """Paints a tumour into real scans of one head, and gives its label map.

    Args:
        keys: one key: brain-extracted scans ``(sequence, i, j, k)`` in RAS axes, 0 outside the brain. A channel that is
            0 everywhere is absent and stays so.
        label_key: where the label map goes: BraTS 2023's numbers, 0 everywhere where no tumour was painted.
        sequences: what the channels are, names of :data:`neurobundle.augment.tissues.SEQUENCES`.
        prob: how often there is a tumour.
        radius_mm: smallest and largest of its mean radius, without oedema.
        kinds: the kinds that are drawn, and the share of each.
        allow_missing_keys: as in MONAI.

    Raises:
        SettingError: for a setting that means nothing.
        InputError: for scans that have not as many channels, or no brain; it names the file.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str = "label",
        sequences: Sequence[str] = SEQUENCES,
        prob: float = 0.7,
        radius_mm: Sequence[float] = RADIUS_MM,
        kinds: Mapping[str, float] = KINDS,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, check_range("prob", (0.0, prob), 0, 1)[1])
        if len(self.keys) != 1:
            raise SettingError(f"keys are {self.keys!r}", "Give one key: that of the scans.")
        check_sequences(sequences)
        self.label_key, self.sequences = label_key, tuple(sequences)
        check_tumours(kinds, radius_mm)
        self.radius_mm, self.kinds = tuple(radius_mm), dict(kinds)
        self.lesions: tuple[Lesion, ...] = ()
        self.contrasts: tuple[tuple[Contrast, ...], ...] = ()
        self.seed = 0

    def randomize(self, data: Any = None) -> None:
        """Draw the next tumour, or none, and how bright its parts may be."""
        super().randomize(None)
        rng = np.random.default_rng(self.R.randint(2**32, size=4, dtype=np.uint32))
        share, patchy = rng.uniform(*ENHANCEMENT), rng.uniform(*PATCHY)
        self.contrasts = tuple(
            tuple(less_enhancing(contrast, share) for contrast in draw_contrasts(rng, self.sequences))
            for _ in range(CHOICES)
        )
        drawn = draw_tumour(rng, radius_mm=self.radius_mm, kinds=self.kinds) if self._do_transform else ()
        self.lesions = tuple(replace(lesion, patchy=max(lesion.patchy, patchy)) for lesion in drawn)
        self.seed = int(rng.integers(2**62))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """One head."""
        result = dict(data)
        for key in self.key_iterator(result):
            given = torch.as_tensor(result[key])
            self.randomize()
            try:
                image, label = self._painted(given)
            except InputError as error:
                error.file = error.file or file_of(given)
                raise
            result[key] = _like(given, image)
            result[self.label_key] = _like(given, label)
        return result

    def _painted(self, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scans = given.as_tensor() if isinstance(given, MetaTensor) else given
        if scans.ndim != 4 or len(scans) != len(self.sequences):
            raise InputError(
                f"the scans are {tuple(scans.shape)}", f"Give a channel each: {', '.join(self.sequences)}."
            )
        image, brain = scans.float().clone(), (scans > 0).any(dim=0)
        if not self.lesions:
            return image, torch.zeros_like(brain, dtype=torch.uint8)[None]
        there = {name: scan for name, scan in zip(self.sequences, image, strict=True) if bool(scan.any())}
        spacing_mm = np.linalg.norm(np.asarray(given.affine, float)[:3, :3], axis=0) if hasattr(given, "affine") else 1
        steps = np.broadcast_to(spacing_mm, 3).tolist()
        tissue = tissue_of(there, brain)
        contrasts = nearest_contrasts(there, tissue, self.contrasts)
        painted = paint_lesion(there, tissue, self.lesions, contrasts, steps, self.seed)
        for scan, name in zip(image, self.sequences, strict=True):
            if name in there:
                scan.copy_(painted.images[name])
        return image, painted.label[None]


def less_enhancing(contrast: Contrast, share: float) -> Contrast:
    """A contrast in which what enhances in T1c is only so much brighter than white matter; others stay as they are.

    Args:
        contrast: of one sequence.
        share: of the difference from white matter that is left.
    """
    if contrast.sequence != "T1c":
        return contrast
    enhances = (INDEX["enhancing"], INDEX["meningioma"])
    means = tuple(1 + share * (m - 1) if n in enhances and m > 1 else m for n, m in enumerate(contrast.means))
    return replace(contrast, means=means)


def grafted_heads(
    scans: str | Path | None,
    grafts: int,
    transform: Compose,
    key: str = "image",
    spacing_mm: Sequence[float] = (2.0, 2.0, 2.0),
    dataset_dir: str | Path | None = None,
    held_out: Iterable[Mapping[str, Any]] = (),
) -> Dataset:
    """A dataset of so many grafts an epoch, of each study about as many.

    Args:
        scans: a datalist of brain-extracted studies without tumours; each image is a list of files, one a sequence, on
            one grid. Labels and folds are not looked at. None for no grafts at all.
        grafts: items of the dataset.
        transform: begins with :class:`RandGraftTumourd`.
        key: under which the scans are given to it.
        spacing_mm: of the grid on which they are kept in memory.
        dataset_dir: what the datalist's paths are relative to; its own folder if None.
        held_out: items of another datalist, whose subjects give no grafts.

    Raises:
        SettingError: for a datalist that is none, or if all of its studies are held out.
        InputError: for a file that is refused, or scans that show more than a brain; it names case and file.
    """
    if scans is None or not grafts:
        return Dataset([], transform)
    out = {str(item.get("subject", "")) for item in held_out}
    studies = [study for study in read_datalist(scans, base_dir=dataset_dir) if study["subject"] not in out]
    if not studies or grafts < 1:
        raise SettingError(
            f"no tumour can be painted: {grafts} into {len(studies)} studies", "Give more studies.", file=scans
        )
    # All but the last step: intensities are normalised after a tumour was painted.
    load = Compose(list(mri_preprocessing([key], spacing_mm=spacing_mm, allow_empty=True).transforms[:-1]))
    items = [_item(study, key, load) for study in studies]
    return Dataset([items[n % len(items)] for n in range(grafts)], transform)


def _item(study: Mapping[str, Any], key: str, load: Compose) -> dict[str, Any]:
    """One study in memory, with the keys of the items that it stands in a batch with."""
    try:
        image = load({key: study["image"]})[key].clamp_min(0)
    except Exception as error:
        # MONAI wraps what a transform raises.
        raise (ours_in(error) or InputError(f"cannot be read ({error})")).for_case(study["case"]) from error
    voxel_ml = abs(float(torch.linalg.det(image.affine[:3, :3]))) / 1000
    brain_ml = float((image > 0).any(dim=0).sum()) * voxel_ml
    if not brain_ml:
        raise InputError("its scans show nothing", "Mend them.", case=study["case"], file=file_of(image))
    if brain_ml > MOST_BRAIN_ML:
        raise InputError(
            f"its scans have {brain_ml:.0f} ml with a signal, which is more than a brain",
            "Give brain-extracted scans: neurobundle strip makes them.",
            case=study["case"],
            file=file_of(image),
        )
    return {key: image, "case": study["case"], "subject": study["subject"], "fold": NO_FOLD}


def _like(given: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return MetaTensor(values).copy_meta_from(given) if isinstance(given, MetaTensor) else values
