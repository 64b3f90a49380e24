"""What every runner does: subclass `RunnerContract` with a `make(task)` that gives a runner."""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution

from tunesmith.errors import RecordFullError, UserFunctionError
from tunesmith.runners import Ended, Outcome, Runner, Task
from tunesmith.trial import CONTINUE, Assignment, Decision, LiveTrial, Report, TrialState

LIMIT = 60.0  # seconds after which a runner that does not answer has failed


class Driver:
    """The driver's side of one trial: answers from what it was given, and keeps what it was told."""

    def __init__(self, *, value: float = 0.5, decision: Decision = CONTINUE) -> None:
        self.value = value
        self.decision = decision
        self.asked: list[str] = []
        self.reports: list[Report] = []
        self.checkpoints: list[tuple[str, int]] = []
        self.attrs: dict[str, object] = {}
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.threads: set[int] = set()

    def suggest(self, name: str, distribution: object) -> float:
        self.threads.add(threading.get_ident())
        if name == "full":
            raise RecordFullError("the disk is full: 0 bytes are free")
        self.asked.append(name)
        return self.value

    def report(self, report: Report) -> Decision:
        self.threads.add(threading.get_ident())
        self.reports.append(report)
        return self.decision

    def decide(self) -> Decision:
        return self.decision

    def checkpoint(self, path: str, step: int) -> None:
        self.checkpoints.append((path, step))

    def annotate(self, key: str, value: object) -> None:
        self.attrs[key] = value

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.threads.add(threading.get_ident())
        self.logged.append((step, dict(metrics)))


def next_ended(runner: Runner, limit: float = LIMIT) -> list[Ended]:
    """The trials that end next."""
    until = time.monotonic() + limit
    while time.monotonic() < until:
        ended = list(runner.events(0.5))
        if ended:
            return ended
    raise AssertionError(f"no trial has ended within {limit} s")


def one(runner: Runner, driver: Driver | None = None, assignment: Assignment | None = None) -> Outcome:
    """Run one trial to its end."""
    assignment = Assignment(0) if assignment is None else assignment
    runner.start(assignment, Driver() if driver is None else driver)
    (ended,) = next_ended(runner)
    assert ended.number == assignment.number
    return ended.outcome


def square(trial: LiveTrial) -> float:
    return trial.suggest_float("x", 0, 1) ** 2


def constant(result: Any, trial: LiveTrial) -> Any:
    return result


def learn(trial: LiveTrial) -> float:
    for step in range(3):
        trial.report(1 / (step + 1), step, metrics={"eval_loss": 2.0}, share=(step + 1) / 3)
        if trial.should_prune():
            raise optuna.TrialPruned
    return 0.25


def fail(error: Exception, trial: LiveTrial) -> float:
    raise error


def fail_when_odd(trial: LiveTrial) -> float:
    if trial.number % 2:
        raise ValueError("odd")
    return float(trial.number)


def ask_full(trial: LiveTrial) -> float:
    return trial.suggest_float("full", 0, 1)


def survive_full(trial: LiveTrial) -> float:
    try:
        trial.suggest_float("full", 0, 1)
    except RecordFullError:
        return trial.suggest_float("x", 0, 1)
    return -1.0


def tell(trial: LiveTrial) -> float:
    trial.set_user_attr("kind", "a")
    trial.save_checkpoint(os.path.abspath("checkpoint-3"), 3)  # noqa: PTH100
    return 0.0


def chat(trial: LiveTrial) -> float:
    for step in (1, 2, 3):
        trial.log({"loss": 1.0 / step}, step)
    trial.report(0.5, 3)
    return 0.5


def go_on(trial: LiveTrial) -> float:
    assert trial.resume_from == "/there/checkpoint-2"
    assert trial.attempt == 2
    assert [r.step for r in trial.reports] == [1]
    return trial.suggest_float("x", 0, 1)


