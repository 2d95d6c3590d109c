"""The arguments of the ``neurobundle`` command, with an example in each subcommand's help."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from neurobundle import __version__
from neurobundle.errors import ExitCode, SettingError

#: Stands in every help; the codes are those of neurobundle.errors.ExitCode.
EXIT_CODES = "exit codes: 0 all passed, 1 usage, 2 no input, 3 some failed, 4 all failed, 5 disk or memory, 6 audit"

#: Which options of ``evaluate`` mean something for which kind of predictions.
EVALUATE_KINDS = {
    **dict.fromkeys(("data", "dataset_dir", "fold", "weights", "device", "config", "set", "verbose"), ("bundle",)),
    **dict.fromkeys(("labels", "images", "tolerance", "lesions", "lesion_dilation", "ignore_lesions"), ("folder",)),
    **dict.fromkeys(("other_labels", "no_pictures"), ("folder",)),
    **dict.fromkeys(("classes", "tune_pred", "tune_truth", "criterion"), ("table",)),
    **dict.fromkeys(("iou", "score"), ("JSON file",)),
    "subjects": ("folder", "table", "JSON file"),
    "print_command": ("bundle",),
}

_MISSING_HELP = "what to do with a study that lacks a channel; fill: zeros (refuse)"


class _Parser(argparse.ArgumentParser):
    """argparse ends with 2 on a usage error; here 2 means that there was no input."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(ExitCode.USAGE, f"ERROR {message}. See {self.prog} --help.\n")


