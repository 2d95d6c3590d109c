"""Teaching: handlers, folds and schedules."""

from neurobundle.lazy import attach

__getattr__, __all__ = attach(
    __name__,
    {
        "AveragedWeights": "averaging",
        "BestWeights": "handlers",
        "EarlyStop": "handlers",
        "FocalTverskyLoss": "losses",
        "GradientGuard": "handlers",
        "LabelLoss": "losses",
        "RegionLoss": "losses",
        "ReseedHandler": "handlers",
        "TrainingState": "handlers",
        "TensorBoardImageGrid": "tensorboard",
        "EpochScalars": "tensorboard",
        "Split": "folds",
        "channels_from_engine": "outputs",
        "audit_folds": "folds",
        "describe": "folds",
        "make_folds": "folds",
    },
)
