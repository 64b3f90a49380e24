"""The engine as a backend: rebuilt from the history alone."""

import dataclasses
import tempfile

import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution

import tunesmith
from tunesmith.backends import Setting
from tunesmith.backends.engine import EngineBackend
from tunesmith.errors import SpaceError
from tunesmith.trial import CONTINUE, Report, Trial, TrialState

X = FloatDistribution(0.0, 1.0)


def finished(number: int, x: float, state: TrialState = TrialState.COMPLETE, sign: float = 1.0) -> Trial:
    value = sign * (x - 0.3) ** 2
    values = (value,) if state is TrialState.COMPLETE else None
    report = Report(1, (value,))
    return Trial(number, state, params={"x": x}, distributions={"x": X}, reports=(report,), values=values)


def history(sign: float = 1.0) -> list[Trial]:
    return [finished(n, x, sign=sign) for n, x in enumerate((0.05, 0.2, 0.45, 0.6, 0.8, 0.95, 0.35, 0.1))]


def backend(trials: list[Trial], direction: str = "minimize", **options: object) -> EngineBackend:
    return EngineBackend(Setting([direction], 0, lambda: trials, **options))


@pytest.mark.parametrize(("direction", "sign"), [("minimize", 1.0), ("maximize", -1.0)])
def test_it_goes_where_the_objective_is_best(direction: str, sign: float) -> None:
    proposal = backend(history(sign), direction).ask(8, {})
    assert proposal.params["x"] == pytest.approx(0.3, abs=0.05)
    assert proposal.why["how"] == "model"


def test_a_backend_made_anew_proposes_the_same() -> None:
    trials = history()
    assert backend(trials).ask(8, {}).params == backend(trials).ask(8, {}).params


def test_fixed_values_are_kept() -> None:
    assert backend(history()).ask(8, {"x": 0.77, "other": 1}).params == {"x": 0.77, "other": 1}


def test_unknown_names_begin_in_the_middle() -> None:
    first = backend([]).ask(0, {})
    assert first.params == {}
    assert first.draw("x", X) == pytest.approx((X.low + X.high) / 2)


def test_of_trials_that_begin_together_one_is_in_the_middle() -> None:
    begun = [Trial(n, TrialState.RUNNING) for n in range(3)]
    first, second, third = (backend(begun).ask(n, {}) for n in range(3))
    places = [p.draw("x", X) for p in (first, second, third)]
    assert places[0] == 0.5
    assert len({*places}) == 3
    assert [p.why["text"] for p in (first, second)] == [
        "as given, or the middle of each range",
        "a first look at the space",
    ]


def test_names_that_are_known_but_not_proposed_are_drawn_keyed_by_seed_and_trial() -> None:
    first, again, later = (backend(history()).ask(n, {}) for n in (8, 8, 9))
    assert first.draw("x", X) == again.draw("x", X) != later.draw("x", X)


def test_a_known_space_is_proposed_from_the_first_trial() -> None:
    assert 0.0 <= backend([], space={"x": X}).ask(0, {}).params["x"] <= 1.0


def test_a_range_the_user_changed_holds_from_then_on() -> None:
    trials = history()
    wider = {"x": FloatDistribution(0.5, 2.0)}
    trials.append(dataclasses.replace(finished(8, 0.9), distributions=wider))
    assert 0.5 <= backend(trials).ask(9, {}).params["x"] <= 2.0


def test_running_trials_and_failures_are_accounted_for() -> None:
    running = Trial(8, TrialState.RUNNING, params={"x": 0.3}, distributions={"x": X})
    failed = finished(9, 0.31, TrialState.FAILED)
    pruned = finished(10, 0.7, TrialState.PRUNED)
    trials = history()
    alone = backend(trials).ask(11, {}).params["x"]
    assert backend([*trials, running, failed, pruned]).ask(11, {}).params["x"] != alone


def test_a_kind_of_distribution_that_optuna_lacks_is_refused() -> None:
    class Odd(BaseDistribution):
        def to_internal_repr(self, param_value_in_external_repr: object) -> float:
            return float(param_value_in_external_repr)

        def _contains(self, param_value_in_internal_repr: float) -> bool:
            return param_value_in_internal_repr == 0

        def single(self) -> bool:
            return True

    with pytest.raises(SpaceError, match="float, int and categorical"):
        backend([]).ask(0, {}).draw("x", Odd())


def test_without_a_pruner_every_trial_goes_on() -> None:
    assert backend(history()).judge(finished(0, 0.9)) == CONTINUE


def test_a_search_with_a_pruner_prunes_and_says_why() -> None:
    def objective(trial: tunesmith.LiveTrial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        for step in range(4):
            trial.report(x, step, share=(step + 1) / 4)
            if trial.should_prune():
                raise optuna.TrialPruned
        return x

    pruner = optuna.pruners.MedianPruner(n_startup_trials=3)
    study = tunesmith.search(objective, n_trials=16, directory=tempfile.mkdtemp(), pruner=pruner, seed=0)
    pruned = [t for t in study.trials if t.state is TrialState.PRUNED]
    assert pruned
    assert all("MedianPruner" in (t.reason or "") for t in pruned)


def test_it_says_why_in_the_objectives_direction() -> None:
    why = backend(history(-1.0), "maximize").ask(8, {}).why
    at, low, high = why["expected"][0]
    assert low <= at <= high
    assert at == pytest.approx(0.0, abs=0.05)
    assert "expects" in why["text"]
    assert all(f"{n}" in why["text"] for n in why["nearest"])


def test_failures_that_say_nothing_of_the_parameters_are_not_learned_from() -> None:
    trials = history()
    alone = backend(trials).ask(9, {}).params
    for reason, same in (("lost: signal 9", True), ("timeout: 60 s", True), ("oom: CUDA", False), ("nan: loss", False)):
        failed = dataclasses.replace(finished(8, 0.31, TrialState.FAILED), reason=reason)
        assert (backend([*trials, failed]).ask(9, {}).params == alone) is same


def test_constraints_that_were_set_are_kept_to() -> None:
    trials = [dataclasses.replace(t, attrs={"constraint:size": t.params["x"] - 0.2}) for t in history()]
    assert backend(trials).ask(8, {}).params["x"] < 0.25
