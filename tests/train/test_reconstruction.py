"""Filling in what was cut out: what counts, who is seen, and that a classifier can begin with what was learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.metrics import LossMetric
from PIL import Image

from neurobundle.bundle.workflow import make_plan
from neurobundle.cli import main
from neurobundle.errors import NoInputError, SettingError, WeightsError
from neurobundle.networks.classifier import Classifier, classifier
from neurobundle.networks.imported import load_foreign
from neurobundle.networks.weights import read_state
from neurobundle.train.curves import read_curves
from neurobundle.train.reconstruction import FilledIn, FillInInferer, HiddenLoss, prepare_reconstruction

from ..conftest import ROOT

BUNDLE = ROOT / "bundles" / "tumor_type_classification"
SETTINGS = {"device": "cpu", "network_size": "tiny", "width": 1.0, "size": 32, "pixel_mm": 7.8, "batch_size": 8}


def square(*rows: list[float]) -> torch.Tensor:
    return torch.tensor([[list(rows)]])


WHOLE = square([1.0, -2.0], [3.0, 4.0])
#: The first and the last pixel are hidden.
HOLES = square([0.0, -2.0], [3.0, 0.0])


def target() -> torch.Tensor:
    return prepare_reconstruction({"image": HOLES, "whole": WHOLE})[1]


def test_a_batch_is_prepared() -> None:
    image, wanted = prepare_reconstruction({"image": MetaTensor(HOLES), "whole": WHOLE})
    assert type(image) is torch.Tensor
    assert torch.equal(image, HOLES)
    assert wanted.tolist() == [[[[1, -2], [3, 4]], [[1, 0], [0, 1]]]]


def test_a_slice_of_two_channels_is_refused() -> None:
    two = HOLES.repeat(1, 2, 1, 1)
    with pytest.raises(SettingError, match="a slice has 2 channels"):
        prepare_reconstruction({"image": two, "whole": two})


def test_only_hidden_pixels_count() -> None:
    """1 and 4 are hidden: guessed as 0 they are 1 and 4 away, whatever is guessed beside them."""
    loss = HiddenLoss()
    assert loss(torch.zeros(1, 1, 2, 2), target()).item() == 2.5
    assert loss(square([0.0, 90.0], [90.0, 0.0]), target()).item() == 2.5
    assert loss(WHOLE, target()).item() == 0
    guess = torch.zeros(1, 1, 2, 2, dtype=torch.bfloat16, requires_grad=True)
    loss(guess, target()).backward()
    assert guess.grad is not None
    assert (guess.grad != 0).tolist() == [[[[True, False], [False, True]]]]


def test_where_nothing_is_hidden_there_is_nothing_to_lose() -> None:
    nothing = prepare_reconstruction({"image": WHOLE, "whole": WHOLE})[1]
    assert HiddenLoss()(torch.zeros(1, 1, 2, 2), nothing).item() == 0
    metric = FilledIn()
    with pytest.raises(NoInputError):
        metric.aggregate()
    metric(torch.zeros(1, 1, 2, 2), nothing)
    with pytest.raises(NoInputError, match="no hidden pixel"):
        metric.aggregate()


@pytest.mark.parametrize(
    ("guess", "share"), [(WHOLE, 1.0), (0 * WHOLE, 0.0), (0.5 * WHOLE, 0.5), (-WHOLE, -1.0)], ids=str
)
def test_the_share_that_is_filled_in(guess: torch.Tensor, share: float) -> None:
    metric = FilledIn()
    metric(guess, target())
    assert metric.aggregate().item() == share


def test_cases_are_pooled_by_grey_levels() -> None:
    """All 5 of one case and none of the other's 15: a quarter. As decollated lists, which is how an engine has them."""
    metric = FilledIn()
    brighter = prepare_reconstruction({"image": 3 * HOLES, "whole": 3 * WHOLE})[1]
    metric([WHOLE[0], 0 * WHOLE[0]], [target()[0], brighter[0]])
    assert metric.aggregate().item() == 0.25
    with pytest.raises(SettingError):
        metric(WHOLE, None)


