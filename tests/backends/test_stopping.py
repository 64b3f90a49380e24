"""The engine's early stopping: on our reports, from the history alone, with its reason."""

from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution

import tunesmith
from tunesmith.backends import Setting
from tunesmith.backends.engine import EngineBackend
from tunesmith.backends.stopping import Stopper
from tunesmith.errors import SettingError
from tunesmith.trial import CONTINUE, Report, Trial, TrialState

X = {"x": FloatDistribution(0.0, 4.0)}


def trial(number: int, x: float, *, until: int = 10, sign: float = 1.0, **details) -> Trial:
    values = [sign * (x + np.exp(-0.4 * k)) for k in range(1, until + 1)]
    reports = tuple(
        Report(100 * (k + 1), (v,), {"loss": v}, share=(k + 1) / 10, epoch=k + 1.0, **details)
        for k, v in enumerate(values)
    )
    full = until == 10
    state = TrialState.COMPLETE if full else TrialState.RUNNING
    return Trial(number, state, {"x": x}, X, reports=reports, values=(values[-1],) if full else None)


def full(sign: float = 1.0, count: int = 5) -> list[Trial]:
    return [trial(n, x, sign=sign) for n, x in enumerate((0.5, 0.1, 0.3, 0.7, 0.9)[:count])]


@pytest.mark.parametrize(("direction", "sign"), [("minimize", 1.0), ("maximize", -1.0)])
def test_a_hopeless_trial_is_stopped_with_its_reason_in_the_objectives_units(direction: str, sign: float) -> None:
    trials = full(sign)
    decision = Stopper(Setting([direction], 0, lambda: trials)).judge(trial(5, 2.0, until=5, sign=sign))
    assert decision.action == "prune"
    best, now = sign * (0.1 + np.exp(-4)), sign * (2 + np.exp(-2))
    assert f"chance to beat {best:.6g} by the end, after 50% of training at {now:.6g}" in decision.reason
    assert "by 5 full trials" in decision.reason


def test_a_hopeful_trial_goes_on() -> None:
    assert Stopper(Setting(["minimize"], 0, full)).judge(trial(5, 0.0, until=5)) == CONTINUE


def test_no_trial_is_stopped_before_four_full_ones() -> None:
    assert Stopper(Setting(["minimize"], 0, lambda: full(count=3))).judge(trial(5, 2.0, until=5)) == CONTINUE


def test_the_more_trials_were_stopped_the_surer_the_next_stop_must_be() -> None:
    running = trial(5, 2.0, until=5)
    stopped = [Trial(n, TrialState.PRUNED, {"x": 3.0}, X) for n in range(6, 5000)]
    few, many = (
        Stopper(Setting(["minimize"], 0, lambda h=h: h)) for h in ([*full(), *stopped[:5]], [*full(), *stopped])
    )
    assert few.judge(running).action == "prune"
    assert many.judge(running) == CONTINUE


def test_a_trial_that_is_nearly_done_goes_on() -> None:
    running = replace(trial(5, 3.0), state=TrialState.RUNNING, values=None)
    assert Stopper(Setting(["minimize"], 0, full)).judge(running) == CONTINUE


@pytest.mark.parametrize("compare_at", ["share", "step", "epoch"])
def test_reports_without_shares_are_compared_at_steps_or_epochs(compare_at: str) -> None:
    def bare(t: Trial) -> Trial:
        return replace(t, reports=tuple(replace(r, share=None) for r in t.reports))

    stopper = Stopper(Setting(["minimize"], 0, lambda: [bare(t) for t in full()], compare_at=compare_at))
    assert stopper.judge(bare(trial(5, 2.0, until=5))).action == "prune"


def test_trials_that_report_once_at_their_end_are_not_stopped() -> None:
    trials = [
        Trial(n, TrialState.COMPLETE, {"x": x}, X, reports=(Report(0, (x,), {}),), values=(x,))
        for n, x in enumerate((0.5, 0.1, 0.3, 0.7, 0.9))
    ]
    worst = Trial(5, TrialState.RUNNING, {"x": 4.0}, X, reports=(Report(0, (4.0,), {}),))
    assert Stopper(Setting(["minimize"], 0, lambda: trials)).judge(worst) == CONTINUE


def test_several_objectives_are_judged_by_the_metric_named() -> None:
    def two(t: Trial) -> Trial:
        reports = tuple(replace(r, values=(0.0, 0.0)) for r in t.reports)
        return replace(t, reports=reports, values=t.values and (0.0, 0.0))

    history, running = [two(t) for t in full()], two(trial(5, 2.0, until=5))
    alone = Setting(["minimize", "minimize"], 0, lambda: history)
    assert Stopper(alone).judge(running) == CONTINUE
    decision = Stopper(replace(alone, prune_metric=("loss", "minimize"))).judge(running)
    assert "chance to beat loss 0.118" in decision.reason
    with pytest.raises(SettingError, match="prune_metric is"):
        Stopper(replace(alone, prune_metric=("loss", "down")))


def test_a_pruned_trial_counts_as_what_it_would_have_come_to() -> None:
    stopped = replace(trial(5, 0.6, until=3), state=TrialState.PRUNED)
    expected = Stopper(Setting(["maximize"], 0, list)).expected(
        [*full(-1.0), replace(stopped, reports=trial(5, 0.6, until=3, sign=-1.0).reports)]
    )
    value, spread = expected[5]
    assert value == pytest.approx(-(0.6 + np.exp(-4)), abs=0.05)
    assert 0 < spread < 0.1


def test_reports_that_are_not_finite_are_no_trouble() -> None:
    odd = replace(trial(6, 0.2), reports=(Report(100, (float("nan"),), share=0.1),))
    stopper = Stopper(Setting(["minimize"], 0, lambda: [*full(), odd]))
    assert stopper.judge(odd) == CONTINUE
    assert stopper.judge(trial(7, 2.0, until=5)).action == "prune"


def test_only_known_pruners_are_taken() -> None:
    with pytest.raises(SettingError, match="pruner must be"):
        EngineBackend(Setting(["minimize"], 0, list), pruner="median")


def test_a_search_stops_hopeless_trials_early_and_can_be_told_not_to(tmp_path) -> None:
    def objective(live: tunesmith.LiveTrial) -> float:
        x = live.suggest_float("x", 0.0, 4.0)
        for k in range(1, 11):
            live.report(x + np.exp(-0.4 * k), k, share=k / 10)
            if live.should_prune():
                raise optuna.TrialPruned
        return x + np.exp(-4)

    first = [{"x": x} for x in (0.1, 0.3, 0.5, 0.7, 3.0, 4.0)]
    with_it, without = (
        tunesmith.search(objective, 6, directory=tmp_path / name, progress=False, enqueue=first, seed=0, **options)
        for name, options in (("with", {}), ("without", {"pruner": None}))
    )
    stopped = [t for t in with_it.trials if t.state is TrialState.PRUNED]
    assert stopped
    assert all("chance to beat" in (t.reason or "") for t in stopped)
    assert {t.state for t in without.trials} == {TrialState.COMPLETE}
