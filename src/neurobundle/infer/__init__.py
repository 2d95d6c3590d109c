"""From a prepared volume to logits: windows, precision, cascades."""

from neurobundle.infer.answers import AnswersInferer as AnswersInferer
from neurobundle.infer.answers import SliceAnswersInferer as SliceAnswersInferer
from neurobundle.infer.autocast import AutocastInferer as AutocastInferer
from neurobundle.infer.autocast import cpu_has_bfloat16 as cpu_has_bfloat16
from neurobundle.infer.mirrored import MirroredInferer as MirroredInferer
from neurobundle.infer.slices import SlicesInferer as SlicesInferer
