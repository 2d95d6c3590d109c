"""From a prepared volume to logits: windows, precision, cascades."""

from neurobundle.infer.answers import AnswersInferer as AnswersInferer
from neurobundle.infer.answers import SliceAnswersInferer as SliceAnswersInferer
from neurobundle.infer.autocast import AutocastInferer as AutocastInferer
from neurobundle.infer.autocast import cpu_has_bfloat16 as cpu_has_bfloat16
from neurobundle.infer.backends import BackendInferer as BackendInferer
from neurobundle.infer.backends import backend_key as backend_key
from neurobundle.infer.ensemble import EnsembleInferer as EnsembleInferer
from neurobundle.infer.slices import SlicesInferer as SlicesInferer
from neurobundle.infer.windows import WindowInferer as WindowInferer
