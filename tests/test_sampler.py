"""The sampler is held against the conformance tests that Optuna ships for samplers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase

from tunesmith.backends import Setting
from tunesmith.backends.engine import EngineBackend
from tunesmith.sampler import Sampler
from tunesmith.trial import Trial, TrialState


class Cases:
    """What Optuna's cases call to get a sampler."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return Sampler


class TestConformance(Cases, BasicSamplerTestCase):
    """Optuna's cases for every sampler."""


class TestMultiObjectiveConformance(Cases, MultiObjectiveSamplerTestCase):
    """Optuna's cases for samplers that take several objectives."""


class TestRelativeConformance(Cases, RelativeSamplerTestCase):
    """Optuna's cases for samplers that know the space."""


def bowl(trial: optuna.Trial) -> float:
    """Lowest, 0, at rate 0.01, units 64 and the choice "b"."""
    rate = trial.suggest_float("rate", 1e-5, 1.0, log=True)
    units = trial.suggest_int("units", 8, 512, log=True)
    kind = trial.suggest_categorical("kind", ["a", "b", None])
    return (math.log10(rate) + 2) ** 2 + math.log2(units / 64) ** 2 + (kind != "b")


def searched(sampler: BaseSampler, trials: int, direction: str = "minimize") -> optuna.Study:
    """A study of `bowl`, or of its negative when maximised."""
    study = optuna.create_study(sampler=sampler, direction=direction)
    sign = 1.0 if direction == "minimize" else -1.0
    study.optimize(lambda trial: sign * bowl(trial), n_trials=trials)
    return study


def test_same_seed_and_history_give_the_same_suggestions() -> None:
    assert [t.params for t in searched(Sampler(3), 12).trials] == [t.params for t in searched(Sampler(3), 12).trials]
    assert searched(Sampler(3), 2).trials[1].params != searched(Sampler(4), 2).trials[1].params


def test_the_first_trial_stands_in_the_middle() -> None:
    assert searched(Sampler(3), 1).trials[0].params == pytest.approx({"rate": 10**-2.5, "units": 64, "kind": "b"})


def test_trials_asked_for_before_any_result_are_spread_as_the_backends() -> None:
    study = optuna.create_study(sampler=Sampler(3))
    asked = [study.ask() for _ in range(8)]
    for trial in asked:
        bowl(trial)
    found = [t.params for t in study.trials]
    space = {name: study.trials[0].distributions[name] for name in sorted(study.trials[0].distributions)}
    trials: list[Trial] = []
    backend = EngineBackend(Setting(["minimize"], 3, lambda: trials, space=space))
    for number in range(8):
        params = backend.ask(number, {}).params
        trials.append(Trial(number=number, state=TrialState.RUNNING, params=params, distributions=space))
    assert found[1:] == [t.params for t in trials[1:]]
    assert found[0] == pytest.approx(trials[0].params)
    rates = sorted(math.log10(params["rate"]) / 5 + 1 for params in found[1:])
    assert [int(8 * at) for at in rates] == sorted({int(8 * at) for at in rates})  # one in each eighth, but for one


def test_a_trial_that_overtakes_the_first_does_not_take_the_middle() -> None:
    study = optuna.create_study(sampler=Sampler(3))
    first, second = study.ask(), study.ask()
    bowl(second)
    bowl(first)
    assert second.params["rate"] != pytest.approx(10**-2.5)
    assert first.params["rate"] == pytest.approx(10**-2.5)


def test_numpys_global_random_state_is_left_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002  the global state is what is tested
    searched(Sampler(0), 8)
    assert (before == np.random.get_state()[1]).all()  # noqa: NPY002


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_bowl_is_solved_where_random_search_is_far_off(direction: str) -> None:
    ours = [abs(searched(Sampler(seed), 30, direction).best_value) for seed in range(3)]
    random = [abs(searched(optuna.samplers.RandomSampler(seed=seed), 30).best_value) for seed in range(3)]
    assert np.mean(ours) < 0.2 * np.mean(random)


def test_failed_trials_do_not_stop_the_search() -> None:
    def fails(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        if x > 0.5:
            raise MemoryError
        return (x - 0.4) ** 2

    study = optuna.create_study(sampler=Sampler(0))
    study.optimize(fails, n_trials=25, catch=(MemoryError,))
    assert study.best_value < 1e-3
    late = [t for t in study.trials[12:] if t.state is optuna.trial.TrialState.FAIL]
    assert len(late) < len(study.trials[12:]) / 2
