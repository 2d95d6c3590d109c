"""Architectures, and the weights that go into them."""

from neurobundle.lazy import attach

__getattr__, __all__ = attach(
    __name__,
    {
        "Block": "blocks",
        "Classifier": "classifier",
        "ForeignWeights": "imported",
        "WeightsLoader": "loader",
        "blocks_of": "blocks",
        "load_foreign": "imported",
        "load_weights": "weights",
        "residual_unet": "unets",
        "save_weights": "weights",
        "SliceUNet": "slice_unet",
        "strided_unet": "unets",
    },
)
