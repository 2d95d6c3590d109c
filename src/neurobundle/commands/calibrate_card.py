"""What ``neurobundle calibrate`` found, for the terminal and for a bundle's card.

A card has a pair of HTML comments, ``<!-- calibration -->`` and ``<!-- /calibration -->``; what stands between them is
made here from ``docs/results/calibration.json``, and from nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neurobundle.bundle.find import structures_of
from neurobundle.commands.card import CARD
from neurobundle.commands.results import aligned, mean
from neurobundle.errors import InputError, SettingError
from neurobundle.files import write_atomic
from neurobundle.measure.calibration_charts import RELIABILITY, RISK_COVERAGE
from neurobundle.measure.flagging import FLAGGED_SHARE
from neurobundle.measure.outputs import SUMMARY
from neurobundle.measure.segmentation_calibration import FOLDS, HALVES
from neurobundle.measure.voxel_calibration import ALL
from neurobundle.postprocess.calibration import CALIBRATION_FILE, publish_calibration_file

START, END = "<!-- calibration -->", "<!-- /calibration -->"

#: The summary, among a bundle's results.
RESULTS = Path("docs") / "results" / CALIBRATION_FILE

#: Metric, heading.
METRICS = (("ece", "ECE"), ("ace", "ACE"), ("nll", "NLL, nats"), ("error_auroc", "AUROC of errors"))

#: Whose temperature each part has in the table, by how it was judged.
_OTHERS = {FOLDS: "of the other folds", HALVES: "of the other half"}


def calibration_rows(summary: Mapping[str, Any], names: Mapping[str, str] | None = None) -> list[list[str]]:
    """The table of calibration before and after, its heading first.

    Args:
        summary: what ``summary.json`` of a calibration holds.
        names: of the label values that a softmax tells apart.
    """
    rows = [["voxels", "temperature", *(heading for _, heading in METRICS)]]
    for when, word in (("before", "1"), ("after", _OTHERS.get(summary["judged"], "of the same cases"))):
        for structure, scores in summary["calibration"][when].items():
            what = "all classes" if structure == ALL else structure
            where = f"{what}, within {summary['region_mm']:g} mm of the reference"
            rows.append([where, word, *(mean(scores[metric]) for metric, _ in METRICS)])
        for structure, scores in summary["marginal"][when].items():
            what = "mean of the structures" if structure == "mean" else (names or {}).get(structure, structure)
            rows.append([f"{what}, whole image, {summary['marginal']['bins']} bins", word])
            rows[-1] += [mean(scores["ece"]), mean(scores["ace"]), "", ""]
    return rows


def calibration_text(summary: Mapping[str, Any], names: Mapping[str, str] | None = None) -> str:
    """The part of a card, as Markdown.

    Args:
        summary: what ``summary.json`` of a calibration holds.
        names: of the label values that a softmax tells apart.
    """
    rows = calibration_rows(summary, names)
    lines = [
        f"{summary['n_cases']} cases of {_folds(summary)}. {_judged(summary)} Means, with the 95 % interval by "
        "bootstrap over subjects.",
        "",
        f"| {' | '.join(rows[0])} |",
        "|---" * len(rows[0]) + "|",
        *(f"| {' | '.join(row)} |" for row in rows[1:]),
        "",
        *case_lines(summary),
    ]
    return "\n".join(lines)


def case_lines(summary: Mapping[str, Any]) -> list[str]:
    """What was chosen, and what the case score is worth, as a list; a line each."""
    cases, flag = summary["cases"], summary["flag"]
    judged = flag["judged"]
    parts = ", ".join(f"{value:.3f}" for value in summary["temperature"]["by_part"].values())
    rule = f"the most uncertain {FLAGGED_SHARE:.0%}"
    if flag["wanted_dice"] is not None and flag["reached"]:
        rule = f"as many are kept as have a mean Dice of {flag['wanted_dice']:g}"
    return [
        f"- temperature: {summary['temperature']['shipped']:.3f} on all cases; those that judged: {parts}",
        f"- case score against 1 - Dice: Spearman {_number(cases['spearman'], '+.2f')} "
        f"({_number(cases['spearman_uncalibrated'], '+.2f')} at temperature 1); in the mean {cases['score_mean']:.3f} "
        f"against {cases['aurc_random']:.3f}",
        f"- area under risk and coverage: {cases['aurc']:.4f}; of the best order {cases['aurc_best']:.4f}, of a random "
        f"one {cases['aurc_random']:.4f}",
        f"- `flag_above`: {flag['above']:.4f} on all cases ({rule}); by the thresholds that judged "
        f"{judged['flagged']:.1%} of the cases are flagged, with a mean Dice of "
        f"{_number(judged['dice_flagged'], '.3f')}; the others have {_number(judged['dice_kept'], '.3f')}",
    ]


def terminal_text(summary: Mapping[str, Any]) -> str:
    """The same for the terminal, with Dice and HD95 first."""
    rows = [["structure", "Dice", "HD95 mm", "missed"]]
    for name, scores in summary["structures"].items():
        missed = str(scores["n_missed"] + scores["n_failed"])
        rows.append([name, mean(scores["dice"]), mean(scores["hd95_mm"], 2), missed])
    lines = [f"{summary['n_cases']} cases of {_folds(summary)}. {_judged(summary)}", *aligned(rows), ""]
    return "\n".join([*lines, *aligned(calibration_rows(summary)), "", *case_lines(summary)])


def publish_calibration(bundle_dir: Path, folder: Path, ship: bool = True) -> Path:
    """Write ``models/calibration.json`` and its line in the manifest, the results, the pictures and the card.

    Args:
        bundle_dir: the bundle.
        folder: what ``neurobundle calibrate`` wrote.
        ship: also write what a run reads; else what was found is shown in the card alone.

    Returns:
        The card.

    Raises:
        InputError: if the folder holds a calibration of another bundle, or none.
        SettingError: if the card has no place for the table.
    """
    docs = bundle_dir / "docs"
    summary = read_calibration_summary(folder / SUMMARY, bundle_dir.name)
    card = card_with_calibration(bundle_dir, summary)
    pictures = {name: (folder / name).read_bytes() for name in (RELIABILITY, RISK_COVERAGE)}
    shipped = json.loads((folder / CALIBRATION_FILE).read_bytes())
    for name, content in pictures.items():
        write_atomic(docs / "pictures" / name, content)
    write_atomic(bundle_dir / RESULTS, (folder / SUMMARY).read_bytes())
    if ship:
        publish_calibration_file(bundle_dir / "models", shipped)
    return write_atomic(bundle_dir / CARD, card.encode())


def card_with_calibration(bundle_dir: Path, summary: Mapping[str, Any]) -> str:
    """The card with the part that a summary gives; the rest as it is.

    Raises:
        SettingError: if the card has no place for it.
    """
    card = bundle_dir / CARD
    text = card.read_text()
    if START not in text or END not in text:
        raise SettingError(f"the card has no {START} and {END}", "Put both where the table belongs.", file=card)
    names = {str(value): name for value, name in structures_of(bundle_dir).items()}
    before, after = text.split(START)[0], text.split(END)[1]
    return f"{before}{START}\n{calibration_text(summary, names)}\n{END}{after}"


def read_calibration_summary(path: Path, bundle: str) -> dict[str, Any]:
    """What a calibration found.

    Args:
        path: a ``summary.json``, or a bundle's ``docs/results/calibration.json``.
        bundle: whose it must be.

    Raises:
        InputError: if it is no such file.
    """
    way_out = "Give the folder that `neurobundle calibrate` wrote."
    try:
        summary = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"it cannot be read ({error})", way_out, file=path) from error
    if not isinstance(summary, dict) or summary.get("task") != "calibration":
        raise InputError("it is no summary of a calibration", way_out, file=path)
    if summary["bundle"] != bundle:
        raise InputError(f"these are results of {summary['bundle']}", f"Give those of {bundle}.", file=path)
    return summary


def _folds(summary: Mapping[str, Any]) -> str:
    folds = summary["folds"]
    left = summary["folds_left_out"]
    missing = f" (left out: {', '.join(map(str, left))})" if left else ""
    return f"fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))}{missing}"


def _judged(summary: Mapping[str, Any]) -> str:
    how = summary["judged"]
    return f"Judged crosswise, {how}." if how else "Not judged on cases that were not fitted on: there is one subject."


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
