"""Architectures, and the weights that go into them."""

from neurobundle.networks.loader import WeightsLoader as WeightsLoader
from neurobundle.networks.residual_unet import residual_unet as residual_unet
from neurobundle.networks.weights import load_weights as load_weights
from neurobundle.networks.weights import save_weights as save_weights
