"""What a ModelMonitor may ask for, and what it is told when it may not."""

import json

import pytest
from pydantic import ValidationError

from detectors.performance.settings import CLASSIFICATION, METRICS, REGRESSION, Performance

COLUMNS = [("class", "categorical"), ("p_yes", "numeric"), ("p_no", "numeric"), ("fare", "numeric")]


def test_it_is_off_unless_metrics_are_named():
    assert Performance() == Performance.model_validate({})
    assert Performance().problems([]) == []


def test_it_is_written_as_a_monitor_is():
    section = Performance.model_validate(
        {"metrics": ["rocAuc"], "probabilities": {"yes": "p_yes"}, "labelRetention": "3d", "limits": {"rocAuc": 0.8}},
        by_alias=True,
        by_name=False,
    )
    assert section.problems(COLUMNS) == []
    assert json.loads(section.model_dump_json(by_alias=True))["labelRetention"] == "3d"
    assert set(Performance.model_json_schema()["properties"]["metrics"]["items"]["enum"]) == set(METRICS)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"metrics": ["mae", "mae"]}, "'mae' is named twice"),
        ({"metrics": ["mae", "f1"]}, "metrics has 'mae', which is for numbers, and 'f1', which is for classes"),
        ({"metrics": ["area"]}, "metrics"),
        ({"label": "truth"}, "label is given, but metrics is empty"),
        ({"metrics": ["mae"], "limits": {"rmse": 1}}, "limits has 'rmse', which is not among metrics (mae)"),
        (
            {"metrics": ["meanError"], "limits": {"meanError": -1}},
            "limits has meanError -1: either side of zero is meant",
        ),
        ({"metrics": ["mae"], "labelWait": "0s"}, "labelWait 0s is no time at all"),
        ({"metrics": ["mae"], "labelRetention": "0s"}, "labelRetention 0s is no time at all"),
        ({"metrics": ["f1"], "threshold": 0.5}, "threshold 0.5 needs positive"),
        ({"metrics": ["f1"], "threshold": 1.5}, "threshold"),
        (
            {"metrics": ["f1"], "threshold": 0.5, "positive": "1", "probabilities": {"1": "p_yes"}},
            "threshold and probabilities are both given",
        ),
        ({"metrics": ["f1"], "probabilities": {"yes": "p", "no": "p"}}, "probabilities has 'p' for two classes"),
        (
            {"metrics": ["f1"], "probabilities": {"yes": "p"}, "positive": "no"},
            "positive 'no' has no probability: probabilities has 'yes'",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(given, text):
    with pytest.raises(ValidationError) as error:
        Performance.model_validate(given)
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("given", "place", "text"),
    [
        (
            {"metrics": ["f1"], "prediction": "klass"},
            ("prediction",),
            "'klass' is no prediction of the model: those are: class,",
        ),
        ({"metrics": ["mae"]}, ("metrics", 0), "'mae' is not for this prediction: 'class' is a class; those that fit"),
        (
            {"metrics": ["f1"], "prediction": "fare"},
            ("metrics", 0),
            "if it is a probability give threshold and positive",
        ),
        ({"metrics": ["f1", "tpr"]}, ("metrics", 1), "'tpr' needs positive"),
        ({"metrics": ["rocAuc"]}, ("metrics", 0), "'rocAuc' needs probabilities"),
        (
            {"metrics": ["calibrationError"], "probabilities": {"yes": "p_yes", "no": "p_no"}},
            ("metrics", 0),
            "'calibrationError' needs positive",
        ),
        ({"metrics": ["f1"], "threshold": 0.5, "positive": "1"}, ("threshold",), "'class' is categorical"),
        (
            {"metrics": ["f1"], "probabilities": {"yes": "p"}},
            ("probabilities", "yes"),
            "'p' is no prediction of the model",
        ),
        ({"metrics": ["f1"], "probabilities": {"yes": "class"}}, ("probabilities", "yes"), "'class' is categorical"),
        (
            {"metrics": ["mae"], "prediction": "fare", "positive": "1"},
            ("positive",),
            "'fare' is numeric, so it has no classes",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_told_with_its_place(given, place, text):
    ((found, words),) = Performance.model_validate(given).problems(COLUMNS)
    assert found == place
    assert text in words


def test_a_model_without_predictions_has_no_performance():
    ((place, text),) = Performance(metrics=("mae",)).problems([])
    assert place == ("metrics",)
    assert "model.predictions is empty" in text


def test_too_many_classes_are_not_ranked():
    names = [f"p{j}" for j in range(21)]
    section = Performance(metrics=("rocAuc", "logLoss"), probabilities={name: name for name in names})
    ((place, text),) = section.problems([("class", "categorical"), *((name, "numeric") for name in names)])
    assert place == ("metrics", 0)
    assert "at most 20 classes, probabilities has 21" in text


def test_a_metric_fits_numbers_or_classes():
    of_numbers = Performance(metrics=tuple(REGRESSION), prediction="fare")
    of_classes = Performance(metrics=tuple(CLASSIFICATION), probabilities={"yes": "p_yes"}, positive="yes")
    of_scores = Performance(metrics=tuple(CLASSIFICATION), prediction="p_yes", threshold=0.5, positive="1")
    assert [section.problems(COLUMNS) for section in (of_numbers, of_classes, of_scores)] == [[], [], []]
    assert [section.task(COLUMNS) for section in (of_numbers, of_classes, of_scores)] == [
        "regression",
        "classification",
        "classification",
    ]


def test_an_alarm_is_beyond_the_limit_on_the_bad_side():
    section = Performance(metrics=("f1", "logLoss"), limits={"logLoss": 0.4, "f1": 0.8})
    assert section.alarms({"f1": 0.8, "logLoss": 0.4}) == ()
    assert section.alarms({"f1": 0.79, "logLoss": 0.41}) == ("logLoss", "f1")
    assert section.alarms({"f1": float("nan")}) == ()
