"""The backend "sigopt" in lite mode: SigOpt's optimiser in this process."""

from __future__ import annotations

import sys

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

import tunesmith
from tunesmith.backends.sigopt import SigOptBackend
from tunesmith.backends.sigopt_lite import Observed, suggest
from tunesmith.backends.sigopt_space import Coded
from tunesmith.errors import MissingDependencyError, SettingError
from tunesmith.testing.backends import SPACE, BackendContract, TwoObjectives
from tunesmith.trial import TrialState

pytest.importorskip("sigoptlite", reason="SigOpt's optimiser is not installed")


@pytest.fixture(autouse=True)
def _no_server(monkeypatch):
    monkeypatch.delenv("SIGOPT_API_URL", raising=False)


class TestLite(BackendContract):
    def make(self, setting):
        return SigOptBackend(setting)


class TestLiteForTwo(TwoObjectives):
    def make(self, setting):
        return SigOptBackend(setting)


def bowl(trial):
    x, kind = trial.suggest_float("x", -1, 1), trial.suggest_categorical("kind", ["a", None])
    return (x - 0.3) ** 2 + (kind is None)


def go(directory, n_trials, objective=bowl, **settings):
    return tunesmith.search(
        objective, n_trials, directory=directory, backend="sigopt", progress=False, **{"seed": 1, **settings}
    )


def test_its_gaussian_process_takes_over_and_finds_the_bottom(tmp_path):
    study = go(tmp_path, 9)
    by = [t.why["sigopt"] for t in study.trials]
    assert by[0].startswith("random, for the space is not known")
    assert by[1] == "random"
    assert by[-1] == "SigOpt's Gaussian process"
    assert study.best_trial.values[0] < 0.1


def test_a_resumed_search_goes_on_as_an_uninterrupted_one_also_when_the_model_proposes(tmp_path):
    whole = go(tmp_path / "whole", 8)
    go(tmp_path / "parts", 6)
    parts = go(tmp_path / "parts", 8, resume=True)
    assert [t.params for t in parts.trials] == [t.params for t in whole.trials]


METRICS = [{"name": "objective", "objective": "minimize", "strategy": "optimize"}]
LINE = Coded({"x": FloatDistribution(0.0, 1.0)})


def observed(*points):
    return [Observed({"x": x}, None if value is None else {"objective": value}) for x, value in points]


def test_the_model_learns_from_failures_and_leaves_numpys_generator_alone():
    before = np.random.get_state()[1].tolist()  # noqa: NPY002  the global state is what is tested
    data = observed((0.1, 0.5), (0.2, 0.4), (0.3, 0.3), (0.4, 0.2), (0.5, 0.1), (0.7, None), (0.9, None))
    found, by = suggest(LINE, METRICS, data, [], budget=20, seed=5)
    assert by == "SigOpt's Gaussian process"
    assert 0.3 < found["x"] < 0.8
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_open_suggestions_are_taken_into_account():
    data = observed((0.0, 1.0), (0.25, 0.5), (0.4, 0.1), (0.6, 0.12), (1.0, 1.0))
    first, _ = suggest(LINE, METRICS, data, [], budget=20, seed=5)
    second, _ = suggest(LINE, METRICS, data, [first], budget=20, seed=5)
    assert abs(first["x"] - second["x"]) > 1e-3


def test_a_failure_of_the_optimiser_is_told_and_a_random_point_taken():
    data = observed(*[(0.2, 1e308), (0.4, -1e308), (0.6, 1e308), (0.8, 0.0), (0.1, 1.0)])
    found, by = suggest(LINE, METRICS, data, [], budget=20, seed=5)
    assert 0 <= found["x"] <= 1
    assert by == "SigOpt's Gaussian process" or by.startswith("random, for SigOpt's optimiser failed: ")


def test_a_metric_with_a_threshold_is_learnt(tmp_path):
    def slow(trial):
        x = trial.suggest_float("x", 0, 1)
        trial.report(x, 1, metrics={"latency": 1 - x})
        return x

    limit = {"name": "latency", "strategy": "constraint", "objective": "minimize", "threshold": 0.5}
    study = go(tmp_path, 9, slow, metrics=[limit])
    late = [t.params["x"] for t in study.trials[6:]]
    assert all(t.why["sigopt"] == "SigOpt's Gaussian process" for t in study.trials[6:])
    assert max(late) > 0.35  # without the limit it goes to 0


