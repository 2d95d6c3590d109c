"""What a bundle's networks looked at in a few answers, right and wrong ones: the pictures of its card.

A *row* is a slice, and beside it the same slice under the class activation map of the answer
(:mod:`neurobundle.infer.attention`), by the network that did not see the case. Which cases are shown is a rule and no
choice: of each class the right answer in the *middle* of the confidences (of two, the less confident one), and the most
confident wrong answers, one a subject. ``activation.json`` lists them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from neurobundle.bundle.workflow import Plan
from neurobundle.errors import InputError
from neurobundle.export.pictures import save_png, stack, with_heat
from neurobundle.files import write_json
from neurobundle.load.datalist import Item
from neurobundle.measure.classification import FAILED
from neurobundle.measure.classification_evaluation import Answer, ClassificationEvaluation

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

ACTIVATION = "activation.json"

#: What is shown, and its picture.
PICTURES = {"right": "activation-right.png", "wrong": "activation-wrong.png"}

#: How many wrong answers are shown.
MOST_WRONG = 3
#: Of a panel's side, and of a picture: grey and one colour need no more, and two pictures stay below 400 kB.
PANEL_PIXELS, COLOURS = 224, 256
#: Of a confidence in the list.
DIGITS = 4

#: A slice ``(column, row)`` and its map.
Look = tuple[np.ndarray, np.ndarray]


def chosen_cases(evaluation: ClassificationEvaluation) -> dict[str, list[Answer]]:
    """The answers to show, by the keys of :data:`PICTURES`.

    Args:
        evaluation: of answers; those without probabilities are not shown.
    """
    sure = [answer for answer in evaluation.answers.values() if answer.probabilities and answer.prediction != FAILED]
    right = []
    for number in range(len(evaluation.classes)):
        own = sorted((a for a in sure if a.prediction == a.truth == number), key=lambda a: (confidence(a), a.case))
        right += own[(len(own) - 1) // 2 :][:1]
    wrong: dict[str, Answer] = {}
    for answer in sorted((a for a in sure if a.prediction != a.truth), key=lambda a: (-confidence(a), a.case)):
        wrong.setdefault(answer.subject, answer)
    return {"right": right, "wrong": list(wrong.values())[:MOST_WRONG]}


def confidence(answer: Answer) -> float:
    """The probability of the most probable class; NaN without probabilities."""
    return max(answer.probabilities or (float("nan"),))


def draw_activations(
    output: Path, evaluation: ClassificationEvaluation, items: Mapping[str, Item], plan_of: Callable[[int], Plan]
) -> bool:
    """Draw the chosen cases of a cross-validation; what an earlier call drew is replaced, or taken away.

    Args:
        output: gets ``activation.json`` and the pictures.
        evaluation: the answers of all folds.
        items: the datalist's entry of each case.
        plan_of: the evaluation of a fold, with the weights that answered its cases.

    Returns:
        Whether there is anything; not of a network without feature maps.

    Raises:
        WeightsError: for weights that are not the network's.
        InputError: for a case that cannot be read.
    """
    for name in (ACTIVATION, *PICTURES.values()):
        (output / name).unlink(missing_ok=True)
    chosen = chosen_cases(evaluation)
    shown = [answer for answers in chosen.values() for answer in answers]
    looks: dict[str, Look] = {}
    for fold in sorted({int(items[answer.case]["fold"]) for answer in shown}):
        own = [answer for answer in shown if int(items[answer.case]["fold"]) == fold]
        found = _looks(plan_of(fold), [items[answer.case] for answer in own], [answer.prediction for answer in own])
        looks |= dict(zip((answer.case for answer in own), found, strict=False))
    if len(looks) < len(shown) or not shown:
        logger.info("no class activation maps: the network has no feature maps, or no case was answered")
        return False
    content = {kind: [_entry(evaluation, answer, items) for answer in answers] for kind, answers in chosen.items()}
    for kind, answers in chosen.items():
        if answers:
            rows = [
                with_heat(*looks[answer.case], title=_title(entry), pixels=PANEL_PIXELS)
                for answer, entry in zip(answers, content[kind], strict=True)
            ]
            save_png(output / PICTURES[kind], stack(rows).quantize(COLOURS, dither=Image.Dither.NONE))
    write_json(output / ACTIVATION, content)
    return True


def read_activations(
    results: Path, pictures: Path, evaluation: ClassificationEvaluation
) -> dict[str, list[dict[str, Any]]]:
    """The list of the cases that are shown, once it is sure that they are those of a table; empty if there is none.

    Args:
        results: where ``activation.json`` may be.
        pictures: where its pictures are.
        evaluation: the answers of the table.

    Raises:
        InputError: if it shows other cases, or other answers, or a picture is missing.
    """
    path = results / ACTIVATION
    if not path.is_file():
        return {}
    way_out = "Publish the cross-validation again; none of its files is to be edited."
    try:
        content: dict[str, list[dict[str, Any]]] = json.loads(path.read_bytes())
        said = {kind: [{**entry, "fold": None} for entry in content[kind]] for kind in PICTURES}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"it cannot be read ({error!r})", way_out, file=path) from error
    counted = {
        kind: [_entry(evaluation, answer, {}) for answer in answers]
        for kind, answers in chosen_cases(evaluation).items()
    }
    if said != counted:
        raise InputError("the cases that it shows are not those of the table beside it", way_out, file=path)
    for kind, name in PICTURES.items():
        if content[kind] and not (pictures / name).is_file():
            raise InputError("this picture is missing", way_out, file=pictures / name)
    return content


def activation_lines(content: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The pictures and what they show, as Markdown.

    Args:
        content: what :func:`read_activations` gives.
    """
    if not any(content.values()):
        return []
    lines = [
        "What the networks looked at: a slice, and beside it the same slice under the class activation map of the "
        "answer (Grad-CAM++), by the network that did not see it. A map says where, coarsely, and not why. Of each "
        "class the right answer in the middle of the confidences is shown, and of all wrong answers the most "
        "confident, one a person.",
        "",
        "| | case | fold | class | answered | confidence |",
        "|---|---|---|---|---|---|",
    ]
    for kind, entries in content.items():
        for entry in entries:
            cells = [kind, *(entry[key] for key in ("case", "fold", "truth", "answer")), f"{entry['confidence']:.3f}"]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    for kind, entries in content.items():
        if entries:
            lines += ["", f"![{kind.capitalize()} answers: slice and class activation map](pictures/{PICTURES[kind]})"]
    return lines