class RunnerContract:
    """Inherit, and give `make`."""

    def make(self, task: Task) -> Runner:
        raise NotImplementedError  # the subclass's

    @contextmanager
    def running(self, task: Task) -> Iterator[Runner]:
        runner = self.make(task)
        try:
            yield runner
        finally:
            runner.close()

    def test_a_returned_number_completes_the_trial(self):
        driver = Driver(value=0.5)
        with self.running(square) as runner:
            assert one(runner, driver) == Outcome(TrialState.COMPLETE, (0.25,))
        assert driver.asked == ["x"]

    def test_several_objectives_give_several_values(self):
        with self.running(partial(constant, (1.0, 2))) as runner:
            assert one(runner, assignment=Assignment(3, n_objectives=2)).values == (1.0, 2.0)

    def test_an_outcome_is_handed_on_as_it_is(self):
        outcome = Outcome(TrialState.COMPLETE, (1.0,), metrics={"a": 2.0}, checkpoint="run-0/checkpoint-2")
        with self.running(partial(constant, outcome)) as runner:
            assert one(runner) == outcome

    def test_reports_reach_the_driver_before_the_trial_goes_on(self):
        driver = Driver()
        with self.running(learn) as runner:
            assert one(runner, driver).values == (0.25,)
        assert [(r.step, r.values, dict(r.metrics)) for r in driver.reports] == [
            (0, (1.0,), {"eval_loss": 2.0}),
            (1, (0.5,), {"eval_loss": 2.0}),
            (2, (1 / 3,), {"eval_loss": 2.0}),
        ]

    def test_a_decision_to_prune_reaches_the_trial_with_its_report(self):
        driver = Driver(decision=Decision("prune", "pruned: worse than the median"))
        with self.running(learn) as runner:
            outcome = one(runner, driver)
        assert (outcome.state, outcome.reason) == (TrialState.PRUNED, "pruned: worse than the median")
        assert len(driver.reports) == 1

    def test_a_decision_to_pause_pauses(self):
        with self.running(learn) as runner:
            outcome = one(runner, Driver(decision=Decision("pause", "timeout: 5 s are over")))
        assert (outcome.state, outcome.reason) == (TrialState.PAUSED, "timeout: 5 s are over")

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (ValueError("no"), "error: ValueError: no"),
            (MemoryError("no room"), "oom: MemoryError: no room"),
            (RuntimeError("CUDA out of memory. Tried"), "oom: RuntimeError: CUDA out of memory. Tried"),
        ],
    )
    def test_an_exception_fails_the_trial_with_its_traceback(self, error, reason):
        with self.running(partial(fail, error)) as runner:
            outcome = one(runner)
        assert (outcome.state, outcome.reason) == (TrialState.FAILED, reason)
        assert "in fail" in (outcome.detail or "")
        assert outcome.fatal is None

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_an_objective_that_is_not_finite_fails_the_trial(self, value):
        with self.running(partial(constant, value)) as runner:
            outcome = one(runner)
        assert outcome.state is TrialState.FAILED
        assert (outcome.reason or "").startswith("nan")

    def test_an_objective_that_is_no_number_fails_the_trial(self):
        with self.running(partial(constant, "good")) as runner:
            assert "must return a number" in (one(runner).reason or "")

    def test_a_bug_in_the_searchs_own_functions_is_fatal(self):
        with self.running(partial(fail, UserFunctionError("hp_space raised KeyError"))) as runner:
            outcome = one(runner)
        assert isinstance(outcome.fatal, UserFunctionError)
        assert str(outcome.fatal) == "hp_space raised KeyError"

    def test_trials_after_a_failed_one_run(self):
        with self.running(fail_when_odd) as runner:
            states = [one(runner, assignment=Assignment(n)).state for n in range(4)]
        assert states == [TrialState.COMPLETE, TrialState.FAILED] * 2

    def test_an_error_of_the_driver_is_raised_in_the_trial(self):
        with self.running(ask_full) as runner:
            assert one(runner).reason == "error: RecordFullError: the disk is full: 0 bytes are free"

    def test_a_trial_can_catch_an_error_of_the_driver_by_its_class(self):
        with self.running(survive_full) as runner:
            assert one(runner, Driver(value=0.5)).values == (0.5,)

    def test_attributes_and_checkpoints_reach_the_driver(self):
        driver = Driver()
        with self.running(tell) as runner:
            one(runner, driver)
        assert driver.attrs == {"kind": "a"}
        assert driver.checkpoints == [(os.path.abspath("checkpoint-3"), 3)]  # noqa: PTH100

    @pytest.mark.parametrize("wanted", [True, False])
    def test_what_is_logged_reaches_the_driver_in_order_where_somebody_keeps_it(self, wanted):
        driver = Driver()
        with self.running(chat) as runner:
            assert one(runner, driver, Assignment(0, logs=wanted)).values == (0.5,)
        assert driver.logged == [(1, {"loss": 1.0}), (2, {"loss": 0.5}), (3, {"loss": 1 / 3})][: 3 * wanted]
        assert driver.threads == {threading.get_ident()}

    def test_a_resumed_trial_gets_what_it_had(self):
        driver = Driver(value=0.9)
        assignment = Assignment(
            7,
            attempt=2,
            params={"x": 0.1},
            distributions={"x": FloatDistribution(0, 1)},
            reports=(Report(1, (0.4,)),),
            resume_from="/there/checkpoint-2",
        )
        with self.running(go_on) as runner:
            assert one(runner, driver, assignment) == Outcome(TrialState.COMPLETE, (0.1,))
        assert driver.asked == []

    def test_the_driver_is_called_in_its_own_thread(self):
        driver = Driver()
        with self.running(square) as runner:
            one(runner, driver)
        assert driver.threads == {threading.get_ident()}

    def test_as_many_trials_as_slots_can_be_under_way_and_each_ends_once(self):
        with self.running(square) as runner:
            ended: list[int] = []
            begun = 0
            while len(ended) < 9:
                while begun < 9 and begun - len(ended) < runner.slots:
                    runner.start(Assignment(begun), Driver())
                    begun += 1
                ended += [e.number for e in next_ended(runner)]
            assert sorted(ended) == list(range(9))

    def test_without_a_running_trial_there_are_no_events(self):
        with self.running(square) as runner:
            assert list(runner.events(None)) == []

    def test_closing_twice_is_closing_once(self):
        runner = self.make(square)
        runner.close()
        runner.close()
