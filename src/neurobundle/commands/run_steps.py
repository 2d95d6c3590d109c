"""What a run does with each case, step by step: see :mod:`neurobundle.commands.pipeline`.

A case is prepared: fingerprinted, read, and brought to the network's grid if another one is in the network. Then come
the network, and what needs it; then the rest, which draws and writes. What is raised in a step is that case's alone,
unless it ends the run.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from neurobundle import memory
from neurobundle.bundle.entries import CaseResult
from neurobundle.bundle.journal import Journal
from neurobundle.bundle.runner import CaseRunner, NoMemoryError, ends_the_run, guarded
from neurobundle.commands.pipeline import NotAloneError, Steps, one_by_one, overlapping
from neurobundle.commands.run_parts import Case, Rest, clocked, timed
from neurobundle.commands.sources import Source
from neurobundle.errors import NeurobundleError
from neurobundle.export.answers import ANSWER_ENDING
from neurobundle.export.uncertainty import NUMBERS_ENDING
from neurobundle.load.scan import Scan

logger = logging.getLogger(__name__)

#: What a case leaves in the run's own folder.
SCRAP = (".nii.gz", ".nii", ANSWER_ENDING, NUMBERS_ENDING)
#: Where in it each case has a folder of its own.
OWN_FOLDERS = "cases"


class RunSteps(ABC):
    """The steps of a run's cases; what is done with a case in the network is left open.

    Args:
        output: where the results go.
        overlap: prepare the next case and write the last one while the network runs.
        debug: let any exception of a case through.
    """

    #: What the network's part of a case is called in its timing.
    step = "segment"

    #: Set by whoever knows the bundle: the entries, and which side a crop shows.
    journal: Journal
    side: str

    def __init__(self, output: Path, *, overlap: bool, debug: bool) -> None:
        self.output, self.overlap, self.debug = output, overlap, debug
        self.runner: CaseRunner | None = None
        self.work = Path()
        self.key: dict[str, Any] = {}
        self._scan: Scan | None = None

    def cases(self, sources: Sequence[Source]) -> Generator[Case, None, None]:
        """All cases, in their order, each when it is done."""
        assert self.runner is not None
        steps = Steps(self._prepare, self._work, self._finish, self.runner.forget_ahead)
        return (overlapping if self.overlap and len(sources) > 1 else one_by_one)(sources, steps)

    @abstractmethod
    def _segment(self, source: Source, result: CaseResult) -> Rest | None:
        """What of a case needs the network; returns what does not."""

    @abstractmethod
    def _finished(self, source: Source, key: Mapping[str, Any]) -> CaseResult | None:
        """The entry of a case that needs not be done again."""

    @abstractmethod
    def _kind(self, scan: Scan) -> str:
        """``crop`` or ``head``."""

    def _prepare(self, source: Source, alone: bool) -> Case | None:
        """Read a case, and bring it to the network's grid if another one is in the network; None if that failed."""
        source.work = self.work / OWN_FOLDERS / source.case
        case = Case(source, CaseResult(case=source.case, file=source.shown))
        with clocked(case.result):
            try:
                with guarded(source.case, source.path):
                    case.result.key = {**self.key, "input": source.digest()}
                    if (entry := self._finished(source, case.result.key)) is not None:
                        return replace(case, result=entry, finished=True)
                    case.scan = self._read_in(source, case.result)
            except NeurobundleError as error:
                if not alone:
                    return None
                case.error = error
            if not alone:
                self._prepare_ahead(case)
        return case

    def _prepare_ahead(self, case: Case) -> None:
        assert self.runner is not None
        assert case.scan is not None
        if self.side == "left" and self._kind(case.scan) == "crop":
            opened = case.source.opened
            with timed(case.result, self.step):
                self.runner.prepare_ahead(opened, case.source.case, (len(opened), *case.scan.data.shape))

    def _work(self, case: Case, alone: bool) -> Case:
        """What of a case needs the network."""
        assert self.runner is not None
        if case.finished:
            return case
        source, result = case.source, case.result
        memory.reset_peak()
        with clocked(result):
            try:
                with guarded(source.case, source.path):
                    if case.error is not None:
                        raise case.error
                    # Another run may have finished it since it was read.
                    if not alone and (entry := self._finished(source, result.key)) is not None:
                        return replace(case, result=entry, finished=True)
                    self._scan, case.scan = case.scan, None
                    case.rest = self._segment(source, result)
            except NeurobundleError as error:
                if isinstance(error, NoMemoryError) and not alone:
                    raise NotAloneError from error
                self._stopped(case, error)
            finally:
                self._scan = None
                self.runner.forget_ahead(source.case)
                for scrap in [path for ending in SCRAP for path in self.work.glob(f"*{ending}")]:
                    scrap.unlink()
        result.timing["peak_memory_mib"] = round(memory.peak_mib(), 1)
        return case

    def _finish(self, case: Case) -> Case:
        """What of a case is left after the network."""
        if not case.finished:
            result, rest, case.rest = case.result, case.rest, None
            with clocked(result):
                try:
                    if rest is not None:
                        with guarded(case.source.case, case.source.path):
                            rest()
                except NeurobundleError as error:
                    self._stopped(case, error)
            result.timing["peak_memory_mib"] = max(result.timing["peak_memory_mib"], round(memory.peak_mib(), 1))
            self.journal.record(result)
        case.clear()
        return case

    def _stopped(self, case: Case, error: NeurobundleError) -> None:
        """A case ends with an error, or the run does."""
        for folder in (case.source.work, self.work):
            case.source.censored(error, folder)
        if ends_the_run(error) or self.debug:
            raise error
        self._failed(case.result, error)

    def _failed(self, result: CaseResult, error: NeurobundleError) -> None:
        """Note an error; of this attempt only the picture of what was refused stays."""
        for name in [name for name in result.outputs if not name.endswith("_refused.png")]:
            (self.output / name).unlink(missing_ok=True)
            del result.outputs[name]
        result.status, result.error, result.output = "failed", str(error), ""
        result.volumes_ml, result.answer, result.uncertainty = {}, {}, {}
        logger.error("ERROR %s", error)

    @staticmethod
    def _read_in(source: Source, result: CaseResult) -> Scan:
        """The case's scan; what was chosen for it and what was odd are noted."""
        with timed(result, "read"):
            try:
                scan = source.read()
            finally:
                result.study = source.study
        for text in scan.warnings:
            result.warn(source.spoken(text))
        return scan

    def _read(self, source: Source, result: CaseResult) -> Scan:
        """The case's scan, which was read before; once, so that it is not kept longer than it is needed."""
        scan, self._scan = self._scan, None
        return scan if scan is not None else self._read_in(source, result)
