"""Searches of plain functions: budget, resume, failures, interrupts; real processes where processes matter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import optuna
import pytest

import tunesmith
from tunesmith.errors import (
    SearchFailedError,
    SettingError,
    StudyChangedError,
    StudyLockedError,
    TunesmithError,
    UnknownBackendError,
    UserFunctionError,
)
from tunesmith.record import Record
from tunesmith.study import Study
from tunesmith.trial import TrialState

BACKENDS = ["tunesmith", "optuna"]


def bowl(trial):
    x = trial.suggest_float("x", -5, 5)
    kind = trial.suggest_categorical("kind", ["a", "b"])
    if kind == "a":
        return (x - 1) ** 2 + trial.suggest_int("depth", 1, 4)
    return (x - 1) ** 2 + 3


def params(study: Study):
    return [dict(t.params) for t in study.trials]


def go(tmp_path, objective=bowl, n_trials=8, **settings):
    settings = {"directory": tmp_path, "seed": 3, "progress": False, **settings}
    return tunesmith.search(objective, n_trials, **settings)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_search_runs_all_trials_and_finds_a_good_one(tmp_path, backend):
    study = go(tmp_path, n_trials=25, backend=backend)
    assert len(study.trials) == 25
    assert all(t.state is TrialState.COMPLETE for t in study.trials)
    assert study.best_trial.value < 3.5
    assert (study.directory / "report.html").stat().st_size > 1000


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_seed_gives_the_same_trials_also_across_a_resume(tmp_path, backend):
    whole = go(tmp_path / "whole", n_trials=16, backend=backend)
    go(tmp_path / "parts", n_trials=7, backend=backend)
    parts = go(tmp_path / "parts", n_trials=16, backend=backend, resume=True)
    assert params(parts) == params(whole)


def test_another_seed_gives_other_trials(tmp_path):
    assert params(go(tmp_path / "a", seed=1)) != params(go(tmp_path / "b", seed=2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_several_objectives_give_a_pareto_set(tmp_path, backend):
    def two(trial):
        x = trial.suggest_float("x", 0, 1)
        return x, (1 - x) ** 2

    study = go(tmp_path, two, n_trials=12, direction=["minimize", "minimize"], backend=backend)
    front = [t.values for t in study.best_trials]
    assert len(front) > 1
    assert front == sorted(front)
    assert [b for _, b in front] == sorted((b for _, b in front), reverse=True)
    with pytest.raises(SettingError, match="best_trials"):
        _ = study.best_trial


def test_n_trials_is_the_total_and_a_finished_study_is_left_alone(tmp_path):
    first = go(tmp_path, n_trials=4)
    second = go(tmp_path, n_trials=4)
    assert second.directory == tmp_path / "study-2"
    assert len(first.trials) == len(second.trials) == 4
    extended = go(tmp_path, n_trials=6, resume=True)
    assert extended.directory == second.directory
    assert len(extended.trials) == 6


def test_a_changed_space_under_the_same_name_is_an_error_that_says_what_differs(tmp_path):
    wide = {"x": optuna.distributions.FloatDistribution(0, 1)}
    narrow = {"x": optuna.distributions.FloatDistribution(0, 0.5)}
    go(tmp_path, lambda t: t.params["x"], n_trials=2, space=wide, study="mine")
    with pytest.raises(StudyChangedError, match=r"space 'x' was .*high=1\.0.*now .*high=0\.5"):
        go(tmp_path, lambda t: t.params["x"], n_trials=3, space=narrow, study="mine", resume=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_failed_trials_are_recorded_with_reason_and_traceback_and_the_search_goes_on(tmp_path, backend):
    def shaky(trial):
        x = trial.suggest_float("x", 0, 1)
        if trial.number == 2:
            raise RuntimeError("CUDA error: out of memory")
        if trial.number == 3:
            return float("nan")
        if trial.number == 5:
            raise KeyError("no such column")
        return x

    study = go(tmp_path, shaky, n_trials=9, backend=backend)
    assert [t.state for t in study.trials].count(TrialState.COMPLETE) == 6
    assert study.trials[2].reason.startswith("oom: RuntimeError")
    assert study.trials[3].reason.startswith("nan")
    assert study.trials[5].reason.startswith("error: KeyError")
    assert "no such column" in study.trials[5].detail


def test_a_hopeless_search_ends_early_with_the_reasons(tmp_path):
    def broken(trial):
        trial.suggest_float("x", 0, 1)
        raise ValueError("always")

    with pytest.raises(SearchFailedError, match="3 x error: ValueError: always"):
        go(tmp_path, broken, n_trials=20)
    assert len(tunesmith.load_study(tmp_path).trials) == 3


def test_max_failures_is_the_users(tmp_path):
    def broken(trial):
        trial.suggest_float("x", 0, 1)
        raise ValueError("always")

    with pytest.raises(SearchFailedError, match="5 of 5"):
        go(tmp_path, broken, n_trials=20, max_failures=5)


def test_enqueued_parameters_are_tried_first(tmp_path):
    study = go(tmp_path, n_trials=3, enqueue=[{"x": 1.0, "kind": "b"}, {"x": 2}])
    assert dict(study.trials[0].params) == {"x": 1.0, "kind": "b"}
    assert study.trials[1].params["x"] == 2.0


def test_pruned_trials_carry_the_reason(tmp_path):
    def learning(trial):
        x = trial.suggest_float("x", 0, 1)
        for step in range(5):
            trial.report(x, step, share=(step + 1) / 5)
            if trial.should_prune():
                raise optuna.TrialPruned
        return x

    study = go(tmp_path, learning, n_trials=25, backend="optuna")
    pruned = [t for t in study.trials if t.state is TrialState.PRUNED]
    assert pruned
    assert all("% of training" in t.reason and "MedianPruner" in t.reason for t in pruned)


def test_a_timeout_pauses_the_running_trial_and_a_later_start_goes_on(tmp_path):
    def slow(trial):
        x = trial.suggest_float("x", 0, 1)
        start = 0 if trial.resume_from is None else int((Path(trial.resume_from) / "step").read_text())
        for step in range(start + 1, 40):
            time.sleep(0.02)
            folder = tmp_path / f"c{trial.number}-{step}"
            folder.mkdir(exist_ok=True)
            (folder / "step").write_text(str(step))
            trial.report(x, step, checkpoint=str(folder))
            if trial.should_prune():
                raise optuna.TrialPruned
        return x

    study = go(tmp_path / "s", slow, n_trials=2, timeout=0.3)
    assert study.trials[0].state is TrialState.PAUSED
    assert study.trials[0].reason.startswith("timeout")
    before = study.trials[0].reports
    assert before
    study.record.close()
    study = go(tmp_path / "s", slow, n_trials=1)
    assert study.trials[0].state is TrialState.COMPLETE
    assert study.trials[0].reports[: len(before)] == before
    assert [r.step for r in study.trials[0].reports] == list(range(1, 40))


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"n_trials": 0}, SettingError, "n_trials must be"),
        ({"direction": "up"}, SettingError, '"minimize" or "maximize"'),
        ({"backend": "hal"}, UnknownBackendError, "one of tunesmith, optuna"),
        ({"timeout": -1}, SettingError, "timeout must be"),
        ({"n_trials": None}, SettingError, "needs a timeout"),
        ({"resume": "maybe"}, SettingError, "resume must be"),
    ],
)
def test_bad_input_is_refused_before_any_work(tmp_path, settings, error, text):
    with pytest.raises(error, match=text):
        go(tmp_path, **settings)
    assert not (tmp_path / "study.sqlite").exists()


def test_a_bug_in_the_users_functions_raises_at_once_and_the_trial_is_kept_for_later(tmp_path):
    def fatal(trial):
        trial.suggest_float("x", 0, 1)
        raise UserFunctionError("bug")

    with pytest.raises(UserFunctionError):
        go(tmp_path, fatal)
    assert tunesmith.load_study(tmp_path).trials[0].state is TrialState.PAUSED


SCRIPT = """
import sys, time
import tunesmith

