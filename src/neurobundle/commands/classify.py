"""``neurobundle run`` with a bundle that answers one class a case: answers, a table, pictures and a report."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy.typing as npt

from neurobundle.bundle import fingerprint
from neurobundle.bundle.entries import CaseResult
from neurobundle.bundle.find import answers_of, find_bundle
from neurobundle.commands.run import Run
from neurobundle.commands.run_parts import Rest, timed
from neurobundle.commands.sources import Source
from neurobundle.errors import SettingError
from neurobundle.export.answers import ANSWER_ENDING, Answer, read_answer
from neurobundle.export.pictures import save_png, with_heat
from neurobundle.files import write_atomic

if TYPE_CHECKING:
    from neurobundle.infer.attention import ClassActivation

#: What the configs call the file that ``crossval --publish`` wrote, with temperature and the confidence to abstain at.
CALIBRATION_ID = "calibration"


def make_run(bundle: str, output: Path, **options: Any) -> Run:
    """The run that fits a bundle: one that answers classes, or one that draws label maps.

    Args:
        bundle: a name or a folder.
        output: where the results go.
        options: those of :class:`~neurobundle.commands.run.Run`.
    """
    kind = Run if answers_of(find_bundle(bundle)) is None else Classify
    return kind(bundle, output, **options)


class Seen(NamedTuple):
    """What is drawn of a case.

    Attributes:
        number: of the slice that counted most.
        image: ``(column, row)``.
        heat: of the same shape: what of it spoke for the answer.
    """

    number: int
    image: npt.NDArray[Any]
    heat: npt.NDArray[Any]


class Classify(Run):
    """A run whose results are classes.

    Args:
        bundle: a name or a folder.
        output: gets ``<case>_class.json``, ``<case>.png``, ``predictions.csv`` and ``report.json``.
        options: those of :class:`~neurobundle.commands.run.Run`.

    Raises:
        SettingError: for an option that has no meaning for a class, a calibration that is not there, or a bundle that
            answers none.
    """

    ending, foreign = ANSWER_ENDING, (Run.ending, "_brain.nii.gz")
    step = "classify"

    def __init__(self, bundle: str, output: Path, **options: Any) -> None:
        super().__init__(bundle, output, **options)
        if self.classes is None:
            raise SettingError(f"{self.bundle_dir.name} answers no class", "Use neurobundle run.")
        if self.side != "left":
            raise SettingError(f"{self.bundle_dir.name} knows no sides", "Leave --side out.")
        # Only the bundle's own may be absent: it is, until a cross-validation was published.
        named = self.settings.get(CALIBRATION_ID)
        if named and not Path(str(named)).is_file():
            raise SettingError("there is no such calibration", "Name a file, or null for none.", file=str(named))
        self._cam: ClassActivation | None = None

    def _build(self, work: Path) -> None:
        super()._build(work)
        self._cam = None
        file = Path(str(self.runner.part(CALIBRATION_ID))) if self.runner and self.runner.has(CALIBRATION_ID) else None
        digest = fingerprint.of_input(file) if file is not None and file.exists() else ""
        self.key["config"] = fingerprint.of_value([self.key["config"], digest])

    def _segment(self, source: Source, result: CaseResult) -> Rest | None:
        assert self.runner is not None
        self._read(source, result)
        draws = self._draws(source)
        with timed(result, self.step), self._watched() if draws else contextlib.nullcontext():
            item = self.runner.predict(source.opened, result.case)
        found = self.work / f"{result.case}{ANSWER_ENDING}"
        answer, content = read_answer(found), found.read_bytes()
        seen = None
        if draws:
            with timed(result, "describe"):
                seen = self._seen(item, answer)
        return lambda: self._answer(answer, content, seen, result)

    def _answer(self, answer: Answer, content: bytes, seen: Seen | None, result: CaseResult) -> None:
        """Write the answer, and draw what it was given for."""
        target = self.output / f"{result.case}{ANSWER_ENDING}"
        with timed(result, "write"), self.journal.writing(result, target):
            write_atomic(target, content)
        result.output, result.answer = target.name, asdict(answer)
        if answer.abstained:
            result.warn(f"no class is named: {answer.leading} has a probability of {answer.confidence:.2f}")
        if seen is not None:
            with timed(result, "describe"):
                what = f"no class named; {answer.leading}" if answer.abstained else answer.prediction
                where = f", slice {seen.number}" if answer.slices else ""
                title = f"{result.case}{where}: {what} {answer.confidence:.2f}"
                picture = with_heat(seen.image, seen.heat, title)
                result.wrote(save_png(self.output / f"{result.case}.png", picture))

    def _watched(self) -> contextlib.AbstractContextManager[None]:
        """Around a case's way through the network: its features are kept for the map."""
        from neurobundle.infer.attention import ClassActivation, has_features  # torch comes with it

        assert self.runner is not None
        if self._cam is None and has_features(self.runner.network):
            self._cam = ClassActivation(self.runner.network)
        return self._cam.watching() if self._cam is not None else contextlib.nullcontext()

    def _seen(self, item: Mapping[str, Any], answer: Answer) -> Seen:
        """The slice that counted most, and what of it spoke for the answer, if the network can say so."""
        assert self.runner is not None
        number = answer.slices[0]["slice"] if answer.slices else 0
        image = item["image"].as_tensor()[..., number].to(self.runner.evaluator.state.device)
        heat = image.new_zeros(image.shape[1:])
        if self._cam is not None:
            heat = self._cam(image, list(answer.probabilities).index(answer.leading))
        return Seen(number, image[0].cpu().numpy(), heat.cpu().numpy())
