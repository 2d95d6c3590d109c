"""What ``python -m monai.bundle run`` runs with our inference configs: MONAI's evaluator, one case's fault that case's.

A *prepared* case is what the dataset hands to the evaluator: its tensors, or the error that its preparation ended in,
or the news that it was finished before. Nothing is raised where an ignite engine would see it, since an engine that
has seen an exception does not go on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ignite.engine import Events
from monai.data import Dataset
from monai.data.utils import list_data_collate
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer

from neurobundle import memory
from neurobundle.bundle import fingerprint
from neurobundle.bundle.entries import CaseResult, say_once
from neurobundle.bundle.find import answers_of, groups_of, is_bundle, structures_of
from neurobundle.bundle.journal import Journal, report_head, volumes_ml
from neurobundle.bundle.runner import (
    classes_of,
    ends_the_run,
    guarded,
    infer,
    require_memory_of,
    weight_loaders,
)
from neurobundle.errors import ExitCode, NeurobundleError, NoInputError, SettingError, exit_code
from neurobundle.export.answer_transforms import SaveAnswerd
from neurobundle.export.answers import ANSWER_ENDING, read_answer
from neurobundle.export.uncertainty import NUMBERS_ENDING, read_uncertainty
from neurobundle.export.uncertainty_transforms import SAVED
from neurobundle.load.names import LABEL_SUFFIX, case_name

logger = logging.getLogger(__name__)


class Prepared(NamedTuple):
    """One case on its way from the dataset to the evaluator.

    Attributes:
        result: the beginning of its entry; the whole of it if it was finished before.
        data: what preprocessing made of it, a batch of one after the collation; None if it failed or was finished.
        error: what stopped it.
        finished: whether an earlier run did it.
    """

    result: CaseResult
    data: Any = None
    error: NeurobundleError | None = None
    finished: bool = False


class CaseDataset(Dataset):
    """MONAI's ``Dataset``; under a :class:`CaseEvaluator` its items are :class:`Prepared` and it never raises.

    Args:
        data: items ``{"image": path, "case": name}``, or a function that lists them when they are first asked for
            (``_mode_: callable`` in a config), so that an empty folder is the evaluator's to report.
        transform: the preprocessing.
    """

    def __init__(self, data: Sequence[Any] | Callable[[], Sequence[Any]], transform: Any = None) -> None:
        #: Why there are no items, if listing them failed.
        self.fault: NeurobundleError | None = None
        #: The journal and the key of a run without the input's part; set by the evaluator.
        self.journal: Journal | None = None
        self.key: dict[str, Any] = {}
        self.redo = False
        self._data: Any = None
        super().__init__(data, transform)  # type: ignore[arg-type]

    @property
    def data(self) -> Sequence[Any]:
        """The items; none if there is a :attr:`fault`."""
        if callable(self._data):
            try:
                self._data = self._data()
            except NeurobundleError as error:
                self.fault, self._data = error, []
        return self._data

    @data.setter
    def data(self, value: Any) -> None:
        self._data = value

    def _transform(self, index: int) -> Any:
        if self.journal is None:
            return super()._transform(index)
        item = self.data[index]
        file = str(_first(item["image"]))
        result = CaseResult(case=str(item.get("case") or case_name(file)), file=file)
        started = time.perf_counter()
        try:
            with guarded(result.case, file):
                result.key = {**self.key, "input": _digest(item["image"])}
                entry = None if self.redo else self.journal.finished(result.case, result.key)
                if entry is not None:
                    return Prepared(entry, finished=True)
                if not self.redo:
                    self.journal.refuse_another(result.case, file, result.key)
                data = self.transform(item)
        except NeurobundleError as error:
            return Prepared(result, error=error)
        result.timing["prepare"] = round(time.perf_counter() - started, 3)
        return Prepared(result, data)


def case_collate(batch: Sequence[Any]) -> Any:
    """Collate each prepared case alone, so that one does not depend on its neighbours; anything else as MONAI does.

    Args:
        batch: items of a :class:`CaseDataset`.
    """
    if not all(isinstance(item, Prepared) for item in batch):
        return list_data_collate(batch)
    return [item if item.data is None else item._replace(data=list_data_collate([item.data])) for item in batch]


class CaseEvaluator(SupervisedEvaluator):
    """MONAI's ``SupervisedEvaluator`` that goes on after a failed case, skips finished ones, and keeps the report.

    Faults that no case could survive (weights that are not believed, no input, a full disk) end the process with the
    exit code of :class:`neurobundle.errors.ExitCode` and one line, no traceback. A config runs it in two steps::

        run:
          - $@evaluator.run()
          - $@evaluator.finish()

    Args:
        output_dir: where the postprocessing writes; ``report.json`` and its table go there too.
        bundle_root: the bundle, for its name and its labels.
        redo: do finished cases again.
        kwargs: those of ``SupervisedEvaluator``.
    """

    def __init__(
        self, *, output_dir: str | Path, bundle_root: str | Path = ".", redo: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.handlers = list(kwargs.get("val_handlers") or ())
        self.postprocessing = kwargs.get("postprocessing")
        self.inferer = _WithinMemory(self.inferer)
        self.output_dir, self.bundle_root, self.redo = Path(output_dir), Path(bundle_root).absolute(), redo
        self.classes = self._classes()
        self.journal = Journal(self.output_dir, self._head(), self.classes)
        self.results: list[CaseResult] = []
        #: The cases that were not finished before.
        self._done: set[str] = set()
        self.fault: NeurobundleError | None = None
        # Added last, so that it runs after all handlers: no tensor stays while the next case is loaded.
        self.add_event_handler(Events.ITERATION_COMPLETED, _forget)

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Run all cases.

        Raises:
            SystemExit: with the exit code, if there is nothing to run, the weights are not believed, or the output
                cannot be written; its cause is the error.
        """
        self.results, self.fault, self._done = [], None, set()
        try:
            self._begin()
        except NeurobundleError as error:
            self._stop(error)
        super().run(global_epoch)
        say_once(result for result in self.results if result.case in self._done)
        if self.fault is not None:
            self._stop(self.fault)
        passed = sum(result.passed for result in self.results)
        logger.info("%d of %d cases done: %s", passed, len(self.results), self.output_dir)

    def finish(self) -> None:
        """End the process with an exit code other than 0 if a case failed.

        Raises:
            SystemExit: 3 if some cases failed, 4 if all did.
        """
        code = exit_code(result.passed for result in self.results)
        if code is not ExitCode.OK:
            raise SystemExit(int(code))

    def _begin(self) -> None:
        """Everything that would stop all cases, before the engine starts: it would log what it sees once more."""
        dataset = getattr(self.data_loader, "dataset", None)
        if not isinstance(dataset, CaseDataset):
            raise SettingError(
                f"CaseEvaluator needs a CaseDataset, got a {type(dataset).__name__}", "See the bundle's inference.yaml."
            )
        if not len(dataset):
            raise dataset.fault or NoInputError("there are no cases", "Check dataset_dir, datalist and max_cases.")
        for loader in weight_loaders(self.handlers):
            loader(self)
        self.journal.open()
        dataset.journal, dataset.redo, dataset.key = self.journal, self.redo, self._key(dataset.transform)

    def _classes(self) -> list[str] | None:
        """Those that the postprocessing names in its files; where it writes none, the metadata's."""
        stated = answers_of(self.bundle_root) if is_bundle(self.bundle_root) else None
        writers = [s for s in getattr(self.postprocessing, "transforms", ()) if isinstance(s, SaveAnswerd)]
        return stated if stated is None or not writers else writers[0].classes

    def _key(self, preprocessing: Any) -> dict[str, Any]:
        # A part of a config cannot see the config, so what was built from it is looked at.
        parts = {
            "preprocessing": preprocessing,
            "network": self.network,
            "inferer": self.inferer,
            "postprocessing": self.postprocessing,
            "device": str(self.state.device),
        }
        return {
            "weights": fingerprint.of_weights(weight_loaders(self.handlers)),
            "config": fingerprint.of_parts(**parts),
            "versions": dict(fingerprint.versions()),
        }

    def _head(self) -> dict[str, Any]:
        return report_head(self.bundle_root) if is_bundle(self.bundle_root) else {"bundle": self.bundle_root.name}

    def _iteration(self, engine: Any, batchdata: Any) -> Any:
        for item in batchdata if isinstance(batchdata, list) else [batchdata]:
            if self.fault is None:
                self._one(item)
        if self.fault is not None:
            self.terminate()
        return self.state.output

    def _one(self, item: Prepared) -> None:
        result = item.result
        self.results.append(result)
        if item.finished:
            logger.info("%s: finished before, skipped", result.case)
            return
        self._done.add(result.case)
        started = time.perf_counter()
        memory.reset_peak()
        try:
            if item.error is not None:
                raise item.error
            with guarded(result.case, result.file):
                self._segment(item.data, result)
        except NeurobundleError as error:
            if ends_the_run(error):
                self.fault = error
                self.results.pop()
                return
            self.state.output = None
            result.status, result.error, result.outputs, result.output = "failed", str(error), {}, ""
            result.answer, result.uncertainty = {}, {}
            logger.error("ERROR %s", error)
        result.timing["segment"] = round(time.perf_counter() - started, 3)
        result.timing["peak_memory_mib"] = round(memory.peak_mib(), 1)
        try:
            self.journal.record(result)
        except NeurobundleError as error:
            self.fault = error

    def _segment(self, batch: dict[str, Any], result: CaseResult) -> None:
        classes = classes_of(self.bundle_root) if is_bundle(self.bundle_root) else 1
        require_memory_of(batch["image"], classes, self.postprocessing)
        for text in _said(batch["image"]):
            result.warn(text)
        self.state.batch = batch
        ending = f"{LABEL_SUFFIX}.nii.gz" if self.classes is None else ANSWER_ENDING
        with self.journal.writing(result, self.output_dir / f"{result.case}{ending}"):
            super()._iteration(self, batch)
        for output in self.state.output:
            for name, value in output.items():
                if name.endswith(SAVED):
                    self._note_uncertainty(value, result)
                self._note(value, result)

    def _note(self, value: Any, result: CaseResult) -> None:
        """Enter what the postprocessing wrote, if it says where."""
        saved = Path((getattr(value, "meta", None) or {}).get("saved_to", ""))
        if saved.parent != self.output_dir or not saved.is_file():
            return
        result.output = saved.name
        result.wrote(saved)
        if self.classes is not None:
            result.answer = asdict(read_answer(saved))
        elif is_bundle(self.bundle_root):
            labels = np.asarray(value.as_tensor().cpu())
            known, groups = structures_of(self.bundle_root), groups_of(self.bundle_root)
            result.volumes_ml = volumes_ml(labels, np.asarray(value.affine), known, groups)

    def _note_uncertainty(self, files: list[str], result: CaseResult) -> None:
        for path in map(Path, files):
            result.wrote(path)
            if path.name.endswith(NUMBERS_ENDING):
                names = structures_of(self.bundle_root) if is_bundle(self.bundle_root) else {}
                found = read_uncertainty(path, names)
                result.uncertainty = found.entry()
                for text in found.warnings():
                    result.warn(text)

    def _stop(self, error: NeurobundleError) -> None:
        logger.error("ERROR %s", error)
        raise SystemExit(int(error.exit_code)) from error


class _WithinMemory(Inferer):
    """An inferer that goes on with the CPU where the GPU's memory does not suffice."""

    def __init__(self, inferer: Inferer) -> None:
        super().__init__()
        self.inferer = inferer

    def __call__(self, inputs: Any, network: Any, *args: Any, **kwargs: Any) -> Any:
        return infer(self.inferer, inputs, network, *args, **kwargs)


def _forget(engine: SupervisedEvaluator) -> None:
    engine.state.output = engine.state.batch = None


def _said(image: Any) -> list[str]:
    """What the gate said of the images of a batch, by the metadata of the library's reader."""
    text = (getattr(image, "meta", None) or {}).get("warnings", "")
    return [one for one in ([text] if isinstance(text, str) else text) if one]


def _first(image: Any) -> Any:
    return image[0] if isinstance(image, list | tuple) else image


def _digest(image: Any) -> str:
    """The fingerprint of a case's file, or of its channels' files; a missing one has none, and fails when read."""
    paths = [Path(path) for path in (image if isinstance(image, list | tuple) else [image])]
    if not all(path.exists() for path in paths):
        return ""
    digests = [fingerprint.of_input(path) for path in paths]
    return digests[0] if len(digests) == 1 else fingerprint.of_value(digests)
