"""Everything random, used in training only: augmentation, and heads made from label maps."""

from neurobundle.lazy import attach

__getattr__, __all__ = attach(
    __name__,
    {
        "FindForegroundIndicesd": "crops",
        "Head": "synthesis",
        "HeadSettings": "head_plan",
        "Lesion": "lesions",
        "RandDropChannelsd": "absence",
        "synthetic_heads": "online",
        "mixed_dataset": "online",
        "RandBiasFieldFastd": "contrast",
        "RandBlurd": "artefacts",
        "RandCutoutd": "artefacts",
        "RandGammad": "contrast",
        "RandGibbsd": "kspace",
        "RandInvertIntensityd": "contrast",
        "RandMotionGhostd": "kspace",
        "RandPosNegCropd": "crops",
        "RandRicianNoised": "noise",
        "RandSliced": "slices",
        "RandSpatiald": "spatial",
        "RandSpikesd": "kspace",
        "RandThickSlicesd": "artefacts",
        "SynthesizeHeadd": "synthesis",
        "deform_labels": "deform",
        "draw_head": "head_plan",
        "draw_tumour": "lesions",
        "draw_white_matter_lesions": "lesions",
        "mri_artefacts": "pipeline",
        "mri_augmentation": "pipeline",
        "paint_lesion": "grafting",
        "synthesize_head": "synthesis",
    },
)
