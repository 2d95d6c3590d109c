"""The subcommands that make training data, and train."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from neurobundle.cli.console import command, config_options, engine_options, progress, say, settings_of, whole_numbers
from neurobundle.errors import ExitCode, SettingError, exit_code

#: How many folds' weights `crossval --publish` copies; None: all.
_PUBLISHED = {"all": None, "first": 1, "final": 0}


def add_split(commands: Any) -> None:
    """``neurobundle split``."""
    sub = command(
        commands,
        "split",
        _split,
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
    sub.add_argument("--layout", default="auto", metavar="auto|folders|decathlon|nnunet|bids|slices|classes")
    sub.add_argument("--images", type=Path, help="the images' folder, for the layout `folders`")
    sub.add_argument("--labels", type=Path, help="the labels' folder, for the layout `folders`")
    sub.add_argument("--subjects", type=Path, help="a CSV or TSV with columns `case` and that of column:NAME")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--test-share", type=float, default=0.0, help="share of cases held out as a test set (0)")
    sub.add_argument("--label-values", default="", metavar="0,1,2", help="refuse a label map with any other value")
    sub.add_argument("--relative-to-data", action="store_true", help="write paths relative to DATA, not to DATALIST")
    sub.add_argument("--name", help="what the data set is called")
    sub.add_argument("--merge-duplicates", action="store_true", help="join groups that share a file's content")
    own = sub.add_argument_group("classes", "one a case: --layout classes (a folder a class), or a table's column")
    own.add_argument("--class-column", metavar="NAME", help="the column of --table that holds the class")
    own.add_argument("--table", type=Path, help="a CSV or TSV with a column `image` (a path) or `id` (DATA/index.csv)")
    own.add_argument(
        "--classes", metavar="VALUE[=NAME],...", help="in the order of their numbers (all, by the alphabet)"
    )
    own.add_argument(
        "--no-finding",
        action="append",
        metavar="NAME=DIR",
        help="one more class: a folder of images, each another person, with nothing to outline in them",
    )
    own.add_argument(
        "--merge-near-duplicates",
        action="store_true",
        help="join groups whose images are copies, shifted, brightened, resized, turned or mirrored",
    )
    own.add_argument(
        "--leak", action="store_true", help="deal case by case; the datalist and every result say that it leaks"
    )


def _split(options: argparse.Namespace) -> int:
    from neurobundle.commands.split import split

    if options.layout == "classes" or options.class_column:
        return _split_classes(options)
    names = ("table", "classes", "leak", "no_finding", "merge_near_duplicates")
    given = next((name.replace("_", "-") for name in names if getattr(options, name)), None)
    if given is not None:
        raise SettingError(f"--{given} is for classes", "Say --layout classes, or --class-column NAME.")
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
        label_values=whole_numbers(options.label_values),
        merge_duplicates=options.merge_duplicates,
        relative_to_data=options.relative_to_data,
        name=options.name,
        progress=progress,
    )
    say(report["description"])
    return int(exit_code([*[True] * len(report["passed"]), *[False] * len(report["failed"])]))


def _split_classes(options: argparse.Namespace) -> int:
    from neurobundle.commands.split_classes import split_classes

    given = next((name for name in ("images", "labels", "label_values") if getattr(options, name)), None)
    if given is not None:
        raise SettingError(f"--{given.replace('_', '-')} is for label maps", "Leave it out where cases have classes.")
    report = split_classes(
        options.data,
        options.output,
        column=options.class_column,
        table=options.table,
        classes=options.classes,
        folds=options.folds,
        group_by=options.group_by,
        subjects=options.subjects,
        seed=options.seed,
        test_share=options.test_share,
        merge_duplicates=options.merge_duplicates,
        merge_near_duplicates=options.merge_near_duplicates,
        leak=options.leak,
        no_finding=_folders(options.no_finding or []),
        relative_to_data=options.relative_to_data,
        name=options.name,
        progress=progress,
    )
    say(report["description"])
    return int(exit_code([*[True] * len(report["passed"]), *[False] * len(report["failed"])]))


def _folders(words: list[str]) -> dict[str, Path]:
    """``NAME=DIR`` words as folders by name."""
    folders = {}
    for word in words:
        name, _, folder = word.partition("=")
        if not name.strip() or not folder.strip():
            raise SettingError(f"--no-finding wants NAME=DIR, got {word!r}", "For example: 'no tumour=slices'.")
        folders[name.strip()] = Path(folder.strip())
    return folders


def add_prepare(commands: Any) -> None:
    """``neurobundle prepare``."""
    sub = command(
        commands,
        "prepare",
        _prepare,
        "Prepare a bundle's training cases once, into a store that trainings read: --set store=STORE.",
        "neurobundle prepare hippocampus_segmentation --data datalist.json -o store",
    )
    _data_options(sub, "STORE")
    sub.add_argument("--dtype", choices=("float16", "float32"), help="of a new store's images (float16)")
    sub.add_argument("--workers", type=int, default=1, help="cases at once (1)")
    config_options(sub)


def _prepare(options: argparse.Namespace) -> int:
    from neurobundle.commands.prepare import prepare

    passed = prepare(
        options.name,
        options.data,
        options.output,
        dtype=options.dtype,
        workers=options.workers,
        dataset_dir=options.dataset_dir,
        overlays=options.config,
        settings=settings_of(options),
        progress=progress,
    )
    say(f"{sum(passed.values())} of {len(passed)} cases can be trained on: {options.output}")
    return int(exit_code(passed.values()))


def add_synthesize(commands: Any) -> None:
    """``neurobundle synthesize``."""
    sub = command(
        commands,
        "synthesize",
        _synthesize,
        "Make heads, with tumours painted in if wanted, from label maps in FreeSurfer's numbers.",
        "neurobundle synthesize labelmaps -o heads -n 20 --tumour",
    )
    sub.add_argument("label_maps", type=Path, nargs="+", metavar="LABELMAPS", help="files and folders")
    sub.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="gets cases and a datalist")
    sub.add_argument("-n", type=int, default=10, help="how many heads (10)")
    sub.add_argument("--sequences", default="T1,T1c,T2,FLAIR", metavar="T1,FLAIR", help="which (T1,T1c,T2,FLAIR)")
    sub.add_argument("--tumour", action="store_true", help="each head has one")
    sub.add_argument(
        "--labels",
        default="tumour",
        metavar="tumour|BUNDLE",
        help="the tumour in the numbers of BraTS 2023, or the anatomy in a bundle's numbers, one image a head (tumour)",
    )
    sub.add_argument("--seed", type=int, default=0, help="what they are drawn from (0)")
    sub.add_argument("--spacing", type=float, default=1.0, metavar="MM", help="the side of a voxel (1)")
    sub.add_argument("--no-skull", action="store_true", help="the brain alone")
    sub.add_argument("--contrast", choices=("priors", "random"), default="priors", help="as in MR, or any (priors)")
    sub.add_argument("--mixed", action="store_true", help="with and without the skull, of both contrasts, in turn")
    sub.add_argument("--device", default="cpu", metavar="cpu|cuda[:N]", help="where to make them (cpu)")


def _synthesize(options: argparse.Namespace) -> int:
    from neurobundle.commands.synthesize import synthesize

    report = synthesize(
        options.label_maps,
        options.output,
        options.n,
        options.sequences.split(","),
        tumour=options.tumour,
        labels=options.labels,
        seed=options.seed,
        spacing=options.spacing,
        skull=not options.no_skull,
        contrast=options.contrast,
        mixed=options.mixed,
        device=options.device,
        progress=progress,
    )
    say(f"{len(report.made)} heads made, {len(report.kept)} were there, {len(report.failed)} failed: {options.output}")
    return int(report.exit_code)


def add_train(commands: Any) -> None:
    """``neurobundle train``."""
    sub = command(
        commands,
        "train",
        _train,
        "Train a bundle on a datalist.",
        "neurobundle train hippocampus_segmentation --data datalist.json -o out/fold0 --fold 0",
    )
    _data_options(sub)
    sub.add_argument("--fold", type=int, default=0, help="the fold that validates; -1 trains on all cases (0)")
    engine_options(sub)


def _train(options: argparse.Namespace) -> int:
    from neurobundle.commands.train import check_training, run_plan, train_plan

    plan = train_plan(
        options.name,
        options.data,
        options.output,
        fold=options.fold,
        dataset_dir=options.dataset_dir,
        overlays=options.config,
        settings=settings_of(options),
    )
    if options.print_command:
        say(plan.command())
        return int(ExitCode.OK)
    check_training(plan)
    run_plan(plan)
    say(f"trained: {options.output / 'final.pt'} (last epoch), {options.output / 'models' / 'model.pt'} (best epoch)")
    return int(ExitCode.OK)


def add_crossval(commands: Any) -> None:
    """``neurobundle crossval``."""
    sub = command(
        commands,
        "crossval",
        _crossval,
        "Train every fold, predict each case out of fold, and score them together; goes on where it was stopped.",
        "neurobundle crossval hippocampus_segmentation --data datalist.json -o out/cv --jobs 2",
    )
    _data_options(sub)
    sub.add_argument("--jobs", type=int, default=1, help="trainings at a time, one thread each if more than one (1)")
    sub.add_argument("--final", action="store_true", help="also train on all cases")
    sub.add_argument(
        "--publish",
        nargs="?",
        const="all",
        choices=tuple(_PUBLISHED),
        help="copy weights and results into the bundle's folder; of the folds' weights all, the first one's, or none: "
        "final (all)",
    )
    engine_options(sub)


def _crossval(options: argparse.Namespace) -> int:
    from neurobundle.commands.crossval import CrossValidation
    from neurobundle.commands.results import as_text

    run = CrossValidation(
        options.name,
        options.data,
        options.output,
        dataset_dir=options.dataset_dir,
        overlays=options.config,
        settings=settings_of(options),
        final=options.final or options.publish is not None,
    )
    if options.print_command:
        say("\n".join(run.train_plan(fold).command() for fold in run.trainings))
        return int(ExitCode.OK)
    if options.publish:
        run.require_own_classes()
    run(jobs=options.jobs, progress=progress)
    if options.publish:
        run.publish(folds=_PUBLISHED[options.publish])
    say(as_text(options.output))
    return int(ExitCode.OK)


def _data_options(sub: argparse.ArgumentParser, output: str = "DIR") -> None:
    sub.add_argument("name", help="a bundle's name (see neurobundle list) or folder")
    sub.add_argument("--data", type=Path, required=True, metavar="DATALIST", help="a datalist; see neurobundle split")
    sub.add_argument("--dataset-dir", type=Path, help="what its paths are relative to (the datalist's folder)")
    sub.add_argument("-o", "--output", type=Path, required=True, metavar=output)
