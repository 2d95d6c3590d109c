"""Teaching: handlers, folds and schedules."""

from neurobundle.lazy import attach

__getattr__, __all__ = attach(
    __name__,
    {
        "BestWeights": "handlers",
        "EarlyStop": "handlers",
        "GradientGuard": "handlers",
        "RegionLoss": "losses",
        "ReseedHandler": "handlers",
        "TrainingState": "handlers",
        "TensorBoardImageGrid": "tensorboard",
        "EpochScalars": "tensorboard",
        "Split": "folds",
        "audit_folds": "folds",
        "describe": "folds",
        "make_folds": "folds",
    },
)