def parser() -> argparse.ArgumentParser:
    """The parser; what it returns names the subcommand as ``command``."""
    top = _Parser(prog="neurobundle", description="MONAI bundles for brain MRI. Not for diagnosis.", epilog=EXIT_CODES)
    top.add_argument("--version", action="version", version=f"neurobundle {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for add in _COMMANDS:
        add(commands)
    return top


def refuse_foreign(options: argparse.Namespace, kind: str) -> None:
    """Refuse an option of ``evaluate`` that means nothing for a kind of predictions.

    Raises:
        SettingError: names the option, and what it is for.
    """
    default = parser().parse_args(["evaluate", "-o", str(options.output)])
    for name, kinds in EVALUATE_KINDS.items():
        if kind not in kinds and getattr(options, name) != getattr(default, name):
            word = f"--{name.replace('_', '-')}"
            raise SettingError(f"{word} means nothing for a {kind}", f"It is for: {', '.join(kinds)}. Leave it out.")


def _command(commands: Any, name: str, help_: str, example: str) -> argparse.ArgumentParser:
    sub: argparse.ArgumentParser = commands.add_parser(
        name,
        allow_abbrev=False,
        help=help_,
        description=help_,
        epilog=f"{EXIT_CODES}\nexample: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument("--debug", action="store_true", help="show tracebacks and the log of every library")
    sub.set_defaults(command=name)
    return sub


def _config_options(sub: argparse._ActionsContainer) -> None:
    sub.add_argument("--device", default="auto", metavar="auto|cpu|cuda[:N]", help="where to compute (auto)")
    sub.add_argument(
        "--config", action="extend", nargs="+", default=[], metavar="OVERLAY", help="overlays, by name: --config cpu"
    )
    sub.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="ID=VALUE", help="settings, by id: --set num_workers=2"
    )
    sub.add_argument("--print-command", action="store_true", help="show the stock MONAI command line, and stop")
    sub.add_argument("--verbose", action="store_true", help="show the log of the engines")


def _data_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("name", help="a bundle's name (see neurobundle list) or folder")
    sub.add_argument("--data", type=Path, required=True, metavar="DATALIST", help="a datalist; see neurobundle split")
    sub.add_argument("--dataset-dir", type=Path, help="what its paths are relative to (the datalist's folder)")
    sub.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")


def _list(commands: Any) -> None:
    sub = _command(commands, "list", "List the bundles that can be run.", "neurobundle list")
    sub.add_argument("--json", action="store_true", help="for programs")


def _info(commands: Any) -> None:
    sub = _command(
        commands,
        "info",
        "Show what a bundle does, wants and gives.",
        "neurobundle info hippocampus_segmentation",
    )
    sub.add_argument("name", help="a bundle's name (see neurobundle list) or folder")
    sub.add_argument("--json", action="store_true", help="for programs")


def _policy_options(sub: argparse.ArgumentParser) -> None:
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
    sub.add_argument("--missing", choices=("refuse", "fill"), default="refuse", help=_MISSING_HELP)


def _check(commands: Any) -> None:
    sub = _command(
        commands,
        "check",
        "Judge scans, folders, DICOM studies and datalists before anything runs on them.",
        "neurobundle check data/hippocampus",
    )
    sub.add_argument("paths", nargs="*", metavar="PATH", help="files and folders, at any depth")
    sub.add_argument("--datalist", type=Path, metavar="DATALIST", help="check a data set for training instead")
    sub.add_argument("--dataset-dir", type=Path, help="what its paths are relative to (the datalist's folder)")
    sub.add_argument("--label-values", default="", metavar="0,1,2", help="refuse a label map with any other value")
    _channel_options(sub)
    _policy_options(sub)
    sub.add_argument("--all", action="store_true", help="a row for each good file, however many there are")
    sub.add_argument("--json", action="store_true", help="for programs")


def _convert(commands: Any) -> None:
    sub = _command(
        commands,
        "convert",
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
    _policy_options(sub)
    sub.add_argument("--real-world", action="store_true", help="real-world values where the files map to them")


def _run(commands: Any) -> None:
    sub = _command(
        commands,
        "run",
        "Segment scans: label maps, volumes, pictures and a report.",
        "neurobundle run hippocampus_segmentation -i head.nii.gz -o out",
    )
    sub.add_argument("name", help="a bundle's name (see neurobundle list) or folder")
    sub.add_argument(
        "-i", "--inputs", nargs="+", required=True, metavar="INPUT", help="NIfTI files, folders, DICOM studies"
    )
    sub.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    sub.add_argument(
        "--input", dest="input_kind", default="auto", metavar="auto|crop|head", help="what the field of view is (auto)"
    )
    sub.add_argument("--side", default="left", metavar="left|right", help="which side a crop shows (left)")
    sub.add_argument("--mapping", type=Path, metavar="FILE", help="says which scan is which channel (YAML or JSON)")
    sub.add_argument("--missing", choices=("refuse", "fill"), default="refuse", help=_MISSING_HELP)
    _policy_options(sub)
    sub.add_argument("--no-pictures", action="store_true", help="write no PNG")
    sub.add_argument("--redo", action="store_true", help="do cases again that an earlier run finished")
    sub.add_argument(
        "--salted-names", action="store_true", help="name cases by hex digits, and no file or folder of the input"
    )
    _config_options(sub)


def _train(commands: Any) -> None:
    sub = _command(
        commands,
        "train",
        "Train a bundle on a datalist.",
        "neurobundle train hippocampus_segmentation --data datalist.json -o out/fold0 --fold 0",
    )
    _data_options(sub)
    sub.add_argument("--fold", type=int, default=0, help="the fold that validates; -1 trains on all cases (0)")
    _config_options(sub)


def _evaluate(commands: Any) -> None:
    sub = _command(
        commands,
        "evaluate",
        "Score predictions against references: a bundle's on a fold of a datalist, or any two folders of label maps.",
        "neurobundle evaluate --pred out --truth labels --labels 1,2 -o scores",
    )
    sub.add_argument("name", nargs="?", help="a bundle's name (see neurobundle list) or folder; or give --pred")
    sub.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    own = sub.add_argument_group("a bundle", "neurobundle evaluate NAME --data DATALIST -o DIR")
    own.add_argument("--data", type=Path, metavar="DATALIST", help="a datalist; see neurobundle split")
    own.add_argument("--dataset-dir", type=Path, help="what its paths are relative to (the datalist's folder)")
    own.add_argument("--fold", type=int, default=0, help="whose cases to score (0)")
    own.add_argument(
        "--weights",
        type=Path,
        help="default: models/fold<K>.pt for the bundle's own folds, else model.pt",
    )
    _config_options(own)
    any_ = sub.add_argument_group("any predictions", "neurobundle evaluate --pred DIR --truth DIR --labels 1,2 -o DIR")
    any_.add_argument("--pred", type=Path, metavar="DIR", help="label maps; or a table of classes; or COCO results")
    any_.add_argument("--truth", type=Path, metavar="DIR", help="their references, by name; or a table; or COCO JSON")
    any_.add_argument("--labels", metavar="1,2|FILE", help='what to score: numbers, or JSON like {"WT": [1, 2, 3]}')
    any_.add_argument("--images", type=Path, metavar="DIR", help="images to draw behind the outlines")
    any_.add_argument("--subjects", type=Path, metavar="FILE", help="CSV with columns case and subject (each its own)")
    any_.add_argument("--tolerance", nargs="+", type=float, default=[1.0], metavar="MM", help="of NSD (1)")
    any_.add_argument("--lesions", action="store_true", help="score lesion by lesion as well")
    any_.add_argument("--lesion-dilation", type=int, default=0, metavar="N", help="BraTS 2023 has 3 for gliomas (0)")
    any_.add_argument("--ignore-lesions", type=float, default=0.0, metavar="ML", help="leave out lesions up to (0)")
    any_.add_argument(
        "--other-labels", choices=("refuse", "ignore"), default="refuse", help="values that no structure has (refuse)"
    )
    any_.add_argument("--classes", metavar="A,B", help="names of the classes, in the order of their numbers")
    any_.add_argument("--tune-pred", type=Path, metavar="FILE", help="classes: choose temperature and threshold here,")
    any_.add_argument("--tune-truth", type=Path, metavar="FILE", help="with its references; of other subjects")
    any_.add_argument("--criterion", default="youden", help="of the threshold: youden, f1, sensitivity=0.95 (youden)")
    any_.add_argument("--iou", type=float, default=0.5, help="boxes: overlap that counts as found (0.5)")
    any_.add_argument("--score", type=float, default=0.5, help="boxes: least score that counts (0.5)")
    any_.add_argument("--no-pictures", action="store_true", help="draw no cases")


def _compare(commands: Any) -> None:
    sub = _command(
        commands,
        "compare",
        "Compare two evaluations of the same cases: differences with intervals, and tests.",
        "neurobundle compare out/a out/b -o comparison",
    )
    sub.add_argument("run_a", type=Path, metavar="RUN_A", help="a folder with per_case.csv, or the file")
    sub.add_argument("run_b", type=Path, metavar="RUN_B", help="another one: segmentations, or classes (by accuracy)")
    sub.add_argument("-o", "--output", type=Path, metavar="DIR", help="gets comparison.csv and comparison.json")
    sub.add_argument("--json", action="store_true", help="for programs")


def _card(commands: Any) -> None:
    sub = _command(
        commands,
        "card",
        "Write the tables of a bundle's card, and its metadata's scores, from the results of an evaluation.",
        "neurobundle card bundles/hippocampus_segmentation --results out/cv",
    )
    sub.add_argument("name", help="a bundle's name or folder")
    sub.add_argument("--results", type=Path, metavar="DIR", help="copied to docs/results first (those that are there)")


def _crossval(commands: Any) -> None:
    sub = _command(
        commands,
        "crossval",
        "Train every fold, predict each case out of fold, and score them together; goes on where it was stopped.",
        "neurobundle crossval hippocampus_segmentation --data datalist.json -o out/cv --jobs 2",
    )
    _data_options(sub)
    sub.add_argument("--jobs", type=int, default=1, help="trainings at a time, one thread each if more than one (1)")
    sub.add_argument("--final", action="store_true", help="also train on all cases")
    sub.add_argument("--publish", action="store_true", help="copy weights and results into the bundle's folder")
    _config_options(sub)


def _split(commands: Any) -> None:
    sub = _command(
        commands,
        "split",
        "Make a datalist with folds by subject from a folder of images and labels.",
        "neurobundle split data/hippocampus -o datalist.json --folds 5 --group-by blocks:10",
    )
    sub.add_argument("data", type=Path, help="a folder in one of the layouts")
    sub.add_argument("-o", "--output", type=Path, required=True, metavar="DATALIST")
    sub.add_argument("--folds", type=int, default=5, help="how many (5)")
    sub.add_argument(
        "--group-by",
        metavar="RULE",
        help="subject, case, blocks:N, column:NAME or regex:PATTERN (the layout's subjects)",
    )
    sub.add_argument("--layout", default="auto", metavar="auto|folders|decathlon|nnunet|bids")
    sub.add_argument("--images", type=Path, help="the images' folder, for the layout `folders`")
    sub.add_argument("--labels", type=Path, help="the labels' folder, for the layout `folders`")
    sub.add_argument("--subjects", type=Path, help="a CSV or TSV with columns `case` and that of column:NAME")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--test-share", type=float, default=0.0, help="share of cases held out as a test set (0)")
    sub.add_argument("--label-values", default="", metavar="0,1,2", help="refuse a label map with any other value")
    sub.add_argument("--relative-to-data", action="store_true", help="write paths relative to DATA, not to DATALIST")
    sub.add_argument("--name", help="what the data set is called")
    sub.add_argument("--merge-duplicates", action="store_true", help="join groups that share a file's content")


def _synthesize(commands: Any) -> None:
    sub = _command(
        commands,
        "synthesize",
        "Make heads, with tumours painted in if wanted, from label maps in FreeSurfer's numbers.",
        "neurobundle synthesize labelmaps -o heads -n 20 --tumour",
    )
    sub.add_argument("label_maps", type=Path, nargs="+", metavar="LABELMAPS", help="files and folders")
    sub.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="gets cases and a datalist")
    sub.add_argument("-n", type=int, default=10, help="how many heads (10)")
    sub.add_argument("--sequences", default="T1,T1c,T2,FLAIR", metavar="T1,FLAIR", help="which (T1,T1c,T2,FLAIR)")
    sub.add_argument("--tumour", action="store_true", help="each head has one, labelled in the numbers of BraTS 2023")
    sub.add_argument("--seed", type=int, default=0, help="what they are drawn from (0)")
    sub.add_argument("--spacing", type=float, default=1.0, metavar="MM", help="the side of a voxel (1)")
    sub.add_argument("--no-skull", action="store_true", help="the brain alone")
    sub.add_argument("--contrast", choices=("priors", "random"), default="priors", help="as in MR, or any (priors)")


def _doctor(commands: Any) -> None:
    sub = _command(
        commands,
        "doctor",
        "Check a bundle, ours or anybody's, without a network.",
        "neurobundle doctor bundles/hippocampus_segmentation",
    )
    sub.add_argument("bundle_dir", help="a bundle's folder, or the name of one of ours")
    sub.add_argument("--json", action="store_true", help="for programs")


def _new(commands: Any) -> None:
    sub = _command(
        commands,
        "new",
        "Make a bundle of your own from one of ours.",
        "neurobundle new thalamus_segmentation -o bundles",
    )
    sub.add_argument("name", help="ends in _segmentation, _classification or _detection")
    sub.add_argument("-o", "--output", type=Path, default=Path(), metavar="DIR", help="where its folder goes (here)")
    sub.add_argument("--from", dest="origin", default="hippocampus_segmentation", help="the bundle to start from")


def _demo(commands: Any) -> None:
    sub = _command(
        commands,
        "demo",
        "Segment both hippocampi of the template that nilearn carries; nothing is downloaded.",
        "neurobundle demo -o demo",
    )
    sub.add_argument("-o", "--output", type=Path, default=Path("demo"), metavar="DIR")


_COMMANDS = (
    _list,
    _info,
    _check,
    _convert,
    _run,
    _train,
    _evaluate,
    _compare,
    _crossval,
    _card,
    _split,
    _synthesize,
    _doctor,
    _new,
    _demo,
)
