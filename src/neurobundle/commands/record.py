"""A bundle's record: how its published numbers were made, so that a program can make them again.

``docs/results/record.json`` holds

- ``steps``: commands of ours as lists of words, without the word ``neurobundle``. ``{bundle}`` stands for the bundle's
  folder, ``{datalist}`` for its own datalist, ``{data}`` for the folder of the data and ``{out}`` for a folder to write
  in. ``smoke`` are words that make a step short, for a proof that it runs; later words count.
- ``results``: for each summary that was published beside the record, where the steps leave it (below ``{out}``), and
  its *scores*: mean and 95 % interval by structure and metric, equal to those of the summary.
- ``data``: name, licence and folder (below ``{data}``) of each source, and the sha256 of the bundle's datalist.
- ``seed``, ``weights`` (sha256 by file), ``versions``, and ``notes``: what differed from the steps when it was run.

It is written by ``neurobundle crossval --publish``, or by hand from what ran, and never changes without the summary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurobundle.bundle.find import read_metadata
from neurobundle.errors import SettingError, closest
from neurobundle.files import write_json
from neurobundle.load.datalist import load_json
from neurobundle.measure.outputs import SUMMARY
from neurobundle.networks.manifest import read_manifest, sha256_of

RECORD = Path("docs") / "results" / "record.json"
DATALIST = Path("configs") / "datalist.json"
FORMAT = 1

#: What a step's words may stand for.
PLACEHOLDERS = ("{bundle}", "{datalist}", "{data}", "{out}")

#: Of a structure's scores, those that are compared.
METRICS = ("dice", "nsd", "hd95_mm")

_KEYS: dict[str, type | tuple[type, ...]] = {
    "format": int,
    "bundle": str,
    "version": str,
    "steps": list,
    "results": list,
    "data": dict,
    "seed": int,
    "weights": dict,
    "versions": dict,
    "notes": list,
}

Scores = dict[str, dict[str, dict[str, Any]]]


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        words: after ``neurobundle``.
        smoke: words that are added for a short run.
    """

    words: tuple[str, ...]
    smoke: tuple[str, ...] = ()

    def filled(self, values: Mapping[str, str], smoke: bool = False) -> list[str]:
        """The words with their placeholders replaced.

        >>> Step(("train", "{bundle}", "-o", "{out}/a")).filled({"{bundle}": "b", "{out}": "o"})
        ['train', 'b', '-o', 'o/a']
        """
        words = [*self.words, *(self.smoke if smoke else ())]
        for name, value in values.items():
            words = [word.replace(name, value) for word in words]
        return words


@dataclass(frozen=True)
class Result:
    """One summary.

    Attributes:
        published: the file, from the record's folder.
        made: where the steps leave it, below ``{out}``.
        scores: structure -> metric -> ``mean`` and ``interval``.
    """

    published: str
    made: str
    scores: Scores


@dataclass(frozen=True)
class Record:
    """What ``record.json`` holds; the module says what each part is."""

    bundle: str
    version: str
    steps: tuple[Step, ...]
    results: tuple[Result, ...]
    data: dict[str, Any]
    seed: int
    weights: dict[str, str]
    versions: dict[str, str]
    notes: tuple[str, ...]

    def write(self, bundle_dir: Path) -> Path:
        """Write it into a bundle."""
        content: dict[str, Any] = {"format": FORMAT, "bundle": self.bundle, "version": self.version}
        content["steps"] = [{"words": list(step.words), "smoke": list(step.smoke)} for step in self.steps]
        content["results"] = [vars(result) for result in self.results]
        content |= {"data": self.data, "seed": self.seed, "weights": self.weights, "versions": self.versions}
        return write_json(bundle_dir / RECORD, {**content, "notes": list(self.notes)})


def scores_of(summary: Mapping[str, Any]) -> Scores:
    """The means and intervals of a summary that a record keeps.

    Args:
        summary: what ``summary.json`` holds; without structures, all its scores are those of ``all``.
    """
    if "structures" in summary:
        return {
            name: {metric: _mean(scores[metric]) for metric in METRICS if metric in scores}
            for name, scores in summary["structures"].items()
        }
    return {"all": {k: _mean(v) for k, v in summary.items() if isinstance(v, Mapping) and "interval" in v}}


