"""The reports as HTML: complete, safe for any name, the same bytes for the same input, and whole where data are not."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from neurobundle.export.comparison import CasePictures, case_pictures
from neurobundle.measure import page, page_parts
from neurobundle.measure.page import write_classification_page, write_detection_page, write_segmentation_page

from ..conftest import blob

EVIL = "<img src=x onerror=alert(1)>"
VOID = {"img", "meta", "link", "br"}


class Seen(HTMLParser):
    """What a browser would see: elements with their attributes and the ids that enclose them, and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.rows: dict[str, list[str]] = {}
        self.within: dict[str, list[str]] = {}
        self._open: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self._open, "every element is closed"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        own = {name: value or "" for name, value in attributes}
        self.elements.append((tag, own))
        for _, name in self._open:
            self.within.setdefault(name, []).append(tag)
        if tag not in VOID:
            self._open.append((tag, own.get("id", "")))

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        for tag, name in self._open:
            if name:
                self.rows.setdefault(name, []).append(data.strip())
            if tag == "main":
                self.rows.setdefault("main", []).append(data.strip())

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [own for name, own in self.elements if name == tag and wanted.items() <= own.items()]

    def said(self, name: str) -> str:
        """The text inside an element with this id."""
        return " ".join(part for part in self.rows.get(name, []) if part)


def require_sound(path: Path) -> Seen:
    """What holds for every report."""
    text = path.read_text()
    seen = Seen(text)
    for word in ("http://", "https://", "url(", "<script", "javascript:", "@import"):
        assert word not in text
    assert not [name for tag, own in seen.elements for name in own if name.startswith("on")]
    ids = [own["id"] for _, own in seen.elements if "id" in own]
    assert len(ids) == len(set(ids))
    links = [own["href"] for tag, own in seen.elements if "href" in own and tag != "link"]
    assert {link for link in links if not link.startswith("#")} == set()
    assert {link[1:] for link in links} <= set(ids)
    for image in seen.all("img"):
        assert image["alt"].strip()
        assert image["src"].startswith("data:image/")
    for chart in seen.all("svg"):
        assert chart["role"] == "img"
        assert chart["aria-label"].strip()
    policy = seen.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert [rule["content"] for rule in policy] == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    return seen


def score(case: str, structure: str, dice: float, status: str = "ok", **more: float) -> SimpleNamespace:
    """A score as :class:`neurobundle.measure.segmentation.Score` has it; only Dice and the status matter here."""
    blank = math.nan if status == "empty" else dice
    mm = {"ok": 10 * (1 - dice), "empty": math.nan}.get(status, 60.0)
    columns = dict.fromkeys(("dice", "iou", "sensitivity", "precision", "nsd"), blank)
    distances = dict.fromkeys(("hd95_mm", "hd_mm", "assd_mm"), mm)
    volumes = {"volume_ml": 0.0 if status == "missed" else 1.9, "reference_ml": math.nan if status == "failed" else 2.0}
    return SimpleNamespace(case=case, structure=structure, **columns, **distances, **volumes, status=status, more=more)


def mean(value: float | None) -> dict[str, Any]:
    if value is None:
        return {"mean": None, "median": None, "interval": [None, None]}
    return {"mean": value, "median": value + 0.01, "interval": [value - 0.05, value + 0.05]}


MEANS = ("dice", "iou", "sensitivity", "precision", "hd95_mm", "hd_mm", "assd_mm", "nsd", "nsd_2mm")


def of_structure(value: float | None, **counts: int) -> dict[str, Any]:
    names = ("n_scored", "n_empty", "n_missed", "n_false", "n_failed")
    return {
        **{name: counts.get(name, 0) for name in names},
        **{name: mean(value) for name in MEANS},
        "volume": {"bias_ml": None if value is None else -0.1, "bias_percent": None, "icc": value},
    }


CALIBRATION: dict[str, Any] = {
    "n_cases": 4,
    "n_voxels": 1000,
    **{key: mean(0.1) for key in ("ece", "ace", "mce", "brier", "nll", "error_auroc", "uncertainty")},
    "bins": [{"low": 0.5, "high": 1.0, "count": 40, "confidence": 0.9, "accuracy": 0.75}],
    "risk_coverage": {"coverage": [0.5, 1.0], "risk": [0.1, 0.2], "aurc": 0.15, "aurc_best": 0.12},
    "uncertainty_dice_spearman": -0.5,
}

