"""The subcommand that makes a bundle's numbers again."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from neurobundle.cli.console import command, say
from neurobundle.errors import ExitCode


def add_reproduce(commands: Any) -> None:
    """``neurobundle reproduce``."""
    sub = command(
        commands,
        "reproduce",
        _reproduce,
        "Train and evaluate a bundle again from its own record, and compare with the published numbers.",
        "neurobundle reproduce hippocampus_segmentation --data Task04_Hippocampus -o out/again",
    )
    sub.add_argument("name", help="a bundle's name (see neurobundle list) or folder")
    sub.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    sub.add_argument("--data", type=Path, metavar="DIR", help="the folder of the data; its card says which")
    sub.add_argument("--smoke", action="store_true", help="few cases, a tiny network, one epoch: does it run at all?")
    sub.add_argument("--print-command", action="store_true", help="check the record, show its commands, and stop")
    sub.add_argument("--verbose", action="store_true", help="show the log")


def _reproduce(options: argparse.Namespace) -> int:
    from neurobundle.commands.reproduce import checked_record, commands_of, reproduce

    if options.print_command:
        folder, record = checked_record(options.name)
        for words in commands_of(folder, record, options.data or Path("DATA"), options.output, options.smoke):
            say(f"neurobundle {shlex.join(words)}")
        return int(ExitCode.OK)
    report = reproduce(options.name, options.output, options.data, smoke=options.smoke)
    say(report.as_text())
    return int(report.exit_code)
