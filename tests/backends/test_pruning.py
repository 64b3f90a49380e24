"""Optuna's pruners on our reports: what is compared, when, and what is said."""

from __future__ import annotations

import math

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.pruners import (
    HyperbandPruner,
    MedianPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    ThresholdPruner,
)

from tunesmith.backends import Setting
from tunesmith.backends.pruning import Judge
from tunesmith.errors import SettingError
from tunesmith.trial import Report, Trial, TrialState


def trial(number, reports, state=TrialState.RUNNING, values=None):
    return Trial(number, state, reports=tuple(reports), values=values)


def curve(*values, every=1, shares=True, **details):
    n = len(values)
    return [Report(k * every, (v,), share=k / n if shares else None, **details) for k, v in enumerate(values, start=1)]


def judge(pruner=None, trials=(), directions=("minimize",), **setting):
    pruner = MedianPruner(n_startup_trials=1) if pruner is None else pruner
    return Judge(pruner, Setting(directions, 3, lambda: tuple(trials), **setting))


def done(number, *values, **details):
    return trial(number, curve(*values, **details), TrialState.COMPLETE, (values[-1],))


def test_a_trial_worse_than_the_median_is_pruned_and_told_why():
    decision = judge(trials=[done(0, 1.0, 0.5), done(1, 0.8, 0.4)]).judge(trial(2, curve(2.0, 1.5)[:1]))
    assert decision.action == "prune"
    assert decision.reason == "pruned: 2 at 50 % of training (best of the others there: 0.8), by MedianPruner"


@pytest.mark.parametrize(("direction", "stops"), [("minimize", True), ("maximize", False)])
def test_the_direction_decides_what_is_worse(direction, stops):
    found = judge(trials=[done(0, 1.0, 0.5)], directions=(direction,)).judge(trial(1, curve(2.0, 1.5)[:1]))
    assert (found.action == "prune") is stops


def test_trials_with_other_batch_sizes_meet_at_equal_shares():
    small_steps, large_steps = done(0, 1.0, 0.6, 0.3, 0.2, every=100), trial(1, curve(1.1, 0.5)[:1])
    # half way it has 1.1 where the other has 0.6; at equal steps nothing could be compared
    assert judge(trials=[small_steps]).judge(large_steps).action == "prune"
    assert judge(trials=[small_steps], compare_at="step").judge(large_steps).action == "continue"


def test_between_two_reports_the_earlier_one_stands():
    known = judge(trials=[done(0, 1.0, 0.1)])  # known at 50 % and 100 %
    assert known.judge(trial(1, [Report(1, (0.5,), share=0.75)])).action == "continue"  # 1.0 stands there
    assert known.judge(trial(2, [Report(1, (1.5,), share=0.75)])).action == "prune"
    assert known.judge(trial(3, [Report(1, (1.5,), share=0.25)])).action == "continue"  # nothing is known there


def test_what_stopped_early_and_was_completed_stands_to_the_end():
    early = trial(0, curve(1.0, 0.2, 0.1, 0.1)[:2], TrialState.COMPLETE, (0.2,))
    assert judge(trials=[early]).judge(trial(1, [Report(9, (0.3,), share=0.9)])).action == "prune"


def test_what_was_pruned_is_unknown_after_its_end():
    pruned = trial(1, curve(1.0, 0.2, 0.1, 0.1)[:2], TrialState.PRUNED)
    best = judge(trials=[done(0, 9.0, 9.0), pruned]).judge(trial(2, [Report(9, (9.9,), share=0.9)]))
    assert "best of the others there: 9)" in best.reason


@pytest.mark.parametrize("at", ["epoch", "examples"])
def test_trials_can_be_compared_at_epochs_and_examples(at):
    before = Trial(0, TrialState.COMPLETE, reports=(Report(10, (1.0,), epoch=1.0, examples=640),), values=(1.0,))
    same_point = trial(1, [Report(77, (2.0,), epoch=1.0, examples=640)])
    other_point = trial(2, [Report(10, (2.0,), epoch=2.0, examples=1280)])
    found = judge(trials=[before], compare_at=at)
    assert found.judge(same_point).action == "prune"
    assert found.judge(other_point).action == "continue"


def test_reports_without_a_share_are_compared_at_steps_of_any_size():
    found = judge(trials=[done(0, 1.0, 0.5, every=10**9, shares=False)])
    decision = found.judge(trial(1, [Report(10**9, (2.0,))]))
    assert decision.reason.startswith("pruned: 2 at step 1000000000 (")


