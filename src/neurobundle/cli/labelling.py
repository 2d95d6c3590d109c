"""The subcommands that serve annotators."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from neurobundle.cli.console import command, say
from neurobundle.errors import ExitCode, SettingError


def add_label(commands: Any) -> None:
    """``neurobundle label``."""
    sub = command(
        commands,
        "label",
        _label,
        "Serve bundles to 3D Slicer and OHIF, by MONAI Label.",
        "neurobundle label brain_tumor_segmentation --studies studies --store store",
    )
    sub.add_argument("bundles", nargs="*", metavar="BUNDLE", help="the first one's reference channel is what is shown")
    sub.add_argument("--studies", metavar="DIR|URL", help="NIfTI files, folders, DICOM studies; or a DICOMweb archive")
    sub.add_argument("--store", type=Path, metavar="DIR", help="gets images, labels, copies of bundles")
    sub.add_argument("--demo", action="store_true", help="serve a sample that is nobody's; the rest may be left out")
    sub.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (127.0.0.1)")
    sub.add_argument("--port", type=int, default=8000, metavar="N", help="where to listen (8000)")


def _label(options: argparse.Namespace) -> int:
    if options.demo:
        from neurobundle.commands.label_demo import label_demo

        if options.studies:
            raise SettingError("--demo has a study of its own", "Leave --studies out, or --demo.")
        return label_demo(options.bundles, options.store or Path("label-demo"), options.host, options.port, say)
    from neurobundle.commands.label import label

    lacks = [name for name in ("bundles", "studies", "store") if not getattr(options, name)]
    if lacks:
        cause = f"it is not said which {lacks[0]}" if lacks[0] == "bundles" else f"--{lacks[0]} is missing"
        raise SettingError(cause, "See neurobundle label --help, or try neurobundle label --demo.")
    return label(options.bundles, options.studies, options.store, options.host, options.port, say=say)


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
