"""Deterministic preparation: orientation, grid, intensities, and the place of a structure in a head."""

from neurobundle.prepare.intensity import NormalizeForegroundd as NormalizeForegroundd
from neurobundle.prepare.pipeline import mri_preprocessing as mri_preprocessing
