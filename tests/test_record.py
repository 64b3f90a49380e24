"""The record: what is written comes back, other processes' writes are seen, and of two that take a trial one wins."""

import math
import multiprocessing
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tunesmith.errors import SettingError, StudyLockedError
from tunesmith.record import Record
from tunesmith.trial import Report, TrialState

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["tunesmith.record"])


def make(directory, **changes):
    known = {"name": "a study", "directions": ["minimize"], "seed": 3, "settings": {"n_trials": 5}}
    return Record.create(directory, **{**known, **changes})


@pytest.fixture
def record(tmp_path):
    with make(tmp_path) as opened:
        yield opened


def test_the_standing_is_that_of_all_processes(record, tmp_path):
    for _ in range(4):
        record.start(record.add_waiting({}))
    record.end(2, TrialState.FAILED, reason="x")
    record.end(1, TrialState.COMPLETE, values=[1.0])
    with Record.open(tmp_path) as other:
        other.requeue(0, TrialState.PAUSED, reason="y", count_attempt=False)
        other.retry(2)
        finished, others = record.standing()
        assert (finished, [(t.number, t.state.value) for t in others]) == (
            1,
            [(0, "PAUSED"), (2, "WAITING"), (3, "RUNNING")],
        )
        assert other.standing() == record.standing()


def test_what_is_known_of_a_study_comes_back(tmp_path):
    make(tmp_path, directions=("minimize", "maximize"), settings={"a": [1, None, {"b": True}]}).close()
    with Record.open(tmp_path) as record:
        info = record.info
    assert (info.name, info.directions, info.seed) == ("a study", ("minimize", "maximize"), 3)
    assert info.settings == {"a": [1, None, {"b": True}]}


def test_settings_of_two_writers_are_both_kept(tmp_path):
    with make(tmp_path) as one, Record.open(tmp_path) as other:
        one.update_settings(x=1)
        other.update_settings(y=2)
        assert other.info.settings == {"n_trials": 5, "x": 1, "y": 2}


def test_trials_are_numbered_from_0_in_order(record):
    assert [
        record.start(record.add_waiting({})).number,
        record.add_waiting({"x": 1}),
        record.start(record.add_waiting({})).number,
    ] == [
        0,
        1,
        2,
    ]
    assert [t.state for t in record.trials()] == [TrialState.RUNNING, TrialState.WAITING, TrialState.RUNNING]
    assert record.trial(1).offered == {"x": 1}


def test_unchanged_trials_are_the_same_objects(record):
    record.start(record.add_waiting({}))
    assert record.trials() is record.trials()


def test_writes_of_another_connection_are_seen(tmp_path, record):
    record.start(record.add_waiting({}))
    with Record.open(tmp_path) as other:
        assert len(other.trials()) == 1
        record.add_report(0, Report(1, (0.5,)))
        record.start(record.add_waiting({}))
        assert [r.step for r in other.trial(0).reports] == [1]
        other.add_waiting({"x": 2})
    assert [t.number for t in record.trials()] == [0, 1, 2]


def test_a_waiting_trial_can_be_taken_once(tmp_path, record):
    record.add_waiting({})
    with Record.open(tmp_path) as other:
        assert other.trial(0).state is TrialState.WAITING
        record.start(0)
        with pytest.raises(SettingError, match="must be WAITING or PAUSED, and it is RUNNING"):
            other.start(0)


def test_a_report_of_the_same_step_replaces_the_first(record):
    record.start(record.add_waiting({}))
    for step, value in ((1, 0.1), (3, 0.3), (2, 0.2), (1, 0.9)):
        record.add_report(0, Report(step, (value,)))
    assert [(r.step, r.values[0]) for r in record.trial(0).reports] == [(1, 0.9), (2, 0.2), (3, 0.3)]


def test_a_trial_that_goes_on_keeps_its_parameters_and_the_reports_up_to_its_checkpoint(record, tmp_path):
    record.start(record.add_waiting({}), offered={"x": 0.5})
    record.add_params(0, {"x": 0.5}, {"x": FloatDistribution(0, 1)})
    for step in range(5):
        record.add_report(0, Report(step, (1.0,)))
    record.set_checkpoint(0, tmp_path / "run-0" / "checkpoint-2", 2)
    record.requeue(0, TrialState.WAITING, reason="lost", count_attempt=True)
    trial = record.start(0)
    assert (trial.attempt, trial.params, trial.checkpoint) == (2, {"x": 0.5}, "run-0/checkpoint-2")
    assert [r.step for r in trial.reports] == [0, 1, 2]
    with Record.open(tmp_path) as other:
        assert other.trial(0) == trial


def test_a_checkpoint_outside_the_study_keeps_its_whole_path(record, tmp_path):
    record.start(record.add_waiting({}))
    record.set_checkpoint(0, tmp_path.parent / "elsewhere", 1)
    assert record.trial(0).checkpoint == str((tmp_path.parent / "elsewhere").resolve())


def test_a_finished_trial_cannot_change(record):
    record.start(record.add_waiting({}))
    record.end(0, TrialState.FAILED, reason="oom", detail="a traceback with half a character: \ud800")
    with pytest.raises(SettingError, match="must be RUNNING, and it is FAILED"):
        record.end(0, TrialState.COMPLETE, values=[1.0])
    with pytest.raises(SettingError, match="ends COMPLETE, PRUNED or FAILED, got PAUSED"):
        record.end(0, TrialState.PAUSED)


def test_an_unknown_trial_is_an_error_that_names_it(record):
    with pytest.raises(SettingError, match="no trial 7 in study 'a study': it has 0"):
        record.trial(7)


