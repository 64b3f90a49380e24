"""What transformers and accelerate keep for the process does not reach the next trial."""

import os

import pytest
import tiny
from transformers import TrainerCallback

from tunesmith import Trainer

LAUNCHERS = {"ACCELERATE_DYNAMO_MODE": "default"}


class Precision(TrainerCallback):
    """Notes in which precision a trial's model computes."""

    def __init__(self, trainers, seen):
        self.trainers, self.seen = trainers, seen

    def __deepcopy__(self, memo):
        return self

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.seen.append((args.bf16, self.trainers[0].accelerator.mixed_precision))


@pytest.mark.parametrize("own", [False, True])
def test_each_trial_trains_in_its_own_precision_and_the_users_is_back(tmp_path, monkeypatch, own):
    monkeypatch.delenv(
        "ACCELERATE_MIXED_PRECISION", raising=False
    )  # arguments of other tests write it (transformers 4)
    seen, trainers = [], []
    trainer = tiny.make(Trainer, tmp_path, callbacks=[Precision(trainers, seen)], bf16=own, num_train_epochs=1)
    trainers.append(trainer)
    before = dict(os.environ)
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"bf16": trial.suggest_categorical("bf16", [True, False])},
        n_trials=3,
        enqueue=[{"bf16": True}, {"bf16": False}, {"bf16": True}],
        seed=0,
        progress=False,
    )
    assert not [t.reason for t in best.run_summary.trials if t.reason]
    assert {*seen} == {(True, "bf16"), (False, "no")}
    assert trainer.accelerator.mixed_precision == ("bf16" if own else "no")
    assert dict(os.environ) == before


def test_a_trials_compiler_ends_with_it_and_the_launchers_settings_stay(tmp_path, monkeypatch):
    for name, value in LAUNCHERS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ACCELERATE_DYNAMO_BACKEND", raising=False)
    seen = []

    class Environment(TrainerCallback):
        def __deepcopy__(self, memo):
            return self

        def on_train_begin(self, args, state, control, **kwargs):
            seen.append((args.torch_compile, {n: v for n, v in os.environ.items() if "DYNAMO" in n}))

    trainer = tiny.make(Trainer, tmp_path, callbacks=[Environment()], num_train_epochs=1)
    trainer.hyperparameter_search(
        hp_space=lambda trial: {"torch_compile": trial.suggest_categorical("torch_compile", [True, False])},
        n_trials=2,
        enqueue=[{"torch_compile": True}, {"torch_compile": False}],
        pruner=None,
        seed=0,
        progress=False,
    )
    assert (False, LAUNCHERS) in seen
    assert {on for on, _ in seen} == {True, False}
    assert {n: v for n, v in os.environ.items() if "DYNAMO" in n} == LAUNCHERS
