"""A tiny valid bundle, to be broken in one way at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

NAME = "tiny_segmentation"

METADATA: dict[str, Any] = {
    "schema": "metadata_schema.json",
    "version": "0.1.0",
    "changelog": {"0.1.0": "made for a test"},
    "monai_version": "1.6.1",
    "pytorch_version": "2.11.0",
    "numpy_version": "2.0.0",
    "required_packages_version": {"neurobundle": "0.1.0"},
    "task": "a test",
    "description": "one convolution",
    "authors": "a test",
    "copyright": "a test",
    "intended_use": "testing",
    "data_source": "noise",
    "licenses": {"code": "Apache-2.0", "weights": "CC0-1.0", "data": "CC0-1.0"},
    "network_data_format": {
        "inputs": {
            "image": {
                "type": "image",
                "format": "magnitude",
                "modality": "MR",
                "num_channels": 1,
                "spatial_shape": ["4*n", "4*n", "4*n"],
                "dtype": "float32",
                "value_range": [],
                "is_patch_data": True,
                "channel_def": {"0": "T1"},
            }
        },
        "outputs": {
            "pred": {
                "type": "image",
                "format": "segmentation",
                "num_channels": 2,
                "spatial_shape": ["4*n", "4*n", "4*n"],
                "dtype": "float32",
                "value_range": [],
                "is_patch_data": True,
                "channel_def": {"0": "background", "1": "blob"},
            }
        },
    },
}

SHARED: dict[str, Any] = {
    "imports": ["$import torch"],
    "bundle_root": ".",
    "dataset_dir": "data",
    "output_dir": "$@bundle_root + '/eval'",
    "ckpt_dir": "$@bundle_root + '/models'",
    "datalist": None,
    "fold": 0,
    "device": "cpu",
    "amp": False,
    "max_cases": None,
    "num_workers": 0,
    "cache_rate": 0.0,
    "seed": 0,
    "resume": False,
    "network_size": "full",
    "network_def": {
        "_target_": "torch.nn.Conv3d",
        "in_channels": 1,
        "out_channels": 2,
        "kernel_size": "$3 if @network_size == 'full' else 1",
        "padding": "same",
    },
    "network": "$@network_def.to(@device)",
}

PREPROCESSING: dict[str, Any] = {
    "_target_": "neurobundle.prepare.mri_preprocessing",
    "image_keys": ["image"],
    "spacing_mm": [1.0, 1.0, 1.0],
}

TRAIN: dict[str, Any] = {
    **SHARED,
    "epochs": 2,
    "val_interval": 1,
    "store": None,
    "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 0.1},
    "loss": {"_target_": "DiceLoss", "softmax": True, "to_onehot_y": True},
    "train": {
        "preprocessing": {**PREPROCESSING, "label_keys": ["label"]},
        "dataset": {"_target_": "Dataset", "data": [], "transform": "@train::preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@train::dataset"},
        "inferer": {"_target_": "SimpleInferer"},
        "handlers": [
            {"_target_": "StatsHandler", "name": "train"},
            {"_target_": "neurobundle.train.BestWeights", "network": "@network", "path": "$@ckpt_dir + '/model.pt'"},
        ],
        "trainer": {
            "_target_": "SupervisedTrainer",
            "max_epochs": "@epochs",
            "device": "@device",
            "train_data_loader": "@train::dataloader",
            "network": "@network",
            "loss_function": "@loss",
            "optimizer": "@optimizer",
            "inferer": "@train::inferer",
            "train_handlers": "@train::handlers",
        },
    },
    "run": ["$@train::trainer.run()"],
}

INFERENCE: dict[str, Any] = {
    **SHARED,
    "preprocessing": PREPROCESSING,
    "dataset": {"_target_": "Dataset", "data": [], "transform": "@preprocessing"},
    "dataloader": {"_target_": "DataLoader", "dataset": "@dataset"},
    "inferer": {"_target_": "SimpleInferer"},
    "postprocessing": {"_target_": "Compose", "transforms": []},
    "evaluator": {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@dataloader",
        "network": "@network",
        "inferer": "@inferer",
        "postprocessing": "@postprocessing",
    },
    "run": ["$@evaluator.run()"],
}


class TinyBundle:
    """A bundle's folder, with handles to change a file of it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def change(self, file: str, **ids: Any) -> None:
        """Set top-level ids of a config or of the metadata; None as a value stays, ``...`` removes the id."""
        path = self.root / "configs" / file
        content = yaml.safe_load(path.read_text())
        for key, value in ids.items():
            if value is ...:
                content.pop(key, None)
            else:
                content[key] = value
        path.write_text(json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content))

    def read(self, file: str) -> Any:
        """A config or the metadata, parsed."""
        return yaml.safe_load((self.root / "configs" / file).read_text())


def make_bundle(folder: Path, *, weights: bool = True) -> TinyBundle:
    """Write the bundle into ``folder / "tiny_segmentation"``."""
    root = folder / NAME
    for part in ("configs", "docs", "models"):
        (root / part).mkdir(parents=True)
    for file in ("LICENSE", "configs/logging.conf", "docs/data_license.txt", "docs/README.md"):
        (root / file).write_text(f"{NAME}\n")
    configs = {"train": TRAIN, "inference": INFERENCE, "evaluate": {"run": []}, "multi_gpu_train": {"device": "cuda"}}
    for stem, content in configs.items():
        (root / "configs" / f"{stem}.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(content))))
    (root / "configs" / "metadata.json").write_text(json.dumps(METADATA))
    if weights:
        import torch

        from neurobundle.networks.weights import save_weights

        save_weights(torch.nn.Conv3d(1, 2, 3, padding="same"), root / "models" / "model.pt", origin="released")
    return TinyBundle(root)


@pytest.fixture
def bundle(tmp_path: Path) -> TinyBundle:
    """A valid bundle with weights."""
    return make_bundle(tmp_path)


@pytest.fixture
def bare_bundle(tmp_path: Path) -> TinyBundle:
    """A valid bundle without weights (nothing heavy is imported)."""
    return make_bundle(tmp_path, weights=False)
