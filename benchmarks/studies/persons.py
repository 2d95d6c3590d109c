"""One answer a person by attention over the person's slices, against the mean of their log-probabilities.

It starts from the output of `neurobundle crossval`. For each fold its network is frozen and gives the *features* of
every slice: what its last linear layer sees, the mean of the slice and its mirror image. Slices of training persons are
drawn several times under the training's own augmentation, those of persons held out once, as they are.

- The *mean* is the pooling of `crossval`: that of the slices' log-probabilities.
- *Attention* gives each slice a share, which is learned (:mod:`neurobundle.networks.attention_pool`); the mean of the
  features by these shares goes through a linear layer. Shares start equal and the layer as the network's own, so before
  its first step attention answers as the mean does (of a cross-validation that mirrors, as it does unless told not to).
  It is trained on the training persons, for a number of steps that was fixed before any person held out was looked at.
  These persons trained the network as well: where it knows their slices by heart, none of them seems to deceive, and
  attention has little to learn from.

Answers of all folds are pooled, each at the temperature of the other folds' persons, which changes no prediction.
Intervals are by bootstrap over persons, p is of McNemar's exact test. A person of whom a slice failed in the
cross-validation counts as wrong in both. A fold that is done is not repeated. Run it from the repository's root:

    python benchmarks/studies/persons.py CROSSVAL --data datalist.json --dataset-dir ../shared/data/ce_mri -o persons
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from study import cell, number, report, table
from torch import nn

from neurobundle.bundle.workflow import Plan, device_setting
from neurobundle.commands.compare import compare
from neurobundle.commands.crossval import CrossValidation
from neurobundle.errors import InputError, NeurobundleError, SettingError
from neurobundle.export.tables import write_csv
from neurobundle.infer.slices import ACROSS
from neurobundle.load.datalist import Item, read_datalist
from neurobundle.measure.classification import FAILED
from neurobundle.measure.classification_evaluation import ClassificationEvaluation, read_answers
from neurobundle.measure.out_of_fold import OutOfFoldEvaluation
from neurobundle.measure.outputs import SUMMARY, TABLE
from neurobundle.measure.paired import mcnemar
from neurobundle.measure.subjects import SubjectEvaluation, pool_subjects
from neurobundle.networks.attention_pool import AttentionAnswers, pad_bags
from neurobundle.networks.manifest import sha256_of
from neurobundle.networks.weights import load_weights

#: Fixed beforehand, with the steps below. A batch is of persons.
BATCH, LEARNING_RATE, WEIGHT_DECAY, SEED = 32, 1e-3, 1e-2, 0
#: Slices that go through the network together.
SLICES = 32

#: Beside the table of a fold: how much each slice counted.
SHARES = "shares.csv"
MEAN, ATTENTION = "mean of log-probabilities", "attention"
FOLDERS = {MEAN: "mean", ATTENTION: "attention"}
SCORES = ("accuracy", "macro_f1", "macro_auroc")


@dataclass(frozen=True)
class Effort:
    """How much is done: steps, drawings of each training slice, persons of each class and fold (all if None)."""

    steps: int
    draws: int
    persons: int | None = None


FULL, SMALL = Effort(steps=200, draws=8), Effort(steps=5, draws=2, persons=2)


def options() -> argparse.Namespace:
    """The cross-validation, its data, and where to write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("crossval", type=Path, help="a folder that `neurobundle crossval` wrote, of classes")
    parser.add_argument("--data", type=Path, required=True, help="its datalist")
    parser.add_argument("--dataset-dir", type=Path, help="what the datalist's paths are relative to (its own folder)")
    parser.add_argument("--bundle", help="the bundle's folder, if not the known one of the name that crossval noted")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto: as in the cross-validation)")
    parser.add_argument("--small", action="store_true", help="two persons a class and fold, and a few steps")
    parser.add_argument("-o", "--output", type=Path, required=True, help="gets a folder of scores for each pooling")
    return parser.parse_args()


def open_crossval(given: argparse.Namespace) -> CrossValidation:
    """The cross-validation with the overlays and settings that it was made with.

    Raises:
        SettingError: if the folder holds none, or the datalist is another.
    """
    path = given.crossval / "crossval.json"
    if not path.is_file():
        raise SettingError("this is no cross-validation", "Give the -o of `neurobundle crossval`.", file=path)
    noted = json.loads(path.read_text())
    if noted["datalist_sha256"] != sha256_of(given.data):
        cause = "this is not the datalist of the cross-validation, by its sha256"
        raise SettingError(cause, "Give the one that `neurobundle crossval` had.", file=given.data)
    return CrossValidation(
        given.bundle or noted["bundle"],
        given.data,
        given.crossval,
        dataset_dir=given.dataset_dir,
        overlays=noted["overlays"],
        settings={**noted["settings"], **device_setting(given.device)},
    )


