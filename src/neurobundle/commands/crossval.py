"""``neurobundle crossval``: every fold trained, every case predicted by a network that never saw it, one table.

A case is predicted *out of fold* by the *final weights* of the training that left its fold out: the last epoch's,
so that no score chose them. Each training is a process of its own; one that was stopped goes on from its last epoch,
and one that is finished is not repeated. How the folds become one table is in :mod:`.crossval_pool`.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from neurobundle.bundle.find import answers_of, find_bundle
from neurobundle.bundle.workflow import Plan
from neurobundle.commands.card import draw_cases, publish_results
from neurobundle.commands.card_activation import draw_activations
from neurobundle.commands.crossval_pool import pool_classes, pool_structures
from neurobundle.commands.evaluate import evaluate, evaluate_plan
from neurobundle.commands.record import DATALIST, record_crossval
from neurobundle.commands.results import require_same_plan
from neurobundle.commands.train import check_training, train_plan
from neurobundle.errors import SettingError
from neurobundle.files import require_writable, write_atomic
from neurobundle.load.class_labels import leaks_of
from neurobundle.load.datalist import Item, read_datalist
from neurobundle.measure.classification_evaluation import read_answers
from neurobundle.measure.outputs import CURVES, SUMMARY, TABLE
from neurobundle.measure.tables import read_scores
from neurobundle.networks.manifest import remove, sha256_of, write_entry
from neurobundle.postprocess.calibration import CALIBRATION_FILE, publish_calibration_file
from neurobundle.train.curves import write_curves

logger = logging.getLogger(__name__)

#: The fold of a training on all cases.
ALL = -1


class CrossValidation:
    """Trains, predicts and scores all folds of a datalist.

    Args:
        bundle: a name or a folder.
        data: a datalist with a fold for each case.
        output: gets ``fold<K>/``, ``all/``, ``per_case.csv``, ``summary.json``, ``report.html`` and ``curves.png``; of
            classes also ``calibration.json`` and ``per_subject.csv``.
        dataset_dir: what the datalist's paths are relative to, if not to the datalist.
        overlays: names or paths of config overlays.
        settings: values by id.
        final: also train on all cases.
    """

    def __init__(
        self,
        bundle: str,
        data: Path,
        output: Path,
        *,
        dataset_dir: Path | None = None,
        overlays: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        final: bool = False,
    ) -> None:
        self.bundle_dir, self.data, self.output, self.dataset_dir = find_bundle(bundle), data, output, dataset_dir
        self.overlays, self.settings = overlays, dict(settings or {})
        self.classes = answers_of(self.bundle_dir)
        items = read_datalist(data, base_dir=dataset_dir)
        self.folds = sorted({int(item["fold"]) for item in items if item.get("fold") is not None})
        if len(self.folds) < 2:
            raise SettingError(
                f"the datalist has {len(self.folds)} folds, and cross-validation needs two",
                "Make it with `neurobundle split --folds 5`.",
                file=data,
            )
        self.trainings = [*self.folds, ALL] if final else self.folds
        self.jobs = 1

    def folder(self, fold: int) -> Path:
        """Where a training writes."""
        return self.output / ("all" if fold == ALL else f"fold{fold}")

    def train_plan(self, fold: int) -> Plan:
        """The training of one fold, which goes on where it was stopped."""
        return train_plan(
            str(self.bundle_dir),
            self.data,
            self.folder(fold),
            fold=fold,
            dataset_dir=self.dataset_dir,
            overlays=self.overlays,
            settings={"resume": True, **self.settings},
        )

    def __call__(
        self, jobs: int = 1, progress: Callable[[list[Any]], Iterable[Any]] = lambda items: items
    ) -> dict[str, Any]:
        """Train what is not trained yet, then predict and score.

        Args:
            jobs: trainings at a time; with more than one, each uses one thread.
            progress: wraps the list of trainings; a progress bar, for instance.

        Returns:
            The pooled summary.
        """
        self.jobs = jobs
        require_writable(self.output)
        self._require_same_plan()
        check_training(self.train_plan(ALL), self.trainings)
        with ThreadPoolExecutor(jobs) as pool:
            threads = 1 if jobs > 1 else None
            for training in progress([pool.submit(self._train, fold, threads) for fold in self.trainings]):
                training.result()
        write_curves(self.output, {f"fold {fold}": self.folder(fold) for fold in self.folds})
        for fold in self.folds:
            self._evaluate(fold)
        return self._pool()

    def _require_same_plan(self) -> None:
        """Trainings of other settings are not mixed with these."""
        plan = {
            "bundle": self.bundle_dir.name,
            "datalist_sha256": sha256_of(self.data),
            "overlays": list(self.overlays),
            "settings": self.settings,
        }
        require_same_plan(self.output / "crossval.json", plan, "a cross-validation")

    def _train(self, fold: int, threads: int | None) -> None:
        folder = self.folder(fold)
        if (folder / "final.pt").exists():
            logger.info("fold %d is trained", fold)
            return
        folder.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, "-m", "neurobundle", "train", str(self.bundle_dir), "--data", str(self.data)]
        words += ["-o", str(folder), "--fold", str(fold), "--verbose", "--set", "resume=true"]
        words += [f"{name}={json.dumps(value)}" for name, value in self.settings.items()]
        words += ["--dataset-dir", str(self.dataset_dir)] if self.dataset_dir else []
        words += ["--config", *self.overlays] if self.overlays else []
        environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
        with (folder / "log.txt").open("a") as log:
            code = subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False).returncode
        if code:
            raise SettingError(f"the training of fold {fold} ended with code {code}", "Read its log.", file=log.name)

    def _evaluate(self, fold: int) -> None:
        done = self.folder(fold) / "evaluation" / SUMMARY
        # Earlier versions wrote less; and one that was stopped has no weights in it, which are written last.
        wanted = {"weights", "labels" if self.classes is None else "classes"}
        if done.exists() and wanted <= set(json.loads(done.read_bytes())):
            return
        evaluate(self.evaluation_plan(fold))

    def evaluation_plan(self, fold: int) -> Plan:
        """The evaluation of one fold's cases by the weights that its training ended with."""
        return evaluate_plan(
            str(self.bundle_dir),
            self.data,
            self.folder(fold) / "evaluation",
            fold=fold,
            weights=self.folder(fold) / "final.pt",
            dataset_dir=self.dataset_dir,
            overlays=self.overlays,
            # Scored in float32, as the weights will run, whatever the training was done in.
            settings={**self.settings, "ckpt_dir": str(self.folder(fold)), "amp": False},
        )

    def _pool(self) -> dict[str, Any]:
        """All answers scored together, from the folds' files."""
        folders = {fold: self.folder(fold) / "evaluation" for fold in self.folds}
        items = [item for item in read_datalist(self.data, base_dir=self.dataset_dir) if item.get("fold") is not None]
        leaks = leaks_of(self.data)
        facts = {
            "bundle": self.bundle_dir.name,
            "datalist": {"file": self.data.name, "sha256": sha256_of(self.data)},
            **({"leaks": leaks} if leaks else {}),
        }
        title = f"{self.bundle_dir.name}, out of fold"
        pool = pool_structures if self.classes is None else pool_classes
        return pool(folders, items, self.output, facts, title)

    def require_own_classes(self) -> None:
        """Refuse to publish a network of other classes than the bundle's metadata name.

        Raises:
            SettingError: if an overlay or a setting names others.
        """
        classes = self.train_plan(ALL).classes()
        if classes != self.classes:
            raise SettingError(
                f"the network answers {', '.join(classes or ())}, and the bundle {', '.join(self.classes or ())}",
                "Leave --publish out, or copy the bundle and change its metadata.json and configs.",
                file=self.bundle_dir,
            )

    def publish(self, folds: int | None = None) -> None:
        """Copy weights and results into the bundle's folder, and write them into its card and its record.

        Of classes a few answers, right and wrong ones, are drawn with their class activation maps first.

        Args:
            folds: how many folds' weights are copied, from the first on, so that their scores can be checked; all if
                None. Others that lie there are taken away: the published scores are not theirs.

        Raises:
            SettingError: if the card has no place for the tables, or the classes are not the bundle's.
        """
        self.require_own_classes()
        models, kept = self.bundle_dir / "models", self.folds[:folds]
        if self.classes is not None:
            draw_activations(self.output, read_answers(self.output / TABLE), self._items(), self.evaluation_plan)
        for fold in self.trainings:
            target = models / ("model.pt" if fold == ALL else f"fold{fold}.pt")
            if fold != ALL and fold not in kept:
                remove(models, target.name)
                continue
            write_atomic(target, (self.folder(fold) / "final.pt").read_bytes())
            write_entry(models, target.name, origin="released", parent=None)
        if self.classes is not None:
            publish_calibration_file(models, json.loads((self.output / CALIBRATION_FILE).read_bytes()))
        publish_results(self.bundle_dir, self.output)
        own, pictures = self.bundle_dir / DATALIST, self.bundle_dir / "docs" / "pictures"
        if own.is_file() and sha256_of(own) == sha256_of(self.data):
            notes = _left_out(kept, self.folds)
            record_crossval(self.bundle_dir, self.output, self.overlays, self.settings, self.jobs, notes)
        else:
            logger.warning("WARNING no record was written: the datalist is not the bundle's own, %s", own)
        if self.classes is None:
            if (self.output / CURVES).is_file():
                write_atomic(pictures / CURVES, (self.output / CURVES).read_bytes())
            self._draw(pictures)

    def _draw(self, pictures: Path) -> None:
        """The label maps of the worst cases."""
        predictions = {
            path.name.removesuffix("_seg.nii.gz"): path
            for fold in self.folds
            for path in (self.folder(fold) / "evaluation" / "predictions").glob("*_seg.nii.gz")
        }
        draw_cases(pictures, read_scores(self.output / TABLE)[0], self._items(), predictions)

    def _items(self) -> dict[str, Item]:
        """The datalist's entries by case."""
        return {str(item["case"]): item for item in read_datalist(self.data, base_dir=self.dataset_dir)}


def _left_out(kept: Sequence[int], folds: Sequence[int]) -> list[str]:
    """What a record says where a repository has no room for all folds' weights."""
    if len(kept) == len(folds):
        return []
    which = f"those of fold {', '.join(map(str, kept))} alone" if kept else "none"
    return [
        f"of the folds' weights, which were scored, {which} are in the repository, for their size; the steps make them "
        "again"
    ]