def read_record(bundle_dir: Path) -> Record:
    """A bundle's record.

    Raises:
        SettingError: if it has none, or it is malformed; it says where.
    """
    path = bundle_dir / RECORD
    if not path.is_file():
        raise SettingError(
            "this bundle has no record of how its numbers were made",
            "`neurobundle crossval --publish` writes one.",
            file=path,
        )
    content = load_json(path)
    unknown = next((key for key in content if key not in _KEYS), None)
    if unknown is not None:
        raise SettingError(f"the record has an unknown part {unknown!r}{closest(unknown, _KEYS)}", file=path)
    for key, kind in _KEYS.items():
        if not isinstance(content.get(key), kind):
            raise SettingError(f"the record's {key!r} is {content.get(key)!r:.60}", "See it described.", file=path)
    if content["format"] != FORMAT:
        raise SettingError(f"the record has the format {content['format']}, not {FORMAT}", "Update it.", file=path)
    try:
        steps = tuple(Step(_words(step["words"]), _words(step.get("smoke", []))) for step in content["steps"])
        results = tuple(Result(str(r["published"]), str(r["made"]), dict(r["scores"])) for r in content["results"])
    except (KeyError, TypeError, ValueError) as error:
        raise SettingError(f"a step or a result of the record lacks a part ({error!r})", file=path) from error
    rest = {key: content[key] for key in ("bundle", "version", "data", "seed", "weights", "versions")}
    return Record(**rest, steps=steps, results=results, notes=tuple(map(str, content["notes"])))


def published_file(bundle_dir: Path, result: Result) -> Path:
    """The summary that a result was published as."""
    return (bundle_dir / RECORD).parent / result.published


def problems_of(bundle_dir: Path, record: Record) -> list[str]:
    """Where a record and the bundle that it stands in say different things.

    Args:
        bundle_dir: the bundle.
        record: its record.

    Returns:
        A sentence each, without the full stop; none if all agree.
    """
    found = []
    if record.bundle != bundle_dir.name:
        found.append(f"it is the record of {record.bundle}")
    version = read_metadata(bundle_dir).get("version")
    if record.version != version:
        found.append(f"it is of version {record.version}, and the bundle has {version}")
    listed = {name: entry.sha256 for name, entry in read_manifest(bundle_dir / "models").items()}
    if record.weights != listed:
        differ = sorted(name for name in {*record.weights, *listed} if record.weights.get(name) != listed.get(name))
        found.append(f"the weights {', '.join(differ)} are not those of MANIFEST.sha256")
    said = record.data.get("datalist_sha256")
    if said is not None and said != sha256_of(bundle_dir / DATALIST):
        found.append(f"{DATALIST} is not the one that was used")
    for result in record.results:
        path = published_file(bundle_dir, result)
        if not path.is_file():
            found.append(f"{result.published} is not there")
            continue
        summary = json.loads(path.read_bytes())
        if scores_of(summary) != result.scores:
            found.append(f"its scores are not those of {result.published}")
        of_summary = summary.get("datalist", {}).get("sha256")
        if None not in (said, of_summary) and result.published == SUMMARY and of_summary != said:
            found.append(f"{result.published} is of another datalist")
    return found


def record_crossval(
    bundle_dir: Path,
    results: Path,
    overlays: Sequence[str],
    settings: Mapping[str, Any],
    jobs: int = 1,
    notes: Sequence[str] = (),
) -> Path:
    """Write the record of a cross-validation on the bundle's own datalist, after its results were published.

    Args:
        bundle_dir: the bundle, with weights and ``docs/results/summary.json``.
        results: the cross-validation's folder, whose name is not kept.
        overlays: of its trainings.
        settings: of its trainings.
        jobs: trainings at a time: with more than one, each had one thread, which changes the last digits.
        notes: what differed from the steps.
    """
    summary = json.loads((results / SUMMARY).read_bytes())
    metadata = read_metadata(bundle_dir)
    words = ["crossval", "{bundle}", "--data", "{datalist}", "--dataset-dir", "{data}", "-o", "{out}/crossval"]
    words += ["--final", "--jobs", str(jobs), *(["--config", *overlays] if overlays else [])]
    words += ["--device", str(settings["device"])] if "device" in settings else []
    others = [f"{name}={json.dumps(value)}" for name, value in settings.items() if name != "device"]
    words += ["--set", *others] if others else []
    return Record(
        bundle=bundle_dir.name,
        version=str(metadata.get("version", "")),
        steps=(Step(tuple(words), CROSSVAL_SMOKE),),
        results=(Result(SUMMARY, f"crossval/{SUMMARY}", scores_of(summary)),),
        data={
            "sources": [{"name": metadata.get("data_source"), "licence": metadata.get("licenses", {}).get("data")}],
            "datalist_sha256": sha256_of(bundle_dir / DATALIST),
        },
        seed=int(settings.get("seed", 0)),
        weights={name: entry.sha256 for name, entry in read_manifest(bundle_dir / "models").items()},
        versions=dict(summary["versions"]),
        notes=tuple(notes),
    ).write(bundle_dir)


#: What makes a cross-validation short.
CROSSVAL_SMOKE = ("--set", "network_size=tiny", "epochs=1", "val_interval=1", "amp=false")


def _words(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError(f"words are a list of texts, got {value!r:.60}")
    return tuple(value)


def _mean(value: Mapping[str, Any]) -> dict[str, Any]:
    return {"mean": value["mean"], "interval": list(value["interval"])}
