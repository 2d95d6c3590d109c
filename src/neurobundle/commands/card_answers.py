"""What a card says of a bundle that answers classes: tables from the files that an evaluation wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neurobundle.commands.card_activation import ACTIVATION, PICTURES, activation_lines, read_activations
from neurobundle.commands.results import mean
from neurobundle.errors import InputError
from neurobundle.measure.classification import mean_scores
from neurobundle.measure.classification_evaluation import read_answers
from neurobundle.measure.outputs import CURVES, SUMMARY, TABLE
from neurobundle.measure.page_answers import MEANS
from neurobundle.measure.subjects import SUBJECT_TABLE

#: Of each class.
_OF_CLASS = ("precision", "sensitivity", "specificity", "f1", "auroc")

#: What may be kept beside the card: files of numbers, and pictures.
FILES = (TABLE, SUMMARY, SUBJECT_TABLE, ACTIVATION)
PICTURE_FILES = (CURVES, *PICTURES.values())

#: The accuracy of the rounded summary may differ from the table's by this.
SAME_MEAN = 1e-5


def check_answers(results: Path, bundle: str, classes: Sequence[str]) -> dict[str, Any]:
    """The summary of a classification, once it is sure that it may stand in the bundle's card.

    Args:
        results: a folder with ``per_case.csv`` and ``summary.json``.
        bundle: the bundle's name.
        classes: its classes, in the order of its outputs.

    Raises:
        InputError: if there are no such files, they are of another bundle or other classes, or they do not agree.
    """
    path = results / SUMMARY
    way_out = "Give the folder that `neurobundle evaluate` or `crossval` wrote."
    evaluation = read_answers(results / TABLE)
    try:
        summary = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"it cannot be read ({error})", way_out, file=path) from error
    if not isinstance(summary, dict) or summary.get("task") != "classification":
        raise InputError("it is no summary of a classification", way_out, file=path)
    if summary.get("bundle", bundle) != bundle:
        raise InputError(f"these are results of {summary['bundle']}", f"Give those of {bundle}.", file=path)
    for found in (summary["classes"], evaluation.classes):
        if found != list(classes):
            cause = f"its classes are {', '.join(found)}, and the bundle's are {', '.join(classes)}"
            raise InputError(cause, "Evaluate the bundle itself.", file=path)
    answers = list(evaluation.answers.values())
    counted = mean_scores([a.truth for a in answers], [a.prediction for a in answers], len(classes))["accuracy"]
    said = summary["accuracy"]["mean"]
    if said is None or abs(said - counted) > SAME_MEAN:
        cause = f"it says accuracy {said}, and the table beside it {counted:.6f}"
        raise InputError(cause, "Evaluate again; neither file is to be edited.", file=path)
    return summary


def kept_files(results: Path, docs: Path) -> tuple[dict[Path, bytes], list[Path]]:
    """What of an evaluation is kept beside the card.

    Args:
        results: the evaluation's folder.
        docs: the bundle's ``docs``.

    Returns:
        Contents by path, and the paths of earlier results that these ones do not have.
    """
    there = {docs / "results" / name: results / name for name in FILES}
    there |= {docs / "pictures" / name: results / name for name in PICTURE_FILES}
    new = {path: source.read_bytes() for path, source in there.items() if source.is_file()}
    return new, [path for path in there if path not in new]


def answer_means(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """What the metadata keep, of cases and of subjects."""
    found = {name: summary[name]["mean"] for name, _ in MEANS}
    if "subjects" in summary:
        found |= {f"subject_{name}": summary["subjects"][name]["mean"] for name, _ in MEANS}
    return found


def answer_text(results: Path, pictures: Path, summary: Mapping[str, Any]) -> str:
    """All tables and pictures, as Markdown.

    Args:
        results: holds the table, and ``activation.json`` if there are class activation maps.
        pictures: holds the pictures; the curves of the trainings are shown if they are there.
        summary: what :func:`check_answers` gave.

    Raises:
        InputError: if the maps are of other answers, or a picture is missing.
    """
    parts = [answer_tables(summary)]
    if (pictures / CURVES).is_file():
        words = "Losses and metrics by epoch, a thin line a training:"
        parts.append(f"{words}\n\n![Curves of training and validation](pictures/{CURVES})")
    lines = activation_lines(read_activations(results, pictures, read_answers(results / TABLE)))
    return "\n\n".join([*parts, *(["\n".join(lines)] if lines else [])])


def answer_tables(summary: Mapping[str, Any]) -> str:
    """All tables, as Markdown.

    Args:
        summary: what ``summary.json`` holds.
    """
    how = ", each answered by the network that did not see its fold" if summary.get("folds") else ""
    lines = [f"{summary['n_cases']} cases{how}. Means, with the 95 % interval by bootstrap over subjects."]
    if summary.get("leaks"):
        lines += ["", f"**This protocol leaks: {summary['leaks']}.**"]
    lines += ["", *_overall(summary), "", *_by_class(summary), "", *_confusion(summary, "case")]
    if "subjects" in summary:
        lines += ["", *_by_class(summary["subjects"], "of subjects"), "", *_confusion(summary["subjects"], "subject")]
    for part in (_calibration(summary.get("temperature")), _folds(summary.get("folds"))):
        lines += ["", *part] if part else []
    return "\n".join(lines)


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _head(cells: Sequence[str]) -> list[str]:
    return [_row(cells), "|" + "---|" * len(cells)]


def _overall(summary: Mapping[str, Any]) -> list[str]:
    lines = _head(["", "n", *(heading for _, heading in MEANS)])
    parts = [("cases", summary), *([("subjects", summary["subjects"])] if "subjects" in summary else [])]
    return lines + [_row([name, part["n_cases"], *(mean(part[key]) for key, _ in MEANS)]) for name, part in parts]


def _by_class(summary: Mapping[str, Any], whose: str = "of cases") -> list[str]:
    lines = _head([f"class, {whose}", "n", "failed", "precision", "sensitivity", "specificity", "F1", "AUROC"])
    for name, own in summary["per_class"].items():
        lines.append(_row([name, own["n"], own["n_failed"], *(_number(own[key]) for key in _OF_CLASS)]))
    return lines


def _confusion(summary: Mapping[str, Any], whose: str) -> list[str]:
    labels, counts = summary["confusion"]["labels"], summary["confusion"]["counts"]
    lines = _head([f"a {whose}'s class, answered as", *labels])
    return lines + [_row([name, *row]) for name, row in zip(labels, counts, strict=True)]


def _calibration(temperature: Mapping[str, Any] | None) -> list[str]:
    if not temperature:
        return []
    lines = _head(["calibration", "ECE", "NLL, nats"])
    words = {"before": "as the networks say it", "after": "at the temperature of the other folds"}
    lines += [_row([said, *(mean(temperature[key][name]) for name in ("ece", "nll"))]) for key, said in words.items()]
    abstention, shipped = temperature["abstention"], temperature["shipped"]
    return [
        *lines,
        "",
        f"For new cases: temperature {shipped['temperature']:.3f}; no answer below a confidence of "
        f"{shipped['abstain_below']:.3f}, which was chosen for an accuracy of {abstention['wanted_accuracy']:g}. "
        f"Chosen on the other folds, it left {_number(abstention['coverage'])} of the cases answered, "
        f"at an accuracy of {_number(abstention['accuracy'])}.",
    ]


def _folds(folds: Mapping[str, Mapping[str, Any]] | None) -> list[str]:
    if not folds:
        return []
    shown = ("accuracy", "macro_f1", "macro_auroc")
    lines = _head(["fold", "cases", "accuracy", "macro-F1", "macro-AUROC"])
    return lines + [_row([fold, part["n_cases"], *(mean(part[key]) for key in shown)]) for fold, part in folds.items()]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
