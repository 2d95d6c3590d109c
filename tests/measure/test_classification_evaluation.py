import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neurobundle.errors import InputError, NoInputError, SettingError
from neurobundle.measure.classification import MEANS, Threshold, mean_scores
from neurobundle.measure.classification_evaluation import ClassificationEvaluation, read_answers
from neurobundle.measure.classification_handler import ClassificationReport
from neurobundle.measure.classification_metric import ClassificationMetric, class_numbers

CLASSES = ["healthy", "tumour"]


def filled(threshold: Threshold | None = None) -> ClassificationEvaluation:
    evaluation = ClassificationEvaluation(CLASSES, threshold)
    evaluation.add("anna", "tumour", [0.25, 0.75], subject="s1")
    evaluation.add("bert", 0, np.array([0.4, 0.6], dtype=np.float32), subject="s1")
    evaluation.add_failed("carl", 1)
    return evaluation


# --- tables ---


def test_a_row_a_case(tmp_path: Path) -> None:
    filled().write(tmp_path)
    assert (tmp_path / "per_case.csv").read_text() == (
        "case,subject,truth,prediction,correct,p_healthy,p_tumour,status\n"
        "anna,s1,tumour,tumour,1,0.25,0.75,ok\n"
        "bert,s1,healthy,tumour,0,0.4000000059604645,0.6000000238418579,ok\n"
        "carl,carl,tumour,,0,,,failed\n"
    )


def test_the_summary_holds_scores_and_facts(tmp_path: Path) -> None:
    summary = filled().write(tmp_path, {"weights": "model.pt"})
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert (summary["n_cases"], summary["n_failed"], summary["task"]) == (3, 1, "classification")
    assert summary["accuracy"]["mean"] == pytest.approx(1 / 3, abs=1e-6)
    assert summary["weights"] == "model.pt"
    assert "neurobundle" in summary["versions"]
    assert "model.pt" in (tmp_path / "report.html").read_text()


def test_a_wrong_answer_that_fails_does_not_lower_the_risk(tmp_path: Path) -> None:
    """It stays last in the curve, as wrong."""
    answered, failed = ClassificationEvaluation(["a", "b"]), ClassificationEvaluation(["a", "b"])
    for evaluation in (answered, failed):
        for n in range(4):
            evaluation.add(f"right{n}", "a", [0.9, 0.1])
    answered.add("wrong", "a", [0.2, 0.8])
    failed.add_failed("wrong", "a")
    curves = [
        evaluation.write(tmp_path / name)["calibration"]["all"]["risk_coverage"]
        for name, evaluation in (("answered", answered), ("failed", failed))
    ]
    assert curves[0]["risk"][-1] == curves[1]["risk"][-1] == 0.2
    assert curves[1]["n_without_uncertainty"] == 1


