"""A Trainer's search in Ray actors."""

import math

import pytest
import tiny
from ray.tune.schedulers import ASHAScheduler

import tunesmith
from tunesmith.errors import SettingError


def test_a_trainers_trials_run_in_ray_actors_and_the_best_model_comes_back(tmp_path):
    trainer = tiny.make(tunesmith.Trainer, tmp_path)
    best = tunesmith.hyperparameter_search(
        trainer, n_trials=2, runner="ray", workers=1, resources_per_trial={"cpu": 1}, progress=False, seed=1
    )
    assert all(math.isfinite(t.values[0]) for t in best.run_summary.completed())
    assert len(best.run_summary.completed()) == 2
    assert math.isclose(trainer.evaluate()["eval_loss"], best.objective, rel_tol=1e-5)


def test_a_trainer_is_not_searched_by_tune(tmp_path):
    trainer = tiny.make(tunesmith.Trainer, tmp_path)
    with pytest.raises(SettingError, match="Ray Tune does not drive a Trainer's search yet"):
        trainer.hyperparameter_search(n_trials=2, backend="ray", scheduler=ASHAScheduler())
    assert not list(tmp_path.glob("**/study.sqlite"))
