"""The ``neurobundle`` command. Each subcommand calls a function of ``neurobundle.commands`` or of a room.

Nothing heavy is imported before a subcommand needs it, so that ``neurobundle --help`` answers at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from neurobundle import __version__
from neurobundle.cli import (
    audit,
    bundles,
    calibrating,
    exporting,
    labelling,
    reproduce,
    scans,
    scores,
    stack,
    strip,
    training,
)
from neurobundle.cli.console import EXIT_CODES, Parser
from neurobundle.errors import ExitCode, NeurobundleError, causes_of, ours_in

logger = logging.getLogger("neurobundle")

#: In the order of the help.
_COMMANDS = (
    bundles.add_list,
    bundles.add_info,
    scans.add_check,
    scans.add_convert,
    scans.add_run,
    exporting.add_export,
    strip.add_strip,
    training.add_split,
    audit.add_audit,
    stack.add_stack,
    training.add_prepare,
    training.add_synthesize,
    training.add_train,
    training.add_crossval,
    scores.add_evaluate,
    scores.add_compare,
    calibrating.add_calibrate,
    reproduce.add_reproduce,
    bundles.add_card,
    bundles.add_doctor,
    bundles.add_new,
    labelling.add_label,
    labelling.add_label_app,
    bundles.add_demo,
)


def parser() -> argparse.ArgumentParser:
    """The parser; what it returns names the subcommand as ``command``, and what it does as ``function``."""
    top = Parser(prog="neurobundle", description="MONAI bundles for brain MRI. Not for diagnosis.", epilog=EXIT_CODES)
    top.add_argument("--version", action="version", version=f"neurobundle {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for add in _COMMANDS:
        add(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: words after ``neurobundle``; those of the process if None.

    Returns:
        The exit code.
    """
    options = parser().parse_args(arguments)
    _configure_logging(options.debug, getattr(options, "verbose", False))
    try:
        return int(options.function(options))
    except NeurobundleError as error:
        if options.debug:
            raise
        logger.error("ERROR %s", error)
        return int(error.exit_code)
    except KeyboardInterrupt:
        logger.error("ERROR stopped by the keyboard. Run the command again; nothing half-written was left.")
        return int(ExitCode.USAGE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.OK)
    except (MemoryError, Exception) as error:
        if options.debug:
            raise
        return _unexpected(error)


def _unexpected(error: BaseException) -> int:
    """One plain line for what nobody foresaw; an error of ours that another library wrapped is unwrapped."""
    ours, root = ours_in(error), causes_of(error)[-1]
    if ours is not None:
        logger.error("ERROR %s", ours)
        return int(ours.exit_code)
    text = " ".join(str(root).split())[:300].rstrip(".")
    logger.error("ERROR %s: %s. Check the settings, or run it with --debug to see where.", type(root).__name__, text)
    return int(ExitCode.ENVIRONMENT if isinstance(root, MemoryError | OSError) else ExitCode.USAGE)


class _OneLine(logging.Formatter):
    """A message without its traceback: that is what --debug is for."""

    def formatException(self, ei: Any) -> str:
        return ""


class _Console(logging.StreamHandler):
    """Our handler on standard error; told apart from those of whoever embeds this command."""


def _configure_logging(debug: bool, verbose: bool) -> None:
    handler = _Console(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s") if debug else _OneLine("%(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [other for other in root.handlers if not isinstance(other, _Console)] + [handler]
    root.setLevel(logging.INFO if debug or verbose else logging.WARNING)
    # ignite reports each exception of a run once more, above the line in which this command names it.
    logging.getLogger("ignite").setLevel(logging.NOTSET if debug else logging.CRITICAL)
