"""Trainer searches that are interrupted or killed, and the checkpoints that they leave and go on from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import tiny
import torch
from transformers import TrainerCallback

from tunesmith import Trainer
from tunesmith.checkpoints import expected_size
from tunesmith.errors import StudyChangedError
from tunesmith.trial import TrialState


def rates(trial):
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)}


def search(trainer, hp_space=rates, n_trials=3, **settings):
    return trainer.hyperparameter_search(hp_space=hp_space, n_trials=n_trials, seed=0, progress=False, **settings)


def test_after_a_timeout_in_the_first_trial_the_model_is_that_trials(tmp_path):
    class Slow(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            time.sleep(0.02)

    trainer = tiny.make(Trainer, tmp_path, num_train_epochs=500, callbacks=[Slow()])
    with pytest.warns(UserWarning, match="no trial has completed: 1 paused"):
        best = search(trainer, timeout=2)
    assert (best.run_id, best.run_summary.trials[0].state) == ("0", TrialState.PAUSED)
    loaded = tiny.TinyModel.from_pretrained(best.run_summary.checkpoint(best.run_summary.trials[0]))
    assert torch.equal(trainer.model.inner.weight.cpu(), loaded.inner.weight)


@pytest.mark.parametrize("step", [5, 12])
def test_a_trial_paused_within_an_epoch_comes_to_the_best_checkpoint_of_an_uninterrupted_one(tmp_path, step):
    class Interrupt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == step:
                os.kill(os.getpid(), signal.SIGINT)

    settings = {"num_train_epochs": 3, "load_best_model_at_end": True}
    whole = search(tiny.make(Trainer, tmp_path / "whole", **settings), n_trials=1)
    with pytest.raises(KeyboardInterrupt):
        search(tiny.make(Trainer, tmp_path / "parts", callbacks=[Interrupt()], **settings), n_trials=1)
    parts = search(tiny.make(Trainer, tmp_path / "parts", **settings), n_trials=1)
    expected, found = whole.run_summary.trials[0], parts.run_summary.trials[0]
    assert (found.value, found.checkpoint) == (expected.value, expected.checkpoint)
    logged = [
        [entry["step"] for entry in json.loads((path / "trainer_state.json").read_text())["log_history"]]
        for path in (tmp_path / "whole/run-0/checkpoint-24", tmp_path / "parts/run-0/checkpoint-24")
    ]
    assert logged[0] == logged[1]


@pytest.mark.parametrize(
    ("gently", "seen"), [(True, [*range(1, 11), *range(11, 17)]), (False, [*range(1, 11), *range(1, 17)])]
)
def test_with_save_only_model_a_trial_goes_on_only_where_the_schedule_is_known(tmp_path, gently, seen):
    steps, rate = [], {}

    class Interrupt(TrainerCallback):
        done = False

        def on_step_end(self, args, state, control, lr_scheduler=None, **kwargs):
            steps.append(state.global_step)
            rate.setdefault(state.global_step, set()).add(lr_scheduler.get_last_lr()[0])
            if state.global_step == 10 and not Interrupt.done:
                Interrupt.done = True
                if not gently:
                    raise KeyboardInterrupt
                os.kill(os.getpid(), signal.SIGINT)

    def start():
        return search(tiny.make(Trainer, tmp_path, save_only_model=True, callbacks=[Interrupt()]), n_trials=1)

    with pytest.raises(KeyboardInterrupt):
        start()
    start()
    assert steps == seen
    assert all(len(rates_at_step) == 1 for rates_at_step in rate.values())


def test_keep_checkpoints_best_leaves_one(tmp_path):
    trainer = tiny.make(Trainer, tmp_path)
    best = search(trainer, n_trials=4, keep_checkpoints="best")
    left = sorted(p.parent.name for p in tmp_path.glob("run-*/checkpoint-*"))
    assert left == [f"run-{best.run_id}"]


def test_a_disk_that_the_search_will_outgrow_is_pointed_out_once(tmp_path):
    trainer = tiny.make(Trainer, tmp_path)
    with pytest.warns(UserWarning, match="the checkpoints of this search will need about .* GB more") as warned:
        search(trainer, n_trials=10**9, timeout=4)
    assert sum("GB more" in str(w.message) for w in warned) == 1


def test_the_disk_is_projected_from_the_model_and_the_save_settings(tmp_path):
    weights = sum(p.numel() for p in tiny.model_init().parameters()) * 4

    def expected(**settings):
        return expected_size(tiny.make(Trainer, tmp_path, **settings))

    assert expected(num_train_epochs=3) == 3 * 3 * weights  # weights and two numbers of Adam's for each, three times
    assert expected(num_train_epochs=3, save_total_limit=1) == 3 * weights
    assert expected(save_only_model=True) == 2 * weights
    assert expected(save_strategy="steps", save_steps=4) == 4 * 3 * weights
    assert expected(save_strategy="no") == 0


SCRIPT = """
import sys, os
sys.path.insert(0, {tests!r})
import tiny
import torch
from transformers import TrainerCallback
from tunesmith import Trainer

