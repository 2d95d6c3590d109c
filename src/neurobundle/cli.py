"""The ``neurobundle`` command. Each subcommand calls one function of ``neurobundle.commands``.

Nothing heavy is imported before a subcommand needs it, so that ``neurobundle --help`` answers at once.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from neurobundle.arguments import parser, refuse_foreign
from neurobundle.errors import ExitCode, NeurobundleError, causes_of, exit_code, ours_in

logger = logging.getLogger("neurobundle")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: words after ``neurobundle``; those of the process if None.

    Returns:
        The exit code.
    """
    options = parser().parse_args(arguments)
    function: Callable[[argparse.Namespace], int] = globals()[f"_do_{options.command}"]
    _configure_logging(options.debug, getattr(options, "verbose", False))
    try:
        return int(function(options))
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


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    from neurobundle.bundle.workflow import device_setting, parse_settings

    return {**device_setting(options.device), **parse_settings(options.set)}


def _say(text: str) -> None:
    # A file may be called anything: what the terminal cannot show, or would obey, is shown as an escape.
    plain = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    sys.stdout.write(plain.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def _progress(items: Sequence[Any]) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(items, unit="case", disable=None)


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


def _do_info(options: argparse.Namespace) -> int:
    from neurobundle.bundle.find import info
    from neurobundle.commands.listing import description_text

    found = info(options.name)
    _say(json.dumps(found, indent=2) if options.json else description_text(found))
    return int(ExitCode.OK)


def _policy(options: argparse.Namespace) -> Any:
    from neurobundle.load.gate import Policy

    return Policy(
        nonfinite=options.nonfinite, form=options.form, assume_ras=options.assume_ras, allow_gaps=options.allow_gaps
    )


def _need_channels(options: argparse.Namespace) -> None:
    from neurobundle.errors import SettingError

    if not options.channels and (options.mapping or options.missing != "refuse"):
        raise SettingError("--mapping and --missing go with --channels", "For example: --channels T1,FLAIR.")


def _do_check(options: argparse.Namespace) -> int:
    from neurobundle.commands.check import as_json_text, as_table, check, check_datalist
    from neurobundle.errors import SettingError

    _need_channels(options)
    if bool(options.paths) == bool(options.datalist):
        raise SettingError("check wants either paths or --datalist", "For example: neurobundle check data.")
    known = _numbers(options.label_values)
    if options.datalist:
        if options.channels or _policy(options) != _policy(parser().parse_args(["check"])):
            raise SettingError("--datalist takes no options of channels and of the gate", "Leave them out.")
        report = check_datalist(options.datalist, options.dataset_dir, known, _progress)
    elif options.channels:
        from neurobundle.commands.studies import check_studies

        report = check_studies(
            options.paths,
            options.channels.split(","),
            options.mapping,
            options.missing,
            _policy(options),
            _progress,
        )
    else:
        report = check(options.paths, _policy(options), _progress, known)
    _say(as_json_text(report) if options.json else as_table(report, everything=options.all))
    return int(report.exit_code)


def _do_convert(options: argparse.Namespace) -> int:
    from dataclasses import replace

    _need_channels(options)
    policy = replace(_policy(options), real_world=options.real_world)
    if options.channels:
        from neurobundle.commands.studies import convert_studies

        channels = options.channels.split(",")
        studies = convert_studies(
            options.path, options.output, channels, options.mapping, options.missing, policy, _progress
        )
        _say(f"{studies.n_written} of {len(studies.cases)} studies written: {studies.output}")
        return int(studies.exit_code)
    from neurobundle.commands.convert import convert

    report = convert(options.path, options.output, policy, series_as_4d=options.series_as_4d, progress=_progress)
    _say(f"{report.n_written} of {len(report.cases)} volumes written: {report.output}")
    return int(report.exit_code)


def _do_run(options: argparse.Namespace) -> int:
    from neurobundle.commands.run import Run

    run = Run(
        options.name,
        options.output,
        input_kind=options.input_kind,
        side=options.side,
        overlays=options.config,
        settings=_settings(options),
        pictures=not options.no_pictures,
        policy=_policy(options),
        mapping=options.mapping,
        missing=options.missing,
        redo=options.redo,
        salted_names=options.salted_names,
        debug=options.debug,
    )
    if options.print_command:
        _say(run.plan(options.inputs).command())
        return int(ExitCode.OK)
    report = run(options.inputs, _progress)
    passed = sum(result.passed for result in report.results)
    before = f" ({report.skipped} of them before)" if report.skipped else ""
    _say(f"{passed} of {len(report.results)} cases done{before}: {report.output}")
    return int(report.exit_code)


def _do_train(options: argparse.Namespace) -> int:
    from neurobundle.commands.train import check_training, run_plan, train_plan

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
    check_training(options.name, options.data, options.dataset_dir, options.fold)
    run_plan(plan)
    _say(f"trained: {options.output / 'final.pt'} (last epoch), {options.output / 'models' / 'model.pt'} (best epoch)")
    return int(ExitCode.OK)


def _do_evaluate(options: argparse.Namespace) -> int:
    from neurobundle.errors import SettingError

    by_files = bool(options.pred or options.truth)
    if bool(options.name) == by_files or (by_files and not (options.pred and options.truth)):
        raise SettingError(
            "evaluate wants either a bundle's name, or --pred and --truth",
            "For example: neurobundle evaluate --pred out --truth labels --labels 1,2 -o scores.",
        )
    from neurobundle.commands.evaluate_files import kind_of

    refuse_foreign(options, kind_of(options.pred) if by_files else "bundle")
    return _evaluate_files(options) if by_files else _evaluate_bundle(options)


def _evaluate_bundle(options: argparse.Namespace) -> int:
    from neurobundle.commands.evaluate import evaluate, evaluate_plan
    from neurobundle.commands.results import as_text
    from neurobundle.errors import SettingError

    if options.data is None:
        raise SettingError("--data is missing", "Give a datalist; `neurobundle split` makes one.")
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
    passed = evaluate(plan)
    _say(as_text(options.output))
    return int(exit_code(passed.values()))


def _evaluate_files(options: argparse.Namespace) -> int:
    from dataclasses import fields

    from neurobundle.commands.evaluate_files import FileOptions, evaluate_files
    from neurobundle.commands.results import as_text

    report = evaluate_files(
        options.pred,
        options.truth,
        options.output,
        FileOptions(**{field.name: getattr(options, field.name) for field in fields(FileOptions)}),
        _progress,
    )
    for line in report.notes:
        logger.warning("NOTE %s", line)
    _say(as_text(options.output))
    return int(exit_code(report.passed.values()))


def _do_compare(options: argparse.Namespace) -> int:
    from neurobundle.commands.compare import compare

    comparison = compare(options.run_a, options.run_b, options.output)
    _say(json.dumps(comparison.as_json(), indent=2) if options.json else comparison.as_table())
    return int(ExitCode.OK)


def _do_card(options: argparse.Namespace) -> int:
    from neurobundle.bundle.find import find_bundle
    from neurobundle.commands.card import publish_results

    _say(f"written: {publish_results(find_bundle(options.name), options.results)}")
    return int(ExitCode.OK)


def _do_crossval(options: argparse.Namespace) -> int:
    from neurobundle.commands.crossval import CrossValidation
    from neurobundle.commands.results import as_text

    run = CrossValidation(
        options.name,
        options.data,
        options.output,
        dataset_dir=options.dataset_dir,
        overlays=options.config,
        settings=_settings(options),
        final=options.final or options.publish,
    )
    if options.print_command:
        _say("\n".join(run.train_plan(fold).command() for fold in run.trainings))
        return int(ExitCode.OK)
    run(jobs=options.jobs, progress=_progress)
    if options.publish:
        run.publish()
    _say(as_text(options.output))
    return int(ExitCode.OK)


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
        relative_to_data=options.relative_to_data,
        name=options.name,
        progress=_progress,
    )
    _say(report["description"])
    return int(exit_code([*[True] * len(report["passed"]), *[False] * len(report["failed"])]))


