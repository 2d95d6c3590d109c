import shutil
from pathlib import Path

import pytest
import torch

from neurobundle.networks import residual_unet, save_weights

from ..conftest import ROOT


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the hippocampus bundle with a tiny network that knows nothing: fast, and nobody's weights."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny_segmentation"
    shutil.copytree(
        ROOT / "bundles" / "hippocampus_segmentation", folder, ignore=shutil.ignore_patterns("*.pt", "M*256")
    )
    torch.manual_seed(0)
    save_weights(residual_unet(1, 3, size="tiny"), folder / "models" / "model.pt", origin="released")
    for name in ("train", "inference"):
        path = folder / "configs" / f"{name}.yaml"
        text = path.read_text().replace("network_size: full", "network_size: tiny")
        # What a network that knows nothing finds is never plausible.
        text = text.replace("plausible:\n  _target_: neurobundle.postprocess.HippocampusCheck\n", "")
        path.write_text(text.replace("window: [40, 56, 40]", "window: [24, 24, 24]"))
    return folder
