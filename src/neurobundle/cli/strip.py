"""The subcommand that takes the skull off scans."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from neurobundle.cli.console import command, config_options, progress, say, settings_of
from neurobundle.cli.scans import policy_of, policy_options


def add_strip(commands: Any) -> None:
    """``neurobundle strip``."""
    sub = command(
        commands,
        "strip",
        _strip,
        "Take the skull off scans of any sequence: the brain alone, and its mask.",
        "neurobundle strip -i head.nii.gz -o out",
    )
    sub.add_argument(
        "-i", "--inputs", nargs="+", required=True, metavar="INPUT", help="NIfTI files, folders, DICOM studies"
    )
    sub.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    sub.add_argument("--margin", type=float, default=0.0, metavar="MM", help="kept around the brain (0)")
    sub.add_argument("--mapping", type=Path, metavar="FILE", help="says which scan of a study it is (YAML or JSON)")
    policy_options(sub)
    sub.add_argument("--no-pictures", action="store_true", help="write no PNG")
    sub.add_argument("--redo", action="store_true", help="do cases again that an earlier call finished")
    sub.add_argument(
        "--salted-names", action="store_true", help="name cases by hex digits, and no file or folder of the input"
    )
    config_options(sub)
    sub.add_argument("--verbose", action="store_true", help="show the log of the engines")


def _strip(options: argparse.Namespace) -> int:
    from neurobundle.commands.strip import Strip

    strip = Strip(
        options.output,
        margin_mm=options.margin,
        overlays=options.config,
        settings=settings_of(options),
        pictures=not options.no_pictures,
        policy=policy_of(options),
        mapping=options.mapping,
        redo=options.redo,
        salted_names=options.salted_names,
        debug=options.debug,
    )
    report = strip(options.inputs, progress)
    passed = sum(result.passed for result in report.results)
    before = f" ({report.skipped} of them before)" if report.skipped else ""
    say(f"{passed} of {len(report.results)} cases done{before}: {report.output}")
    return int(report.exit_code)