def _do_synthesize(options: argparse.Namespace) -> int:
    from neurobundle.commands.synthesize import synthesize

    report = synthesize(
        options.label_maps,
        options.output,
        options.n,
        options.sequences.split(","),
        tumour=options.tumour,
        seed=options.seed,
        spacing=options.spacing,
        skull=not options.no_skull,
        contrast=options.contrast,
        progress=_progress,
    )
    _say(f"{len(report.made)} heads made, {len(report.kept)} were there, {len(report.failed)} failed: {options.output}")
    return int(report.exit_code)


def _numbers(text: str) -> list[int] | None:
    from neurobundle.errors import SettingError

    try:
        return [int(word) for word in text.split(",")] if text else None
    except ValueError as error:
        raise SettingError(f"--label-values wants whole numbers, got {text!r}", "For example: 0,1,2.") from error


def _do_doctor(options: argparse.Namespace) -> int:
    from neurobundle.bundle.doctor import as_json, as_table, examine, verdict
    from neurobundle.bundle.find import find_bundle, is_bundle

    here = Path(options.bundle_dir)
    findings = examine(here if is_bundle(here) else find_bundle(options.bundle_dir))
    _say(as_json(findings) if options.json else as_table(findings))
    return int(verdict(findings))


def _do_new(options: argparse.Namespace) -> int:
    from neurobundle.bundle.find import find_bundle
    from neurobundle.bundle.scaffold import new_bundle

    made = new_bundle(options.name, options.output, find_bundle(options.origin))
    _say(f"made {made}; next: {made / 'docs' / 'README.md'} and docs/how-to/new-bundle.md")
    return int(ExitCode.OK)


def _do_demo(options: argparse.Namespace) -> int:
    from neurobundle.commands.demo import demo

    for line in demo(options.output, debug=options.debug):
        _say(line)
    return int(ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main())