def test_several_reports_within_one_per_cent_count_once_and_warn_of_nothing():
    found = judge(trials=[done(0, *(1.0,) * 1000)])
    running = [Report(k, (0.5,), share=k / 1000) for k in range(1, 1001)]
    for k in range(1, 1001):
        assert found.judge(trial(1, running[:k])).action == "continue"
    found.tell(trial(1, running, TrialState.COMPLETE, (0.5,)))
    assert found.judge(trial(2, [Report(1, (0.7,), share=0.5)])).action == "continue"
    assert found.judge(trial(3, [Report(1, (0.9,), share=0.5)])).action == "prune"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_prunes_nothing_and_is_not_compared_with(value):
    found = judge(trials=[done(0, value, 0.5), done(1, 1.0, 0.5)])
    assert found.judge(trial(2, curve(value, 1.0)[:1])).action == "continue"
    assert "best of the others there: 1)" in found.judge(trial(3, curve(2.0, 1.0)[:1])).reason


def test_a_trial_that_goes_on_from_a_checkpoint_is_judged_at_once():
    found = judge(trials=[done(0, 1.0, 0.8, 0.6, 0.4)])
    good = curve(0.9, 0.7, 0.5, 0.3)
    assert found.judge(trial(1, good[:3])).action == "continue"
    # its process died, and the reports after its checkpoint with it
    assert found.judge(trial(1, good[:1])).action == "continue"
    assert found.judge(trial(1, [*good[:1], *curve(0.9, 0.7, 0.5, 0.9)[1:]])).action == "prune"


def test_several_objectives_are_not_pruned_without_a_metric():
    reports = [Report(1, (9.0, 9.0), share=0.5)]
    before = [Trial(0, TrialState.COMPLETE, reports=(Report(1, (1.0, 1.0), share=0.5),), values=(1.0, 1.0))]
    found = judge(trials=before, directions=("minimize", "minimize"))
    assert found.judge(trial(1, reports)).action == "continue"
    found.tell(trial(1, reports, TrialState.COMPLETE, (9.0, 9.0)))


def test_several_objectives_are_pruned_on_the_metric_that_is_named():
    def reports(accuracy):
        return [Report(1, (1.0, 1.0), metrics={"accuracy": accuracy}, share=0.5)]

    before = [trial(0, reports(0.8), TrialState.COMPLETE, (1.0, 1.0))]
    found = judge(trials=before, directions=("minimize", "minimize"), prune_metric=("accuracy", "maximize"))
    assert found.judge(trial(1, reports(0.9))).action == "continue"
    assert found.judge(trial(2, reports(0.5))).reason.startswith("pruned: accuracy 0.5 at 50 % of training")
    assert found.judge(trial(3, [Report(1, (1.0, 1.0), share=0.5)])).action == "continue"  # it has no such metric


def test_a_metric_without_a_known_direction_is_refused():
    with pytest.raises(SettingError, match="prune_metric is"):
        judge(prune_metric=("accuracy", "up"))


@pytest.mark.parametrize("pruner", [MedianPruner(n_warmup_steps=500), SuccessiveHalvingPruner(min_resource=100)])
def test_a_pruner_that_was_set_up_for_steps_is_warned_of_once(pruner):
    found = judge(pruner)
    with pytest.warns(UserWarning, match=r"is a percentage of the training here, got \d00") as warned:
        found.judge(trial(0, curve(1.0, 1.0)))
    assert len(warned) == 1
    judge(pruner, compare_at="step").judge(trial(0, curve(1.0, 1.0)))


PRUNERS = [
    lambda: MedianPruner(n_startup_trials=1),
    lambda: PercentilePruner(25.0, n_startup_trials=2),
    lambda: ThresholdPruner(upper=0.8),
    lambda: SuccessiveHalvingPruner(min_resource=10, reduction_factor=2),
    lambda: HyperbandPruner(min_resource=10, max_resource=100, reduction_factor=2),
    lambda: PatientPruner(None, patience=1),
    lambda: PatientPruner(SuccessiveHalvingPruner(min_resource=10, reduction_factor=2), patience=1),
]
curves = st.lists(
    st.tuples(
        st.lists(st.floats(0, 1) | st.just(math.nan), min_size=0, max_size=5),
        st.sampled_from([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED]),
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize("make", PRUNERS)
@settings(max_examples=25, deadline=None)
@given(before=curves, after=curves)
def test_a_judge_made_anew_decides_as_the_old_one(make, before, after):
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def live(found, number, values, state):
        reports = curve(*values)
        decisions = [found.judge(trial(number, reports[:k])) for k in range(1, len(reports) + 1)]
        finished = trial(number, reports, state, (0.5,) if state is TrialState.COMPLETE else None)
        found.tell(finished)
        return decisions, finished

    old = judge(make())
    history = [live(old, n, *c)[1] for n, c in enumerate(before)]
    new = judge(make(), trials=history)
    for number, c in enumerate(after, start=len(history)):
        assert live(old, number, *c)[0] == live(new, number, *c)[0]