STRUCTURES = {
    "front": of_structure(0.812, n_scored=4, n_missed=1, n_failed=1),
    "back": of_structure(0.7, n_scored=3, n_empty=1, n_failed=1),
}
SUMMARY: dict[str, Any] = {
    "task": "segmentation",
    "n_cases": 4,
    "n_empty": 1,
    "n_missed": 1,
    "n_false": 0,
    "n_failed": 1,
    "nsd_tolerances_mm": [1.0, 2.0],
    "structures": STRUCTURES,
    "confusion": {"labels": [0, 1, 2], "counts": [[900, 5, 5], [10, 40, 2], [8, 3, 30]]},
    "calibration": {"front": CALIBRATION, "back": {**CALIBRATION, "risk_coverage": None}},
    "folds": {"0": {"n_cases": 2, "structures": STRUCTURES}, "1": {"n_cases": 2, "structures": {}}},
}
SCORES = [
    score("good", "front", 0.95, nsd_2mm=0.99),
    score("good", "back", 0.9, nsd_2mm=0.98),
    score(EVIL, "front", 0.9, nsd_2mm=0.95),
    score(EVIL, "back", math.nan, "empty", nsd_2mm=math.nan),
    score("lost", "front", 0.0, "failed", nsd_2mm=0.0),
    score("lost", "back", 0.0, "failed", nsd_2mm=0.0),
    score("bad one", "front", 0.0, "missed", nsd_2mm=0.0),
    score("bad one", "back", 0.6, nsd_2mm=0.7),
]
FACTS = [("predictions", "/data/out & more"), ("sha256", "ab" * 32)]


def drawn(seed: int = 0) -> CasePictures:
    shape = (24, 24, 16)
    reference, prediction = (blob(shape, (11 + shift, 12, 8), 5).astype(np.uint8) for shift in (0, seed % 3))
    image = np.random.default_rng(seed).random(shape)
    return case_pictures(image, reference, prediction, np.eye(4))


PICTURES = {name: drawn(n) for n, name in enumerate(("good", EVIL, "bad one"))}


def segmentation(path: Path, **changes: Any) -> Path:
    given: dict[str, Any] = {
        "title": "Hippocampi, evaluated",
        "summary": SUMMARY,
        "scores": SCORES,
        "pictures": PICTURES,
        "problems": {"lost": "lost lost.nii.gz: it is not a gzip file. Copy it again."},
        "facts": FACTS,
        "subjects": {"good": "anna"},
    }
    return write_segmentation_page(path, **{**given, **changes})


CLASSES = ["glioma", "no tumour"]
CLASSIFICATION: dict[str, Any] = {
    "task": "classification",
    "n_cases": 4,
    "n_failed": 1,
    "classes": CLASSES,
    **{key: mean(0.75) for key in ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "macro_auroc", "macro_auprc")},
    "per_class": {
        name: dict.fromkeys(("precision", "sensitivity", "specificity", "f1", "auroc", "auprc"), 0.5)
        | {"n": 2, "n_failed": 0}
        for name in CLASSES
    },
    "confusion": {"labels": CLASSES, "counts": [[1, 1], [0, 1]]},
    "threshold": 0.4,
    "calibration": CALIBRATION,
}


def answer(case: str, truth: int, of_truth: float, **more: Any) -> dict[str, Any]:
    shares = [of_truth, 1 - of_truth] if truth == 0 else [1 - of_truth, of_truth]
    found = int(shares[1] > shares[0])
    named = {f"p_{name}": repr(share) for name, share in zip(CLASSES, shares, strict=True)}
    row = {"case": case, "subject": case, "truth": CLASSES[truth], "prediction": CLASSES[found]}
    return {**row, "correct": int(found == truth), **named, "status": "ok", **more}


ANSWERS = [
    answer("right", 0, 0.9),
    answer("nearly", 1, 0.45),
    answer(EVIL, 1, 0.1),
    answer("lost", 0, 0.5, status="failed", correct=0, prediction="", **{f"p_{name}": "" for name in CLASSES}),
]


def classification(path: Path, **changes: Any) -> Path:
    given: dict[str, Any] = {
        "title": "Tumours",
        "summary": CLASSIFICATION,
        "rows": ANSWERS,
        "problems": {"lost": "lost: no row"},
    }
    return write_classification_page(path, **{**given, "facts": FACTS, **changes})