def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    for step in range(1, 6):
        time.sleep(0.01)
        trial.report(x + step, step)
        print("reported", trial.number, step, flush=True)
        if trial.should_prune():
            import optuna
            raise optuna.TrialPruned
    return x

study = tunesmith.search(objective, n_trials=10, directory=sys.argv[1], seed=5, progress=False, pruner=None)
print("done", len(study.trials), flush=True)
"""


def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT))
    return [sys.executable, str(path), str(tmp_path / "study")]


def test_kill_9_at_any_moment_loses_nothing_and_the_search_goes_on(tmp_path):
    command = script(tmp_path)
    acknowledged = set()
    for round_ in range(4):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for _ in range(5 + 4 * round_):
            line = process.stdout.readline().split()
            if line and line[0] == "reported":
                acknowledged.add((int(line[1]), int(line[2])))
        process.kill()
        process.wait()
        process.stdout.close()
        study = tunesmith.load_study(tmp_path / "study")
        stored = {(t.number, r.step) for t in study.trials for r in t.reports}
        finished_before = {t.number for t in study.trials if t.state.finished}
        assert {a for a in acknowledged if a[0] in finished_before} <= stored
        study.record.close()
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "done 10" in out.stdout
    study = tunesmith.load_study(tmp_path / "study")
    assert [t.number for t in study.trials] == list(range(10))
    assert all(t.state is TrialState.COMPLETE for t in study.trials)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -2), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_signal_finishes_recording_and_the_next_start_goes_on(tmp_path, number, code):
    command = script(tmp_path)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for _ in range(7):
        process.stdout.readline()
    os.kill(process.pid, number)
    process.communicate()
    assert process.returncode in (code, 130 if number == signal.SIGINT else code)
    study = tunesmith.load_study(tmp_path / "study")
    assert not [t for t in study.trials if t.state is TrialState.RUNNING]
    study.record.close()
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "done 10" in out.stdout


def test_a_second_driver_is_refused_with_the_first_ones_process(tmp_path):
    with subprocess.Popen(script(tmp_path), stdout=subprocess.PIPE, text=True) as first:
        first.stdout.readline()
        record = Record.open(tmp_path / "study")
        with pytest.raises(StudyLockedError, match=f"process {first.pid} on "), record.lock():
            pass
        record.close()
        first.communicate()
    assert first.returncode == 0


def test_worker_processes_run_trials_at_once_and_a_crash_is_tried_again(tmp_path):
    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        if trial.number == 2 and trial.attempt == 1:
            os._exit(7)
        trial.report(x, 1)
        trial.set_user_attr("pid", os.getpid())
        return x

    study = go(tmp_path, objective, n_trials=8, workers=2)
    assert all(t.state is TrialState.COMPLETE for t in study.trials)
    assert len(study.trials) == 8
    assert study.trials[2].attempt == 2
    assert os.getpid() not in {t.attrs["pid"] for t in study.trials}


def test_import_is_light():
    code = "import sys, tunesmith; print(sorted({'torch', 'transformers', 'optuna', 'numpy'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_study_says_which_parameters_matter(tmp_path: Path) -> None:
    def objective(trial: tunesmith.LiveTrial) -> float:
        return trial.suggest_float("strong", 0, 1) + 0.0 * trial.suggest_float("weak", 0, 1)

    study = tunesmith.search(objective, n_trials=10, directory=tmp_path, progress=False, seed=0, direction="maximize")
    found = study.importances()
    assert list(found) == ["strong", "weak"]
    assert found["strong"].low > found["weak"].high
    with pytest.raises(SettingError, match="from 0 to 0, got 1"):
        study.importances(1)


def test_importances_need_trials(tmp_path: Path) -> None:
    study = tunesmith.search(
        lambda trial: trial.suggest_float("x", 0, 1), n_trials=2, directory=tmp_path, progress=False
    )
    with pytest.raises(TunesmithError, match="need 6 completed trials with parameters, got 2"):
        study.importances()


def test_the_best_trial_keeps_the_constraints(tmp_path: Path) -> None:
    def objective(trial: tunesmith.LiveTrial) -> float:
        x = trial.suggest_float("x", 0, 1)
        trial.report(x, 1, metrics={"size": 10 * x})
        return x

    def small(metrics: dict[str, float]) -> list[float]:
        return [metrics["size"] - 6.0]

    settings = {"direction": "maximize", "directory": tmp_path, "progress": False, "seed": 0}
    study = tunesmith.search(objective, n_trials=14, constraints=small, **settings)
    assert 0.45 < study.best_trial.params["x"] <= 0.6
    assert study.best_trials == (study.best_trial,)
    assert all(t.constraints["0"] == pytest.approx(10 * t.params["x"] - 6) for t in study.completed())


def test_constraints_are_computed_for_trials_that_ended_before(tmp_path: Path) -> None:
    def objective(trial: tunesmith.LiveTrial) -> float:
        trial.report(1.0, 1, metrics={"size": 1.0})
        return trial.suggest_float("x", 0, 1)

    settings = {"directory": tmp_path, "progress": False, "resume": True}
    tunesmith.search(objective, n_trials=2, **settings)
    study = tunesmith.search(objective, n_trials=3, constraints=lambda m: m["size"], **settings)
    assert [t.constraints for t in study.trials] == [{"0": 1.0}] * 3
    with pytest.raises(TunesmithError, match="keeps its constraints"):
        _ = study.best_trial


def test_a_bug_in_constraints_ends_the_search_and_names_the_metrics(tmp_path: Path) -> None:
    with pytest.raises(UserFunctionError, match="KeyError: 'size'; the metrics of trial 0 are none"):
        tunesmith.search(
            lambda trial: trial.suggest_float("x", 0, 1),
            n_trials=2, directory=tmp_path, progress=False, constraints=lambda m: m["size"],
        )  # fmt: skip


def test_a_search_ends_when_it_has_converged_and_says_why(tmp_path: Path) -> None:
    def objective(trial: tunesmith.LiveTrial) -> float:
        return (trial.suggest_float("x", 0, 1) - 0.3) ** 2

    settings = {"directory": tmp_path, "progress": False, "seed": 0, "stop_when": "converged"}
    study = tunesmith.search(objective, n_trials=40, **settings)
    assert 14 <= len(study.trials) < 40
    assert study.info.settings["finished"]
    assert study.info.settings["ended"].startswith("converged: the best of further trials would gain")
    again = tunesmith.search(objective, n_trials=40, resume=True, **settings)
    assert len(again.trials) == len(study.trials)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stop_when": "bored"}, 'stop_when must be "converged"'),
        ({"stop_when": "converged", "direction": ["minimize", "minimize"]}, "needs one objective, got 2"),
    ],
)
def test_stop_when_is_checked(tmp_path: Path, settings, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        tunesmith.search(lambda trial: 0.0, directory=tmp_path, **settings)


def test_a_function_that_asks_for_no_parameter_is_told_once_that_all_trials_are_the_same(tmp_path):
    class Heard(list):
        def on_message(self, study, text):
            self.append(text)

    heard = Heard()
    tunesmith.search(lambda t: 1.0, 3, directory=tmp_path, callbacks=[heard], progress=False)
    assert [text for text in heard if "all trials are the same" in text] == heard != []
