"""What every backend keeps to: subclass `BackendContract` and give `make`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tunesmith.backends import Backend, Proposal, Setting
from tunesmith.trial import Decision, Report, Trial, TrialState

SPACE: dict[str, BaseDistribution] = {
    "x": FloatDistribution(-1.0, 1.0),
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "step": FloatDistribution(0.0, 1.0, step=0.25),
    "n": IntDistribution(1, 64, log=True),
    "even": IntDistribution(2, 10, step=2),
    "kind": CategoricalDistribution(("a", None, 3, True)),
}
Ask = Callable[[str], Any]


class Drive:
    """Drives a backend as the loop does, over a history of its own; `restart` makes the backend anew from it."""

    def __init__(self, make: Callable[..., Backend], *, directions: Sequence[str] = ("minimize",), **setting: Any):
        self.trials: list[Trial] = []
        self.memory: dict[str, Any] = {}
        self._new: Callable[[], Backend] = lambda: make(
            Setting(directions, 7, lambda: tuple(self.trials), memory=self.memory, **setting)
        )
        self._directions = directions
        self.backend = self._new()

    def restart(self) -> None:
        self.backend.close()
        self.memory = json.loads(json.dumps(self.memory))
        self.backend = self._new()

    def start(self, define: Callable[[Ask], Any], fixed: Mapping[str, Any] | None = None) -> Trial:
        """Begin the next trial, with all parameters that `define` asks for."""
        number = len(self.trials)
        trial = Trial(number, TrialState.WAITING, offered=fixed or {}, attrs={"enqueued": True} if fixed else {})
        self.trials.append(trial)
        return self._ask(number, fixed or {}, define)

    def resume(self, number: int, define: Callable[[Ask], Any]) -> Trial:
        """Begin an interrupted trial again."""
        trial = self.trials[number]
        return self._ask(number, {**trial.offered, **trial.params}, define)

    def _ask(self, number: int, fixed: Mapping[str, Any], define: Callable[[Ask], Any]) -> Trial:
        proposal = self.backend.ask(number, fixed)
        assert isinstance(proposal, Proposal)
        params: dict[str, Any] = {}
        distributions: dict[str, BaseDistribution] = {}

        def ask(name: str, distribution: BaseDistribution | None = None) -> Any:
            d = SPACE[name] if distribution is None else distribution
            offered = {**proposal.params, **fixed}
            params[name] = offered[name] if name in offered and within(d, offered[name]) else proposal.draw(name, d)
            distributions[name] = d
            return params[name]

        why = {**self.trials[number].why, **proposal.why}
        trial = replace(self.trials[number], state=TrialState.RUNNING, offered={**proposal.params, **fixed}, why=why)
        self.trials[number] = trial
        define(ask)
        self.trials[number] = replace(trial, params=params, distributions=distributions)
        return self.trials[number]

    def report(self, number: int, value: float, step: int, **details: Any) -> Decision:
        trial = self.trials[number]
        values = (value,) * len(self._directions)
        trial = replace(trial, reports=(*trial.reports, Report(step, values, **details)))
        self.trials[number] = trial
        return self.backend.judge(trial)

    def finish(self, number: int, state: TrialState = TrialState.COMPLETE, *values: float) -> None:
        given = values if state is TrialState.COMPLETE else None
        self.trials[number] = replace(self.trials[number], state=state, values=given)
        self.backend.tell(self.trials[number])


def within(distribution: BaseDistribution, value: Any) -> bool:
    """Whether the distribution has the value."""
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except (TypeError, ValueError):
        return False


def whole(ask: Ask) -> dict[str, Any]:
    """Ask for every parameter."""
    return {name: ask(name) for name in SPACE}


def conditional(ask: Ask) -> Any:
    """Ask for other parameters where x is positive."""
    return ask("n") if ask("x") > 0 else (ask("even"), ask("kind"))


def loss(trial: Trial) -> float:
    """A function of the parameters to minimize."""
    return float(abs(trial.params["x"] - 0.3) + trial.params.get("n", 10) / 64)


STATES = (TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE, TrialState.FAILED)


def run(drive: Drive, n: int, define: Callable[[Ask], Any] = whole, states: Sequence[TrialState] = STATES) -> None:
    """Run `n` trials one after another; they end in each state."""
    for _ in range(n):
        trial = drive.start(define)
        state = states[trial.number % len(states)]
        if state is not TrialState.FAILED or trial.number % 2:
            for step in (1, 2):
                drive.report(trial.number, loss(trial) / step, step, share=step / 2)
        n_values = len(drive._directions)
        drive.finish(trial.number, state, *(loss(trial), -loss(trial))[:n_values])


class BackendContract:
    """A subclass gives `make(setting)`, the backend to be held against the contract."""

    n = 12
    directions: Sequence[str] = ("minimize",)

    def make(self, setting: Setting) -> Backend:
        raise NotImplementedError  # the subclass's

    def drive(self, **setting: Any) -> Drive:
        return Drive(self.make, **{"directions": self.directions, **setting})

    @pytest.mark.parametrize("define", [whole, conditional])
    def test_values_lie_in_their_distributions_and_have_their_types(self, define: Any) -> None:
        drive = self.drive()
        run(drive, self.n, define)
        for trial in drive.trials:
            for name, value in trial.params.items():
                assert within(SPACE[name], value)
                if not isinstance(SPACE[name], CategoricalDistribution):
                    assert type(value) is (int if isinstance(SPACE[name], IntDistribution) else float)
        assert len({trial.params["x"] for trial in drive.trials}) >= 3  # some samplers cross values over

    def test_a_space_known_beforehand_is_kept_to(self) -> None:
        drive = self.drive(space=SPACE)
        run(drive, self.n)
        assert all(within(SPACE[n], v) for t in drive.trials for n, v in t.params.items())

    @pytest.mark.parametrize("define", [whole, conditional])
    def test_the_same_seed_proposes_the_same(self, define: Any) -> None:
        one, two = self.drive(), self.drive()
        run(one, self.n, define)
        run(two, self.n, define)
        assert [t.params for t in one.trials] == [t.params for t in two.trials]

    @pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
    @pytest.mark.parametrize("define", [whole, conditional])
    def test_a_backend_made_anew_goes_on_as_the_old_one(self, define: Any, part: float) -> None:
        after = math.ceil(part * self.n)
        uninterrupted, parts = self.drive(), self.drive()
        run(uninterrupted, self.n, define)
        run(parts, after, define)
        parts.restart()
        run(parts, self.n - after, define)
        assert [t.params for t in parts.trials] == [t.params for t in uninterrupted.trials]

    def test_an_interrupted_trial_goes_on_with_its_values(self) -> None:
        uninterrupted, parts = self.drive(), self.drive()
        run(uninterrupted, self.n, states=STATES[:1])
        half = self.n // 2
        run(parts, half, states=STATES[:1])
        parts.start(whole)
        parts.trials[half] = replace(parts.trials[half], state=TrialState.PAUSED)
        parts.restart()
        resumed = parts.resume(half, whole)
        for step in (1, 2):
            parts.report(half, loss(resumed) / step, step, share=step / 2)
        parts.finish(half, TrialState.COMPLETE, *(loss(resumed), -loss(resumed))[: len(self.directions)])
        run(parts, self.n - half - 1, states=STATES[:1])
        assert [t.params for t in parts.trials] == [t.params for t in uninterrupted.trials]

    def test_fixed_values_are_kept_and_the_others_drawn(self) -> None:
        drive = self.drive()
        run(drive, 3)
        trial = drive.start(whole, {"x": 0.125, "kind": None})
        assert (trial.params["x"], trial.params["kind"]) == (0.125, None)
        assert set(trial.params) == set(SPACE)
        drive.finish(3, TrialState.COMPLETE, *(1.0, 2.0)[: len(self.directions)])
        drive.restart()
        run(drive, 2)

    def test_a_fixed_value_that_the_space_lacks_is_replaced(self) -> None:
        drive = self.drive()
        trial = drive.start(whole, {"x": 12.0, "kind": "no such"})
        assert within(SPACE["x"], trial.params["x"])
        assert within(SPACE["kind"], trial.params["kind"])
        drive.finish(0, TrialState.COMPLETE, *(1.0, 2.0)[: len(self.directions)])
        drive.restart()
        run(drive, 2)

    def test_trials_may_run_side_by_side_and_end_in_any_order(self) -> None:
        drive = self.drive()
        run(drive, 3)
        numbers = [drive.start(whole).number for _ in range(4)]
        assert len({str(drive.trials[n].params) for n in numbers}) == len(numbers)
        for number, state in zip(reversed(numbers), STATES, strict=False):
            drive.finish(number, state, *(loss(drive.trials[number]), 1.0)[: len(self.directions)])
        run(drive, 2)

    def test_a_trial_that_was_lost_is_asked_for_again(self) -> None:
        drive = self.drive()
        run(drive, 3)
        first = drive.start(whole).params
        assert drive.resume(3, whole).params == first
        drive.finish(3, TrialState.COMPLETE, *(1.0, 2.0)[: len(self.directions)])
        assert drive.start(whole).number == 4

    def test_a_trial_that_never_asked_may_end(self) -> None:
        drive = self.drive()
        for state in (TrialState.FAILED, TrialState.COMPLETE, TrialState.PRUNED):
            trial = drive.start(lambda _ask: None)
            drive.finish(trial.number, state, *(1.0, 2.0)[: len(self.directions)])
        drive.restart()
        run(drive, 2)

    def test_a_finished_trial_that_it_never_saw_is_learnt_of(self) -> None:
        drive = self.drive()
        run(drive, 2)
        trial = Trial(2, TrialState.FAILED, {"x": 0.5}, {"x": SPACE["x"]}, reason="lost: its process died")
        drive.trials.append(trial)
        drive.backend.tell(trial)
        assert drive.start(whole).number == 3

    def test_judging_gives_a_decision_whatever_is_reported(self) -> None:
        drive = self.drive()
        run(drive, 6)
        trial = drive.start(whole)
        for step, value in enumerate((1.0, math.nan, math.inf, -math.inf, 1e300), start=1):
            decision = drive.report(trial.number, value, step, share=step / 5)
            assert isinstance(decision, Decision)
            assert decision.action in ("continue", "prune", "pause")
            assert decision.action == "continue" or decision.reason
        drive.finish(trial.number, TrialState.FAILED)
        drive.restart()
        run(drive, 1)


class TwoObjectives(BackendContract):
    """The same contract with two objectives."""

    directions = ("minimize", "maximize")
