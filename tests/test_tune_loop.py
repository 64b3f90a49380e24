"""Searches that Ray Tune drives, and those of our engine that the backend "ray" runs."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from ray import tune
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    PopulationBasedTraining,
    ResourceChangingScheduler,
)
from ray.tune.schedulers.pb2 import PB2
from ray.tune.search.optuna import OptunaSearch

from tunesmith import load_study, search
from tunesmith.errors import SettingError
from tunesmith.trial import TrialState

pytestmark = pytest.mark.usefixtures("small_ray")

LIMIT = 120.0  # seconds
PBT = PopulationBasedTraining(hyperparam_mutations={"x": [0, 1]})
SPACE = {"x": tune.uniform(0, 1), "n": tune.randint(1, 9), "kind": tune.choice(["a", "b"])}


def train(trial):
    """Learns "x" by steps: the weights are the sum of the x of all steps, and the objective is what is in them."""
    assert type(trial.params["n"]) is int
    weights, start = 0.0, 0
    if trial.resume_from:
        start, weights = json.loads((Path(trial.resume_from) / "weights.json").read_text())
    for step in range(start + 1, 5):
        weights += trial.params["x"]
        trial.report(weights, step, share=step / 4)
        trial.save_checkpoint(saved(trial, step, weights), step)
    return weights


def saved(trial, step, weights):
    """A checkpoint of a trial."""
    place = trial.directory / f"checkpoint-{step}"
    place.mkdir(parents=True, exist_ok=True)
    (place / "weights.json").write_text(json.dumps([step, weights]))
    return str(place)


def train_or_fail(trial):
    if trial.number == 1:
        raise ValueError("a bad one")
    if trial.number == 2:
        trial.report(float("nan"), 1)
        assert trial.should_prune()
        import optuna

        raise optuna.TrialPruned
    return train(trial)


def run(tmp_path, objective=train, n=5, **settings):
    given = {"space": SPACE, "seed": 3, "progress": False, "direction": "maximize", **settings}
    return search(objective, n, directory=tmp_path / "study", backend="ray", **given)


def test_without_tunes_objects_the_engine_proposes_and_ray_runs(tmp_path):
    def where(trial):
        trial.set_user_attr("pid", os.getpid())
        return trial.params["x"]

    here = search(where, 4, directory=tmp_path / "here", space=SPACE, seed=3, progress=False)
    there = run(tmp_path, where, 4, direction="minimize", workers=1)
    assert [t.params for t in there.trials] == [t.params for t in here.trials]
    assert os.getpid() not in {t.attrs["pid"] for t in there.trials}


def test_a_scheduler_of_tunes_stops_trials_and_failed_ones_lose_nothing(tmp_path, capfd):
    scheduler = ASHAScheduler(grace_period=1, max_t=4, reduction_factor=2)
    study = run(tmp_path, train_or_fail, 6, scheduler=scheduler, max_retries=0)
    assert capfd.readouterr().out == ""
    assert len(study.trials) == 6
    failed = [t for t in study.trials if t.state is TrialState.FAILED]
    assert [(t.number, t.reason) for t in failed] == [
        (1, "error: ValueError: a bad one"),
        (2, "nan: the objective is nan at step 1"),
    ]
    assert "in train_or_fail" in failed[0].detail
    others = [t for t in study.trials if t not in failed]
    assert {t.state for t in others} <= {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in others:
        steps = [r.step for r in trial.reports]
        assert steps == list(range(1, len(steps) + 1))
        assert (len(steps) == 4) == (trial.state is TrialState.COMPLETE)
        assert trial.checkpoint_step == steps[-1] or trial.state is TrialState.PRUNED
    assert study.best_trial.values == pytest.approx((4 * study.best_trial.params["x"],))
    assert len(study.analysis.trials) == 6
    assert len(study.to_optuna().trials) == 6


def test_a_search_algorithm_of_tunes_proposes_for_two_objectives(tmp_path):
    def two(trial):
        return trial.params["x"], -trial.params["x"] * trial.params["n"]

    study = run(tmp_path, two, 3, direction=["minimize", "maximize"], search_alg=OptunaSearch(seed=1), workers=1)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 3
    assert all(t.values == pytest.approx((t.params["x"], -t.params["x"] * t.params["n"])) for t in study.trials)
    assert study.best_trials


def train_by_choice(trial):
    given = trial.config["opt"]
    assert (given["name"] == "adam") == ("beta" in given)
    assert given["lr"] == trial.params[f"opt.{given['name']}.lr"]
    assert trial["wd"] == given["lr"] * 2
    return given["lr"]


@pytest.mark.parametrize("options", [{"search_alg": OptunaSearch(seed=1)}, {"scheduler": ASHAScheduler()}])
def test_choices_among_dicts_are_resolved_where_tune_drives(tmp_path, options):
    choices = [{"name": "adam", "lr": tune.uniform(0, 1), "beta": tune.uniform(0, 1)}]
    choices += [{"name": "sgd", "lr": tune.uniform(5, 6)}]
    space = {"opt": tune.choice(choices), "wd": tune.sample_from(lambda spec: spec.config.opt.lr * 2)}
    study = run(tmp_path, train_by_choice, 5, space=space, **options)
    assert len(study.completed()) == 5
    assert {t.params["opt.name"] for t in study.trials} == {"adam", "sgd"}
    assert all(("opt.beta" in t.params) == (t.values[0] < 5) for t in study.trials)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"num_samples": 5}, "takes tune.run's 'num_samples' as 'n_trials'"),
        (
            {"time_budget_s": 5, "timeout": 6},
            "time_budget_s means timeout, got time_budget_s=5 and timeout=6; pass one",
        ),
        ({"storage_path": "nowhere://bucket"}, "storage must be a URL that fsspec can open"),
        ({"resume": "ERRORED_ONLY"}, "AUTO or LOCAL of tune.run, got 'ERRORED_ONLY'; `tunesmith retry`"),
        ({"resume": "AUTO+ERRORED"}, 'resume must be "auto", True or False'),
        ({"callbacks": [tune.Callback()]}, "callbacks of Ray Tune are for a search that Tune drives"),
        ({"stop": {"training_iteration": 2}}, "'stop' is for Ray Tune"),
        ({"scheduler": ASHAScheduler(), "reuse_actor": True}, "did you mean 'reuse_actors'"),
        ({"scheduler": ASHAScheduler(), "stop_when": "converged"}, "stop_when must be left out"),
        ({"scheduler": ASHAScheduler(), "trial_timeout": 5}, "trial_timeout must be left out"),
        ({"scheduler": ASHAScheduler(), "runner": "workers", "workers": 1}, "runner must be left out"),
        ({"scheduler": ASHAScheduler(), "ranks_per_trial": 2}, "ranks_per_trial must be 1 where Ray Tune's"),
        ({"search_alg": OptunaSearch(), "enqueue": [{"x": 0.5}]}, "enqueue must be left out"),
        ({"scheduler": PBT, "search_alg": OptunaSearch()}, "population based training proposes by itself"),
        ({"scheduler": PBT, "workers": 1}, "workers must be left out with PopulationBasedTraining"),
        ({"scheduler": ResourceChangingScheduler(), "space": SPACE}, "scheduler must be Ray Tune's ASHAScheduler"),
        ({"scheduler": "asha"}, "scheduler must be Ray Tune's ASHAScheduler"),
        ({"search_alg": "optuna"}, "search_alg must be one of Ray Tune's searchers"),
    ],
)
def test_what_is_not_taken_is_reported_before_a_study_begins(tmp_path, options, rule):
    with pytest.raises(SettingError, match=rule):
        run(tmp_path, **options)
    assert not (tmp_path / "study").exists()


@pytest.mark.filterwarnings("ignore")  # what Pandas and scikit-learn say of the model that PB2 fits
def test_pb2_gives_a_function_another_trials_checkpoint_and_parameters_of_its_own(tmp_path):
    bounds = {"x": [0.0, 1.0]}
    scheduler = PB2(
        time_attr="training_iteration",
        perturbation_interval=1,
        hyperparam_bounds=bounds,
        quantile_fraction=0.5,
        synch=True,
    )
    study = run(tmp_path, train, 2, scheduler=scheduler, resources_per_trial={"cpu": 2})
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 2
    assert any("inherited" in t.attrs for t in study.trials)
    for trial in study.trials:
        assert [r.step for r in trial.reports] == [1, 2, 3, 4]
        last = trial.attrs.get("inherited", [{"from": trial.number, "step": 0}])[-1]
        weights = {r.step: r.values[0] for r in study.trials[last["from"]].reports}
        expected = weights.get(last["step"], 0.0) + trial.params["x"] * (4 - last["step"])
        assert trial.values == pytest.approx((expected,))


def up_and_down(trial):
    for step in range(1, 13):
        trial.report(100.0 if step == 6 else step, step)
    return 12.0


@pytest.mark.parametrize(
    ("scope", "value"), [("last", 12), ("all", 100), ("last-5-avg", 10), ("last-10-avg", 16.9), ("avg", 172 / 12)]
)
def test_ray_scope_says_which_values_count(tmp_path, monkeypatch, scope, value):
    monkeypatch.setenv("RAY_SCOPE", scope)
    study = run(tmp_path, up_and_down, 1, scheduler=FIFOScheduler())
    assert study.best_trial.values == pytest.approx((value,))


def test_initial_points_and_the_word_local_as_for_tune_run(tmp_path):
    first = {"x": 0.25, "n": 3, "kind": "a"}
    study = run(tmp_path, n=1, scheduler=FIFOScheduler(), points_to_evaluate=[first])
    assert study.trials[0].params == first
    longer = run(tmp_path, n=2, scheduler=FIFOScheduler(), points_to_evaluate=[first], resume="LOCAL")
    assert (longer.directory, longer.trials[0]) == (study.directory, study.trials[0])
    assert longer.trials[1].params != first


class Ends(tune.Callback):
    """A callback of Tune's."""

    def __init__(self):
        self.ended = 0

    def on_trial_complete(self, iteration, trials, trial, **_):
        self.ended += 1