def test_the_second_output_is_the_guess() -> None:
    torch.manual_seed(0)
    network = classifier("resnet18", 1, 3, size="tiny", mask=True).eval()
    image = torch.randn(2, 1, 32, 32)
    assert torch.equal(FillInInferer()(image, network), network.with_mask(image)[1])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds of six heads, discs with a bright spot; their classes are none that a mask could tell."""
    folder = tmp_path_factory.mktemp("pictures")
    rng, items = np.random.default_rng(0), []
    rows, columns = np.indices((48, 48))
    for n in range(12):
        spot = (rows - 14 - 2 * (n % 3)) ** 2 + (columns - 20) ** 2 < 30
        head = 90.0 * ((rows - 24) ** 2 + (columns - 24) ** 2 < 400) + rng.normal(0, 4, rows.shape)
        for name, array in ((f"{n:02d}.png", (head + 90 * spot).clip(0, 255)), (f"{n:02d}_mask.png", 255.0 * spot)):
            Image.fromarray(array.astype(np.uint8)).save(folder / name)
        entry = {"image": f"{n:02d}.png", "mask": f"{n:02d}_mask.png", "case": f"{n:02d}", "subject": f"p{n}"}
        items.append({**entry, "label": n % 3, "fold": n // 6})
    (folder / "datalist.json").write_text(json.dumps({"training": items}))
    return folder / "datalist.json"


def parsed(pictures: Path, output: Path) -> Any:
    settings = {**SETTINGS, "datalist": str(pictures), "dataset_dir": str(pictures.parent), "output_dir": str(output)}
    return make_plan(BUNDLE, "train", ["pretrain_reconstruct"], settings).workflow().parser


@pytest.mark.parametrize(("part", "fold"), [("train", "1"), ("validate", "0")])
def test_squares_are_cut_out_and_no_mask_is_read(pictures: Path, tmp_path: Path, part: str, fold: str) -> None:
    """Fold 0 is held out: nothing of it teaches. Between a tenth and two thirds of a slice are hidden."""
    parser = parsed(pictures, tmp_path)
    loader = parser.get_parsed_content(f"{part}::dataloader")
    seen = []
    for batch in loader:
        image, wanted = prepare_reconstruction(batch)
        whole, hidden = wanted.split(1, dim=1)
        assert image.shape[1:] == whole.shape[1:] == (1, 32, 32)
        assert 0.1 < hidden.mean() < 0.67
        assert not image[hidden == 1].any()
        assert torch.equal(image[hidden == 0], whole[hidden == 0])
        assert not isinstance(batch.get("mask"), torch.Tensor), "no mask is opened"
        seen += batch["case"]
    assert sorted(seen) == [f"{n:02d}" for n in (range(6, 12) if fold == "1" else range(6))]


def words(pictures: Path, output: Path, *more: str, **settings: Any) -> list[str]:
    given = [f"{name}={json.dumps(value)}" for name, value in {**SETTINGS, **settings}.items() if name != "device"]
    begin = ["train", "tumor_type_classification", "--data", str(pictures), "-o", str(output), "--device", "cpu"]
    return [*begin, *more, "--set", *given]


@pytest.fixture(scope="module")
def pretrained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("pretrained")
    more = ("--config", "pretrain_reconstruct")
    assert main(words(pictures, output, *more, epochs=12, val_interval=6)) == 0
    return output


def test_it_learns_to_fill_in(pretrained: Path) -> None:
    curves = read_curves(pretrained / "tensorboard")
    assert curves["train_loss"][12] < curves["train_loss"][1]
    assert curves["val_loss"][12] < curves["val_loss"][6]
    assert curves["val_filled_in"][12] > curves["val_filled_in"][6]


def network(mask: bool = True) -> Classifier:
    return classifier("resnet18", 1, 3, size="tiny", mask=mask)


@pytest.mark.parametrize(("mask", "unused"), [(True, {"head"}), (False, {"head", "mask_head"})])
def test_a_classifier_takes_trunk_and_mask_head(pretrained: Path, mask: bool, unused: set[str]) -> None:
    """All but the linear layer; of a network without a mask head all of the trunk. What was left out is said."""
    ours = network(mask)
    head = ours.head.fc.weight.clone()
    matched = load_foreign(ours, pretrained / "final.pt")
    assert matched.missing == ("head.fc.weight", "head.fc.bias")
    assert {name.split(".")[0] for name in matched.unused} == unused
    assert matched.loaded == matched.total - 2 == len(ours.state_dict()) - 2
    assert torch.equal(ours.head.fc.weight, head)
    theirs = read_state(pretrained / "final.pt")
    for name, value in ours.state_dict().items():
        assert name.startswith("head.") or torch.equal(value, theirs[name].to(value.dtype)), name


def test_half_a_mask_head_is_refused(pretrained: Path, tmp_path: Path) -> None:
    """And the network is as it was."""
    theirs = read_state(pretrained / "final.pt")
    del theirs["mask_head.logit.weight"]
    torch.save(theirs, tmp_path / "half.pt")
    ours = network()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(WeightsError, match=r"1 missing \(mask_head.logit.weight\)"):
        load_foreign(ours, tmp_path / "half.pt")
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def test_another_width_is_refused_and_says_what_to_do(pretrained: Path) -> None:
    with pytest.raises(WeightsError, match="of another shape") as caught:
        load_foreign(classifier("resnet18", 1, 3, width=0.25), pretrained / "final.pt")
    assert "the size and width that they were trained with" in caught.value.way_out


def test_a_training_begins_with_it(
    pictures: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(pretrained / "final.pt")
    given = words(pictures, tmp_path / "out", "--verbose", epochs=1, val_interval=1, backbone_weights=weights)
    assert main(given) == 0
    said = capsys.readouterr()
    assert "missing: head.*; not used: head.*" in said.out + said.err


def test_monais_metric_takes_the_loss() -> None:
    """The mean over cases, as the validation's loss."""
    metric = LossMetric(HiddenLoss())
    metric([WHOLE[0], 0 * WHOLE[0]], [target()[0], target()[0]])
    assert metric.aggregate().item() == 1.25
