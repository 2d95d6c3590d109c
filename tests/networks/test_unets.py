import pytest
import torch

from neurobundle.errors import SettingError
from neurobundle.networks import residual_unet
from neurobundle.networks.unets import FILTERS


@pytest.mark.parametrize("size", FILTERS)
def test_one_logit_a_class_and_voxel(size: str) -> None:
    network = residual_unet(in_channels=2, out_channels=3, size=size).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 2, 16, 24, 8)).shape == (1, 3, 16, 24, 8)


def test_parameters_of_the_full_network() -> None:
    """The shipped weights fit this and nothing else."""
    network = residual_unet(in_channels=1, out_channels=3)
    assert sum(parameter.numel() for parameter in network.parameters()) == 1412435


def test_unknown_size() -> None:
    with pytest.raises(SettingError, match="did you mean 'tiny'"):
        residual_unet(1, 2, size="tinny")
