"""The choices that a trial is given: of every kind that a record can hold, and of no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tunesmith
from tunesmith.errors import SearchFailedError


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution")  # Optuna's, of its own storages
@pytest.mark.parametrize("kind", [tuple, list])
@pytest.mark.parametrize("backend", ["tunesmith", "optuna"])
def test_choices_that_are_sequences_are_given_as_they_are_and_learned_from(tmp_path, backend, kind):
    given = []

    def objective(trial):
        sizes = trial.suggest_categorical("sizes", [kind(c) for c in ((8, 8), (4, 4), (2, 2))])
        given.append(type(sizes))
        return sizes[0] + trial.suggest_float("x", 0, 1)

    settings = {"directory": tmp_path, "backend": backend, "seed": 1, "progress": False}
    tunesmith.search(objective, 8, enqueue=[{"sizes": kind((8, 8)), "x": 0.5}], **settings)
    study = tunesmith.search(objective, 16, resume=True, **settings)
    assert {*given} == {kind}
    assert not [t.reason for t in study.trials if t.reason]
    assert len({tuple(t.params.items()) for t in study.trials}) == 16
    assert study.best_trial.params["sizes"] == (2, 2)
    assert tuple(study.to_optuna().best_params["sizes"]) == (2, 2)
    assert next(iter(study.importances())) == "sizes"


@pytest.mark.parametrize("backend", ["tunesmith", "optuna"])
@pytest.mark.parametrize(
    "choices", [np.array([8, 16]), [np.float32(0.5), np.float32(2)], [np.True_, np.False_], np.array(["a", "b"])]
)
def test_choices_that_are_numpys_are_pythons(tmp_path, backend, choices):
    given = []

    def objective(trial):
        given.append(trial.suggest_categorical("x", choices))
        return float(given[-1] == choices[0])

    study = tunesmith.search(objective, 6, backend=backend, directory=tmp_path, seed=0, progress=False)
    plain = [c.item() for c in choices]
    assert set(given) == set(plain) == {t.params["x"] for t in study.trials}
    assert {type(v) for v in given} == {type(plain[0])}
    again = tunesmith.load_study(tmp_path)
    assert [t.params["x"] for t in again.trials] == given


@pytest.mark.parametrize(
    ("choices", "text"),
    [
        (
            [Path, dict],
            r"a choice must be what JSON can hold .* got <class 'pathlib.Path'> for \"x\"; suggest its name",
        ),
        ([len], r"got <built-in function len> for \"x\""),
        ("abc", r"choices must be a list, got the text 'abc' for \"x\"; write \['abc'\]"),
    ],
)
def test_choices_that_no_record_can_hold_are_refused_with_the_parameters_name(tmp_path, choices, text):
    with pytest.raises(SearchFailedError, match=text):
        tunesmith.search(lambda t: t.suggest_categorical("x", choices), 3, directory=tmp_path, progress=False)
