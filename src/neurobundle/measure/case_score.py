"""The case score that a run gives, of logits that were kept: the one place where it is named."""

from __future__ import annotations

from neurobundle.measure.logits import CaseLogits
from neurobundle.measure.voxel_calibration import Structures


def case_uncertainty(case: CaseLogits, structures: Structures, temperature: float) -> float:
    """The error that is expected of a case, as a run computes it: :func:`neurobundle.infer.uncertainty.case_score`.

    Args:
        case: its logits.
        structures: what its channels are.
        temperature: divides the logits.
    """
    import torch

    from neurobundle.infer.uncertainty import case_score

    return case_score(torch.from_numpy(case.logits), structures.activation, temperature)
