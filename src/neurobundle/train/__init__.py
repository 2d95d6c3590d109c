"""Teaching: handlers, folds and schedules."""

from neurobundle.train.handlers import BestWeights as BestWeights
from neurobundle.train.handlers import EarlyStop as EarlyStop
from neurobundle.train.handlers import GradientGuard as GradientGuard
from neurobundle.train.handlers import ReseedHandler as ReseedHandler
from neurobundle.train.handlers import TrainingState as TrainingState
from neurobundle.train.tensorboard import TensorBoardImageGrid as TensorBoardImageGrid
from neurobundle.train.tensorboard import TensorBoardScalars as TensorBoardScalars
