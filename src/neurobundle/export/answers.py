"""The answer for a case as a file, and the table of all of them. Imports neither torch nor MONAI.

``<case>_class.json`` holds the *prediction* (blank where the network *abstained*), its *confidence*, the probability of
each class, and the slices that counted most.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neurobundle.errors import InputError
from neurobundle.export.tables import csv_line, write_lines
from neurobundle.files import write_json

ANSWER_ENDING = "_class.json"
PREDICTIONS_NAME = "predictions.csv"

#: Slices that are listed, those that counted most first.
MOST_SLICES = 5

#: Decimals of a probability in the table.
DIGITS = 6


@dataclass(frozen=True)
class Answer:
    """What a network says of a case.

    Attributes:
        prediction: the most probable class; blank if it abstained.
        confidence: its probability.
        probabilities: of each class, by name, in the network's order.
        abstained: whether the confidence was too low to name a class.
        slices: those that counted most: ``slice`` (from 0, along the stack), ``weight`` (its share of the answer),
            ``prediction`` and ``confidence`` of the slice alone.
    """

    prediction: str
    confidence: float
    probabilities: dict[str, float]
    abstained: bool = False
    slices: list[dict[str, Any]] = field(default_factory=list)

    @property
    def leading(self) -> str:
        """The most probable class, whether it was named or not."""
        return max(self.probabilities, key=lambda name: self.probabilities[name])


def answer_of(
    probabilities: npt.ArrayLike,
    classes: Sequence[str],
    abstain_below: float = 0.0,
    slices: npt.ArrayLike | None = None,
) -> Answer:
    """The answer that probabilities give.

    Args:
        probabilities: ``(class,)``, together 1.
        classes: their names.
        abstain_below: below this confidence no class is named.
        slices: ``(class + 1, slice)``: the logits of each slice, then its share in the answer; those without one are
            not listed, and nor is the one of a picture.

    Raises:
        InputError: for probabilities of other classes, or that are not finite.

    >>> answer_of([0.2, 0.8], ["glioma", "meningioma"]).prediction
    'meningioma'
    """
    values = np.asarray(probabilities, float)
    if values.shape != (len(classes),) or not np.isfinite(values).all():
        raise InputError(
            f"the network gave {values.tolist()} for the classes {', '.join(classes)}", "Check the weights."
        )
    best = int(values.argmax())
    confidence = float(values[best])
    abstained = confidence < abstain_below
    return Answer(
        "" if abstained else classes[best],
        round(confidence, DIGITS),
        {name: round(float(value), DIGITS) for name, value in zip(classes, values, strict=True)},
        abstained,
        _strongest(np.asarray(slices, float), classes) if slices is not None else [],
    )


def _strongest(slices: npt.NDArray[np.float64], classes: Sequence[str]) -> list[dict[str, Any]]:
    """What the slices that counted most say by themselves."""
    from scipy.special import softmax

    logits, weights = slices[:-1], slices[-1]
    if logits.shape[1] < 2:
        return []
    said = softmax(logits, axis=0)
    order = [n for n in np.argsort(-weights, kind="stable")[:MOST_SLICES] if weights[n] > 0]
    return [
        {
            "slice": int(n),
            "weight": round(float(weights[n]), 4),
            "prediction": classes[int(said[:, n].argmax())],
            "confidence": round(float(said[:, n].max()), 4),
        }
        for n in order
    ]


def save_answer(path: Path, case: str, answer: Answer) -> Path:
    """Write an answer as JSON, atomically."""
    return write_json(path, {"case": case, **asdict(answer)})


def read_answer(path: Path) -> Answer:
    """Read what :func:`save_answer` wrote."""
    content = json.loads(path.read_bytes())
    return Answer(**{key: content[key] for key in ("prediction", "confidence", "probabilities", "abstained", "slices")})


def write_predictions(path: Path, classes: Sequence[str], answers: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write ``predictions.csv``: ``case``, ``prediction``, ``confidence``, ``p_<class>`` for each class, ``abstained``.

    Args:
        path: the final name.
        classes: in the network's order.
        answers: by case, as JSON holds them; an empty one is a case that failed, and its cells are blank.
    """
    lines = [prediction_line(classes, case, answer) for case, answer in answers.items()]
    return write_lines(path, [predictions_head(classes), *lines])


def predictions_head(classes: Sequence[str]) -> str:
    """The first line of ``predictions.csv``."""
    columns = _columns(classes)
    return csv_line(columns, dict(zip(columns, columns, strict=True)))


def prediction_line(classes: Sequence[str], case: str, answer: Mapping[str, Any]) -> str:
    """The line of a case in ``predictions.csv``; as for :func:`write_predictions`."""
    shares = answer.get("probabilities", {})
    cells = {f"p_{name}": shares[name] for name in classes if name in shares}
    known = {key: answer[key] for key in ("prediction", "confidence") if key in answer}
    abstained = {"abstained": int(answer["abstained"])} if "abstained" in answer else {}
    return csv_line(_columns(classes), {"case": case, **known, **cells, **abstained}, DIGITS)


def _columns(classes: Sequence[str]) -> list[str]:
    return ["case", "prediction", "confidence", *(f"p_{name}" for name in classes), "abstained"]
