"""One search of a tiny Trainer in a process of its own, for tests that harm it. Imported once, by the fork server."""

import os
import sys
import traceback
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import tiny
import torch
from transformers import TrainerCallback

from tunesmith import Trainer

TRIALS = 2
PLACES = ("before", "weights", "optimizer", "whole")  # where in the saving of a checkpoint a process may die


class Steps(TrainerCallback):
    def __init__(self, pipe):
        self.pipe = pipe

    def __deepcopy__(self, memo):
        return self

    def on_step_end(self, args, state, control, **kwargs):
        os.write(self.pipe, f"{state.trial_name} {state.global_step}\n".encode())


def killed_at(place, step):
    """A Trainer class that kills its process while it saves the checkpoint of `step` in the second trial."""

    class Killed(Trainer):
        def _dies(self, here):
            if place == here and self.state.trial_name == "run-1" and self.state.global_step == step:
                os.kill(os.getpid(), 9)

        def save_model(self, *args, **kwargs):
            self._dies("before")
            super().save_model(*args, **kwargs)
            self._dies("weights")

        def _save_optimizer_and_scheduler(self, output_dir):
            super()._save_optimizer_and_scheduler(output_dir)
            self._dies("optimizer")

        def _save_rng_state(self, output_dir):
            super()._save_rng_state(output_dir)
            self._dies("whole")

    return Killed


def search(directory, seed, pipe=None, place=None, step=None):
    """Run the search to its end; exits with 0, or with 7 and the error's text through the pipe."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    writing = os.open(os.devnull, os.O_WRONLY) if pipe is None else pipe.fileno()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    kind = Trainer if place is None else killed_at(place, step)
    try:
        trainer = tiny.make(kind, directory, callbacks=[Steps(writing)], num_train_epochs=3)
        trainer.hyperparameter_search(
            hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)},
            n_trials=TRIALS,
            seed=seed,
            progress=False,
        )
    except OSError as error:
        os.write(writing, f"error {type(error).__name__}: {error}\n".encode())
        traceback.print_exc()
        sys.exit(7)