def test_the_same_cases_give_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        filled().write(tmp_path / folder)
    for name in ("per_case.csv", "summary.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """Thirds, uncertainties, a threshold, a failed case: the bytes and the scores are the same."""
    threshold = Threshold(0.3, "youden", 9)
    evaluation = filled(threshold)
    evaluation.add("dora", 1, [2 / 3, 1 / 3], uncertainty=0.1 + 0.2)
    evaluation.write(tmp_path / "a")
    again = read_answers(tmp_path / "a" / "per_case.csv", threshold)
    again.write(tmp_path / "b")
    for name in ("per_case.csv", "summary.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert again.answers["dora"].uncertainty == 0.1 + 0.2
    assert again.answers["dora"].prediction == 1


def test_a_table_of_a_threshold_needs_it_again(tmp_path: Path) -> None:
    evaluation = ClassificationEvaluation(CLASSES, Threshold(0.3, "youden", 9))
    evaluation.add("anna", 1, [0.6, 0.4])
    evaluation.write(tmp_path)
    with pytest.raises(InputError, match=r"line 2, column 'prediction': 'tumour'.* say 'healthy'.") as caught:
        read_answers(tmp_path / "per_case.csv")
    assert "threshold" in str(caught.value)
    assert caught.value.case == "anna"


def test_uncertainty_has_a_column_if_there_is_any(tmp_path: Path) -> None:
    evaluation = ClassificationEvaluation(CLASSES)
    evaluation.add("anna", 1, [0.5, 0.5], uncertainty=1.5)
    evaluation.add("bert", 1, [0.5, 0.5])
    evaluation.write(tmp_path)
    lines = (tmp_path / "per_case.csv").read_text().splitlines()
    assert lines[0].endswith("p_tumour,uncertainty,status")
    assert [line.split(",")[-2] for line in lines[1:]] == ["1.5", ""]


def test_classes_without_probabilities_have_no_auroc(tmp_path: Path) -> None:
    evaluation = ClassificationEvaluation(CLASSES)
    evaluation.add("anna", 1, [0.2, 0.8])
    evaluation.add_prediction("bert", "healthy", "tumour")
    summary = evaluation.write(tmp_path)
    assert summary["accuracy"]["mean"] == 0.5
    assert summary["macro_auroc"]["mean"] is None
    assert read_answers(tmp_path / "per_case.csv").score() == evaluation.score()
    assert (tmp_path / "per_case.csv").read_text().splitlines()[2] == "bert,bert,healthy,tumour,0,,,ok"


def test_a_failed_case_lowers_every_mean() -> None:
    evaluation = ClassificationEvaluation(CLASSES)
    evaluation.add("anna", 1, [0.2, 0.8])
    evaluation.add("bert", 0, [0.8, 0.2])
    before = evaluation.score()
    evaluation.add_failed("carl", 1)
    after = evaluation.score()
    assert all(before[name]["mean"] == 1 > after[name]["mean"] for name in MEANS)


def test_an_evaluation_without_a_case_is_written(tmp_path: Path) -> None:
    assert ClassificationEvaluation(CLASSES).write(tmp_path)["accuracy"]["mean"] is None


# --- bad input ---


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ([0.5, math.nan], r"not all in \[0, 1\]"),
        ([-0.1, 1.1], r"not all in \[0, 1\]"),
        ([0.5, 0.4], "sum to 0.9, and not to 1"),
        ([1.0], r"shape \(1,\), for 2 classes"),
        ([0.2, 0.3, 0.5], r"shape \(3,\), for 2 classes"),
    ],
)
def test_probabilities_that_are_none(probabilities: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        ClassificationEvaluation(CLASSES).add("anna", 0, probabilities)
    assert caught.value.case == "anna"
    assert caught.value.way_out


@pytest.mark.parametrize("truth", ["tumor", 2, -1, 0.5])
def test_an_unknown_class(truth: Any) -> None:
    with pytest.raises(InputError, match="there is no class") as caught:
        ClassificationEvaluation(CLASSES).add_failed("anna", truth)
    assert ("did you mean 'tumour'?" in str(caught.value)) == (truth == "tumor")
    assert "healthy, tumour" in caught.value.way_out


def test_a_case_can_be_added_once() -> None:
    evaluation = filled()
    for add in (
        lambda: evaluation.add("anna", 0, [1, 0]),
        lambda: evaluation.add_failed("carl", 0),
        lambda: evaluation.add_prediction("bert", 0, 0),
    ):
        with pytest.raises(InputError, match="added twice"):
            add()
    with pytest.raises(InputError, match="no name"):
        evaluation.add_failed("", 0)
    assert len(evaluation.answers) == 3


@pytest.mark.parametrize("classes", [["a"], ["a", "a"], ["a", ""], ["a", " b"]])
def test_classes_that_are_none(classes: list[str]) -> None:
    with pytest.raises(SettingError, match="classes"):
        ClassificationEvaluation(classes)


def test_a_threshold_is_for_two_classes_and_probabilities() -> None:
    threshold = Threshold(0.5, "f1", 3)
    with pytest.raises(SettingError, match="two classes"):
        ClassificationEvaluation(list("abc"), threshold)
    with pytest.raises(SettingError, match="probabilities"):
        ClassificationEvaluation(CLASSES, threshold).add_prediction("anna", 0, 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("case,", "name,", "lacks the column 'case'"),
        ("p_healthy,p_tumour", "healthy,tumour", "lacks the column"),
        (",ok\n", ",fine\n", "line 2, column 'status': 'fine'"),
        ("0.25", "quarter", "line 2, column 'p_healthy': 'quarter' is no probability"),
        ("0.25", "0.35", "line 2: the probabilities sum to 1.1"),
        ("s1,tumour", "s1,tumor", "there is no class 'tumor'"),
        ("bert", "anna", "added twice"),
    ],
)
def test_a_table_that_was_changed(tmp_path: Path, old: str, new: str, message: str) -> None:
    filled().write(tmp_path)
    path = tmp_path / "per_case.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        read_answers(path)
    assert caught.value.file == str(path)


def test_an_uncertainty_that_is_no_number(tmp_path: Path) -> None:
    evaluation = ClassificationEvaluation(CLASSES)
    evaluation.add("anna", 1, [0.5, 0.5], uncertainty=1.5)
    evaluation.write(tmp_path)
    path = tmp_path / "per_case.csv"
    path.write_text(path.read_text().replace("1.5", "much"))
    with pytest.raises(InputError, match="column 'uncertainty': 'much' is no number"):
        read_answers(path)


# --- the metric ---

TRUTH = torch.tensor([0, 1, 2, 2])
PROBABILITIES = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.5, 0.4], [0.2, 0.2, 0.6], [0.1, 0.7, 0.2]])
ONE_HOT = torch.nn.functional.one_hot(TRUTH, 3)


@pytest.mark.parametrize("name", MEANS)
def test_the_metric_equals_the_summary(name: str) -> None:
    metric = ClassificationMetric(name)
    metric(PROBABILITIES[:3], TRUTH[:3])
    metric(PROBABILITIES[3:], TRUTH[3:])
    wanted = mean_scores([0, 1, 2, 2], [0, 1, 2, 1], 3, PROBABILITIES.numpy())[name]
    result = metric.aggregate()
    assert result.dtype == torch.float32
    assert result.ndim == 0
    assert result.item() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    "labels",
    [
        TRUTH,
        TRUTH[:, None],
        TRUTH.float()[:, None],
        ONE_HOT,
        ONE_HOT.float(),
        [0, 1, 2, 2],
        list(TRUTH),
        list(TRUTH[:, None]),
        list(ONE_HOT),
    ],
    ids=["numbers", "column", "floats", "one-hot", "float one-hot", "list", "scalars", "ones", "list of one-hot"],
)
@pytest.mark.parametrize("decollated", [False, True])
def test_all_forms_of_labels(labels: Any, decollated: bool) -> None:
    metric = ClassificationMetric("accuracy")
    metric(list(PROBABILITIES) if decollated else PROBABILITIES, labels)
    assert metric.aggregate() == 0.75
    metric.reset()
    with pytest.raises(NoInputError, match="saw none"):
        metric.aggregate()


def test_one_hot_predictions() -> None:
    metric = ClassificationMetric("balanced_accuracy")
    metric(torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 1]), 3), TRUTH)
    assert metric.aggregate().item() == pytest.approx(2.5 / 3)


def test_a_prediction_that_is_nan_is_wrong() -> None:
    metric = ClassificationMetric("accuracy")
    broken = PROBABILITIES.clone()
    broken[0, 1] = math.nan
    metric(broken, TRUTH)
    assert metric.aggregate() == 0.5


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        (PROBABILITIES[:, :1], TRUTH, "two classes or more"),
        (PROBABILITIES[..., None], TRUTH, "two classes or more"),
        (PROBABILITIES * 5, TRUTH, "softmax"),
        (PROBABILITIES, None, "needs labels"),
        (PROBABILITIES, TRUTH + 1, "from 0 to 2"),
        (PROBABILITIES, TRUTH - 0.5, "whole numbers"),
        (PROBABILITIES, TRUTH[:3], "labels must be"),
        (PROBABILITIES, torch.ones(4, 3), "one-hot"),
    ],
)
def test_batches_that_cannot_be(predictions: torch.Tensor, labels: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        ClassificationMetric()(predictions, labels)
    assert message in str(caught.value)


def test_an_unknown_metric() -> None:
    with pytest.raises(SettingError, match="did you mean 'accuracy'"):
        ClassificationMetric("acuracy")


def test_two_classes_of_two_cases_are_told_from_numbers() -> None:
    """(2, 2) is one-hot, (2, 1) is numbers."""
    assert class_numbers(torch.tensor([[0, 1], [1, 0]]), (2, 2)).tolist() == [[1], [0]]
    assert class_numbers(torch.tensor([[1], [1]]), (2, 2)).tolist() == [[1], [1]]


# --- in an evaluator ---


class Passes(torch.nn.Module):
    """Gives back what it gets: the images of these tests are logits."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image


def evaluator(items: list[dict[str, Any]], handlers: list[Any], **more: Any) -> Any:
    from monai.data import DataLoader, Dataset
    from monai.engines import SupervisedEvaluator

    loader = DataLoader(Dataset(items), batch_size=2)
    return SupervisedEvaluator(torch.device("cpu"), loader, Passes(), val_handlers=handlers, **more)


def items() -> Iterator[dict[str, Any]]:
    for k, (row, truth) in enumerate(zip(PROBABILITIES, TRUTH.tolist(), strict=True)):
        yield {"image": row.log(), "label": truth, "case": f"case_{k}", "subject": f"s{k % 2}"}


def test_a_report_in_an_evaluator(tmp_path: Path) -> None:
    report = ClassificationReport(tmp_path, list("abc"))
    engine = evaluator(list(items()), [report])
    engine.run()
    engine.run()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["n_cases"], summary["accuracy"]["mean"]) == (4, 0.75)
    again = read_answers(tmp_path / "per_case.csv")
    assert [answer.subject for answer in again.answers.values()] == ["s0", "s1", "s0", "s1"]
    assert again.answers["case_0"].probabilities == pytest.approx([0.8, 0.1, 0.1])


