"""What a Trainer's search takes for its objective."""

from __future__ import annotations

import pytest
import tiny

from tunesmith import Trainer


def rates(trial):
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)}


def search(trainer, hp_space=rates, n_trials=3, **settings):
    return trainer.hyperparameter_search(hp_space=hp_space, n_trials=n_trials, seed=0, progress=False, **settings)


def test_the_metric_for_best_model_is_the_objective_in_its_direction(tmp_path):
    trainer = tiny.make(
        Trainer, tmp_path, compute_metrics=tiny.accuracy, metric_for_best_model="accuracy", greater_is_better=True
    )
    with pytest.warns(UserWarning, match="eval_accuracy is maximized"):
        best = search(trainer)
    assert best.objective == max(t.value for t in best.run_summary.trials)
    assert best.run_summary.directions == ("maximize",)


def test_minimizing_a_sum_of_metrics_is_pointed_out(tmp_path):
    trainer = tiny.make(Trainer, tmp_path, compute_metrics=tiny.accuracy)
    with pytest.warns(UserWarning, match="minimized is the sum eval_accuracy"):
        search(trainer, n_trials=1)


def test_minimizing_a_sum_of_losses_is_not(tmp_path, recwarn):
    trainer = tiny.make(Trainer, tmp_path)
    trainer.eval_dataset = {"a": tiny.Points(32, 1), "b": tiny.Points(32, 2)}
    assert search(trainer, n_trials=1).trial.metrics.keys() >= {"eval_a_loss", "eval_b_loss"}
    assert not [w for w in recwarn if "is the sum" in str(w.message)]


def test_a_trainer_with_an_evaluation_of_its_own_needs_no_eval_dataset(tmp_path):
    class Own(Trainer):
        def get_eval_dataloader(self, eval_dataset=None):
            return super().get_eval_dataloader(tiny.Points(64, 1))

    trainer = Own(
        model_init=tiny.model_init,
        args=tiny.arguments(tmp_path, eval_strategy="no", save_strategy="no", num_train_epochs=1),
        train_dataset=tiny.Points(64, 0),
    )
    best = search(trainer, n_trials=2)
    assert len(best.study.completed()) == 2
