"""The subcommand that stacks pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from neurobundle.cli.console import command, progress, say
from neurobundle.errors import SettingError


def add_stack(commands: Any) -> None:
    """``neurobundle stack``."""
    sub = command(
        commands,
        "stack",
        _stack,
        "Stack heads that were published as pictures, one a slice, into NIfTI cases with a datalist.",
        "neurobundle stack lgg -o lgg3d --channels T1,FLAIR,T1c --order T1,T1c,T2,FLAIR --reference FLAIR"
        " --group institution",
    )
    sub.add_argument("data", type=Path, help="a folder of folders of <name>_<number>.png or .jpg, one a case")
    sub.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="gets cases and a datalist")
    sub.add_argument("--channels", required=True, metavar="T1,FLAIR,T1c", help="what the pictures' colours are")
    sub.add_argument("--order", metavar="T1,T1c,T2,FLAIR", help="of the datalist; who is absent is 0 (--channels)")
    sub.add_argument("--reference", metavar="NAME", help="the channel that fills the place of absent ones (the first)")
    sub.add_argument("--spacing", metavar="R,A,S", help="mm (estimated from each head, as if it were of average size)")
    sub.add_argument(
        "--scale", default="1,1", metavar="P,S", help="multiplies the spacing in the plane and between slices (1,1)"
    )
    sub.add_argument("--index", type=Path, metavar="FILE", help="a table with a row a case (DATA/index.csv)")
    sub.add_argument("--group", metavar="COLUMN", help="of the table: folds are dealt within each group, a site say")
    sub.add_argument("--folds", type=int, default=5, help="how many; 0: each group is one (5)")


def _stack(options: argparse.Namespace) -> int:
    from neurobundle.commands.stack import stack

    in_plane, between = _lengths("--scale", options.scale, 2)
    report = stack(
        options.data,
        options.output,
        options.channels.split(","),
        order=options.order.split(",") if options.order else None,
        reference=options.reference,
        spacing_mm=_lengths("--spacing", options.spacing, 3) if options.spacing else None,
        scale=(in_plane, between),
        index=options.index,
        group=options.group,
        folds=options.folds,
        progress=progress,
    )
    say(f"{len(report.cases)} cases stacked, {len(report.failed)} failed: {options.output}")
    return int(report.exit_code)


def _lengths(option: str, text: str, count: int) -> list[float]:
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count or not all(0 < value < 1000 for value in values):
        raise SettingError(
            f"{option} wants {count} numbers above 0, got {text!r}",
            f"For example: {option} " + ",".join(["0.9", "0.9", "6"][:count]) + ".",
        )
    return values
