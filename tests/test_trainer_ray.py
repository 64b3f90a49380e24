"""A Trainer's search in Ray actors."""

import math

import tiny

import tunesmith


def test_a_trainers_trials_run_in_ray_actors_and_the_best_model_comes_back(tmp_path):
    trainer = tiny.make(tunesmith.Trainer, tmp_path)
    best = tunesmith.hyperparameter_search(
        trainer, n_trials=2, runner="ray", workers=1, resources_per_trial={"cpu": 1}, progress=False, seed=1
    )
    assert all(math.isfinite(t.values[0]) for t in best.run_summary.completed())
    assert len(best.run_summary.completed()) == 2
    assert math.isclose(trainer.evaluate()["eval_loss"], best.objective, rel_tol=1e-5)