class Die(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if os.environ.get("DIE") and state.trial_name == "run-1" and state.global_step == 20:
            os.kill(os.getpid(), 9)
        if state.trial_name == "run-1":
            print("step", state.global_step, flush=True)

def space(trial):
    return {{"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)}}

trainer = tiny.make(Trainer, sys.argv[1], callbacks=[Die()], num_train_epochs=4)
best = trainer.hyperparameter_search(hp_space=space, n_trials=3, seed=1, progress=False)
print("best", best.run_id, repr(best.objective), [t.attempt for t in best.run_summary.trials])
"""


def test_a_killed_search_resumes_the_trial_from_its_checkpoint_with_the_same_result(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT.format(tests=str(Path(__file__).parent))))

    def run(folder, **env):
        command = [sys.executable, "-W", "ignore", str(path), str(tmp_path / folder)]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, check=False)

    whole = run("whole")
    assert run("parts", DIE="1").returncode == -9
    rest = run("parts")
    assert (
        next(line for line in rest.stdout.splitlines() if line.startswith("step")) == "step 17"
    )  # epochs of 8 steps: the last checkpoint was at 16
    best = rest.stdout.splitlines()[-1]
    assert best.endswith("[1, 2, 1]")
    assert best.split()[:3] == whole.stdout.splitlines()[-1].split()[:3]


DIES_WHILE_SAVING = """
import sys, os
sys.path.insert(0, {tests!r})
import tiny
import torch
from transformers import TrainerCallback
from tunesmith import Trainer

class Dies(Trainer):
    def _save_checkpoint(self, model, trial):
        super()._save_checkpoint(model, trial)
        if os.environ.get("DIE") and trial is not None and self.state.global_step == 24:
            os.kill(os.getpid(), 9)  # transformers has done all that it does; the study has not heard of it

class Say(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        print("after", state.global_step, flush=True)

trainer = tiny.make(Dies, sys.argv[1], callbacks=[Say()], num_train_epochs=4, save_total_limit=1)
trainer.hyperparameter_search(
    hp_space=lambda trial: {{"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1)}},
    n_trials=1, seed=1, progress=False,
)
"""


def test_a_kill_between_saving_and_recording_leaves_a_checkpoint_to_go_on_from(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(DIES_WHILE_SAVING.format(tests=str(Path(__file__).parent)))
    command = [sys.executable, "-W", "ignore", str(path), str(tmp_path / "out")]
    assert subprocess.run(command, capture_output=True, env={**os.environ, "DIE": "1"}, check=False).returncode == -9
    rest = subprocess.run(command, capture_output=True, text=True, check=True)
    assert next(line for line in rest.stdout.splitlines() if line.startswith("after")) == "after 16"
    assert len(list((tmp_path / "out" / "run-0").glob("checkpoint-*"))) == 1


def test_two_lambdas_as_objective_or_space_do_not_share_an_interrupted_study(tmp_path):
    class Interrupt(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            os.kill(os.getpid(), signal.SIGINT)

    settings = {"study": "one", "n_trials": 2}
    with pytest.raises(KeyboardInterrupt):
        search(
            tiny.make(Trainer, tmp_path, callbacks=[Interrupt()]), lambda trial: rates(trial) | {"weight_decay": 0.1},
            compute_objective=lambda metrics: metrics["eval_loss"], **settings,
        )  # fmt: skip
    for hp_space, objective, role in (
        (rates, lambda metrics: -metrics["eval_loss"], "compute_objective"),
        (lambda trial: rates(trial) | {"weight_decay": 0.2}, lambda metrics: metrics["eval_loss"], "hp_space"),
    ):
        with pytest.raises(StudyChangedError, match=f"{role}'s code was another one"):
            search(tiny.make(Trainer, tmp_path), hp_space, compute_objective=objective, **settings)
    best = search(
        tiny.make(Trainer, tmp_path), lambda t: rates(t) | {"weight_decay": 0.1},
        compute_objective=lambda metrics: metrics["eval_loss"], **settings,
    )  # fmt: skip
    assert len(best.run_summary.trials) == 2
