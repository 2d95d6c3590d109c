"""A bundle that tells three classes of small pictures apart, and such pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from neurobundle.load.datalist import write_datalist

CLASSES = ["glioma", "meningioma", "pituitary tumour"]
SIDE = 32


def make_picture(path: Path, number: int, seed: int, noise: float = 150.0) -> Path:
    """A grey picture whose bright band says its class, in noise that hides it now and then."""
    rng = np.random.default_rng(seed)
    pixels = 60 + noise * rng.standard_normal((SIDE, SIDE))
    pixels[4 + 9 * number : 10 + 9 * number] += 70
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return path


def make_datalist(folder: Path, persons: int = 12, slices: int = 2, folds: int = 2) -> Path:
    """Pictures of persons, each of one class, dealt to folds in turn."""
    items: list[dict[str, object]] = []
    for person in range(persons):
        number = person % len(CLASSES)
        for n in range(slices):
            case = f"p{person:02d}_{n}"
            image = make_picture(folder / "images" / f"{case}.png", number, seed=100 * person + n)
            fold = person // len(CLASSES) % folds
            items.append(
                {"case": case, "subject": f"p{person:02d}", "fold": fold, "image": str(image), "label": number}
            )
    metadata = {"labels": dict(enumerate(CLASSES))}
    return write_datalist(folder / "datalist.json", items, metadata=metadata)


def make_bundle(folder: Path, epochs: int = 3) -> Path:
    """The bundle: a linear layer, a card with a place for tables, and its own configs."""
    configs = folder / "configs"
    configs.mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "docs").mkdir()
    (folder / "docs" / "README.md").write_text("# Made\n\n<!-- scores -->\n<!-- /scores -->\n")
    (configs / "metadata.json").write_text(json.dumps(METADATA))
    (configs / "logging.conf").write_text(LOGGING)
    train = yaml.safe_load(TRAIN)
    train["epochs"] = epochs
    (configs / "train.yaml").write_text(yaml.safe_dump(train, sort_keys=False))
    (configs / "evaluate.yaml").write_text(EVALUATE)
    return folder


METADATA = {
    "version": "0.1.0",
    "task": "Classify",
    "description": "three bands",
    "data_type": "png",
    "data_source": "made",
    "licenses": {"code": "Apache-2.0", "weights": "CC0-1.0", "data": "CC0-1.0"},
    "network_data_format": {
        "inputs": {"image": {"type": "image", "num_channels": 1, "channel_def": {"0": "T1c"}}},
        "outputs": {
            "pred": {
                "type": "probabilities",
                "format": "classification",
                "num_channels": 3,
                "channel_def": {str(n): name for n, name in enumerate(CLASSES)},
            }
        },
    },
}

LOGGING = """\
[loggers]
keys=root
[handlers]
keys=
[formatters]
keys=
[logger_root]
level=INFO
handlers=
"""

TRAIN = """\
imports:
  - $import torch
bundle_root: .
dataset_dir: data
output_dir: $@bundle_root + '/eval'
ckpt_dir: $@bundle_root + '/models'
datalist: $@bundle_root + '/configs/datalist.json'
fold: 0
device: cpu
amp: false
max_cases: null
num_workers: 0
cache_rate: 1.0
seed: 0
resume: false
network_size: full
epochs: 3
val_interval: 1
network: $torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(64, 3))
optimizer:
  _target_: torch.optim.Adam
  params: $@network.parameters()
  lr: 0.1
lr_scheduler:
  _target_: torch.optim.lr_scheduler.ConstantLR
  optimizer: '@optimizer'
