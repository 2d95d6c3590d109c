"""Scores to labels, and back to the native grid."""

from neurobundle.postprocess.label_map import label_map as label_map
from neurobundle.postprocess.label_map import one_hot as one_hot
