"""The ``neurobundle`` command: arguments only. Each subcommand calls one function of ``neurobundle.commands``.

Nothing heavy is imported before a subcommand needs it, so that ``neurobundle --help`` answers at once.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from neurobundle import __version__
from neurobundle.errors import ExitCode, NeurobundleError, exit_code

logger = logging.getLogger("neurobundle")


class _Parser(argparse.ArgumentParser):
    """argparse ends with 2 on a usage error; here 2 means that there was no input."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(ExitCode.USAGE, f"ERROR {message}. See {self.prog} --help.\n")


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
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, NeurobundleError):
            logger.error("ERROR %s", cause)
            return int(cause.exit_code)
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(error).split())[:300]
    logger.error("ERROR %s: %s. Run the command again with --debug to see where.", type(error).__name__, text)
    return int(ExitCode.ENVIRONMENT if isinstance(error, MemoryError | OSError) else ExitCode.USAGE)


def _configure_logging(debug: bool, verbose: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO if debug or verbose else logging.WARNING)
    logger.setLevel(logging.INFO)


def parser() -> argparse.ArgumentParser:
    """The argument parser, with an example in each subcommand's help."""
    top = _Parser(prog="neurobundle", description="MONAI bundles for brain MRI. Not for diagnosis.")
    top.add_argument("--version", action="version", version=f"neurobundle {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for add in (_list, _info, _run, _train, _evaluate, _crossval, _split, _doctor, _new, _demo):
        add(commands)
    return top


def _command(commands: Any, name: str, help_: str, example: str, function: Any) -> argparse.ArgumentParser:
    sub: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_,
        description=help_,
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument("--debug", action="store_true", help="show tracebacks and the log of every library")
    sub.set_defaults(function=function)
    return sub


def _config_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--device", default="auto", metavar="auto|cpu|cuda[:N]", help="where to compute (auto)")
    sub.add_argument("--config", action="extend", nargs="+", default=[], metavar="OVERLAY", help="overlays, by name")
    sub.add_argument("--set", action="extend", nargs="+", default=[], metavar="ID=VALUE", help="settings, by id")
    sub.add_argument("--print-command", action="store_true", help="show the stock MONAI command line, and stop")
    sub.add_argument("--verbose", action="store_true", help="show the log of the engines")


def _data_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("name", help="a bundle's name or folder")
    sub.add_argument("--data", type=Path, required=True, metavar="DATALIST", help="a datalist; see neurobundle split")
    sub.add_argument("--dataset-dir", type=Path, help="what its paths are relative to (the datalist's folder)")
    sub.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    from neurobundle.bundle.workflow import device_setting, parse_settings

    return {**device_setting(options.device), **parse_settings(options.set)}


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _progress(items: Sequence[Any]) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(items, unit="case", disable=None)


def _list(commands: Any) -> None:
    sub = _command(commands, "list", "List the bundles that can be run.", "neurobundle list", _do_list)
    sub.add_argument("--json", action="store_true", help="for programs")


def _do_list(options: argparse.Namespace) -> int:
    from neurobundle.commands.listing import listing

    rows = listing()
    if options.json:
        _say(json.dumps(rows, indent=2))
    else:
        width = max((len(row["name"]) for row in rows), default=0)
        for row in rows:
            _say(f"{row['name']:<{width}}  {row['version']:<8} {row['task']}")
    return int(ExitCode.OK if rows else ExitCode.NO_INPUT)


def _info(commands: Any) -> None:
    sub = _command(
        commands,
        "info",
        "Show what a bundle does, wants and gives.",
        "neurobundle info hippocampus_segmentation",
        _do_info,
    )
    sub.add_argument("name", help="a bundle's name or folder")
    sub.add_argument("--json", action="store_true", help="for programs")


def _do_info(options: argparse.Namespace) -> int:
    from neurobundle.bundle.find import info
    from neurobundle.commands.listing import description_text

    found = info(options.name)
    _say(json.dumps(found, indent=2) if options.json else description_text(found))
    return int(ExitCode.OK)


def _run(commands: Any) -> None:
    sub = _command(
        commands,
        "run",
        "Segment scans: label maps, volumes, pictures and a report.",
        "neurobundle run hippocampus_segmentation -i head.nii.gz -o out",
        _do_run,
    )
    sub.add_argument("name", help="a bundle's name or folder")
    sub.add_argument("-i", "--input", dest="inputs", nargs="+", required=True, help="NIfTI files, or folders of them")
    sub.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    sub.add_argument("--input-kind", default="auto", metavar="auto|crop|head", help="what the field of view is (auto)")
    sub.add_argument("--no-pictures", action="store_true", help="write no PNG")
    _config_options(sub)


def _do_run(options: argparse.Namespace) -> int:
    from neurobundle.commands.run import Run

    run = Run(
        options.name,
        options.output,
        input_kind=options.input_kind,
        overlays=options.config,
        settings=_settings(options),
        pictures=not options.no_pictures,
        debug=options.debug,
    )
    if options.print_command:
        _say(run.plan(options.inputs).command())
        return int(ExitCode.OK)
    report = run(options.inputs, _progress)
    passed = sum(result.passed for result in report.results)
    _say(f"{passed} of {len(report.results)} cases done: {report.output}")
    return int(report.exit_code)


def _train(commands: Any) -> None:
    sub = _command(
        commands,
        "train",
        "Train a bundle on a datalist.",
        "neurobundle train hippocampus_segmentation --data datalist.json -o out/fold0 --fold 0",
        _do_train,
    )
    _data_options(sub)
    sub.add_argument("--fold", type=int, default=0, help="the fold that validates; -1 trains on all cases (0)")
    _config_options(sub)


def _do_train(options: argparse.Namespace) -> int:
    from neurobundle.commands.train import check_cases, run_plan, train_plan

    plan = train_plan(
        options.name,
        options.data,
        options.output,
        fold=options.fold,
        dataset_dir=options.dataset_dir,
        overlays=options.config,
        settings=_settings(options),
    )
    if options.print_command:
        _say(plan.command())
        return int(ExitCode.OK)
    check_cases(options.data, options.dataset_dir, options.fold)
    run_plan(plan)
    _say(f"trained: {options.output / 'final.pt'} (last epoch), {options.output / 'models' / 'model.pt'} (best epoch)")
    return int(ExitCode.OK)


def _evaluate(commands: Any) -> None:
    sub = _command(
        commands,
        "evaluate",
        "Predict and score the validation cases of a fold.",
        "neurobundle evaluate hippocampus_segmentation --data datalist.json -o out/eval --fold 0",
        _do_evaluate,
    )
    _data_options(sub)
    sub.add_argument("--fold", type=int, default=0, help="whose cases to score (0)")
    sub.add_argument("--weights", type=Path, help="the bundle's models/fold<K>.pt or model.pt if not given")
    _config_options(sub)


def _do_evaluate(options: argparse.Namespace) -> int:
    from neurobundle.commands.train import check_cases, evaluate_plan, run_plan

    plan = evaluate_plan(
        options.name,
        options.data,
        options.output,
        fold=options.fold,
        weights=options.weights,
        dataset_dir=options.dataset_dir,
        overlays=options.config,
        settings=_settings(options),
    )
    if options.print_command:
        _say(plan.command())
        return int(ExitCode.OK)
    check_cases(options.data, options.dataset_dir, options.fold)
    run_plan(plan)
    _say((options.output / "summary.json").read_text())
    return int(ExitCode.OK)


def _crossval(commands: Any) -> None:
    sub = _command(
        commands,
        "crossval",
        "Train every fold, predict each case out of fold, and score them together; goes on where it was stopped.",
        "neurobundle crossval hippocampus_segmentation --data datalist.json -o out/cv --jobs 2",
        _do_crossval,
    )
    _data_options(sub)
    sub.add_argument("--jobs", type=int, default=1, help="trainings at a time, one thread each if more than one (1)")
    sub.add_argument("--final", action="store_true", help="also train on all cases")
    sub.add_argument("--publish", action="store_true", help="copy weights and results into the bundle's folder")
    _config_options(sub)


def _do_crossval(options: argparse.Namespace) -> int:
    from neurobundle.commands.crossval import CrossValidation

    run = CrossValidation(
        options.name,
        options.data,
        options.output,
        dataset_dir=options.dataset_dir,
        overlays=options.config,
        settings=_settings(options),
        final=options.final,
    )
    if options.print_command:
        _say("\n".join(run.train_plan(fold).command() for fold in run.trainings))
        return int(ExitCode.OK)
    summary = run(jobs=options.jobs)
    if options.publish:
        run.publish()
    _say(json.dumps(summary, indent=2))
    return int(ExitCode.OK)


def _split(commands: Any) -> None:
    sub = _command(
        commands,
        "split",
        "Make a datalist with folds by subject from a folder of images and labels.",
        "neurobundle split data/hippocampus -o datalist.json --folds 5 --group-by blocks:10",
        _do_split,
    )
    sub.add_argument("data", type=Path, help="a folder in one of the layouts")
    sub.add_argument("-o", "--output", type=Path, required=True, metavar="DATALIST")
    sub.add_argument("--folds", type=int, default=5, help="how many (5)")
    sub.add_argument(
        "--group-by", default="case", metavar="RULE", help="case, subject, blocks:N, column:NAME or regex:PATTERN (case)"
    )
    sub.add_argument("--layout", default="auto", metavar="auto|folders|decathlon|nnunet|bids")
    sub.add_argument("--images", type=Path, help="the images' folder, for the layout `folders`")
    sub.add_argument("--labels", type=Path, help="the labels' folder, for the layout `folders`")
    sub.add_argument("--subjects", type=Path, help="a CSV or TSV with columns `case` and that of column:NAME")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--test-share", type=float, default=0.0, help="share of cases held out as a test set (0)")
    sub.add_argument("--label-values", default="", metavar="0,1,2", help="refuse a label map with any other value")
    sub.add_argument("--merge-duplicates", action="store_true", help="join groups that share a file's content")


def _do_split(options: argparse.Namespace) -> int:
    from neurobundle.commands.split import split

    report = split(
        options.data,
        options.output,
        folds=options.folds,
        group_by=options.group_by,
        layout=options.layout,
        images=options.images,
        labels=options.labels,
        subjects=options.subjects,
        seed=options.seed,
        test_share=options.test_share,
        label_values=_numbers(options.label_values),
        merge_duplicates=options.merge_duplicates,
    )
    _say(report["description"])
    return int(exit_code([*[True] * len(report["passed"]), *[False] * len(report["failed"])]))


def _numbers(text: str) -> list[int] | None:
    from neurobundle.errors import SettingError

    try:
        return [int(word) for word in text.split(",")] if text else None
    except ValueError as error:
        raise SettingError(f"--label-values wants whole numbers, got {text!r}", "For example: 0,1,2.") from error


def _doctor(commands: Any) -> None:
    sub = _command(
        commands,
        "doctor",
        "Check a bundle, ours or anybody's, without a network.",
        "neurobundle doctor bundles/hippocampus_segmentation",
        _do_doctor,
    )
    sub.add_argument("bundle_dir", help="a bundle's folder, or the name of one of ours")
    sub.add_argument("--json", action="store_true", help="for programs")


def _do_doctor(options: argparse.Namespace) -> int:
    from neurobundle.bundle.doctor import as_json, as_table, examine, verdict
    from neurobundle.bundle.find import find_bundle

    findings = examine(find_bundle(options.bundle_dir))
    _say(as_json(findings) if options.json else as_table(findings))
    return int(verdict(findings))


def _new(commands: Any) -> None:
    sub = _command(
        commands,
        "new",
        "Make a bundle of your own from one of ours.",
        "neurobundle new thalamus_segmentation -o bundles",
        _do_new,
    )
    sub.add_argument("name", help="ends in _segmentation, _classification or _detection")
    sub.add_argument("-o", "--output", type=Path, default=Path(), metavar="DIR", help="where its folder goes (here)")
    sub.add_argument("--from", dest="origin", default="hippocampus_segmentation", help="the bundle to start from")


def _do_new(options: argparse.Namespace) -> int:
    from neurobundle.bundle.find import find_bundle
    from neurobundle.bundle.scaffold import new_bundle

    made = new_bundle(options.name, options.output, find_bundle(options.origin))
    _say(f"made {made}; next: {made / 'docs' / 'README.md'} and docs/how-to/new-bundle.md")
    return int(ExitCode.OK)


def _demo(commands: Any) -> None:
    sub = _command(
        commands,
        "demo",
        "Segment both hippocampi of the template that nilearn carries; nothing is downloaded.",
        "neurobundle demo -o demo",
        _do_demo,
    )
    sub.add_argument("-o", "--output", type=Path, default=Path("demo"), metavar="DIR")


def _do_demo(options: argparse.Namespace) -> int:
    from neurobundle.commands.demo import demo

    for line in demo(options.output, debug=options.debug):
        _say(line)
    return int(ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main())
