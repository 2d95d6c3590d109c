"""Teaching: handlers, folds and schedules."""

from neurobundle.lazy import attach

__getattr__, __all__ = attach(
    __name__,
    {
        "AnswerLoss": "answers",
        "AveragedWeights": "averaging",
        "BestWeights": "handlers",
        "BlockwiseFineTuning": "finetune",
        "ChosenAnswersd": "answers",
        "EarlyStop": "handlers",
        "FineTuningState": "finetune",
        "FocalTverskyLoss": "losses",
        "FreezeBlocks": "finetune",
        "GradientGuard": "handlers",
        "GradualUnfreezing": "finetune",
        "LabelLoss": "losses",
        "RegionLoss": "losses",
        "ReseedHandler": "handlers",
        "TrainingState": "handlers",
        "TensorBoardImageGrid": "tensorboard",
        "EpochScalars": "tensorboard",
        "EpochValidation": "validation",
        "Split": "folds",
        "channels_from_engine": "outputs",
        "audit_folds": "folds",
        "describe": "folds",
        "layer_decay_groups": "finetune",
        "make_folds": "folds",
        "prepare_answers": "answers",
    },
)
