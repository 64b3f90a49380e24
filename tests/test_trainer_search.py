"""A second search of a real Trainer that takes over where the first one ended, and must keep to a constraint."""

from __future__ import annotations

import pytest
import tiny
from test_trainer import rates

import tunesmith
from tunesmith import Trainer
from tunesmith.kept import FILE as KEPT


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A search, the Trainer of one that begins with its best and may not be as good as that, and what this one found."""
    place = tmp_path_factory.mktemp("two")
    settings = {"hp_space": rates, "seed": 0, "progress": False}
    first = tiny.make(Trainer, place / "first").hyperparameter_search(n_trials=4, **settings)
    trainer = tiny.make(Trainer, place / "second", save_strategy="no")
    second = trainer.hyperparameter_search(
        n_trials=4,
        warm_start=[first.run_summary],
        constraints=lambda metrics: first.objective + 1e-4 - metrics["eval_loss"],
        **settings,
    )
    return first, trainer, second


def test_a_trainers_search_tries_its_own_setting_and_then_the_best_of_an_earlier_one(two):
    first, trainer, second = two
    own, trial = second.run_summary.trials[:2]
    assert own.params == {"learning_rate": trainer.args.learning_rate}
    assert trial.params == first.hyperparameters != own.params
    assert trial.value == first.objective
    assert trial.why["text"] == "the best configuration of an earlier study"


def test_the_best_run_of_a_trainers_search_keeps_the_constraint_and_its_model_is_loaded(two):
    first, trainer, second = two
    trials = second.run_summary.trials
    assert trials[1].constraints["0"] == pytest.approx(1e-4)
    kept = [t for t in trials if t.constraints["0"] <= 0]
    assert 0 < len(kept) < len(trials)
    assert second.objective == min(t.value for t in kept) > first.objective
    assert trainer.evaluate()["eval_loss"] == pytest.approx(second.objective, rel=1e-6)
    files = second.run_summary.directory.glob(f"run-*/{KEPT}")
    assert [p.parent.name for p in files] == [f"run-{second.run_id}"]


def test_a_constraint_that_asks_for_a_metric_that_the_trainer_lacks_names_those_it_has(tmp_path):
    trainer = tiny.make(Trainer, tmp_path, num_train_epochs=1)
    with pytest.raises(
        tunesmith.errors.UserFunctionError, match=r"KeyError: 'size'; the metrics of trial 0 are .*eval_loss"
    ):
        trainer.hyperparameter_search(
            hp_space=rates, n_trials=2, seed=0, progress=False, constraints=lambda metrics: metrics["size"]
        )