def fold_answers(crossval: CrossValidation, items: Sequence[Item], fold: int) -> ClassificationEvaluation:
    """What the fold's network said of each of its slices; one that it did not answer has failed.

    Raises:
        SettingError: if the fold was not evaluated.
    """
    path = crossval.folder(fold) / "evaluation" / TABLE
    if not path.is_file() or not (crossval.folder(fold) / "final.pt").is_file():
        cause = f"fold {fold} is not finished"
        raise SettingError(cause, "Let `neurobundle crossval` end: the same command goes on.", file=path)
    found = read_answers(path)
    own = ClassificationEvaluation(found.classes)
    for item in (item for item in items if item["fold"] == fold):
        case, subject = str(item["case"]), str(item["subject"])
        if case in found.answers and found.answers[case].prediction != FAILED:
            own.answers[case] = found.answers[case]
        else:
            own.add_failed(case, item["label"], subject, f"{case}: the cross-validation has no answer.")
    return own


def chosen_items(crossval: CrossValidation, persons: int | None) -> list[Item]:
    """The slices; of the first so many persons of each class and fold, if a number is given.

    Raises:
        SettingError: if a person stands in several folds.
    """
    items = read_datalist(crossval.data, base_dir=crossval.dataset_dir, check_files=False)
    items = [item for item in items if item.get("fold") is not None]
    folds: dict[str, int] = {}
    groups: dict[tuple[int, Any], set[str]] = defaultdict(set)
    for item in items:
        if folds.setdefault(str(item["subject"]), item["fold"]) != item["fold"]:
            cause = f"the subject {item['subject']!r} is in several folds"
            raise SettingError(cause, "One answer a person needs a split by person.", file=crossval.data)
        groups[item["fold"], item["label"]].add(str(item["subject"]))
    kept = {subject for group in groups.values() for subject in sorted(group)[:persons]}
    return [item for item in items if str(item["subject"]) in kept]


class FrozenFold:
    """The features that a fold's network gives of slices, as its training and its validation prepare them.

    Args:
        crossval: the cross-validation.
        fold: which.
        train: slices of training persons.
        held_out: slices of the others.
        output: for what the configs might write.

    Raises:
        SettingError: if the network has no linear layer ``head.fc``.
        WeightsError: if the fold's weights are not its network's.
    """

    def __init__(
        self, crossval: CrossValidation, fold: int, train: list[Item], held_out: list[Item], output: Path
    ) -> None:
        plan = crossval.train_plan(fold)
        data = {"train::dataset::data": train, "validate::dataset::data": held_out}
        settings = {**plan.settings, **data, "output_dir": str(output), "ckpt_dir": str(output)}
        workflow = Plan(plan.bundle_dir, plan.kind, plan.overlays, settings).workflow()
        workflow.initialize()
        self._content: Callable[[str], Any] = workflow.parser.get_parsed_content
        self.network: nn.Module = self._content("network")
        self.fc = last_layer(self.network)
        load_weights(self.network, crossval.folder(fold) / "final.pt")
        self.network.eval()

    def training_features(self, draws: int, seed: int) -> torch.Tensor:
        """Of the training slices, each drawn anew so often, ``(draw, slice, feature)``."""
        dataset = self._content("train::dataset")
        dataset.transform.set_random_state(seed=seed)
        return torch.stack([self._features(dataset) for _ in range(draws)])

    def held_out_features(self) -> torch.Tensor:
        """Of the slices held out, ``(slice, feature)``."""
        return self._features(self._content("validate::dataset"))

    def _features(self, dataset: Any) -> torch.Tensor:
        parts = []
        for start in range(0, len(dataset), SLICES):
            items = [dataset[n] for n in range(start, min(start + SLICES, len(dataset)))]
            parts.append(features_of(self.network, torch.stack([_slice_of(item) for item in items])))
        return torch.cat(parts)


def last_layer(network: nn.Module) -> nn.Linear:
    """The linear layer ``head.fc``, before which features are taken.

    Raises:
        SettingError: if there is none.
    """
    found = getattr(getattr(network, "head", None), "fc", None)
    if not isinstance(found, nn.Linear):
        cause = f"the network, {type(network).__name__}, has no linear layer head.fc to take features before"
        raise SettingError(cause, "Use a network of neurobundle.networks.classifier.")
    return found