def _entry(evaluation: ClassificationEvaluation, answer: Answer, items: Mapping[str, Item]) -> dict[str, Any]:
    """An answer as the list has it; the table knows no fold."""
    return {
        "case": answer.case,
        "fold": int(items[answer.case]["fold"]) if items else None,
        "truth": evaluation.classes[answer.truth],
        "answer": evaluation.classes[answer.prediction],
        "confidence": round(confidence(answer), DIGITS),
    }


def _title(entry: Mapping[str, Any]) -> str:
    return f"{entry['case']}: {entry['truth']}, answered {entry['answer']} {entry['confidence']:.2f}"


def _looks(plan: Plan, items: Sequence[Item], answers: Sequence[int]) -> list[Look]:
    """A slice of each case and its map, by a fold's network; none if it has no feature maps."""
    from neurobundle.infer.attention import ClassActivation, has_features  # torch comes with it
    from neurobundle.networks.weights import load_weights

    parser = plan.workflow().parser
    network = parser.get_parsed_content("network")
    if not has_features(network):
        return []
    load_weights(network, plan.settings["weights"])
    maps, prepare = ClassActivation(network.eval()), parser.get_parsed_content("validate::preprocessing")
    found = []
    for item, answer in zip(items, answers, strict=True):
        image = prepare({"image": item["image"], "case": item["case"]})["image"].as_tensor()
        seen = _deciding(image.to(parser.get_parsed_content("device")), parser)
        found.append((seen[0].cpu().numpy(), maps(seen, answer).cpu().numpy()))
    return found


def _deciding(image: torch.Tensor, parser: Any) -> torch.Tensor:
    """Of a stack ``(channel, column, row, slice)`` the slice that counts most, ``(channel, column, row)``."""
    import torch

    if image.ndim == 3 or image.shape[-1] == 1:
        return image.reshape(image.shape[:3])
    with torch.no_grad():
        said = parser.get_parsed_content("validate::inferer")(image[None], parser.get_parsed_content("network"))
    return image[..., int(said[0, -1].argmax())]
