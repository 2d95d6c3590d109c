"""Architectures, and the weights that go into them."""

from neurobundle.lazy import attach

__getattr__, __all__ = attach(
    __name__,
    {
        "AttentionAnswers": "attention_pool",
        "AttentionPool": "attention_pool",
        "Block": "blocks",
        "Classifier": "classifier",
        "ForeignWeights": "imported",
        "WeightsLoader": "loader",
        "blocks_of": "blocks",
        "load_foreign": "imported",
        "load_weights": "weights",
        "pad_bags": "attention_pool",
        "residual_unet": "unets",
        "save_weights": "weights",
        "SliceUNet": "slice_unet",
        "strided_unet": "unets",
        "weights_names": "loader",
    },
)
