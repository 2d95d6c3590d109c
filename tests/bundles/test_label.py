"""What a MONAI Label server reads of our bundles, without one."""

from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser
from monai.transforms import LoadImaged, SaveImaged

from neurobundle.bundle.find import answers_of
from neurobundle.networks import weights_names

from ..conftest import BUNDLES


def as_the_server_reads(bundle: Path, stem: str) -> ConfigParser:
    """A config with its bundle's folder and a device as text, and nothing else."""
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / f"{stem}.yaml")
    parser.config.update({"bundle_root": str(bundle), "device": "cpu"})
    return parser


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_the_bundles_own_weights_are_offered_first(bundle: Path) -> None:
    """The server would sort names by length, and leave those of folds where the disk has them."""
    offered: Any = as_the_server_reads(bundle, "inference").get_parsed_content("displayable_configs")
    assert offered == {"model_filename": weights_names(bundle / "models")}


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_the_loader_stands_in_the_open_and_every_writer_is_known(bundle: Path) -> None:
    parser = as_the_server_reads(bundle, "inference")
    assert any(isinstance(step, LoadImaged) for step in parser.get_parsed_content("preprocessing").transforms)
    steps = parser.get_parsed_content("postprocessing").transforms
    writers = [step for step in steps if type(step).__name__.startswith("Save")]
    assert writers
    assert all(isinstance(step, SaveImaged) for step in writers)
    if answers_of(bundle) is not None:
        assert type(steps[-1]).__name__ == "ForgetGridd", "nothing after it may want the grid, and it must be there"


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_what_is_learned_is_what_is_served(bundle: Path) -> None:
    """`ckpt_dir` is the bundle's own, and both ways of saving write ``model.pt`` there."""
    train = as_the_server_reads(bundle, "train")
    path = str(bundle / "models" / "model.pt")
    found = {
        item["_target_"].rpartition(".")[2]: train.get_parsed_content(f"{place}#{n}#path")
        for place in ("train#handlers", "validate#handlers")
        for n, item in enumerate(train[place])
        if item["_target_"].endswith(("EpochValidation", "BestWeights"))
    }
    assert found == {"EpochValidation": path, "BestWeights": path}
