import pytest
import torch

from neurobundle.errors import SettingError
from neurobundle.networks import residual_unet, strided_unet
from neurobundle.networks.unets import FILTERS, STRIDED_FILTERS


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


@pytest.mark.parametrize("size", STRIDED_FILTERS)
@pytest.mark.parametrize("features", [None, 4])
def test_strided_one_logit_a_class_and_voxel(size: str, features: int | None) -> None:
    network = strided_unet(2, 5, size, features=features).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 2, 16, 32, 16)).shape == (1, 5, 16, 32, 16)


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({"in_channels": 4, "out_channels": 3}, 4810074),
        ({"in_channels": 1, "out_channels": 33, "features": 16}, 4825971),
    ],
)
def test_parameters_of_the_strided_networks(settings: dict[str, int], parameters: int) -> None:
    """The shipped weights of the tumour and the anatomy bundle fit these and nothing else."""
    assert sum(parameter.numel() for parameter in strided_unet(**settings).parameters()) == parameters


@pytest.mark.parametrize("features", [None, 4])
def test_an_untrained_network_says_about_the_prior(features: int | None) -> None:
    torch.manual_seed(0)
    network = strided_unet(1, 2, "tiny", features=features, prior=0.02).eval()
    with torch.no_grad():
        shares = network(torch.randn(1, 1, 16, 16, 16)).sigmoid()
    assert 0.005 < shares.mean() < 0.1


@pytest.mark.parametrize("prior", [0.0, 1.0, 2.0])
def test_a_prior_that_is_no_share(prior: float) -> None:
    with pytest.raises(SettingError, match="between 0 and 1"):
        strided_unet(1, 2, prior=prior)


def test_unknown_size_of_a_strided_one() -> None:
    with pytest.raises(SettingError, match="did you mean 'tiny'"):
        strided_unet(1, 2, size="tinny")
