"""Bundles as folders: find them, read what they say, check them (doctor), make new ones (scaffold).

Nothing heavy is imported here: ``find``, ``configfile`` and ``journal`` need neither torch nor MONAI, the doctor
imports them when it runs a check that needs them, and what a config names is imported when it is asked for.
"""

from neurobundle.bundle.configfile import unknown_overrides as unknown_overrides
from neurobundle.bundle.find import bundles as bundles
from neurobundle.bundle.find import find_bundle as find_bundle
from neurobundle.bundle.find import find_overlay as find_overlay
from neurobundle.bundle.find import info as info
from neurobundle.bundle.find import overlays as overlays
from neurobundle.lazy import attach

__getattr__, _LAZY = attach(
    __name__,
    {
        "Anatomy": "anatomy",
        "BrainMaskd": "anatomy",
        "brain_mask": "anatomy",
        "CaseDataset": "evaluator",
        "CaseEvaluator": "evaluator",
        "Journal": "journal",
        "case_collate": "evaluator",
    },
)