def test_a_report_of_probabilities_with_a_saved_threshold(tmp_path: Path) -> None:
    threshold = Threshold(0.4, "f1", 5)
    report = ClassificationReport(tmp_path, CLASSES, "probabilities", threshold.to_json())
    evaluator([{"image": torch.tensor([0.55, 0.45]), "label": 1, "case": "anna"}], [report]).run()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["accuracy"]["mean"], summary["threshold"]) == (1.0, 0.4)


def test_an_output_that_is_nan_is_a_failed_case(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = list(items())
    broken[0]["image"] = torch.tensor([math.nan, 0, 0])
    with caplog.at_level(logging.WARNING, logger="neurobundle"):
        evaluator(broken, [ClassificationReport(tmp_path, list("abc"))]).run()
    assert json.loads((tmp_path / "summary.json").read_text())["n_failed"] == 1
    assert "case_0" in caplog.text


def test_a_case_is_named_by_its_images_file(tmp_path: Path) -> None:
    from monai.data import MetaTensor

    image = MetaTensor(torch.tensor([0.0, 1.0]), meta={"filename_or_obj": "in/anna.nii.gz"})
    evaluator([{"image": image, "label": 1}], [ClassificationReport(tmp_path, CLASSES)]).run()
    assert list(read_answers(tmp_path / "per_case.csv").answers) == ["anna"]


def test_a_case_without_any_name(tmp_path: Path) -> None:
    report = ClassificationReport(tmp_path, CLASSES)
    engine = evaluator([{"image": torch.tensor([0.0, 1.0]), "label": 1}], [report])
    engine.logger.setLevel(logging.CRITICAL)
    with pytest.raises(InputError, match="neither a case nor an image"):
        engine.run()


def test_what_a_report_refuses(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="did you mean 'logits'"):
        ClassificationReport(tmp_path, CLASSES, "logit")
    with pytest.raises(SettingError, match="threshold"):
        ClassificationReport(tmp_path, CLASSES, threshold={"value": 0.5})


@pytest.mark.parametrize("one_hot_labels", [False, True])
def test_the_metric_in_an_evaluator(one_hot_labels: bool) -> None:
    """As a config names it: decollated outputs, class numbers that MONAI makes Python's, or one-hot labels."""
    from monai.handlers import IgniteMetricHandler, from_engine
    from monai.transforms import Activationsd, AsDiscreted, Compose

    steps: list[Any] = [Activationsd(keys="pred", softmax=True)]
    if one_hot_labels:
        steps.append(AsDiscreted(keys="label", to_onehot=3))
    cases = [{**item, "label": torch.tensor([item["label"]])} if one_hot_labels else item for item in items()]
    handler = IgniteMetricHandler(
        ClassificationMetric("balanced_accuracy"), output_transform=from_engine(["pred", "label"])
    )
    engine = evaluator(cases, [], postprocessing=Compose(steps), key_val_metric={"balanced_accuracy": handler})
    engine.run()
    assert engine.state.metrics["balanced_accuracy"] == pytest.approx(2.5 / 3)


def test_the_loss_of_a_validation() -> None:
    """-ln of .5 and of .25, and of a case that failed, which gave its class the least: 1e-7."""
    metric = ClassificationMetric("nll")
    metric(torch.tensor([[0.5, 0.5], [0.75, 0.25]]), torch.tensor([0, 1]))
    assert float(metric.aggregate()) == pytest.approx((math.log(2) + math.log(4)) / 2)
    metric(torch.tensor([[math.nan, math.nan]]), torch.tensor([0]))
    assert float(metric.aggregate()) == pytest.approx((math.log(2) + math.log(4) - math.log(1e-7)) / 3)
