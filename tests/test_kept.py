"""The best trial's weights are kept also when trials are equal: those of the trial that the study calls the best."""

from __future__ import annotations

import pytest
import tiny
from test_trainer import rates

from tunesmith import Trainer
from tunesmith.kept import KeptInFiles, KeptInMemory
from tunesmith.trial import Assignment, LiveTrial


def test_of_trials_equal_in_the_first_objective_the_weights_are_of_the_one_better_in_the_second(tmp_path):
    trainer = tiny.make(Trainer, tmp_path, save_strategy="no", num_train_epochs=1)
    calls = []

    def objective(metrics):
        calls.append(metrics["eval_loss"])
        return [1.0, -len(calls)]

    found = trainer.hyperparameter_search(
        rates, objective, n_trials=3, direction=["maximize", "minimize"], progress=False, seed=0, pruner=None
    )
    assert [b.run_id for b in found] == ["2"]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(calls[-1], rel=1e-5)


@pytest.mark.parametrize("kept", [KeptInMemory(), KeptInFiles()], ids=["memory", "files"])
def test_of_equal_trials_the_weights_are_of_the_first_also_when_it_ends_later(tmp_path, kept):
    for number in (1, 0, 2):
        live = LiveTrial(Assignment(number, directory=str(tmp_path / f"run-{number}")), None)
        kept.offer(live, (0.25,), tiny.model_init())
    assert kept.take(tmp_path / "run-0", 0) is not None
