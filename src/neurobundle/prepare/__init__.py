"""Deterministic preparation: orientation, grid, intensities, and the place of a structure in a head."""

from neurobundle.lazy import attach

__getattr__, __all__ = attach(
    __name__,
    {
        "NormalizeForegroundd": "intensity",
        "PlaceError": "locate",
        "TemplateLocator": "locate",
        "kind_of_input": "locate",
        "mri_preprocessing": "pipeline",
        "register_head": "register",
    },
)