loss: {_target_: torch.nn.CrossEntropyLoss}
train:
  preprocessing:
    _target_: Compose
    transforms:
      - {_target_: LoadImaged, keys: image, image_only: true, ensure_channel_first: true}
      - {_target_: ScaleIntensityRanged, keys: image, a_min: 0.0, a_max: 255.0, b_min: -0.5, b_max: 0.5}
      - {_target_: RandGaussianNoised, keys: image, prob: 0.5, std: 0.1}
  dataset:
    _target_: CacheDataset
    data:
      _target_: neurobundle.load.fold_items
      path: '@datalist'
      dataset_dir: '@dataset_dir'
      fold: '@fold'
      part: train
      max_cases: '@max_cases'
    transform: '@train::preprocessing'
    cache_rate: '@cache_rate'
    progress: false
  dataloader: {_target_: DataLoader, dataset: '@train::dataset', batch_size: 4, shuffle: true}
  handlers:
    - {_target_: neurobundle.train.ReseedHandler, seed: '@seed', dataset: '@train::dataset'}
    - {_target_: ValidationHandler, validator: '@validate::evaluator', epoch_level: true, interval: '@val_interval'}
    - {_target_: neurobundle.train.EpochScalars, log_dir: $@output_dir + '/tensorboard', optimizer: '@optimizer'}
    - _target_: neurobundle.train.TrainingState
      path: $@output_dir + '/last.pt'
      final_weights: $@output_dir + '/final.pt'
      resume: '@resume'
      network: '@network'
      optimizer: '@optimizer'
      lr_scheduler: '@lr_scheduler'
      evaluator: '@validate::evaluator'
      identity: {fold: '@fold', seed: '@seed', epochs: '@epochs'}
  trainer:
    _target_: SupervisedTrainer
    max_epochs: '@epochs'
    device: '@device'
    train_data_loader: '@train::dataloader'
    network: '@network'
    loss_function: '@loss'
    optimizer: '@optimizer'
    train_handlers: '@train::handlers'
validate:
  preprocessing:
    _target_: Compose
    transforms:
      - {_target_: LoadImaged, keys: image, image_only: true, ensure_channel_first: true}
      - {_target_: ScaleIntensityRanged, keys: image, a_min: 0.0, a_max: 255.0, b_min: -0.5, b_max: 0.5}
  dataset:
    _target_: CacheDataset
    data:
      _target_: neurobundle.load.fold_items
      path: '@datalist'
      dataset_dir: '@dataset_dir'
      fold: '@fold'
      part: validation
      max_cases: '@max_cases'
    transform: '@validate::preprocessing'
    cache_rate: '@cache_rate'
    progress: false
  dataloader: {_target_: DataLoader, dataset: '@validate::dataset', batch_size: 1, shuffle: false}
  postprocessing: {_target_: Activationsd, keys: pred, softmax: true}
  key_metric:
    accuracy:
      _target_: monai.handlers.IgniteMetricHandler
      metric_fn: {_target_: neurobundle.measure.ClassificationMetric, metric: accuracy}
      output_transform: $monai.handlers.from_engine(['pred', 'label'])
      save_details: false
  handlers:
    - {_target_: neurobundle.train.EpochScalars, log_dir: $@output_dir + '/tensorboard'}
    - {_target_: neurobundle.train.BestWeights, network: '@network', path: $@ckpt_dir + '/model.pt'}
  evaluator:
    _target_: SupervisedEvaluator
    device: '@device'
    val_data_loader: '@validate::dataloader'
    network: '@network'
    postprocessing: '@validate::postprocessing'
    key_val_metric: '@validate::key_metric'
    additional_metrics:
      val_loss:
        _target_: monai.handlers.IgniteMetricHandler
        metric_fn: {_target_: neurobundle.measure.ClassificationMetric, metric: nll}
        output_transform: $monai.handlers.from_engine(['pred', 'label'])
        save_details: false
    val_handlers: '@validate::handlers'
initialize:
  - $monai.utils.set_determinism(seed=@seed)
run:
  - $@train::trainer.run()
"""

EVALUATE = """\
weights: $@ckpt_dir + '/model.pt'
validate::handlers:
  - {_target_: neurobundle.networks.WeightsLoader, path: '@weights', network: '@network'}
  - _target_: neurobundle.measure.ClassificationReport
    output_dir: '@output_dir'
    classes: [glioma, meningioma, pituitary tumour]
    pred_is: logits
validate::postprocessing: null
validate::evaluator::key_val_metric: null
validate::evaluator::additional_metrics: null
run:
  - $@validate::evaluator.run()
"""