@torch.no_grad()
def features_of(network: nn.Module, slices: torch.Tensor) -> torch.Tensor:
    """What the last linear layer of a network in eval mode is given, the mean of each slice and its mirror image.

    From ``(slice, channel, column, row)`` to ``(slice, feature)`` on the CPU.
    """
    fc, seen = last_layer(network), []
    hook = fc.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        slices = slices.to(fc.weight.device)
        network(slices)
        network(slices.flip(ACROSS))
    finally:
        hook.remove()
    return torch.stack(seen).mean(dim=0).float().cpu()


def _slice_of(item: Mapping[str, Any]) -> torch.Tensor:
    """``(channel, column, row)``, plain."""
    image = torch.as_tensor(item["image"]).as_subclass(torch.Tensor)
    if image.ndim == 4 and image.shape[-1] != 1:
        cause = f"it is a volume of {image.shape[-1]} slices, and bags here are of pictures"
        raise InputError(cause, "Save its slices as pictures of their own.", case=str(item["case"]))
    return image[..., 0] if image.ndim == 4 else image


def bags_of(items: Sequence[Item], features: torch.Tensor) -> dict[str, torch.Tensor]:
    """The slices of each person, ``(..., slice, feature)``, in the order of the persons' first slices."""
    places: dict[str, list[int]] = defaultdict(list)
    for n, item in enumerate(items):
        places[str(item["subject"])].append(n)
    return {subject: features[..., own, :] for subject, own in places.items()}


def learn(
    fc: nn.Linear, bags: Sequence[torch.Tensor], labels: Sequence[int], steps: int, seed: int
) -> AttentionAnswers:
    """Attention and a linear layer, trained on bags of training persons.

    Args:
        fc: the network's own last layer, which the linear layer starts as.
        bags: ``(draw, slice, feature)`` each; a step takes one drawing of each slice, by chance.
        labels: the class of each bag.
        steps: of training.
        seed: of the first weights, and of what each step takes.
    """
    torch.manual_seed(seed)
    rng, truth = np.random.default_rng(seed), torch.tensor(labels)
    network = AttentionAnswers(fc.in_features, fc.out_features)
    network.fc.load_state_dict({name: values.detach().float().cpu() for name, values in fc.named_parameters()})
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for _ in range(steps):
        chosen = rng.choice(len(bags), min(BATCH, len(bags)), replace=False)
        whole = [bags[n] for n in chosen]
        drawn = [bag[rng.integers(len(bag), size=bag.shape[1]), np.arange(bag.shape[1])] for bag in whole]
        logits, _ = network(*pad_bags(drawn))
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, truth[chosen]).backward()
        optimizer.step()
    return network.eval()


def attend(
    crossval: CrossValidation, items: list[Item], fold: int, pooled: SubjectEvaluation, effort: Effort, folder: Path
) -> ClassificationEvaluation:
    """The fold's persons answered by attention; read again if this folder holds them.

    Args:
        crossval: the cross-validation.
        items: slices of all folds that were answered.
        fold: which is held out.
        pooled: its persons, answered by the mean; those that failed there fail here.
        effort: how much to train.
        folder: gets table, summary and report, and ``shares.csv``.
    """
    facts = facts_of(crossval, effort, [fold])
    if (folder / SUMMARY).is_file() and (folder / SHARES).is_file():
        before = json.loads((folder / SUMMARY).read_bytes())
        if {name: before.get(name) for name in facts} == facts:
            return read_answers(folder / TABLE)
    print(f"fold {fold}", file=sys.stderr, flush=True)
    answered = {subject for subject, answer in pooled.answers.items() if answer.prediction != FAILED}
    train = [item for item in items if item["fold"] != fold]
    held_out = [item for item in items if str(item["subject"]) in answered]
    frozen = FrozenFold(crossval, fold, train, held_out, folder)
    there = bags_of(held_out, frozen.held_out_features()) if held_out else {}
    bags = bags_of(train, frozen.training_features(effort.draws, SEED + fold))
    labels = {str(item["subject"]): int(item["label"]) for item in train}  # in the order of the bags
    network = learn(frozen.fc, list(bags.values()), list(labels.values()), effort.steps, SEED + fold)
    evaluation, shares = answer_persons(network, there, pooled)
    rows = [{"subject": item["subject"], "case": item["case"]} for item in held_out]
    rows = [{**row, "share": shares[str(row["subject"])].pop(0)} for row in rows]
    write_csv(folder / SHARES, ["subject", "case", "share"], rows, digits=6)
    evaluation.write(folder, facts, f"One answer a person by {ATTENTION}, fold {fold}")
    return evaluation