def lose_one(trial):
    """The worker of one trial is killed after its second step, at the first attempt."""
    if trial.number == 1 and trial.attempt == 1:
        trial.report(0.0, 1, checkpoint=saved(trial, 1, 0.0))
        trial.report(0.0, 2)
        os.kill(os.getpid(), signal.SIGKILL)
    return train(trial)


def test_settings_go_by_the_names_of_tune_run_and_a_lost_worker_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_SCOPE", "avg")
    np.random.seed(42)  # noqa: NPY002  as a Trainer does
    ends = Ends()
    study = search(
        lose_one,
        3,
        backend="ray",
        space=SPACE,
        direction="maximize",
        seed=3,
        progress=False,
        search_alg=OptunaSearch(seed=1),
        name="mine",
        storage_path=str(tmp_path / "study"),
        max_concurrent_trials=1,
        max_failures=1,
        stop={"training_iteration": 3},
        time_budget_s=timedelta(minutes=10),
        callbacks=[ends],
        reuse_actors=True,
    )
    assert (study.name, study.directory) == ("mine", tmp_path / "study")
    assert ends.ended == 3
    for trial in study.trials:
        x = trial.params["x"]
        assert [r.step for r in trial.reports] == [1, 2, 3]
        if trial.number == 1:  # from the checkpoint that it saved before its worker was killed
            assert trial.attempt == 2
            assert trial.attrs["failures"][0].startswith("lost: the worker in Ray died")
            assert trial.values == pytest.approx((x,))  # the mean of 0, x and 2 x
        else:
            assert trial.values == pytest.approx((2 * x,))  # the mean of x, 2 x and 3 x
            assert trial.state is TrialState.COMPLETE  # it got all that the user wanted
    assert study.info.settings["finished"]


