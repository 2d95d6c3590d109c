"""Scores to labels, and whether labels can be believed; without a truth to compare with."""

from neurobundle.postprocess.answers import LogitsToAnswerd as LogitsToAnswerd
from neurobundle.postprocess.answers import PoolSlicesd as PoolSlicesd
from neurobundle.postprocess.brain import VolumeCheck as VolumeCheck
from neurobundle.postprocess.native_labels import LogitsToNativeLabelsd as LogitsToNativeLabelsd
from neurobundle.postprocess.native_labels import LogitsToNativeProbabilitiesd as LogitsToNativeProbabilitiesd
from neurobundle.postprocess.plausible import HippocampusCheck as HippocampusCheck
from neurobundle.postprocess.regions import RegionsToLabelsd as RegionsToLabelsd
