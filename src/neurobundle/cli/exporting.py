"""The subcommand that writes a bundle's network for another runtime."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from neurobundle.cli.console import command, config_options, say, settings_of
from neurobundle.errors import ExitCode


def add_export(commands: Any) -> None:
    """``neurobundle export``."""
    sub = command(
        commands,
        "export",
        _export,
        "Write a bundle's network for ONNX Runtime, OpenVINO, TorchScript or TensorRT, checked against PyTorch.",
        "neurobundle export hippocampus_segmentation --to openvino",
    )
    sub.add_argument("name", help="a bundle's name (see neurobundle list) or folder")
    sub.add_argument("--to", required=True, metavar="onnx|openvino|torchscript|tensorrt", help="the format")
    sub.add_argument("-o", "--output", type=Path, metavar="DIR", help="the folder to write to (beside the weights)")
    sub.add_argument(
        "--data", type=Path, metavar="INPUT", help="a case, or a folder of such: the first is compared (a made scan)"
    )
    config_options(sub)
    sub.add_argument("--verbose", action="store_true", help="show the log of the engines")


def _export(options: argparse.Namespace) -> int:
    from neurobundle.commands.export import export

    done = export(
        options.name,
        options.to,
        options.output,
        data=options.data,
        overlays=options.config,
        settings=settings_of(options),
    )
    for path in done.files:
        say(f"written: {path}")
    say(str(done))
    return int(ExitCode.OK)
