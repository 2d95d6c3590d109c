"""Networks and ways to teach them side by side: one fold, one budget, the paired test.

- *resnet18*: the bundle's network from random weights, all of it;
- *pretrained*: the same from weights that learned to fill in squares which were cut out of the slices that train
  (the bundle's overlay `pretrain_reconstruct`): no class, no mask, no slice of another fold;
- *blockwise*: from the same weights, depth by depth (Swati et al. 2019), with as many epochs in all;
- *head*: from the same weights, the head and the mask head alone;
- *vgg19*: VGG19 from random weights, all of it; without batch norms it learns at a tenth of the rate.

Block-wise fine-tuning chooses its weights by validation cases. So one fold is *held out* and only scored, the next one
validates, and the others train: alike in all runs. Slices are smaller than the bundle's, with the same field of view.
The paired tests take one difference a person (Wilcoxon), and Holm's correction all of them. One fold of few persons
tells large differences only.

It goes on where it was stopped. Run it from the repository's root:

    python benchmarks/studies/compare_classifiers.py --data ../shared/data -o compared --config amp
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controls import BUNDLE, Scored, budget_of, difference_cells, paired, parsed, scored, study_options
from study import cell, number, report, table

from neurobundle.commands.evaluate import evaluate, evaluate_plan
from neurobundle.commands.train import check_training, train_plan
from neurobundle.errors import SettingError
from neurobundle.files import write_json
from neurobundle.load.datalist import load_json, read_datalist, write_datalist
from neurobundle.measure.outputs import SUMMARY
from neurobundle.networks.manifest import sha256_of

#: Of a ResNet18, each with as many epochs in block-wise fine-tuning.
BLOCKS = 6

#: The run whose weights others begin with.
PRETRAINING = "pretraining"


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        overlays: of the bundle.
        settings: besides the budget.
        pretrained: whether it begins with the self-supervised weights.
    """

    overlays: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = False


#: Each that is scored, by its folder's name.
RUNS = {
    "resnet18": Run(),
    "pretrained": Run(pretrained=True),
    "blockwise": Run(("finetune_blockwise",), {"schedule::patience": None}, pretrained=True),
    "head": Run(("finetune_head",), pretrained=True),
    "vgg19": Run(("backbone_vgg19",), {"learning_rate": 0.0001}),
}

#: What is tested, A against B.
PAIRS = {
    "VGG19 against ResNet18": ("vgg19", "resnet18"),
    "block-wise against full": ("blockwise", "pretrained"),
    "pre-trained against random": ("pretrained", "resnet18"),
}


def options() -> argparse.Namespace:
    """What data, which fold and budget, and where to."""
    parser = study_options(__doc__ or "", epochs=18, size=64)
    parser.add_argument("--fold", type=int, default=0, help="the one that is held out (0)")
    parser.add_argument("--pretrain-epochs", type=int, default=36, help="of the self-supervised training (36)")
    given = parsed(parser)
    if given.epochs % BLOCKS:
        parser.error(f"--epochs is {given.epochs}: give a multiple of {BLOCKS}, so that each depth has as many")
    if given.pretrain_epochs < 1:
        parser.error("--pretrain-epochs is 1 or more")
    return given


def write_lists(given: argparse.Namespace) -> tuple[Path, Path, int]:
    """Two datalists, and the fold that validates.

    Returns:
        What trains and validates: all folds but the one held out; what is scored: that fold.

    Raises:
        SettingError: if there is no such fold, or none is left to train on.
    """
    items = read_datalist(given.datalist, base_dir=given.dataset_dir, need_fold=True)
    folds = sorted({int(item["fold"]) for item in items})
    if given.fold not in folds or len(folds) < 3:
        there = ", ".join(map(str, folds))
        raise SettingError(
            f"fold {given.fold} is to be held out, of the folds {there}",
            "Three are needed: one is held out, one validates, and the rest train.",
            file=given.datalist,
        )
    content = load_json(given.datalist)
    known = {key: content[key] for key in ("labels", "split") if key in content}
    paths = []
    for name, held_out in (("training", False), ("scored", True)):
        own = [item for item in items if (item["fold"] == given.fold) is held_out]
        paths.append(write_datalist(given.output / f"{name}.json", own, metadata={"name": name, **known}))
    return paths[0], paths[1], folds[(folds.index(given.fold) + 1) % len(folds)]


