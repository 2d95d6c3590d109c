"""What an evaluation writes into a bundle's card: tables, the metadata's scores, and the worst cases' pictures.

A card has a pair of HTML comments, ``<!-- scores -->`` and ``<!-- /scores -->``; what stands between them is made here
from the files that the evaluation wrote, and from nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurobundle.bundle.find import answers_of, groups_of, scored_of
from neurobundle.commands.card_answers import answer_means, answer_text, check_answers, kept_files
from neurobundle.commands.results import mean
from neurobundle.errors import InputError, SettingError
from neurobundle.export.pictures import View, save_png, stack, three_planes
from neurobundle.files import write_atomic
from neurobundle.load.datalist import read_datalist
from neurobundle.load.gate import LABEL
from neurobundle.load.scan import read_scan
from neurobundle.measure.evaluation import ALL_CLASSES
from neurobundle.measure.outputs import SUMMARY, TABLE
from neurobundle.measure.segmentation import Score
from neurobundle.measure.summary import summarise
from neurobundle.measure.tables import read_scores

CARD = Path("docs") / "README.md"
START, END = "<!-- scores -->", "<!-- /scores -->"

#: A mean from the rounded table may differ from the summary's by this.
SAME_MEAN = 1e-5

#: How many of the worst cases are shown.
WORST_CASES = 3
#: More of a case's scores do not fit above a picture.
MOST_DICES = 4


def score_tables(summary: Mapping[str, Any]) -> str:
    """The pooled table and the table by fold, as Markdown.

    Args:
        summary: what ``summary.json`` holds.
    """
    tolerance = f"NSD at {summary['nsd_tolerances_mm'][0]:g} mm"
    how = ", each predicted by the network that did not see its fold" if summary.get("folds") else ""
    lines = [
        f"{summary['n_cases']} cases{how}. Means, with the 95 % interval by bootstrap over subjects.",
        "",
        f"| structure | Dice | {tolerance} | HD95, mm | volume bias | volume ICC | missed |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, scores in summary["structures"].items():
        volume = scores["volume"]
        bias = f"{_number(volume['bias_ml'], '+.3f')} ml ({_number(volume['bias_percent'], '+.1f')} %)"
        cells = [mean(scores["dice"]), mean(scores["nsd"]), mean(scores["hd95_mm"], 2), bias]
        cells.append(_number(volume["icc"], ".3f"))
        lines.append(f"| {name} | {' | '.join(cells)} | {scores['n_missed'] + scores['n_failed']} |")
    lines += _calibration_table(summary)
    folds = summary.get("folds", {})
    if folds:
        names = list(summary["structures"])
        lines += [
            "",
            f"| fold | cases | {' | '.join(f'Dice {name}' for name in names)} |",
            "|---|---|" + "---|" * len(names),
        ]
        for fold, part in folds.items():
            cells = [mean(part["structures"][name]["dice"]) for name in names]
            lines.append(f"| {fold} | {part['n_cases']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _calibration_table(summary: Mapping[str, Any]) -> list[str]:
    calibration = summary.get("calibration", {})
    if not calibration:
        return []
    lines = [
        "",
        f"| calibration, within {summary['calibration_region_mm']:g} mm of the reference "
        "| ECE | ACE | Brier | NLL, nats | AUROC of errors |"
        " uncertainty and Dice, Spearman |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, scores in calibration.items():
        cells = [mean(scores[metric]) for metric in ("ece", "ace", "brier", "nll", "error_auroc")]
        cells.append(_number(scores["uncertainty_dice_spearman"], "+.2f"))
        lines.append(f"| {'all classes' if name == ALL_CLASSES else name} | {' | '.join(cells)} |")
    return lines


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def publish_results(bundle_dir: Path, results: Path | None = None) -> Path:
    """Write a bundle's card from the files of an evaluation.

    Args:
        bundle_dir: the bundle.
        results: a folder with ``per_case.csv`` and ``summary.json``, copied to ``docs/results``; of classes also
            ``per_subject.csv``, ``activation.json`` and pictures, and what it has not of these is taken away. If None,
            what is there counts.

    Returns:
        The card.

    Raises:
        InputError: if there are no such files, or they are of another bundle or other structures or classes.
        SettingError: if the card has no place for the tables.
    """
    docs = bundle_dir / "docs"
    results = None if results is not None and results.resolve() == (docs / "results").resolve() else results
    source, classes = results or docs / "results", answers_of(bundle_dir)
    kept: dict[Path, bytes] = {}
    gone: list[Path] = []
    if classes is not None:
        summary = check_answers(source, bundle_dir.name, classes)
        tables = answer_text(source, results or docs / "pictures", summary)
        means = answer_means(summary)
        if results is not None:
            kept, gone = kept_files(results, docs)
    else:
        scores, subjects = read_scores(source / TABLE)
        summary = _read_summary(source / SUMMARY)
        _require_own(bundle_dir, summary, source / SUMMARY)
        _require_same_means(summary, summarise(scores, subjects), source / SUMMARY)
        tables = score_tables(summary)
        means = {f"{name}_dice": values["dice"]["mean"] for name, values in summary["structures"].items()}
        if results is not None:
            kept = {docs / "results" / name: (results / name).read_bytes() for name in (TABLE, SUMMARY)}
    for path, content in {**_card_files(bundle_dir, tables, means), **kept}.items():
        write_atomic(path, content)
    for path in gone:
        path.unlink(missing_ok=True)
    return bundle_dir / CARD


def _require_own(bundle_dir: Path, summary: Mapping[str, Any], path: Path) -> None:
    """Refuse the results of another bundle, or of structures that this one does not have."""
    whose = summary.get("bundle", bundle_dir.name)
    if whose != bundle_dir.name:
        raise InputError(f"these are results of {whose}", f"Give those of {bundle_dir.name}.", file=path)
    known, found = scored_of(bundle_dir), list(summary["structures"])
    groups = groups_of(bundle_dir)
    if [name for name in found if name in known or name not in groups] != known:
        cause = f"it scores {', '.join(found)}, and the bundle's structures are {', '.join(known)}"
        raise InputError(cause, "Evaluate the bundle, or name them with --labels FILE.", file=path)


def _require_same_means(said: Mapping[str, Any], counted: Mapping[str, Any], path: Path) -> None:
    """Refuse a summary whose Dice is not that of the table beside it."""
    for name, values in said["structures"].items():
        mean_said, mean_counted = (
            values["dice"]["mean"],
            counted["structures"].get(name, {}).get("dice", {}).get("mean"),
        )
        apart = None in (mean_said, mean_counted) or abs(mean_said - mean_counted) > SAME_MEAN
        if apart and mean_said != mean_counted:
            cause = f"it says Dice {mean_said} of {name}, and the table beside it {mean_counted}"
            raise InputError(cause, "Evaluate again; neither file is to be edited.", file=path)


def _read_summary(path: Path) -> dict[str, Any]:
    way_out = "Give the folder that `neurobundle evaluate` or `crossval` wrote."
    try:
        summary = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"it cannot be read ({error})", way_out, file=path) from error
    if not isinstance(summary, dict) or summary.get("task") != "segmentation":
        raise InputError("it is no summary of a segmentation", way_out, file=path)
    return summary


def _card_files(bundle_dir: Path, tables: str, means: Mapping[str, float | None]) -> dict[Path, bytes]:
    """The card with the tables in it, and the metadata with the means as ``eval_metrics``."""
    card, path = bundle_dir / CARD, bundle_dir / "configs" / "metadata.json"
    text = card.read_text()
    if START not in text or END not in text:
        raise SettingError(f"the card has no {START} and {END}", "Put both where the tables belong.", file=card)
    before, after = text.split(START)[0], text.split(END)[1]
    metadata = json.loads(path.read_text())
    metadata["eval_metrics"] = {name: None if value is None else round(value, 3) for name, value in means.items()}
    return {
        card: f"{before}{START}\n{tables}\n{END}{after}".encode(),
        path: f"{json.dumps(metadata, indent=2, ensure_ascii=False)}\n".encode(),
    }


def draw_cases(
    folder: Path,
    scores: Sequence[Score],
    items: Mapping[str, Mapping[str, Any]],
    predictions: Mapping[str, Path],
    others: bool = False,
) -> list[Path]:
    """Draw the cases of lowest mean Dice: reference above, prediction below, the same slices.

    Args:
        folder: gets ``worst-1.png`` and so on.
        scores: of all cases.
        items: the datalist's entry of each case; of an image of several files the last is shown.
        predictions: the label map of each case.
        others: also the middle case and the best, as ``middle.png`` and ``best.png``.
    """
    by_case: dict[str, list[float]] = {}
    for score in scores:
        by_case.setdefault(score.case, []).append(score.dice)
    ordered = sorted(
        (case for case in by_case if case in predictions), key=lambda case: float(np.nanmean(by_case[case]))
    )
    names = {f"worst-{number}": case for number, case in enumerate(ordered[:WORST_CASES], start=1)}
    if others and ordered:
        names |= {"middle": ordered[len(ordered) // 2], "best": ordered[-1]}
    return [
        _draw(folder / f"{name}.png", case, items[case], predictions[case], by_case[case])
        for name, case in names.items()
    ]


def _draw(path: Path, case: str, item: Mapping[str, Any], prediction: Path, dices: Sequence[float]) -> Path:
    image = item["image"]
    scan = read_scan(Path(image if isinstance(image, str) else image[-1]))
    truth, found = (read_scan(Path(labels), LABEL) for labels in (item["label"], prediction))
    views = [View.of(scan.data, labels.data, scan.affine) for labels in (truth, found)]
    shown = ", ".join(f"{dice:.2f}" for dice in dices[:MOST_DICES])
    rows = [
        three_planes(view, title=f"{case}: {what}, Dice {shown}", at=views[0].centre())
        for view, what in zip(views, ("reference", "prediction"), strict=True)
    ]
    return save_png(path, stack(rows))


def draw_evaluated(bundle_dir: Path, results: Path, datalist: Path, dataset_dir: Path | None = None) -> list[Path]:
    """Draw worst, middle and best case of an evaluation into a bundle's card.

    Args:
        bundle_dir: whose ``docs/pictures`` are written.
        results: the evaluation's folder, with its predictions.
        datalist: what was evaluated.
        dataset_dir: what its paths are relative to; its own folder if None.

    Raises:
        InputError: if there is no prediction of a case of the datalist.
    """
    ending = "_seg.nii.gz"
    folder = results / "predictions"
    predictions = {path.name.removesuffix(ending): path for path in folder.glob(f"*{ending}")}
    items = {str(item["case"]): item for item in read_datalist(datalist, base_dir=dataset_dir)}
    predictions = {case: path for case, path in predictions.items() if case in items}
    if not predictions:
        raise InputError(
            "it has no prediction of a case of the datalist", "Give the datalist that was evaluated.", file=folder
        )
    scores = read_scores(results / TABLE)[0]
    return draw_cases(bundle_dir / "docs" / "pictures", scores, items, predictions, others=True)
