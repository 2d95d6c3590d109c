"""Scores to labels, and whether labels can be believed; without a truth to compare with."""

from neurobundle.postprocess.plausible import HippocampusCheck as HippocampusCheck
from neurobundle.postprocess.regions import RegionsToLabelsd as RegionsToLabelsd