@torch.no_grad()
def answer_persons(
    network: AttentionAnswers, bags: Mapping[str, torch.Tensor], pooled: SubjectEvaluation
) -> tuple[ClassificationEvaluation, dict[str, list[float]]]:
    """The answers, and the share of each slice in the order of a person's slices; who has no bag has failed."""
    evaluation, shares = ClassificationEvaluation(pooled.classes), {}
    for subject, answer in pooled.answers.items():
        if subject not in bags:
            evaluation.add_failed(subject, answer.truth, subject, pooled.problems[subject])
            continue
        logits, own = network(*pad_bags([bags[subject]]))
        evaluation.add(subject, answer.truth, logits[0].double().softmax(dim=0).numpy(), subject)
        shares[subject] = own[0].tolist()
    return evaluation, shares


def facts_of(crossval: CrossValidation, effort: Effort | None, folds: Sequence[int]) -> dict[str, Any]:
    """What answers depend on; without an effort those of the mean."""
    fixed = {"persons_a_step": BATCH, "learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY, "seed": SEED}
    return {
        "bundle": crossval.bundle_dir.name,
        "datalist": {"file": crossval.data.name, "sha256": sha256_of(crossval.data)},
        "weights": {f"fold {fold}": sha256_of(crossval.folder(fold) / "final.pt") for fold in folds},
        **({"training": {**vars(effort), **fixed}} if effort else {}),
    }


def both(crossval: CrossValidation, effort: Effort, output: Path) -> dict[str, OutOfFoldEvaluation]:
    """All persons by both poolings, by the pooling's name; attention's folds are written."""
    items = chosen_items(crossval, effort.persons)
    by_fold = {fold: fold_answers(crossval, items, fold) for fold in crossval.folds}
    pooled = {fold: pool_subjects(evaluation) for fold, evaluation in by_fold.items()}  # refuses what has two classes
    answered = {case for own in by_fold.values() for case, a in own.answers.items() if a.prediction != FAILED}
    items = [item for item in items if str(item["case"]) in answered]
    found = {name: OutOfFoldEvaluation(pooled[crossval.folds[0]].classes) for name in FOLDERS}
    for fold, mean in pooled.items():
        folder = output / FOLDERS[ATTENTION] / f"fold{fold}"
        found[MEAN].take(str(fold), mean, mean.problems)
        found[ATTENTION].take(str(fold), attend(crossval, items, fold, mean, effort, folder), mean.problems)
    return found


def difference(found: Mapping[str, OutOfFoldEvaluation], output: Path) -> dict[str, Any]:
    """The paired comparison as `neurobundle compare` makes it, and how many persons one alone has right."""
    (row,) = compare(output / FOLDERS[ATTENTION], output / FOLDERS[MEAN], output).rows
    ours, theirs = ([a.prediction == a.truth for a in found[name].answers.values()] for name in (ATTENTION, MEAN))
    apart = mcnemar(ours, theirs)
    return {**row.as_json(), "only_attention": apart.n_only_a, "only_mean": apart.n_only_b}


def main() -> None:
    """Answer, score, compare, print."""
    given = options()
    effort = SMALL if given.small else FULL
    try:
        crossval = open_crossval(given)
        found = both(crossval, effort, given.output)
        summaries = {}
        for name, evaluation in found.items():
            facts = {"pooling": name, **facts_of(crossval, effort if name == ATTENTION else None, crossval.folds)}
            summaries[name] = evaluation.write(given.output / FOLDERS[name], facts, f"One answer a person by {name}")
        row = difference(found, given.output)
    except NeurobundleError as error:
        sys.exit(f"ERROR {error}")
    rows = [
        [name, *(cell(summary[score]) for score in SCORES), cell(summary["temperature"]["after"]["ece"])]
        for name, summary in summaries.items()
    ]
    table(["one answer a person", "accuracy", "macro-F1", "AUROC", "ECE"], rows)
    own = cell({"mean": row["difference"], "interval": [row["low"], row["high"]]})
    figures = [own, str(row["only_attention"]), str(row["only_mean"]), number(row["p"])]
    table(["attention minus mean, accuracy", "attention alone right", "the mean alone right", "p"], [figures])
    counts = {name: summaries[MEAN][f"n_{key}"] for name, key in (("persons", "cases"), ("failed", "failed"))}
    scores = {FOLDERS[name]: {score: summaries[name][score] for score in SCORES} for name in FOLDERS}
    report("persons", {**counts, "rows": scores, "difference": row})


if __name__ == "__main__":
    main()
