"""Architectures, and the weights that go into them."""

from neurobundle.lazy import attach

__getattr__, __all__ = attach(
    __name__,
    {
        "WeightsLoader": "loader",
        "load_weights": "weights",
        "residual_unet": "unets",
        "save_weights": "weights",
        "SliceUNet": "slice_unet",
        "strided_unet": "unets",
    },
)