DETECTION: dict[str, Any] = {
    "task": "detection",
    "n_images": 3,
    "n_boxes": 5,
    "n_failed": 1,
    "classes": ["tumour"],
    "iou_threshold": 0.5,
    "score_threshold": 0.25,
    **{key: mean(0.6) for key in ("map50", "map50_95", "precision", "recall", "f1")},
    "per_class": {"tumour": {"n_boxes": 5, "ap50": 0.6, "ap50_95": 0.4, "precision": 0.7, "recall": 0.6, "f1": 0.65}},
    "froc": {"false_positives_per_image": [0.125, 1.0], "sensitivity": [0.4, 0.8], "score": 0.6},
}
BOXES = [
    {"case": "fine", "n_boxes": 1, "n_found": 1, "n_missed": 0, "n_false": 0, "status": "ok"},
    {"case": EVIL, "n_boxes": 3, "n_found": 1, "n_missed": 2, "n_false": 1, "status": "ok"},
    {"case": "lost", "n_boxes": 1, "n_found": 0, "n_missed": 1, "n_false": "", "status": "failed"},
]


def detection(path: Path, **changes: Any) -> Path:
    given: dict[str, Any] = {
        "title": "Boxes",
        "summary": DETECTION,
        "rows": BOXES,
        "problems": {"lost": "lost: unreadable"},
    }
    return write_detection_page(path, **{**given, "facts": FACTS, **changes})


WRITERS: dict[str, Callable[..., Path]] = {
    "segmentation": segmentation,
    "classification": classification,
    "detection": detection,
}
each_task = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())


@each_task
def test_a_report_is_sound(write: Callable[..., Path], tmp_path: Path) -> None:
    seen = require_sound(write(tmp_path / "report.html"))
    assert seen.all("table")
    assert seen.all("svg")
    assert "Not for diagnosis" in " ".join(seen.texts)


