"""Searches that Ray Tune drives, and those of our engine that the backend "ray" runs."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import ray
from ray import tune
from ray.tune.schedulers import (
    ASHAScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    ResourceChangingScheduler,
)
from ray.tune.search.optuna import OptunaSearch

from tunesmith import load_study, search
from tunesmith.errors import SettingError
from tunesmith.trial import TrialState

PBT = PopulationBasedTraining(hyperparam_mutations={"x": [0, 1]})
SPACE = {"x": tune.uniform(0, 1), "n": tune.randint(1, 9), "kind": tune.choice(["a", "b"])}


@pytest.fixture(scope="module", autouse=True)
def small_ray():
    """One Ray for all tests of this file."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # they leave files open
    settings = {"include_dashboard": False, "object_store_memory": 80 * 2**20, "log_to_driver": False}
    ray.init(address="local", num_cpus=2, logging_level="ERROR", **settings)
    yield
    ray.shutdown()


def train(trial):
    """Learns "x" by steps: the weights are the sum of the x of all steps, and the objective is what is in them."""
    assert type(trial.params["n"]) is int
    weights, start = 0.0, 0
    if trial.resume_from:
        start, weights = json.loads((Path(trial.resume_from) / "weights.json").read_text())
    for step in range(start + 1, 5):
        weights += trial.params["x"]
        place = trial.directory / f"checkpoint-{step}"
        place.mkdir(parents=True, exist_ok=True)
        (place / "weights.json").write_text(json.dumps([step, weights]))
        trial.report(weights, step, share=step / 4)
        trial.save_checkpoint(str(place), step)
    return weights


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


def test_another_seed_makes_other_configurations_whoever_has_seeded_numpy(tmp_path):
    found = []
    for seed in (1, 2):
        np.random.seed(42)  # noqa: NPY002  as a Trainer does
        study = run(tmp_path / str(seed), train, 2, seed=seed, scheduler=ASHAScheduler(max_t=4), workers=1)
        found.append([dict(t.params) for t in study.trials])
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"time_budget_s": 5}, "takes tune.run's 'time_budget_s' as 'timeout'"),
        ({"stop": {"training_iteration": 2}}, "'stop' is for Ray Tune"),
        ({"scheduler": ASHAScheduler(), "reuse_actor": True}, "did you mean 'reuse_actors'"),
        ({"scheduler": ASHAScheduler(), "stop_when": "converged"}, "stop_when must be left out"),
        ({"scheduler": ASHAScheduler(), "trial_timeout": 5}, "trial_timeout must be left out"),
        ({"scheduler": ASHAScheduler(), "runner": "workers", "workers": 1}, "runner must be left out"),
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


def test_the_median_rule_drives_until_the_timeout_and_leaves_no_trial_that_never_began(tmp_path):
    study = run(tmp_path, train, None, timeout=2, scheduler=MedianStoppingRule(grace_period=1), workers=1)
    assert {t.state for t in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert not study.info.settings["finished"]


def test_tune_does_not_go_on_with_a_study_that_has_begun(tmp_path):
    run(tmp_path, train, 1, scheduler=ASHAScheduler(max_t=4))
    with pytest.raises(SettingError, match="must begin a study"):
        run(tmp_path, train, 2, scheduler=ASHAScheduler(max_t=4), resume=True)
    assert len(load_study(tmp_path / "study").trials) == 1


def test_tune_must_know_the_space(tmp_path):
    with pytest.raises(SettingError, match="must know the space before the first trial"):
        run(tmp_path, space=None, scheduler=ASHAScheduler())
