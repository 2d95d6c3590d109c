"""The subcommands that take scans: judge them, write them anew, segment them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from neurobundle.cli.console import command, engine_options, progress, say, settings_of, whole_numbers
from neurobundle.errors import ExitCode, SettingError

MISSING_HELP = "what to do with a study that lacks a channel; fill: zeros (refuse)"
#: Those of neurobundle.infer.backends_choice, which imports torch.
BACKENDS = ("eager", "compile", "torchscript", "onnx", "openvino", "tensorrt", "auto")
#: Those of neurobundle.export.dicom_seg.
SEG_TYPES = ("binary", "labelmap", "fractional")
OUTPUT_HELP = "what to write; DICOM only of what came from DICOM (nifti)"
REGISTER_HELP = "bring a study's scans onto its reference by rigid registrations, about 3 s a scan"


def add_check(commands: Any) -> None:
    """``neurobundle check``."""
    sub = command(
        commands,
        "check",
        _check,
        "Judge scans, folders, DICOM studies and datalists before anything runs on them.",
        "neurobundle check data/hippocampus",
    )
    sub.add_argument("paths", nargs="*", metavar="PATH", help="files and folders, at any depth")
    sub.add_argument("--datalist", type=Path, metavar="DATALIST", help="check a data set for training instead")
    sub.add_argument("--dataset-dir", type=Path, help="what its paths are relative to (the datalist's folder)")
    sub.add_argument("--label-values", default="", metavar="0,1,2", help="refuse a label map with any other value")
    _channel_options(sub)
    policy_options(sub)
    sub.add_argument("--all", action="store_true", help="a row for each good file, however many there are")
    sub.add_argument("--json", action="store_true", help="for programs")


def _check(options: argparse.Namespace) -> int:
    from neurobundle.commands.check import as_json_text, as_table, check, check_datalist

    _need_channels(options)
    if bool(options.paths) == bool(options.datalist):
        raise SettingError("check wants either paths or --datalist", "For example: neurobundle check data.")
    known = whole_numbers(options.label_values)
    if options.channels and known is not None:
        raise SettingError(
            "--label-values means nothing with --channels", "Check the label maps in a run of their own."
        )
    if options.datalist:
        from neurobundle.load.gate import Policy

        if options.channels or policy_of(options) != Policy():
            raise SettingError("--datalist takes no options of channels and of the gate", "Leave them out.")
        report = check_datalist(options.datalist, options.dataset_dir, known, progress)
    elif options.channels:
        from neurobundle.commands.studies import check_studies

        report = check_studies(
            options.paths,
            options.channels.split(","),
            options.mapping,
            options.missing,
            policy_of(options),
            progress,
            register=options.register,
        )
    else:
        report = check(options.paths, policy_of(options), progress, known)
    say(as_json_text(report) if options.json else as_table(report, everything=options.all))
    return int(report.exit_code)


def add_convert(commands: Any) -> None:
    """``neurobundle convert``."""
    sub = command(
        commands,
        "convert",
        _convert,
        "Write the volumes of DICOM studies as NIfTI files, each with a sidecar that tells no patient.",
        "neurobundle convert study -o nifti",
    )
    sub.add_argument(
        "path",
        metavar="DICOM",
        help="a DICOM folder or file; with --channels also BIDS, BraTS or a folder whose names say sequences",
    )
    _channel_options(sub)
    sub.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="the folder to write to; made if need be"
    )
    sub.add_argument("--4d", dest="series_as_4d", action="store_true", help="one 4D file for a time series")
    policy_options(sub)
    sub.add_argument("--real-world", action="store_true", help="real-world values where the files map to them")


def _convert(options: argparse.Namespace) -> int:
    from dataclasses import replace

    _need_channels(options)
    if options.channels and options.series_as_4d:
        raise SettingError("--4d means nothing with --channels", "A study's channels are 3D; leave it out.")
    policy = replace(policy_of(options), real_world=options.real_world)
    if options.channels:
        from neurobundle.commands.studies import convert_studies

        channels = options.channels.split(",")
        studies = convert_studies(
            options.path,
            options.output,
            channels,
            options.mapping,
            options.missing,
            policy,
            progress,
            register=options.register,
        )
        _say_registrations(choice for case in studies.cases for choice in case.chosen)
        say(f"{studies.n_written} of {len(studies.cases)} studies written: {studies.output}")
        return int(studies.exit_code)
    from neurobundle.commands.convert import convert

    report = convert(options.path, options.output, policy, series_as_4d=options.series_as_4d, progress=progress)
    say(f"{report.n_written} of {len(report.cases)} volumes written: {report.output}")
    return int(report.exit_code)


def add_run(commands: Any) -> None:
    """``neurobundle run``."""
    sub = command(
        commands,
        "run",
        _run,
        "Run a bundle on scans: label maps and volumes, or classes; pictures and a report.",
        "neurobundle run hippocampus_segmentation -i head.nii.gz -o out",
    )
    sub.add_argument("name", help="a bundle's name (see neurobundle list) or folder")
    sub.add_argument(
        "-i", "--inputs", nargs="+", required=True, metavar="INPUT", help="NIfTI files, folders, DICOM studies"
    )
    sub.add_argument("-o", dest="folder", type=Path, metavar="DIR", help="the folder to write to; made if need be")
    sub.add_argument("--output", default="", metavar="nifti,dicom-seg,dicom-sr", help=OUTPUT_HELP)
    sub.add_argument("--seg-type", default="binary", metavar="|".join(SEG_TYPES), help="how a dicom-seg is stored")
    sub.add_argument("--deidentify", action="store_true", help="DICOM results without the patient (PS3.15)")
    sub.add_argument(
        "--input", dest="input_kind", default="auto", metavar="auto|crop|head", help="what the field of view is (auto)"
    )
    sub.add_argument("--side", default="left", metavar="left|right", help="which side a crop shows (left)")
    sub.add_argument("--mapping", type=Path, metavar="FILE", help="says which scan is which channel (YAML or JSON)")
    sub.add_argument(
        "--missing",
        choices=("auto", "refuse", "fill"),
        default="auto",
        help="a study that lacks a channel; fill: zeros; auto: fill where the bundle's network can do without (auto)",
    )
    sub.add_argument("--register", action="store_true", help=REGISTER_HELP)
    sub.add_argument("--probabilities", action="store_true", help="also write <case>_prob.nii.gz, if the bundle can")
    sub.add_argument("--uncertainty", action="store_true", help="also say how sure it is, if the bundle can")
    policy_options(sub)
    sub.add_argument("--no-pictures", action="store_true", help="write no PNG")
    sub.add_argument("--backend", metavar="|".join(BACKENDS), help="what computes the network (the config's: eager)")
    sub.add_argument("--redo", action="store_true", help="do cases again that an earlier run finished")
    sub.add_argument(
        "--salted-names", action="store_true", help="name cases by hex digits, and no file or folder of the input"
    )
    engine_options(sub)


def _run(options: argparse.Namespace) -> int:
    from neurobundle.commands.classify import make_run
    from neurobundle.commands.run_outputs import Outputs

    folder, kinds = _where_and_what(options.folder, options.output)
    run = make_run(
        options.name,
        folder,
        outputs=Outputs(kinds, options.seg_type, options.deidentify),
        input_kind=options.input_kind,
        side=options.side,
        overlays=options.config,
        settings={**settings_of(options), **({"backend": options.backend} if options.backend else {})},
        pictures=not options.no_pictures,
        policy=policy_of(options),
        mapping=options.mapping,
        missing=options.missing,
        register=options.register,
        probabilities=options.probabilities,
        uncertainty=options.uncertainty,
        redo=options.redo,
        salted_names=options.salted_names,
        debug=options.debug,
    )
    if options.print_command:
        say(run.plan(options.inputs).command())
        return int(ExitCode.OK)
    report = run(options.inputs, progress)
    passed = sum(result.passed for result in report.results)
    _say_registrations(choice for result in report.results for choice in result.study.get("chosen", ()))
    before = f" ({report.skipped} of them before)" if report.skipped else ""
    say(f"{passed} of {len(report.results)} cases done{before}: {report.output}")
    return int(report.exit_code)


def _where_and_what(folder: Path | None, output: str) -> tuple[Path, tuple[str, ...]]:
    """The folder of ``-o`` and the words of ``--output``; alone, that may name the folder, as in other commands."""
    from neurobundle.commands.run_outputs import KINDS, NIFTI

    kinds = tuple(word.strip() for word in output.split(",") if word.strip())
    if folder is not None:
        return folder, kinds or (NIFTI,)
    if not output or set(kinds) & set(KINDS):
        raise SettingError("there is no folder to write to", "Say -o DIR.")
    return Path(output), (NIFTI,)


def _say_registrations(chosen: Iterable[Mapping[str, Any]]) -> None:
    from neurobundle.commands.sources import registrations_in_words

    if text := registrations_in_words(chosen):
        say(text)


def _need_channels(options: argparse.Namespace) -> None:
    if not options.channels and (options.mapping or options.missing != "refuse" or options.register):
        cause = "--mapping, --missing and --register go with --channels"
        raise SettingError(cause, "For example: --channels T1,FLAIR.")


def policy_of(options: argparse.Namespace) -> Any:
    """What the gate allows, as :func:`policy_options` asked."""
    from neurobundle.load.gate import Policy

    return Policy(
        nonfinite=options.nonfinite, form=options.form, assume_ras=options.assume_ras, allow_gaps=options.allow_gaps
    )


def policy_options(sub: argparse.ArgumentParser) -> None:
    """What a user may allow at the gate; see docs/concepts/loading.md."""
    sub.add_argument(
        "--nonfinite", choices=("refuse", "zero"), default="refuse", help="NaN and infinite voxels (refuse)"
    )
    sub.add_argument(
        "--form",
        choices=("auto", "sform", "qform"),
        default="auto",
        help="which of a NIfTI file's two affines counts where both are coded (auto)",
    )
    sub.add_argument("--assume-ras", action="store_true", help="take NIfTI files without form codes as RAS+")
    sub.add_argument("--allow-gaps", action="store_true", help="fill missing DICOM slices by interpolation")


def _channel_options(sub: argparse.ArgumentParser) -> None:
    """How a study becomes channels; see docs/concepts/studies.md."""
    sub.add_argument(
        "--channels", metavar="T1,T1c,T2,FLAIR", help="read studies as these channels, on the first one's grid"
    )
    sub.add_argument("--mapping", type=Path, metavar="FILE", help="says which scan is which channel (YAML or JSON)")
    sub.add_argument("--missing", choices=("refuse", "fill"), default="refuse", help=MISSING_HELP)
    sub.add_argument("--register", action="store_true", help=REGISTER_HELP)
