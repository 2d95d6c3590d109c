"""Everything random, used in training only."""

from neurobundle.augment.pipeline import mri_augmentation as mri_augmentation