@each_task
def test_the_same_input_gives_the_same_bytes(write: Callable[..., Path], tmp_path: Path) -> None:
    first, second = (write(tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert first == second


@each_task
def test_names_are_text_and_no_markup(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(tmp_path / "report.html", title=EVIL, problems={EVIL: EVIL}, facts=[(EVIL, EVIL)])
    seen = require_sound(path)
    assert EVIL not in path.read_text()
    assert "".join(seen.texts).count(EVIL) >= 5, "title, heading, problem, fact and case all show it as it is"


@each_task
def test_a_name_that_is_no_text_is_written_too(write: Callable[..., Path], tmp_path: Path) -> None:
    """A file name that is no valid UTF-8 reaches Python as lone surrogates."""
    assert "\\udc80" in write(tmp_path / "report.html", problems={"a": "\udc80: broken"}).read_text()


@each_task
def test_problems_come_first_and_facts_last(write: Callable[..., Path], tmp_path: Path) -> None:
    text = write(tmp_path / "report.html").read_text()
    places = [text.index(word) for word in ('class="note"', 'id="scores"', 'id="cases"', 'id="facts"')]
    assert places == sorted(places)
    assert 'class="note"' not in write(tmp_path / "report.html", problems={}).read_text()
    assert 'id="facts"' not in write(tmp_path / "report.html", facts=[]).read_text()


def nothing_in(value: Any) -> Any:
    """The same layout with null for every number."""
    if isinstance(value, Mapping):
        return {key: nothing_in(part) for key, part in value.items()}
    if isinstance(value, list):
        return [nothing_in(part) for part in value]
    return value if isinstance(value, str) else None


@each_task
def test_nulls_are_dashes(write: Callable[..., Path], tmp_path: Path) -> None:
    """A summary whose every number is undefined, as after an evaluation in which each case failed."""
    summary = {"segmentation": SUMMARY, "classification": CLASSIFICATION, "detection": DETECTION}[write.__name__]
    empty = nothing_in({key: value for key, value in summary.items() if key != "confusion"})
    seen = require_sound(write(tmp_path / "report.html", summary=empty))
    assert "–" in seen.said("scores")
    assert "None" not in " ".join(seen.texts)
    assert "nan" not in " ".join(seen.texts)


@each_task
def test_parts_that_are_not_there_are_left_out(write: Callable[..., Path], tmp_path: Path) -> None:
    nothing: dict[str, Any] = {"summary": {}, "problems": {}, "facts": []}
    more = {"scores": [], "pictures": {}} if write is segmentation else {"rows": []}
    path = write(tmp_path / "report.html", **nothing, **more)
    require_sound(path)
    found = set(re.findall(r'<section id="(\w+)"', path.read_text()))
    assert found == {"scores"}


def test_means_and_counts_of_each_structure_are_shown(tmp_path: Path) -> None:
    seen = require_sound(segmentation(tmp_path / "report.html"))
    scores = seen.said("scores")
    assert "NSD 1 mm NSD 2 mm HD95, mm" in scores
    assert "front 4 0.812 0.762 to 0.862" in scores
    assert "volume bias, ml" in scores


def test_lesions_are_shown_where_they_were_asked_for(tmp_path: Path) -> None:
    lesions = {
        "n_lesions": 7,
        "n_missed_lesions": 2,
        "n_false_lesions": 1,
        "lesion_dice": mean(0.5),
        "lesion_hd95_mm": mean(20),
    }
    structures = {"front": {**STRUCTURES["front"], "lesions": lesions}, "back": STRUCTURES["back"]}
    path = segmentation(tmp_path / "report.html", summary={**SUMMARY, "structures": structures})
    assert "lesion Dice lesion HD95, mm" in require_sound(path).said("scores")
    assert "lesion Dice" not in require_sound(segmentation(tmp_path / "b.html")).said("scores")


def test_cases_are_sorted_worst_first_and_misses_are_words(tmp_path: Path) -> None:
    """Mean Dice: lost 0, bad one .3, the evil name .9 (its back is empty), good .925."""
    path = segmentation(tmp_path / "report.html")
    seen = require_sound(path)
    order = [own["id"] for own in seen.all("tr") if "id" in own]
    assert order == ["row-case-lost", "row-case-bad-one", "row-case-img-src-x-onerror-alert-1", "row-case-good"]
    assert "failed" in seen.said("row-case-lost")
    assert "0.000 missed" in seen.said("row-case-bad-one")
    assert "empty" in seen.said("row-case-img-src-x-onerror-alert-1")
    assert "anna" in seen.said("row-case-good")


def test_every_case_has_a_page_of_its_own(tmp_path: Path) -> None:
    """With all scores, its picture, the way back and to its neighbours; the main part has no part in it."""
    path = segmentation(tmp_path / "report.html")
    seen = require_sound(path)
    pages = [own["id"] for own in seen.all("section", **{"class": "case"})]
    assert pages == ["case-lost", "case-bad-one", "case-img-src-x-onerror-alert-1", "case-good"]
    assert path.read_text().index("</main>") < path.read_text().index('class="case"')
    page_of = seen.said("case-bad-one")
    for word in (
        "All cases",
        "‹ lost",
        f"{EVIL} ›",
        "missed",
        "NSD 2 mm",
        "ASSD, mm",
        "reference, ml",
        "Number 2 of 4",
    ):
        assert word in page_of
    assert seen.within["case-bad-one"].count("img") == 1
    assert seen.within["case-lost"].count("img") == 0
    assert "no picture" in seen.said("case-lost")


def test_pictures_show_the_worst_and_the_best(tmp_path: Path) -> None:
    names = [f"case {n:02d}" for n in range(20)]
    scores = [score(name, "front", n / 20) for n, name in enumerate(names)]
    path = segmentation(tmp_path / "report.html", scores=scores, pictures={name: drawn() for name in names})
    text = require_sound(path).said("extremes")
    shown = re.findall(r"case \d\d", text)
    assert shown == [*names[:6], *names[:16:-1]]
    alone = segmentation(tmp_path / "b.html", scores=scores, pictures={names[7]: drawn()})
    assert re.findall(r"case \d\d", require_sound(alone).said("extremes")) == [names[7]]


def test_a_page_holds_so_many_pictures_and_the_best_cases_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"case {n:02d}" for n in range(20)]
    scores = [score(name, "front", n / 20) for n, name in enumerate(names)]
    picture = drawn()
    monkeypatch.setattr(page_parts, "MOST_PICTURE_BYTES", 10 * len(picture.planes))
    seen = require_sound(segmentation(tmp_path / "a.html", scores=scores, pictures=dict.fromkeys(names, picture)))
    assert [seen.within[f"case-case-{n:02d}"].count("img") for n in range(20)] == [1] * 10 + [0] * 10
    assert "case 19" in seen.said("extremes")


def test_pictures_of_a_case_are_in_the_page_once_or_twice(tmp_path: Path) -> None:
    """The row of a worst case, and its planes on its own page; no picture of any other case twice."""
    names = [f"case {n:02d}" for n in range(20)]
    scores = [score(name, "front", n / 20) for n, name in enumerate(names)]
    path = segmentation(tmp_path / "a.html", scores=scores, pictures={name: drawn() for name in names})
    assert len(require_sound(path).all("img")) == 20 + 9


def test_names_that_look_alike_have_pages_apart(tmp_path: Path) -> None:
    names = ["a b", "a/b", "a b-2", "äöü", "日本", "row-a"]
    path = segmentation(tmp_path / "a.html", scores=[score(name, "front", 0.5) for name in names], pictures={})
    assert len(require_sound(path).all("section", **{"class": "case"})) == len(names)


def test_many_structures_are_not_all_drawn(tmp_path: Path) -> None:
    names = [f"structure {n:02d}" for n in range(30)]
    scores = [score("a", name, n / 30) for n, name in enumerate(names)]
    summary = {**SUMMARY, "structures": {name: of_structure(0.5) for name in names}}
    path = segmentation(tmp_path / "a.html", scores=scores, summary=summary, pictures={})
    seen = require_sound(path)
    assert "Drawn are the 24 structures with the lowest mean Dice, and the volumes of 9." in seen.said("spread")
    charts = [own["aria-label"] for own in seen.all("svg") if own["aria-label"].startswith("Volume agreement")]
    assert len(charts) == page.MOST_AGREEMENTS
    assert "structure 00" in charts[0]
    assert "Drawn are" not in require_sound(segmentation(tmp_path / "b.html")).said("spread")


def test_wrong_cases_come_first_the_surest_at_the_top(tmp_path: Path) -> None:
    path = classification(tmp_path / "report.html")
    text = require_sound(path).said("cases")
    places = [text.index(word) for word in ("lost", EVIL, "nearly", "right")]
    assert places == sorted(places)
    assert "failed" in text
    assert text.count("glioma wrong") == 2
    assert "0.900 0.100" in text


def test_the_threshold_is_said(tmp_path: Path) -> None:
    assert "threshold is 0.4." in require_sound(classification(tmp_path / "a.html")).said("scores")
    without = classification(tmp_path / "b.html", summary={**CLASSIFICATION, "threshold": None})
    assert "threshold" not in require_sound(without).said("scores")


def test_a_table_of_answers_without_probabilities_is_shown(tmp_path: Path) -> None:
    rows = [{"case": "a", "truth": "x", "prediction": "y", "correct": False}]
    text = require_sound(classification(tmp_path / "a.html", rows=rows)).said("cases")
    assert "a" in text
    assert "wrong" in text
    assert "probability" not in text


def test_images_with_most_errors_come_first(tmp_path: Path) -> None:
    text = require_sound(detection(tmp_path / "report.html")).said("cases")
    places = [text.index(word) for word in ("lost", EVIL, "fine")]
    assert places == sorted(places)


def test_froc_is_a_table_too(tmp_path: Path) -> None:
    text = require_sound(detection(tmp_path / "report.html")).said("froc")
    assert "0.125 0.400 1 0.800 mean 0.600" in text.replace("\n", " ")


def test_numbers_of_any_kind_are_numbers(tmp_path: Path) -> None:
    """Counts may come as numpy's integers, which are no int."""
    structures: Sequence[Any] = [of_structure(np.float64(0.5), n_scored=np.int64(3))]
    seen = require_sound(segmentation(tmp_path / "a.html", summary={**SUMMARY, "structures": {"front": structures[0]}}))
    assert "front 3 0.500" in seen.said("scores")


def test_the_page_of_a_failed_case_says_why(tmp_path: Path) -> None:
    assert "it is not a gzip file. Copy it again." in require_sound(segmentation(tmp_path / "a.html")).said("case-lost")


def test_outlines_are_named_in_their_colours(tmp_path: Path) -> None:
    """Of a region of several values each value has an outline of its own."""
    labels = {"whole": [1, 2], "core": [2]}
    path = segmentation(tmp_path / "a.html", summary={**SUMMARY, "labels": labels})
    assert ", core. Yellow is missed" in require_sound(path).said("extremes")
    assert 'style="background:rgb(230, 159, 0)"' in path.read_text()