def test_a_metric_that_a_trial_lacks_fails_for_sigopt_with_a_warning(tmp_path):
    limit = {"name": "latency", "strategy": "constraint", "threshold": 0.5}
    with pytest.warns(UserWarning, match='trial 0 has no "latency"'):
        study = go(tmp_path, 3, metrics=[limit])
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 3


def test_a_pruner_stops_trials(tmp_path):
    def learning(trial):
        x = trial.suggest_float("x", 0, 1)
        for step in (1, 2):
            trial.report(x, step, share=step / 2)
            if trial.should_prune():
                raise optuna.TrialPruned
        return x

    study = go(tmp_path, 8, learning, pruner=optuna.pruners.ThresholdPruner(upper=0.5))
    assert all((t.state is TrialState.PRUNED) == (t.params["x"] > 0.5) for t in study.trials)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "remote"}, 'mode must be "api" or "lite"'),
        ({"project": "p"}, "set SIGOPT_API_URL"),
        ({"experiment": 3}, "set SIGOPT_API_URL"),
        ({"metrics": [{"name": "m", "strategy": "optimize"}]}, 'strategy "constraint" or "store"'),
        ({"metrics": [{"name": "m", "strategy": "constraint"}]}, "needs a threshold"),
        ({"metrics": [{"name": "objective", "strategy": "store"}]}, '"objective" twice'),
        ({"metrics": [{"name": "m", "strategy": "store", "threshold": 1}]}, "has no threshold"),
        ({"metrics": [{"name": "m", "strategy": "store", "objective": "min"}]}, 'must be "minimize" or "maximize"'),
        ({"metrics": [{"name": "m", "strategy": "store", "unit": "s"}]}, "got 'unit' too"),
        ({"metrics": [{"name": n, "strategy": "constraint", "threshold": 1} for n in "abcde"]}, "takes 4 metrics"),
    ],
)
def test_options_that_cannot_be_are_refused_before_any_trial(tmp_path, options, message):
    with pytest.raises(SettingError, match=message):
        go(tmp_path, 2, lambda _trial: pytest.fail("a trial was run"), **options)


def test_without_the_package_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sigoptlite.sources", None)
    with pytest.raises(MissingDependencyError, match="pip install --no-deps sigoptlite libsigopt"):
        go(tmp_path, 2)


CODED = Coded(
    {
        **SPACE,
        "one": CategoricalDistribution(("only",)),
        "batch": CategoricalDistribution((64, 8, 16)),
        "many": IntDistribution(0, 5000, step=10),
        "texts": CategoricalDistribution(("1", 1, "")),
    }
)


def test_every_kind_of_parameter_survives_the_way_to_sigopt_and_back():
    params = {
        "x": 0.5, "lr": 1e-5, "step": 0.75, "n": 64, "even": 6, "kind": None, "batch": 8, "many": 130, "texts": 1,
    }  # fmt: skip
    assert CODED.params(CODED.assignments(params)) == params
    for value in SPACE["kind"].choices:
        back = CODED.params(CODED.assignments({**params, "kind": value}))["kind"]
        assert back is value


def test_json_and_logarithms_do_not_push_values_out_of_the_space():
    given = {"lr": 0.10000000000000002, "n": 64.00000001, "step": 1, "many": 134.0, "batch": 16.0}
    assert CODED.params(given) == {"lr": 0.1, "n": 64, "step": 1.0, "many": 130, "batch": 16}


def test_a_parameter_with_one_value_is_not_sigopts_business():
    assert "one" not in CODED.names
    assert len(CODED.parameters) == len(CODED.space) - 1


def test_conditions_become_conditionals():
    space = {
        "optimizer": CategoricalDistribution(("sgd", "adam")),
        "layers": IntDistribution(1, 2),
        "momentum": FloatDistribution(0, 1),
        "units": IntDistribution(1, 9),
        "lr": FloatDistribution(0, 1),
    }
    coded = Coded(space, {"momentum": {"optimizer": ["sgd"]}, "units": {"layers": [2]}})
    assert coded.conditionals == [
        {"name": "optimizer", "values": ["sgd", "adam"]},
        {"name": "layers", "values": ["1", "2"]},
    ]
    assert {p["name"]: p.get("conditions") for p in coded.parameters} == {
        "momentum": {"optimizer": ["sgd"]}, "units": {"layers": ["2"]}, "lr": None,
    }  # fmt: skip
    given = {"optimizer": "adam", "layers": 2, "units": 3, "lr": 0.5}
    assert coded.assignments(given) == {"optimizer": "adam", "layers": "2", "units": 3, "lr": 0.5}
    assert coded.params(coded.assignments(given)) == given
