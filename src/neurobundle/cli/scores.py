"""The subcommands that score."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from neurobundle.cli.console import command, engine_options, progress, say, settings_of
from neurobundle.errors import ExitCode, SettingError, exit_code

logger = logging.getLogger("neurobundle")

#: Which options of ``evaluate`` mean something for which kind of predictions.
KINDS = {
    **dict.fromkeys(("data", "dataset_dir", "fold", "weights", "device", "config", "set", "verbose"), ("bundle",)),
    **dict.fromkeys(("labels", "images", "tolerance", "lesions", "lesion_dilation", "ignore_lesions"), ("folder",)),
    **dict.fromkeys(("other_labels", "no_pictures"), ("folder",)),
    **dict.fromkeys(("classes", "tune_pred", "tune_truth", "criterion"), ("table",)),
    **dict.fromkeys(("iou", "score"), ("JSON file",)),
    "subjects": ("folder", "table", "JSON file"),
    "print_command": ("bundle",),
}


def add_evaluate(commands: Any) -> None:
    """``neurobundle evaluate``."""
    sub = command(
        commands,
        "evaluate",
        _evaluate,
        "Score predictions against references: a bundle's on a fold of a datalist, or any two folders of label maps.",
        "neurobundle evaluate --pred out --truth labels --labels 1,2 -o scores",
    )
    sub.add_argument("name", nargs="?", help="a bundle's name (see neurobundle list) or folder; or give --pred")
    sub.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    own = sub.add_argument_group("a bundle", "neurobundle evaluate NAME --data DATALIST -o DIR")
    own.add_argument("--data", type=Path, metavar="DATALIST", help="a datalist; see neurobundle split")
    own.add_argument("--dataset-dir", type=Path, help="what its paths are relative to (the datalist's folder)")
    own.add_argument("--fold", type=int, default=0, help="whose cases to score (0)")
    own.add_argument(
        "--weights",
        type=Path,
        help="default: models/fold<K>.pt for the bundle's own folds, else model.pt",
    )
    engine_options(own)
    any_ = sub.add_argument_group("any predictions", "neurobundle evaluate --pred DIR --truth DIR --labels 1,2 -o DIR")
    any_.add_argument("--pred", type=Path, metavar="DIR", help="label maps; or a table of classes; or COCO results")
    any_.add_argument("--truth", type=Path, metavar="DIR", help="their references, by name; or a table; or COCO JSON")
    any_.add_argument("--labels", metavar="1,2|FILE", help='what to score: numbers, or JSON like {"WT": [1, 2, 3]}')
    any_.add_argument("--images", type=Path, metavar="DIR", help="images to draw behind the outlines")
    any_.add_argument("--subjects", type=Path, metavar="FILE", help="CSV with columns case and subject (each its own)")
    any_.add_argument("--tolerance", nargs="+", type=float, default=[1.0], metavar="MM", help="of NSD (1)")
    any_.add_argument("--lesions", action="store_true", help="score lesion by lesion as well")
    any_.add_argument("--lesion-dilation", type=int, default=0, metavar="N", help="BraTS 2023 has 3 for gliomas (0)")
    any_.add_argument("--ignore-lesions", type=float, default=0.0, metavar="ML", help="leave out lesions up to (0)")
    any_.add_argument(
        "--other-labels", choices=("refuse", "ignore"), default="refuse", help="values that no structure has (refuse)"
    )
    any_.add_argument("--classes", metavar="A,B", help="names of the classes, in the order of their numbers")
    any_.add_argument("--tune-pred", type=Path, metavar="FILE", help="classes: choose temperature and threshold here,")
    any_.add_argument("--tune-truth", type=Path, metavar="FILE", help="with its references; of other subjects")
    any_.add_argument("--criterion", default="youden", help="of the threshold: youden, f1, sensitivity=0.95 (youden)")
    any_.add_argument("--iou", type=float, default=0.5, help="boxes: overlap that counts as found (0.5)")
    any_.add_argument("--score", type=float, default=0.5, help="boxes: least score that counts (0.5)")
    any_.add_argument("--no-pictures", action="store_true", help="draw no cases")


def _evaluate(options: argparse.Namespace) -> int:
    by_files = bool(options.pred or options.truth)
    if bool(options.name) == by_files or (by_files and not (options.pred and options.truth)):
        raise SettingError(
            "evaluate wants either a bundle's name, or --pred and --truth",
            "For example: neurobundle evaluate --pred out --truth labels --labels 1,2 -o scores.",
        )
    from neurobundle.commands.evaluate_files import kind_of

    _refuse_foreign(options, kind_of(options.pred) if by_files else "bundle")
    return _evaluate_files(options) if by_files else _evaluate_bundle(options)


def add_compare(commands: Any) -> None:
    """``neurobundle compare``."""
    sub = command(
        commands,
        "compare",
        _compare,
        "Compare two evaluations of the same cases: differences with intervals, and tests.",
        "neurobundle compare out/a out/b -o comparison",
    )
    sub.add_argument("run_a", type=Path, metavar="RUN_A", help="a folder with per_case.csv, or the file")
    sub.add_argument("run_b", type=Path, metavar="RUN_B", help="another one: segmentations, or classes (by accuracy)")
    sub.add_argument("-o", "--output", type=Path, metavar="DIR", help="gets comparison.csv and comparison.json")
    sub.add_argument("--json", action="store_true", help="for programs")


def _compare(options: argparse.Namespace) -> int:
    from neurobundle.commands.compare import compare

    comparison = compare(options.run_a, options.run_b, options.output)
    say(json.dumps(comparison.as_json(), indent=2) if options.json else comparison.as_table())
    return int(ExitCode.OK)


def _refuse_foreign(options: argparse.Namespace, kind: str) -> None:
    """Refuse an option of ``evaluate`` that means nothing for a kind of predictions.

    Raises:
        SettingError: names the option, and what it is for.
    """
    for name, kinds in KINDS.items():
        if kind not in kinds and getattr(options, name) != options.parser.get_default(name):
            word = f"--{name.replace('_', '-')}"
            raise SettingError(f"{word} means nothing for a {kind}", f"It is for: {', '.join(kinds)}. Leave it out.")


def _evaluate_bundle(options: argparse.Namespace) -> int:
    from neurobundle.commands.evaluate import evaluate, evaluate_plan
    from neurobundle.commands.results import as_text

    if options.data is None:
        raise SettingError("--data is missing", "Give a datalist; `neurobundle split` makes one.")
    plan = evaluate_plan(
        options.name,
        options.data,
        options.output,
        fold=options.fold,
        weights=options.weights,
        dataset_dir=options.dataset_dir,
        overlays=options.config,
        settings=settings_of(options),
    )
    if options.print_command:
        say(plan.command())
        return int(ExitCode.OK)
    passed = evaluate(plan)
    say(as_text(options.output))
    return int(exit_code(passed.values()))


def _evaluate_files(options: argparse.Namespace) -> int:
    from dataclasses import fields

    from neurobundle.commands.evaluate_files import FileOptions, evaluate_files
    from neurobundle.commands.results import as_text

    report = evaluate_files(
        options.pred,
        options.truth,
        options.output,
        FileOptions(**{field.name: getattr(options, field.name) for field in fields(FileOptions)}),
        progress,
    )
    for line in report.notes:
        logger.warning("NOTE %s", line)
    say(as_text(options.output))
    return int(exit_code(report.passed.values()))
