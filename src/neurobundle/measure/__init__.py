"""Scores against a reference, with a policy for misses."""

from neurobundle.measure.report import SegmentationReport as SegmentationReport
from neurobundle.measure.report import read_scores as read_scores
from neurobundle.measure.report import write_scores as write_scores
from neurobundle.measure.segmentation import Score as Score
from neurobundle.measure.segmentation import failed_case as failed_case
from neurobundle.measure.segmentation import score_case as score_case
from neurobundle.measure.summary import summarise as summarise
