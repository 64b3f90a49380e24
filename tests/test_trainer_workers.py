"""The Trainer's trials in worker processes: real Trainers, real processes, real signals."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import optuna
import psutil
import pytest
import tiny
import torch
import transformers
from transformers import TrainerCallback

import tunesmith
from tunesmith import Trainer
from tunesmith.errors import SettingError
from tunesmith.kept import FILE as KEPT
from tunesmith.trial import TrialState

HERE = Path(__file__).parent
PATIENCE = 300  # seconds; a fork server under load may take long to import


def rates(trial):
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)}


def search(trainer, hp_space=rates, n_trials=3, **settings):
    return trainer.hyperparameter_search(
        hp_space=hp_space, n_trials=n_trials, seed=0, progress=False, **{"workers": 2, "pruner": None, **settings}
    )


class Witness(TrainerCallback):
    """Holds the Trainer, as many callbacks do, and writes down who trains."""

    def __init__(self, directory, trainer=None):
        self.directory = directory
        self.trainer = trainer
        self.evaluations = 0

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        self.evaluations += 1
        here = f"{os.getpid()} {self.trainer.state is state} {self.evaluations} {type(self.trainer).__name__}"
        with (self.directory / f"witness-{state.trial_name}").open("a") as file:
            file.write(here + "\n")


def test_trials_run_in_workers_after_training_and_the_users_trainer_gets_the_best_model_only(tmp_path):
    trainer = tiny.make(Trainer, tmp_path)
    witness = Witness(tmp_path, trainer)
    trainer.train()
    trainer.add_callback(witness)
    args = trainer.args
    best = search(trainer)
    values = [t.value for t in best.run_summary.trials]
    assert best.objective == min(values)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best.objective, rel=1e-6)
    seen = [(tmp_path / f"witness-run-{n}").read_text().splitlines() for n in range(3)]
    assert [[line.split()[1:] for line in lines] for lines in seen] == [
        [["True", "1", "Trainer"], ["True", "2", "Trainer"]]
    ] * 3
    pids = {line.split()[0] for lines in seen for line in lines}
    assert len(pids) == 2
    assert str(os.getpid()) not in pids
    assert trainer.args is args
    assert type(trainer) is Trainer
    assert witness in trainer.callback_handler.callbacks
    assert witness.evaluations == 1  # the one above
    again = tiny.make(transformers.Trainer, tmp_path / "again", **best.hyperparameters)
    again.train()
    assert again.evaluate()["eval_loss"] == best.objective  # as in this process


def test_without_checkpoints_the_best_weights_alone_are_kept_in_a_file_also_without_model_init(tmp_path):
    trainer = transformers.Trainer(
        model=tiny.model_init(),
        args=tiny.arguments(tmp_path, save_strategy="no"),
        train_dataset=tiny.Points(128, 0),
        eval_dataset=tiny.Points(64, 1),
    )
    best = tunesmith.hyperparameter_search(trainer, rates, n_trials=4, seed=0, progress=False, workers=2, pruner=None)
    assert [p.parent.name for p in tmp_path.glob(f"run-*/{KEPT}")] == [f"run-{best.run_id}"]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best.objective, rel=1e-6)


class Faulty:
    """A model_init that goes wrong in the first attempt at each trial but the first, in every way."""

    def __init__(self, directory):
        self.directory = directory

    def __call__(self, trial=None):
        if trial is not None and trial.number > 0:
            fault = {1: self.leave, 2: self.be_killed, 3: self.run_out_of_memory, 4: self.hang}[trial.number]
            marker = self.directory / f"fault-{trial.number}"
            if not marker.exists():
                marker.touch()
                fault()
        return tiny.model_init()

    def leave(self):
        print("my last words", flush=True)
        os._exit(7)

    def be_killed(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def run_out_of_memory(self):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    def hang(self):
        time.sleep(PATIENCE)


def not_a_number(metrics):
    return float("nan") if "nan" in metrics else metrics["eval_loss"]


def test_a_fault_of_one_trial_leaves_the_others_alone(tmp_path):
    messages = []

    class Messages:
        def on_message(self, study, text):
            messages.append(text)

    trainer = tiny.make(Trainer, tmp_path, init=Faulty(tmp_path), num_train_epochs=1)
    best = search(trainer, n_trials=5, trial_timeout=8.0, callbacks=[Messages()])
    trials = best.run_summary.trials
    assert [t.state.value for t in trials] == ["COMPLETE", "COMPLETE", "COMPLETE", "FAILED", "FAILED"]
    assert [t.attempt for t in trials] == [1, 2, 2, 1, 1]
    assert trials[3].reason.startswith("oom: OutOfMemoryError: CUDA out of memory")
    assert trials[4].reason == "timeout: the trial took longer than 8 s"
    assert "in hang" in trials[4].detail
    lost = sorted(m for m in messages if "tried again" in m)
    assert "trial 1 is tried again: lost: the worker exited with code 7" in lost[0]
    assert "trial 2 is tried again: lost: the worker was killed by SIGKILL" in lost[1]
    assert "my last words" in (tmp_path / "run-1" / "output.log").read_text()


def test_pruners_decide_for_workers_and_n_jobs_means_workers(tmp_path):
    class Never(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return trial.number > 0

    trainer = tiny.make(Trainer, tmp_path, compute_metrics=tiny.accuracy)
    with pytest.warns(UserWarning, match="minimized is the sum eval_accuracy"):  # here, not in a worker's log
        best = search(trainer, n_trials=3, workers=None, n_jobs=2, backend="optuna", pruner=Never())
    trials = best.run_summary.trials
    assert [t.state for t in trials] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED]
    assert [len(t.reports) for t in trials] == [2, 1, 1]


class Lit(torch.utils.data.Dataset):
    def __init__(self):
        self.handle = threading.Lock()

    def __len__(self):
        return 1


class Writes(TrainerCallback):
    def __init__(self):
        self.writer = threading.Lock()


@pytest.mark.filterwarnings("ignore:callback Writes cannot be copied")
@pytest.mark.parametrize(
    ("changes", "path"),
    [
        (
            {"callbacks": [transformers.EarlyStoppingCallback(1), Writes()]},
            r"callbacks\[\d\]\.writer \(_thread\.lock\)",
        ),
        ({"init": partial(tiny.model_init, threading.Lock())}, r"model_init\[0\] \(_thread\.lock\)"),
    ],
)
def test_what_cannot_be_pickled_is_named_before_any_process_starts(tmp_path, changes, path):
    trainer = tiny.make(Trainer, tmp_path, **changes)
    model, before = trainer.model, psutil.Process().children()
    with pytest.raises(SettingError, match=path):
        search(trainer)
    assert psutil.Process().children() == before
    assert not (tmp_path / "study.sqlite").exists()
    assert type(trainer) is Trainer
    assert type(trainer.model) is type(model)


def test_a_dataset_that_cannot_be_pickled_is_named(tmp_path):
    trainer = tiny.make(Trainer, tmp_path)
    trainer.train_dataset = Lit()
    with pytest.raises(SettingError, match=r"and train_dataset\.handle \(_thread\.lock\)"):
        search(trainer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": None, "trial_timeout": 5.0}, "trial_timeout cannot be with runner .inline."),
        (
            {"workers": None, "threads_per_trial": 2, "gpus_per_trial": 1},
            "threads_per_trial and gpus_per_trial cannot be",
        ),
        ({"workers": 0}, "workers must be a whole number from 1"),
        ({"n_jobs": 4}, "n_jobs means workers, got workers=2 and n_jobs=4"),
        ({"trial_timeout": 0}, "trial_timeout must be above 0"),
        ({"gpus_per_trial": 2}, "gpus_per_trial must be 0 or None without a GPU, got 2"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_training(tmp_path, settings, message):
    with pytest.raises(SettingError, match=message):
        search(tiny.make(Trainer, tmp_path), **settings)
    assert not (tmp_path / "study.sqlite").exists()


class Slow(TrainerCallback):
    """Takes its time, and writes down each step."""

    def __init__(self, directory):
        self.directory = directory

    def on_step_end(self, args, state, control, **kwargs):
        with (self.directory / f"steps-{state.trial_name}").open("a") as file:
            file.write(f"{state.global_step} ")
        time.sleep(0 if (self.directory / "be quick").exists() else 0.1)


def test_sigterm_pauses_the_trials_in_workers_with_checkpoints_and_they_go_on_from_them_anywhere(tmp_path):
    steps = [tmp_path / f"steps-run-{n}" for n in range(2)]

    def ask_to_stop():
        until = time.monotonic() + PATIENCE
        while not all(p.exists() and len(p.read_text().split()) >= 10 for p in steps) and time.monotonic() < until:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask_to_stop)
    asking.start()
    with pytest.raises(SystemExit) as left:
        search(tiny.make(Trainer, tmp_path, callbacks=[Slow(tmp_path)], num_train_epochs=3), n_trials=2)
    asking.join()
    assert left.value.code == 128 + signal.SIGTERM
    trials = tunesmith.load_study(tmp_path).trials
    assert [t.state for t in trials] == [TrialState.PAUSED] * 2
    stops = [int(p.read_text().split()[-1]) for p in steps]
    assert [t.checkpoint_step for t in trials] == stops
    (tmp_path / "be quick").touch()
    trainer = tiny.make(Trainer, tmp_path, callbacks=[Slow(tmp_path)], num_train_epochs=3)
    best = search(trainer, n_trials=2, workers=None)  # in this process
    assert [t.attempt for t in best.run_summary.trials] == [1, 1]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best.objective, rel=1e-6)
    for path in steps:
        assert [int(s) for s in path.read_text().split()] == list(range(1, 25))  # no step is left out, or done twice


def test_ranks_without_gpus_must_be_meant_to_train_on_the_cpu(tmp_path):
    with pytest.raises(SettingError, match=r"a Trainer on 2 ranks without a GPU needs .*use_cpu=True"):
        search(tiny.make(Trainer, tmp_path, use_cpu=False), ranks_per_trial=2, gpus_per_trial=0)


class OneRankGoesWrong(TrainerCallback):
    """Notes each step of each rank, and goes wrong on rank 1 in some trials."""

    def __init__(self, directory):
        self.directory = directory

    def on_step_end(self, args, state, control, model=None, **kwargs):
        rank = args.process_index
        with (self.directory / f"steps-of-rank-{rank}").open("a") as file:
            file.write(f"{state.trial_name} {state.global_step} {args.world_size} {args.train_batch_size}\n")
        killed = self.directory / "killed"
        if rank == 1 and state.trial_name == "run-2" and state.global_step == 2:
            raise ValueError("on one rank only")
        if rank == 1 and state.trial_name == "run-3" and state.global_step == 6 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def suggested(trial=None):
    hidden = 8 if trial is None else trial.suggest_categorical("hidden", [4, 16])
    return tiny.TinyModel(tiny.TinyConfig(hidden=hidden))


class PruneSecond(optuna.pruners.BasePruner):
    def prune(self, study, trial):
        return trial.number == 1


def test_a_trial_of_two_ranks_trains_as_under_torchrun_whatever_happens_to_one_of_them(tmp_path):
    trainer = tiny.make(Trainer, tmp_path, init=suggested, callbacks=[OneRankGoesWrong(tmp_path)])
    best = search(
        trainer,
        n_trials=5,
        workers=1,
        ranks_per_trial=2,
        backend="optuna",
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=PruneSecond(),
        max_failures=9,
    )
    trials = best.run_summary.trials
    assert [t.state.value for t in trials] == ["COMPLETE", "PRUNED", "FAILED", "COMPLETE", "COMPLETE"]
    assert [t.attempt for t in trials] == [1, 1, 1, 2, 1]
    assert trials[2].reason == "error: ValueError: on one rank only (on rank 1 of 2)"
    assert trials[3].attrs["failures"][0].startswith("lost: rank 1 of 2 was killed by SIGKILL")
    steps = [(tmp_path / f"steps-of-rank-{rank}").read_text().splitlines() for rank in range(2)]
    assert [s for s in steps[0] if s.startswith(("run-0", "run-1", "run-4"))] == [
        f"run-{run} {step} 2 16" for run, last in ((0, 8), (1, 4), (4, 8)) for step in range(1, last + 1)
    ]  # two epochs of 128 examples, 16 on each of two ranks
    resumed = [int(s.split()[1]) for s in steps[1] if s.startswith("run-3")]
    assert resumed == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8]  # the checkpoint was at 4
    assert trainer.args.world_size == 1
    assert best.objective == min(t.value for t in trials if t.value is not None)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best.objective, rel=1e-6)


@pytest.mark.parametrize("workers", [None, 1])
def test_a_trainer_without_model_init_that_has_trained_in_bf16_starts_each_trial_from_its_weights(tmp_path, workers):
    def made(model, directory, **changes):
        return transformers.Trainer(
            model=model,
            args=tiny.arguments(directory, bf16=True, save_strategy="no", num_train_epochs=1, **changes),
            train_dataset=tiny.Points(128, 0),
            eval_dataset=tiny.Points(64, 1),
        )

    trainer = made(tiny.model_init(), tmp_path / "first")
    trainer.train()  # leaves autocast around the model's forward, and an optimizer of its own
    weights = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    best = tunesmith.hyperparameter_search(
        trainer, rates, n_trials=2, seed=0, progress=False, workers=workers, pruner=None
    )
    assert [t.state for t in best.run_summary.trials] == [TrialState.COMPLETE] * 2
    again = made(tiny.model_init(), tmp_path / "again", **best.hyperparameters)
    again.model.load_state_dict(weights)
    again.train()
    assert again.evaluate()["eval_loss"] == pytest.approx(best.objective, rel=1e-6)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best.objective, rel=1e-6)


def test_an_optimizer_that_may_or_may_not_be_the_users_is_asked_for(tmp_path):
    model = tiny.model_init()
    trainer = transformers.Trainer(
        model=model,
        args=tiny.arguments(tmp_path, save_strategy="no", num_train_epochs=1),
        train_dataset=tiny.Points(128, 0),
        eval_dataset=tiny.Points(64, 1),
        optimizers=(torch.optim.SGD(model.parameters(), lr=0.1), None),
    )
    trainer.train()
    with pytest.raises(SettingError, match=r"after a training SGD may be one of them or not; make it with .*tunable"):
        tunesmith.hyperparameter_search(trainer, rates, n_trials=1, progress=False)
