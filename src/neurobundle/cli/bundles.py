"""The subcommands about bundles themselves: what there is, what it is, is it sound, one of your own."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from neurobundle.cli.console import command, config_options, say, settings_of
from neurobundle.errors import ExitCode, SettingError


def add_list(commands: Any) -> None:
    """``neurobundle list``."""
    sub = command(commands, "list", _list, "List the bundles that can be run.", "neurobundle list")
    sub.add_argument("--json", action="store_true", help="for programs")


def _list(options: argparse.Namespace) -> int:
    from neurobundle.commands.listing import listing

    rows = listing()
    if options.json:
        say(json.dumps(rows, indent=2))
    else:
        width = max((len(row["name"]) for row in rows), default=0)
        for row in rows:
            say(f"{row['name']:<{width}}  {row['version']:<8} {row['task']}")
    return int(ExitCode.OK if rows else ExitCode.NO_INPUT)


def add_info(commands: Any) -> None:
    """``neurobundle info``."""
    sub = command(
        commands,
        "info",
        _info,
        "Show what a bundle does, wants and gives.",
        "neurobundle info hippocampus_segmentation",
    )
    sub.add_argument("name", help="a bundle's name (see neurobundle list) or folder")
    sub.add_argument("--json", action="store_true", help="for programs")
    sub.add_argument("--blocks", action="store_true", help="the blocks of its network, which fine-tuning freezes")
    config_options(sub.add_argument_group("with --blocks"))


def _info(options: argparse.Namespace) -> int:
    from neurobundle.bundle.find import find_bundle, info
    from neurobundle.commands.listing import description_text

    if options.blocks:
        from neurobundle.commands.blocks import blocks_text, network_blocks

        rows = network_blocks(find_bundle(options.name), options.config, settings_of(options))
        say(json.dumps(rows, indent=2) if options.json else blocks_text(rows))
        return int(ExitCode.OK)
    if options.config or options.set:
        raise SettingError("--config and --set are for --blocks", "Add --blocks, or leave them out.")
    found = info(options.name)
    say(json.dumps(found, indent=2) if options.json else description_text(found))
    return int(ExitCode.OK)


def add_doctor(commands: Any) -> None:
    """``neurobundle doctor``."""
    sub = command(
        commands,
        "doctor",
        _doctor,
        "Check a bundle, ours or anybody's, without a network.",
        "neurobundle doctor bundles/hippocampus_segmentation",
    )
    sub.add_argument("bundle_dir", help="a bundle's folder, or the name of one of ours")
    sub.add_argument("--json", action="store_true", help="for programs")


def _doctor(options: argparse.Namespace) -> int:
    from neurobundle.bundle.doctor import as_json, as_table, examine, verdict
    from neurobundle.bundle.find import find_bundle, is_bundle

    here = Path(options.bundle_dir)
    findings = examine(here if is_bundle(here) else find_bundle(options.bundle_dir))
    say(as_json(findings) if options.json else as_table(findings))
    return int(verdict(findings))


def add_new(commands: Any) -> None:
    """``neurobundle new``."""
    sub = command(
        commands,
        "new",
        _new,
        "Make a bundle of your own from one of ours.",
        "neurobundle new thalamus_segmentation -o bundles",
    )
    sub.add_argument("name", help="ends in _segmentation, _classification or _detection")
    sub.add_argument("-o", "--output", type=Path, default=Path(), metavar="DIR", help="where its folder goes (here)")
    sub.add_argument("--from", dest="origin", default="hippocampus_segmentation", help="the bundle to start from")


def _new(options: argparse.Namespace) -> int:
    from neurobundle.bundle.find import find_bundle
    from neurobundle.bundle.scaffold import new_bundle

    made = new_bundle(options.name, options.output, find_bundle(options.origin))
    say(f"made {made}; next: {made / 'docs' / 'README.md'} and docs/how-to/new-bundle.md")
    return int(ExitCode.OK)


def add_card(commands: Any) -> None:
    """``neurobundle card``."""
    sub = command(
        commands,
        "card",
        _card,
        "Write the tables of a bundle's card, and its metadata's scores, from the results of an evaluation.",
        "neurobundle card bundles/hippocampus_segmentation --results out/cv",
    )
    sub.add_argument("name", help="a bundle's name or folder")
    sub.add_argument("--results", type=Path, metavar="DIR", help="copied to docs/results first (those that are there)")
    sub.add_argument(
        "--pictures", type=Path, metavar="DATALIST", help="draw worst, middle and best case of the results into it"
    )
    sub.add_argument("--dataset-dir", type=Path, metavar="DIR", help="what the datalist's paths are relative to")


def _card(options: argparse.Namespace) -> int:
    from neurobundle.bundle.find import find_bundle
    from neurobundle.commands.card import draw_evaluated, publish_results
    from neurobundle.errors import SettingError

    if options.pictures and not options.results:
        raise SettingError("--pictures needs the predictions of an evaluation", "Give its folder by --results.")
    bundle = find_bundle(options.name)
    say(f"written: {publish_results(bundle, options.results)}")
    if options.pictures:
        for path in draw_evaluated(bundle, options.results, options.pictures, options.dataset_dir):
            say(f"written: {path}")
    return int(ExitCode.OK)


def add_demo(commands: Any) -> None:
    """``neurobundle demo``."""
    sub = command(
        commands,
        "demo",
        _demo,
        "Segment a painted tumour and both hippocampi of the template that nilearn carries; nothing is downloaded.",
        "neurobundle demo -o demo",
    )
    sub.add_argument("-o", "--output", type=Path, default=Path("demo"), metavar="DIR")


def _demo(options: argparse.Namespace) -> int:
    from neurobundle.commands.demo import demo

    for line in demo(options.output, debug=options.debug):
        say(line)
    return int(ExitCode.OK)
