"""Searches of a Trainer's hyperparameters on the ranks of a job, for test_trainer_ranks.py."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import optuna
import tiny
import torch
from transformers import TrainerCallback

import tunesmith
import tunesmith.runners.ranks
from tunesmith import Trainer

SCENARIO, FOLDER = sys.argv[1], Path(sys.argv[2])
RANK = int(os.environ["RANK"])


def note(**facts):
    with (FOLDER / f"rank-{RANK}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")


def rates(trial):
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True)}


def model_init(trial=None):
    hidden = 8 if trial is None else trial.suggest_categorical("hidden", [4, 16])
    return tiny.TinyModel(tiny.TinyConfig(hidden=hidden))


class Faults(TrainerCallback):
    """Notes each step, and goes wrong in the second step of some trials."""

    def __init__(self, faults):
        self.faults = faults

    def on_step_end(self, args, state, control, **kwargs):
        note(run=state.trial_name, step=state.global_step, lr=state.trial_params["learning_rate"])
        fault = self.faults.get(state.trial_name)
        if state.global_step == 2 and fault in (f"rank {RANK}", "all"):
            raise ValueError(f"{fault} fails")
        if fault == "slow":
            time.sleep(1.0)
        if state.global_step == 2 and fault == f"rank {RANK} hangs":
            time.sleep(300)


class Die(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        note(run=state.trial_name, step=state.global_step, restart=os.environ["TORCHELASTIC_RESTART_COUNT"])
        if (state.trial_name, state.global_step, RANK) == ("run-1", 6, int(sys.argv[3])) and (
            os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        ):
            os.kill(os.getpid(), signal.SIGKILL)


class PruneSecond(optuna.pruners.BasePruner):
    def prune(self, study, trial):
        return trial.number == 1


def weights(trainer):
    return {name: float(tensor.double().sum()) for name, tensor in trainer.model.state_dict().items()}


def after(name, trainer, best):
    """What every rank must have in hand after a search."""
    trials = best.run_summary.trials
    note(
        search=name,
        best=[best.run_id, best.objective, dict(best.hyperparameters)],
        trials=[[t.state.value, (t.reason or "").partition(" (")[0], t.attempt] for t in trials],
        weights=weights(trainer),
        loss=trainer.evaluate()["eval_loss"],
    )


def run_many():
    tunesmith.runners.ranks._LATE = 1.0
    faults = {"run-2": "rank 0", "run-3": "rank 1", "run-4": "all"}
    tiny.make(Trainer, FOLDER / "warm", max_steps=1, eval_strategy="no").train()  # loads much, once
    trainer = tiny.make(Trainer, FOLDER / "many", init=model_init, callbacks=[Faults(faults)])
    best = trainer.hyperparameter_search(
        hp_space=rates,
        n_trials=6,
        backend="optuna",
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=PruneSecond(),
        seed=0,
        progress=False,
        max_failures=99,
        keep_checkpoints="best",
    )
    after("many", trainer, best)
    trainer = tiny.make(Trainer, FOLDER / "overdue", callbacks=[Faults({"run-0": "slow", "run-1": "rank 1 hangs"})])
    best = trainer.hyperparameter_search(
        hp_space=rates, n_trials=2, seed=0, progress=False, trial_timeout=2, max_failures=9
    )
    note(search="overdue", trials=[[t.state.value, t.reason] for t in best.run_summary.trials])
    trainer = tiny.make(Trainer, FOLDER / "unsaved", save_strategy="no")
    best = tunesmith.hyperparameter_search(trainer, rates, n_trials=2, seed=0, progress=False)
    after("unsaved", trainer, best)
    trainer = tiny.make(Trainer, FOLDER / "paused", callbacks=[Faults({"run-0": "slow"})])
    best = trainer.hyperparameter_search(hp_space=rates, n_trials=2, timeout=1, seed=0, progress=False)
    note(search="paused", trials=[[t.state.value, t.reason] for t in best.run_summary.trials])
    for backend in ("sigopt", "wandb"):
        trainer = tiny.make(Trainer, FOLDER / backend, init=model_init, num_train_epochs=1)
        best = trainer.hyperparameter_search(hp_space=rates, n_trials=2, backend=backend, seed=0, progress=False)
        after(backend, trainer, best)


def run_killed():
    trainer = tiny.make(Trainer, FOLDER / "killed", callbacks=[Die()])
    best = trainer.hyperparameter_search(hp_space=rates, n_trials=3, seed=0, progress=False)
    after("killed", trainer, best)


{"many": run_many, "killed": run_killed}[SCENARIO]()
torch.distributed.destroy_process_group()
