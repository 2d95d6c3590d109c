"""The subcommand that makes probabilities honest."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from neurobundle.cli.console import command, engine_options, progress, say, settings_of
from neurobundle.errors import ExitCode


def add_calibrate(commands: Any) -> None:
    """``neurobundle calibrate``."""
    sub = command(
        commands,
        "calibrate",
        _calibrate,
        "Fit a segmentation's temperature on cases out of fold, and the score above which a case is flagged.",
        "neurobundle calibrate hippocampus_segmentation --data datalist.json --weights out/cv -o out/calibration",
    )
    sub.add_argument("name", help="a bundle's name (see neurobundle list) or folder")
    sub.add_argument("--data", type=Path, required=True, metavar="DATALIST", help="a datalist with folds")
    sub.add_argument("--dataset-dir", type=Path, help="what its paths are relative to (the datalist's folder)")
    sub.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="goes on where it was stopped")
    sub.add_argument("--folds", nargs="+", type=int, metavar="N", help="which (all that have weights)")
    sub.add_argument(
        "--weights",
        type=Path,
        metavar="PATH",
        help="a folder with fold<N>.pt, or a crossval folder; or one file, with the one fold that it did not see "
        "(the bundle's own)",
    )
    sub.add_argument(
        "--wanted-dice",
        type=float,
        metavar="DICE",
        help="flag as few cases as give the others this mean Dice (default: flag the most uncertain tenth)",
    )
    sub.add_argument(
        "--publish",
        nargs="?",
        const="all",
        choices=("all", "results"),
        help="write calibration.json beside the bundle's weights, and table and pictures into its card; or these "
        "alone: results (all)",
    )
    engine_options(sub)


def _calibrate(options: argparse.Namespace) -> int:
    from neurobundle.commands.calibrate import Calibration
    from neurobundle.commands.calibrate_card import terminal_text

    run = Calibration(
        options.name,
        options.data,
        options.output,
        dataset_dir=options.dataset_dir,
        folds=options.folds,
        weights=options.weights,
        overlays=options.config,
        settings=settings_of(options),
        wanted_dice=options.wanted_dice,
    )
    if options.print_command:
        say("\n".join(run.plan(fold).command() for fold in run.weights))
        return int(ExitCode.OK)
    summary = run(progress)
    if options.publish:
        run.publish(ship=options.publish == "all")
    say(terminal_text(summary))
    return int(ExitCode.SOME_FAILED if summary["n_cases"] < run.expected() else ExitCode.OK)