SCRIPT = """
import sys, time
sys.path.insert(0, {here!r})
from optuna.distributions import FloatDistribution, IntDistribution
from ray.tune.schedulers import MedianStoppingRule
from test_tune_loop import train
from tunesmith import search

def slow(trial):
    report = trial.report
    def slowly(*args, **kwargs):
        time.sleep({pause})
        report(*args, **kwargs)
    trial.report = slowly
    return train(trial)

search(slow, 3, space={{"x": FloatDistribution(0, 1), "n": IntDistribution(1, 9)}}, directory={directory!r}, seed=1,
       backend="ray", scheduler=MedianStoppingRule(grace_period=9), workers=1, progress=False)
"""


def test_signals_pause_and_a_killed_driver_loses_nothing_and_the_search_goes_on(tmp_path, small_ray):
    def reports():
        there = (tmp_path / "study" / "study.sqlite").exists()
        return [len(t.reports) for t in load_study(tmp_path / "study").trials] if there else []

    def run_until(count, number):
        script = SCRIPT.format(here=str(Path(__file__).parent), directory=str(tmp_path / "study"), pause=0.4)
        environment = {**os.environ, "RAY_ADDRESS": small_ray}
        with subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.PIPE) as driver:
            until = time.monotonic() + LIMIT
            while sum(reports()) < count and driver.poll() is None and time.monotonic() < until:
                time.sleep(0.05)
            if number is not None:
                driver.send_signal(number)
            expected = 128 + number if number == signal.SIGTERM else -(number or 0)
            assert driver.wait(LIMIT) == expected, driver.stderr.read().decode()

    run_until(2, signal.SIGINT)
    study = load_study(tmp_path / "study")
    assert study.trials[0].state is TrialState.PAUSED
    before = study.trials[0].reports
    run_until(6, signal.SIGKILL)
    run_until(9, signal.SIGTERM)
    last = load_study(tmp_path / "study").trials[2]
    assert (last.state, last.reason) == (TrialState.PAUSED, "interrupted: SIGTERM")
    run_until(99, None)
    trials = load_study(tmp_path / "study").trials
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 3
    assert trials[0].reports[: len(before)] == before
    assert [[r.step for r in t.reports] for t in trials] == [[1, 2, 3, 4]] * 3
    assert len({t.params["x"] for t in trials}) == 3
    assert [t.attempt for t in trials] == [1, 2, 1]


def test_tune_must_know_the_space(tmp_path):
    with pytest.raises(SettingError, match="must know the space before the first trial"):
        run(tmp_path, space=None, scheduler=ASHAScheduler())