def require_same_plan(given: argparse.Namespace, budget: dict[str, Any], data: Path) -> None:
    """Trainings of another budget or of other cases are not mixed with these."""
    plan = {
        "budget": budget,
        "pretrain_epochs": given.pretrain_epochs,
        "fold": given.fold,
        "config": list(given.config),
        "datalist_sha256": sha256_of(data),
    }
    path = given.output / "compared.json"
    if path.exists() and load_json(path) != plan:
        raise SettingError(
            "this folder holds a comparison with other settings or another datalist",
            "Give another output folder, or delete this one.",
            file=path,
        )
    write_json(path, plan)


def settings_of(run: Run, budget: dict[str, Any], output: Path) -> dict[str, Any]:
    """All settings of a run; block-wise fine-tuning has its epochs by depth, and validates after each."""
    settings = {**budget, **run.settings}
    if run.pretrained:
        settings["backbone_weights"] = str((output / PRETRAINING / "final.pt").resolve())
    if "finetune_blockwise" in run.overlays:
        return {"schedule::epochs": settings.pop("epochs") // BLOCKS, **settings}
    return {**settings, "val_interval": settings["epochs"]}


def train(folder: Path, data: Path, fold: int, overlays: list[str], settings: dict[str, Any]) -> Path:
    """One training in a process of its own, unless it is finished; it goes on where it was stopped.

    Returns:
        The final weights.

    Raises:
        SettingError: if the process ended with an error.
    """
    weights = folder / "final.pt"
    if not weights.exists():
        folder.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, "-m", "neurobundle", "train", BUNDLE, "--data", str(data), "-o", str(folder)]
        words += ["--fold", str(fold), "--verbose", *(["--config", *overlays] if overlays else [])]
        words += ["--set", "resume=true", *(f"{name}={json.dumps(value)}" for name, value in settings.items())]
        with (folder / "log.txt").open("a") as log:
            code = subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
        if code:
            raise SettingError(f"the training ended with code {code}", "Read its log.", file=folder / "log.txt")
    (folder / "last.pt").unlink(missing_ok=True)  # a VGG19's is 1.7 GB
    return weights


def score(folder: Path, data: Path, fold: int, overlays: list[str], settings: dict[str, Any]) -> Scored:
    """The held-out fold by a run's final weights, in float32, unless it is scored."""
    done = folder / "evaluation"
    # Weights are written into a summary last.
    if not (done / SUMMARY).exists() or "weights" not in load_json(done / SUMMARY):
        settings = {**settings, "ckpt_dir": str(folder), "amp": False}
        weights = folder / "final.pt"
        evaluate(evaluate_plan(BUNDLE, data, done, fold=fold, weights=weights, overlays=overlays, settings=settings))
    return scored(done)


def trained_and_scored(given: argparse.Namespace) -> tuple[dict[str, Scored], dict[str, Any]]:
    """Every run, and its budget."""
    budget = budget_of(given)
    require_same_plan(given, budget, given.datalist)
    data, held_out, validating = write_lists(given)
    check_training(train_plan(BUNDLE, data, given.output, fold=validating))
    first = {**budget, "epochs": given.pretrain_epochs, "val_interval": given.pretrain_epochs}
    print(f"{PRETRAINING}: {given.output / PRETRAINING}", file=sys.stderr)
    train(given.output / PRETRAINING, data, validating, ["pretrain_reconstruct", *given.config], first)
    runs: dict[str, Scored] = {}
    for name, run in RUNS.items():
        folder, overlays = given.output / name, [*run.overlays, *given.config]
        settings = settings_of(run, budget, given.output)
        print(f"{name}: {folder}", file=sys.stderr)
        train(folder, data, validating, overlays, settings)
        runs[name] = score(folder, held_out, given.fold, overlays, settings)
    return runs, budget


def main() -> None:
    """Train what is not trained, score what is not scored, and put it side by side."""
    given = options()
    runs, budget = trained_and_scored(given)
    tests = paired({name: (runs[a], runs[b]) for name, (a, b) in PAIRS.items()})
    some = runs["resnet18"]
    figures = {
        "fold": given.fold,
        "cases": len(some.truth),
        "persons": len(set(some.persons.values())),
        "majority": some.majority,
        "settings": {**budget, "pretrain_epochs": given.pretrain_epochs, "config": given.config},
        "rows": {name: run.figures() for name, run in runs.items()},
        "pairs": tests,
    }
    write_json(given.output / SUMMARY, figures)
    rows = [[name, *(cell(score) for score in run.figures().values())] for name, run in runs.items()]
    table(["run", "accuracy", "macro-F1"], [*rows, ["the largest class", number(some.majority), ""]])
    head = ["pair", "accuracy of the first less that of the second", "p", "p Holm"]
    table(head, [[name, *difference_cells(row)] for name, row in tests.items()])
    report("compare_classifiers", figures)


if __name__ == "__main__":
    main()
