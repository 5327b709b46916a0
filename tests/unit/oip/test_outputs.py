"""Which outputs there are with and without a readout, and what they hold."""

from __future__ import annotations

import numpy as np
import pytest

from dtesn_api.spec import ModelConfiguration
from dtesn_sidecar.errors import InvalidInput
from dtesn_sidecar.model.readout.value import OutputLayer, Readout
from dtesn_sidecar.oip.outputs import chosen, model_metadata, offered, outputs_of
from dtesn_sidecar.oip.requests import asked
from dtesn_sidecar.outputs import predicted

MODEL = ModelConfiguration(membrane_depth=2, esn_size=32)
FEATURES = np.arange(3 * 2 * 2 * 32, dtype=np.float32).reshape(3, 2, 2, 32) / 400


def readout(outputs: int, labels: tuple[str, ...] | None) -> Readout:
    rng = np.random.default_rng(1)
    return Readout(MODEL, OutputLayer(2, 32, rng.normal(size=(outputs, 128)), rng.normal(size=outputs)), labels)


REGRESSION, CLASSIFIER = readout(3, None), readout(2, ("no", "yes"))


def test_without_a_readout_there_are_features() -> None:
    assert offered(None, 2, 32) == ("FEATURES",)
    assert [(each.name, each.shape) for each in model_metadata(MODEL, None).outputs] == [("FEATURES", [-1, 2, 2, 32])]


def test_a_readout_brings_its_outputs_where_it_fits() -> None:
    assert offered(REGRESSION, 2, 32) == ("FEATURES", "PREDICTION")
    assert offered(CLASSIFIER, 2, 32) == ("FEATURES", "PREDICTION", "SCORES")
    assert offered(CLASSIFIER, 1, 32) == offered(CLASSIFIER, 2, 64) == ("FEATURES",)


@pytest.mark.parametrize("fitted", [REGRESSION, CLASSIFIER])
def test_metadata_and_outputs_agree(fitted: Readout) -> None:
    predictions = [predicted(fitted, fitted.layer.apply(row)) for row in FEATURES]
    found = outputs_of(offered(fitted, 2, 32), FEATURES, predictions, fitted)
    described = model_metadata(MODEL, fitted).outputs
    assert [(each.name, each.datatype) for each in found] == [(each.name, each.datatype) for each in described]
    for output, tensor in zip(found, described, strict=True):
        assert list(output.shape) == [3, *tensor.shape[1:]]
        assert np.shape(output.values) == output.shape


def test_a_classifier_gives_labels_and_scores_in_their_order() -> None:
    predictions = [predicted(CLASSIFIER, CLASSIFIER.layer.apply(row)) for row in FEATURES]
    labels, scores = outputs_of(["PREDICTION", "SCORES"], None, predictions, CLASSIFIER)
    assert scores.parameters == {"labels": '["no","yes"]'}
    assert isinstance(scores.values, np.ndarray)
    assert scores.values.sum(axis=1) == pytest.approx(1)
    assert list(labels.values) == [("no", "yes")[int(np.argmax(row))] for row in scores.values]


def test_outputs_come_as_asked_for_or_all() -> None:
    names = ("FEATURES", "PREDICTION")
    assert chosen(asked("", {}, []), names) == (("FEATURES", False), ("PREDICTION", False))
    assert chosen(asked("", {"binary_data_output": True}, []), names) == (("FEATURES", True), ("PREDICTION", True))
    assert chosen(asked("", {}, [("PREDICTION", {"binary_data": True})]), names) == (("PREDICTION", True),)
    with pytest.raises(InvalidInput, match=r"outputs\[0\].name is 'SCORES', expected one of FEATURES, PREDICTION"):
        chosen(asked("", {}, [("SCORES", {})]), names)
