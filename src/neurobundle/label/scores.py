"""How well a bundle agrees with a final label. Nothing here needs MONAI Label."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from neurobundle.bundle.find import answers_of, scored_values_of
from neurobundle.errors import InputError
from neurobundle.label.answers import Answer, on_grid
from neurobundle.label.finals import Labelled, class_of, read_final
from neurobundle.measure.segmentation import score_case


def agreement(bundle: Path, said: Answer, final: Labelled) -> dict[str, Any]:
    """An answer against the final label of the same image.

    Args:
        bundle: says what the values mean.
        said: what it answers.
        final: what an annotator saved.

    Returns:
        ``{structure: {"dice": ..., "hd95_mm": ...}}``, without what neither has; of a class ``{"right": bool,
        "probability": ...}``, that of the right one.

    Raises:
        InputError: if the label cannot be read, or is none of the bundle's.
    """
    classes = answers_of(bundle)
    labels, _ = read_final(final, bundle)
    if classes is not None:
        return _class_agreement(said.numbers["answer"], classes[class_of(labels, len(classes))])
    if said.labels is None:
        raise InputError("there is no label map to compare", "Ask the bundle again.", case=final.case)
    there = on_grid(labels, said.labels)
    spacing = nib.affines.voxel_sizes(said.labels.affine)
    scores = score_case(said.labels.data, there.data, scored_values_of(bundle), spacing, case=final.case)
    return {
        score.structure: {"dice": round(score.dice, 4), "hd95_mm": round(score.hd95_mm, 2)}
        for score in scores
        if np.isfinite(score.dice)
    }


def _class_agreement(answer: Mapping[str, Any], right: str) -> dict[str, Any]:
    probabilities = answer["probabilities"]
    best = max(probabilities, key=probabilities.__getitem__)
    return {"right": best == right, "probability": round(float(probabilities[right]), 4)}
