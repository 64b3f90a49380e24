"""Loggers get one run per trial, named, and the user's settings are back afterwards; real clients, offline."""

from __future__ import annotations

import os

import pytest
import tiny
from transformers import TrainerCallback

from tunesmith import Trainer

pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("FutureWarning", "DeprecationWarning")]


class Names(TrainerCallback):
    """What the client says of its run while a trial trains."""

    def __init__(self, ask):
        self.ask = ask

    def __deepcopy__(self, memo):
        return self

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            SEEN.append(self.ask())


SEEN: list = []


def search(directory, logger, ask=lambda: None, n_trials=2):
    """Search; returns what `ask` saw in each trial."""
    SEEN.clear()
    trainer = tiny.make(
        Trainer,
        directory,
        callbacks=[Names(ask)],
        report_to=[logger],
        run_name="mine",
        num_train_epochs=1,
        logging_strategy="steps",
        logging_steps=4,
    )
    trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2)},
        hp_name=lambda trial: f"try-{trial.number}",
        n_trials=n_trials,
        seed=0,
        progress=False,
    )
    assert (trainer.args.run_name, trainer.args.report_to) == ("mine", [logger])
    return list(SEEN)


def test_tensorboard_has_a_folder_for_each_trial(tmp_path):
    pytest.importorskip("tensorboard")
    search(tmp_path, "tensorboard")
    files = sorted(tmp_path.rglob("*tfevents*"))
    assert [f.parent.name for f in files] == ["try-0", "try-1"]
    assert all(f.stat().st_size > 500 for f in files)


def test_wandb_has_a_run_for_each_trial_in_a_group_of_the_study(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    names = search(tmp_path / "out", "wandb", lambda: (wandb.run.name, wandb.run.group))
    assert names == [("try-0", str(tmp_path / "out")), ("try-1", str(tmp_path / "out"))]
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2
    assert wandb.run is None


def test_mlflow_has_a_run_for_each_trial(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    search(tmp_path / "out", "mlflow")
    runs = mlflow.MlflowClient().search_runs(["0"])
    assert sorted((r.info.run_name, r.info.status) for r in runs) == [
        ("mine-try-0", "FINISHED"),
        ("mine-try-1", "FINISHED"),
    ]
    assert len({r.data.params["learning_rate"] for r in runs}) == 2
    assert mlflow.active_run() is None


def test_trackio_has_a_run_for_each_trial(tmp_path, monkeypatch, capsys):
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    before = dict(os.environ)
    search(tmp_path / "out", "trackio")
    said = capsys.readouterr().out
    assert [name in said for name in ("mine-try-0", "mine-try-1")] == [True, True]
    assert before == dict(os.environ)
