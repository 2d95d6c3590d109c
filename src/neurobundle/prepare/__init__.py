"""Deterministic preparation: orientation, grid, intensities, and the place of a structure in a head."""

from neurobundle.lazy import attach

__getattr__, __all__ = attach(
    __name__,
    {
        "BiasField": "bias_field",
        "DenoiseNonLocalMeansd": "denoise",
        "HistogramLandmarksd": "landmarks",
        "LabelsToRegionsd": "label_regions",
        "Landmarks": "landmarks",
        "N4BiasFieldCorrectiond": "bias_correction",
        "N4Settings": "bias_settings",
        "NormalizeForegroundd": "intensity",
        "NormalizeIntensityd": "intensity",
        "PlaceError": "locate",
        "RegisterStudyd": "study_registration",
        "Store": "store",
        "StoreDataset": "store_dataset",
        "TemplateLocator": "locate",
        "ToNetworkGridd": "space",
        "check_alignment": "alignment",
        "find_bias_field": "bias_field",
        "kind_of_input": "locate",
        "learn_landmarks": "landmarks",
        "mri_preprocessing": "pipeline",
        "n4": "bias_field",
        "network_grid": "grid",
        "normalize": "intensity",
        "register_head": "register",
        "register_study": "study_registration",
        "store_items": "store_dataset",
        "target_spacing": "grid",
        "tissue_peak": "peaks",
        "training_dataset": "store_dataset",
        "white_stripe": "peaks",
    },
)
