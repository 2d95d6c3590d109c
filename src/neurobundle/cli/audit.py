"""The subcommand that looks for leaks in a split."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from neurobundle.cli.console import command, progress, say


def add_audit(commands: Any) -> None:
    """``neurobundle audit``."""
    sub = command(
        commands,
        "audit",
        _audit,
        "Look for copies, near-duplicates and persons on two sides of a datalist's split, and for confounded classes.",
        "neurobundle audit datalist.json -o audit",
    )
    sub.add_argument("datalist", type=Path, help="with folds, a test section, or both; see neurobundle split")
    sub.add_argument("--dataset-dir", type=Path, metavar="DIR", help="what its paths are relative to (its own folder)")
    sub.add_argument("-o", "--output", type=Path, metavar="DIR", help="gets audit.json and audit.html, with pictures")
    sub.add_argument(
        "--allow",
        action="extend",
        nargs="+",
        default=[],
        metavar="KIND",
        help="leaks that do not count: case, copy, near-duplicate, person, person-suffix",
    )
    sub.add_argument("--strict", action="store_true", help="end with 6 for a confounded or missing class as well")


def _audit(options: argparse.Namespace) -> int:
    from neurobundle.commands.audit import as_lines, audit, write_audit

    report = audit(options.datalist, options.dataset_dir, allow=options.allow, strict=options.strict, progress=progress)
    for line in as_lines(report):
        say(line)
    if options.output is not None:
        write_audit(report, options.output)
        say(f"Written: {options.output / 'audit.html'}, audit.json")
    return int(report.exit_code)