@pytest.mark.parametrize("value", [object(), np.array([1, 2])], ids=lambda value: type(value).__name__)
def test_values_that_are_no_json_are_refused_and_leave_the_record_as_it_was(record, value):
    record.start(record.add_waiting({}))
    before = record.trials()
    with pytest.raises(SettingError, match=f"only JSON values can be stored, got {type(value).__name__}"):
        record.annotate(0, "key", value)
    assert record.trials() == before


def test_numpy_numbers_become_plain_ones(record, tmp_path):
    record.start(record.add_waiting({}), offered={"n": np.int64(3), "x": np.float32(0.5), "on": np.bool_(1)})
    record.add_report(0, Report(np.int64(1), (np.float32(0.5),), {"a": np.float64(1)}, np.float32(0.5), np.int32(8)))
    with Record.open(tmp_path) as other:
        assert other.trial(0) == record.trial(0)
        assert {k: type(v) for k, v in other.trial(0).offered.items()} == {"n": int, "x": float, "on": bool}


values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
names = st.text(min_size=1)
numbers = st.floats(allow_nan=False)
reports = st.builds(
    Report,
    st.integers(0, 2**40),
    st.tuples(numbers),
    st.dictionaries(names, numbers, max_size=3),
    st.none() | numbers,
    st.none() | st.integers(0, 2**60),
    st.none() | st.floats(0, 1),
    st.floats(0, 2e9),
)
pairs = st.one_of(
    st.tuples(st.floats(-1e9, 1e9), st.just(FloatDistribution(-1e9, 1e9))),
    st.tuples(st.integers(1, 10**6), st.just(IntDistribution(1, 10**6, log=True))),
    st.lists(st.none() | st.booleans() | st.text(), min_size=1, max_size=4, unique_by=repr).map(
        lambda choices: (choices[0], CategoricalDistribution(choices))
    ),
)


@settings(deadline=None, max_examples=60)
@given(
    offered=st.dictionaries(names, values, max_size=4),
    asked=st.dictionaries(names, pairs, max_size=4),
    told=st.lists(reports, max_size=6),
    attrs=st.dictionaries(names, st.recursive(values, lambda inner: st.lists(inner, max_size=3)), max_size=3),
    ended=st.tuples(numbers),
    detail=st.text(),
)
def test_whatever_is_written_is_read_back_the_same(offered, asked, told, attrs, ended, detail):
    with tempfile.TemporaryDirectory() as directory:
        with make(directory) as record:
            record.start(record.add_waiting({}), offered=offered, why=attrs)
            record.add_params(0, {n: p[0] for n, p in asked.items()}, {n: p[1] for n, p in asked.items()})
            for report in told:
                record.add_report(0, report)
            for key, value in attrs.items():
                record.annotate(0, key, value)
            trial = record.end(0, TrialState.COMPLETE, values=ended, detail=detail, metrics={"m": ended[0]})
        with Record.open(directory) as record:
            read = record.trial(0)
    assert read == trial
    assert read.offered == offered
    assert read.params == {n: p[0] for n, p in asked.items()}
    assert read.distributions == {n: p[1] for n, p in asked.items()}
    assert {r.step: r for r in read.reports} == {r.step: r for r in told}
    assert read.attrs == attrs
    assert (read.values, read.detail) == (ended, detail)


def test_nan_and_infinities_survive(record, tmp_path):
    record.start(record.add_waiting({}), offered={"x": -math.inf})
    record.add_report(0, Report(1, (math.nan,), {"a": math.inf}))
    with Record.open(tmp_path) as other:
        trial = other.trial(0)
    assert math.isnan(trial.reports[0].values[0])
    assert (trial.offered["x"], trial.reports[0].metrics["a"]) == (-math.inf, math.inf)


def open_and_take(directory, begin, results):
    begin.wait()
    with make(directory) as record:
        results.put([record.start(record.add_waiting({}), offered={"pid": os.getpid()}).number for _ in range(10)])


def test_eight_processes_opening_one_new_study_at_once_never_share_a_number(tmp_path):
    begin, results = FORKSERVER.Barrier(8), FORKSERVER.Queue()
    processes = [FORKSERVER.Process(target=open_and_take, args=(tmp_path / "new", begin, results)) for _ in range(8)]
    for process in processes:
        process.start()
    taken = sorted(number for _ in processes for number in results.get(timeout=120))
    for process in processes:
        process.join()
    assert [p.exitcode for p in processes] == [0] * 8
    assert taken == list(range(80))
    with Record.open(tmp_path / "new") as record:
        assert len(record.trials()) == 80
    assert not list((tmp_path / "new").glob(".study-*"))


def drive(directory, driving, leave):
    with Record.open(directory) as record, record.lock():
        driving.set()
        leave.wait()


def test_a_second_driver_is_told_who_drives_and_may_once_the_first_is_killed(record, tmp_path):
    driving, leave = FORKSERVER.Event(), FORKSERVER.Event()
    driver = FORKSERVER.Process(target=drive, args=(tmp_path, driving, leave))
    driver.start()
    assert driving.wait(120)
    with pytest.raises(StudyLockedError, match=f"driven by process {driver.pid} on"), record.lock():
        pass
    driver.kill()
    driver.join()
    with record.lock():
        assert str(os.getpid()) in Path(tmp_path / "study.lock").read_text(encoding="utf-8")


def test_a_reader_may_not_write(record, tmp_path):
    with Record.open(tmp_path, read_only=True) as reader, pytest.raises(OSError, match="was opened for reading"):
        reader.start(reader.add_waiting({}))
    assert record.trials() == ()
