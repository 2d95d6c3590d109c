"""What the subcommands share: how one is declared, its common options, and how it speaks to a terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from neurobundle.errors import ExitCode, SettingError

#: Stands in every help; the codes are those of neurobundle.errors.ExitCode.
EXIT_CODES = "exit codes: 0 all passed, 1 usage, 2 no input, 3 some failed, 4 all failed, 5 disk or memory, 6 audit"


class Parser(argparse.ArgumentParser):
    """argparse ends with 2 on a usage error; here 2 means that there was no input."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end with the code of a usage error."""
        self.print_usage(sys.stderr)
        self.exit(ExitCode.USAGE, f"ERROR {message}. See {self.prog} --help.\n")


def command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], int], help_: str, example: str
) -> argparse.ArgumentParser:
    """Declare a subcommand.

    Args:
        commands: argparse's subparsers.
        name: the word after ``neurobundle``.
        function: what it does; returns the exit code. What is parsed has it as ``function``, and this parser as
            ``parser``.
        help_: one sentence.
        example: a whole command line.

    Returns:
        The parser, for its options.
    """
    sub: argparse.ArgumentParser = commands.add_parser(
        name,
        allow_abbrev=False,
        help=help_,
        description=help_,
        epilog=f"{EXIT_CODES}\nexample: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument("--debug", action="store_true", help="show tracebacks and the log of every library")
    sub.set_defaults(command=name, function=function, parser=sub)
    return sub


def config_options(sub: argparse._ActionsContainer) -> None:
    """Overlays and settings of a bundle's config."""
    sub.add_argument("--device", default="auto", metavar="auto|cpu|cuda[:N]", help="where to compute (auto)")
    sub.add_argument(
        "--config", action="extend", nargs="+", default=[], metavar="OVERLAY", help="overlays, by name: --config cpu"
    )
    sub.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="ID=VALUE", help="settings, by id: --set num_workers=2"
    )


def engine_options(sub: argparse._ActionsContainer) -> None:
    """The same, and how much is shown of the engines that run it."""
    config_options(sub)
    sub.add_argument("--print-command", action="store_true", help="show the stock MONAI command line, and stop")
    sub.add_argument("--verbose", action="store_true", help="show the log of the engines")


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that ``--set`` and ``--device`` name, by id."""
    from neurobundle.bundle.workflow import device_setting, parse_settings

    return {**device_setting(options.device), **parse_settings(options.set)}


def whole_numbers(text: str) -> list[int] | None:
    """The values of ``--label-values``; None for an empty text."""
    try:
        return [int(word) for word in text.split(",")] if text else None
    except ValueError as error:
        raise SettingError(f"--label-values wants whole numbers, got {text!r}", "For example: 0,1,2.") from error


def say(text: str) -> None:
    """One line on standard output."""
    # A file may be called anything: what the terminal cannot show, or would obey, is shown as an escape.
    plain = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    sys.stdout.write(plain.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def progress(items: Sequence[Any]) -> Iterable[Any]:
    """A progress bar where a person looks."""
    from tqdm import tqdm

    return tqdm(items, unit="case", disable=None)
