"""One family of exceptions. Each names the *case*, the *file*, the *cause* and the *way out*.

A message reads ``ERROR <case> <file>: <cause>. <way out>``, on one line, so that a person can mend the fault
without reading this code, and a program can split it. Every class carries the exit code that a command ends with
if nothing but that error happened; :func:`exit_code` combines the outcomes of many cases.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """What a command of ours returns to the shell."""

    OK = 0
    USAGE = 1
    NO_INPUT = 2
    SOME_FAILED = 3
    ALL_FAILED = 4
    ENVIRONMENT = 5
    AUDIT = 6


class NeurobundleError(Exception):
    """The root of the family.

    Args:
        cause: what is wrong, with the offending value, without a final full stop.
        way_out: what the user can do about it, as a sentence.
        case: the id of the case it happened in, if one is known.
        file: the file it is about, if there is one.
    """

    exit_code = ExitCode.USAGE

    def __init__(self, cause: str, way_out: str = "", *, case: str = "", file: str | Path | None = None) -> None:
        self.cause = " ".join(cause.split()).rstrip(".")
        self.way_out = " ".join(way_out.split())
        self.case = case
        self.file = str(file) if file is not None else ""
        super().__init__(self.cause)

    def __str__(self) -> str:
        """The message after the word ERROR.

        >>> str(InputError("it is empty", "Copy it again.", case="anna", file="anna.nii"))
        'anna anna.nii: it is empty. Copy it again.'
        """
        where = " ".join(part for part in (self.case, self.file) if part)
        text = f"{self.cause}{'' if self.cause.endswith('?') else '.'} {self.way_out}".strip()
        return f"{where}: {text}" if where else text

    def brief(self) -> str:
        """The message with the file's name alone: what is written where others read it names no folder.

        >>> InputError("it is empty", "Copy it again.", case="anna", file="scans/anna.nii").brief()
        'anna anna.nii: it is empty. Copy it again.'
        """
        if not self.file:
            return str(self)
        return str(self).replace(self.file, Path(self.file).name, 1)

    def for_case(self, case: str) -> NeurobundleError:
        """The same error, with the case's name filled in if it had none."""
        self.case = self.case or case
        return self


class SettingError(NeurobundleError):
    """A setting, an option, an overlay or a config that cannot be used (exit code 1)."""


class NoInputError(NeurobundleError):
    """There is nothing to work on (exit code 2)."""

    exit_code = ExitCode.NO_INPUT


class InputError(NeurobundleError):
    """An input file that is refused; the other cases go on (exit code 3, or 4 if no case was left)."""

    exit_code = ExitCode.ALL_FAILED


class WeightsError(NeurobundleError):
    """A checkpoint that is missing, damaged, not the one it claims to be, or for another network (exit code 1)."""


class EnvironmentFault(NeurobundleError):
    """Disk full, an output that cannot be written, memory exhausted (exit code 5)."""

    exit_code = ExitCode.ENVIRONMENT


class MissingPackageError(NeurobundleError):
    """An optional package that a feature needs is not installed (exit code 1)."""


def exit_code(passed: Iterable[bool]) -> ExitCode:
    """The exit code of a command whose cases ended like this.

    >>> exit_code([True, True]).name, exit_code([True, False]).name, exit_code([False]).name, exit_code([]).name
    ('OK', 'SOME_FAILED', 'ALL_FAILED', 'NO_INPUT')
    """
    outcomes = list(passed)
    if not outcomes:
        return ExitCode.NO_INPUT
    if all(outcomes):
        return ExitCode.OK
    return ExitCode.SOME_FAILED if any(outcomes) else ExitCode.ALL_FAILED


def causes_of(error: BaseException) -> list[BaseException]:
    """An exception and what it was raised from, outermost first; one that was raised from itself ends the chain.

    >>> error = InputError("it is empty")
    >>> error.__cause__ = error
    >>> len(causes_of(error))
    1
    """
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return chain


def ours_in(error: BaseException) -> NeurobundleError | None:
    """The error of ours that another library wrapped, if there is one."""
    return next((cause for cause in causes_of(error) if isinstance(cause, NeurobundleError)), None)


def closest(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the known word nearest to ``word``, or an empty string.

    >>> closest("max_casse", ["max_cases", "device"])
    "; did you mean 'max_cases'?"
    """
    import difflib

    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def require(module: str, *, extra: str, feature: str) -> object:
    """Import an optional package, or say which extra brings it.

    Args:
        module: the module to import, with dots if need be.
        extra: the extra of ours that installs it.
        feature: what the user asked for, as the beginning of a sentence.

    Raises:
        MissingPackageError: if the package is not installed.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"{feature} needs the package {module.split('.')[0]!r}, which is not installed",
            f"Install it with: pip install 'neurobundle[{extra}]'.",
        ) from error
