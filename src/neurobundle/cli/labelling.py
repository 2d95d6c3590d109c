"""The subcommands that serve annotators."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from neurobundle.cli.console import command, say
from neurobundle.errors import ExitCode


def add_label(commands: Any) -> None:
    """``neurobundle label``."""
    sub = command(
        commands,
        "label",
        _label,
        "Serve bundles to 3D Slicer and OHIF, by MONAI Label.",
        "neurobundle label brain_tumor_segmentation --studies studies --store store",
    )
    sub.add_argument("bundles", nargs="+", metavar="BUNDLE", help="the first one's reference channel is what is shown")
    sub.add_argument("--studies", type=Path, required=True, metavar="DIR", help="NIfTI files, folders, DICOM studies")
    sub.add_argument("--store", type=Path, required=True, metavar="DIR", help="gets images, labels, copies of bundles")
    sub.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (127.0.0.1)")
    sub.add_argument("--port", type=int, default=8000, metavar="N", help="where to listen (8000)")


def _label(options: argparse.Namespace) -> int:
    from neurobundle.commands.label import label

    return label(options.bundles, options.studies, options.store, options.host, options.port)


def add_label_app(commands: Any) -> None:
    """``neurobundle label-app``."""
    sub = command(
        commands,
        "label-app",
        _label_app,
        "Write the MONAI Label app's folder, and print where it is.",
        "monailabel start_server --app $(neurobundle label-app) --studies studies --conf bundles NAME --conf store DIR",
    )
    sub.add_argument("-o", "--output", type=Path, default=Path("label-app"), metavar="DIR", help="(label-app)")


def _label_app(options: argparse.Namespace) -> int:
    from neurobundle.commands.label import make_app

    say(str(make_app(options.output)))
    return int(ExitCode.OK)
