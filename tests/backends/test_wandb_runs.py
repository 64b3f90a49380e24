"""What a trial's run shows of its training, wherever the trial runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import optuna
import pytest
import tiny

import tunesmith
from tunesmith.backends.wandb_runs import Uploader


@pytest.fixture(autouse=True)
def server(served_wandb):
    return served_wandb


def go(directory, *, report_to, callbacks=None, save_strategy="epoch", **settings):
    """Trials of 8 steps, each logged, with an evaluation after each epoch of 4."""
    trainer = tiny.make(
        tunesmith.Trainer,
        directory,
        callbacks=callbacks,
        report_to=report_to,
        save_strategy=save_strategy,
        logging_strategy="steps",
        logging_steps=1,
        per_device_train_batch_size=32,
    )
    best = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True)},
        n_trials=2,
        direction="minimize",
        backend="wandb",
        method="random",
        seed=1,
        progress=False,
        enqueue=[],
        **settings,
    )
    return best.run_summary


@pytest.mark.parametrize(
    ("where", "report_to"),
    [
        ({}, []),
        ({}, ["wandb"]),
        ({"workers": 2}, ["wandb"]),
        ({"ranks_per_trial": 2, "workers": 1, "gpus_per_trial": 0}, []),
    ],
    ids=["inline", "inline with the Trainer's own callback", "workers", "ranks"],
)
def test_a_run_has_each_step_that_the_trainer_logs_once_and_in_order_wherever_it_runs(
    server, tmp_path, where, report_to
):
    study = go(tmp_path, report_to=report_to, **where)
    runs = server.in_order()
    assert len(server.runs) == len(runs) == 2
    for run, trial in zip(runs, study.trials, strict=True):
        logged = [row for row in run.history if "train/loss" in row]
        steps = 4 if "ranks_per_trial" in where else 8
        assert [row["train/global_step"] for row in logged] == list(range(1, steps + 1))
        assert all({"train/learning_rate", "train/grad_norm", "train/epoch"} <= set(row) for row in logged)
        assert logged[0]["train/learning_rate"] == pytest.approx(trial.params["learning_rate"])
        evaluated = [row for row in run.history if "objective" in row]
        assert [row["trial/step"] for row in evaluated] == [r.step for r in trial.reports]
        assert [row["objective"] for row in evaluated] == [r.values[0] for r in trial.reports]
        assert len([row for row in run.history if "eval/loss" in row]) == len(trial.reports)
        order = [row.get("trial/step", row.get("train/global_step")) for row in run.history]
        assert order == sorted(order)
        assert run.summary["objective"] == trial.value


def test_a_run_that_is_sent_before_its_file_has_its_end_arrives_whole(server, tmp_path):
    """As when W&B's client is still writing after finish()."""
    import wandb

    uploader = Uploader(tmp_path)
    uploader.start()
    run = wandb.init(project="p", dir=str(tmp_path), mode="offline", settings=wandb.Settings(silent=True))
    path = Path(run.settings.sync_file)
    run.log({"a": 1})
    uploader.send(path, "whole")
    assert not uploader.wait(path, 2.0)
    run.log({"a": 2})
    run.finish()
    assert uploader.wait(path, 60.0)
    assert uploader.close() == 0
    assert [row["a"] for row in server.runs[run.id].history] == [1, 2]
    assert server.runs[run.id].state == "finished"


def test_a_trial_of_any_function_can_log_and_the_objective_stays_ours(server, tmp_path):
    def learning(trial):
        for step in (1, 2):
            trial.log({"loss": np.float32(1.0 / step), "objective": 7.0}, step)
        trial.report(0.5, 2)
        return 0.5

    space = {"x": optuna.distributions.FloatDistribution(0, 1)}
    for place, workers in (("here", None), ("there", 2)):
        tunesmith.search(
            learning, 1, directory=tmp_path / place, backend="wandb", space=space, workers=workers, progress=False
        )
    for run in server.in_order():
        rows = [{k: v for k, v in row.items() if not k.startswith("_")} for row in run.history]
        assert rows == [
            {"loss": 1.0, "trial/step": 1},
            {"loss": 0.5, "trial/step": 2},
            {"objective": 0.5, "trial/step": 2},
        ]
        assert run.summary["objective"] == 0.5


def test_a_trial_that_is_tried_again_logs_no_step_twice(server, tmp_path):
    def dying(trial):
        begin = 0 if trial.resume_from is None else 2
        for step in range(begin + 1, 5):
            trial.log({"loss": float(step)}, step)
            if step == 2:
                trial.report(1.0, step, checkpoint=str(tmp_path))
            if step == 3 and trial.attempt == 1:
                trial.report(1.0, step)
                os.kill(os.getpid(), signal.SIGKILL)
        return 1.0

    space = {"x": optuna.distributions.FloatDistribution(0, 1)}
    study = tunesmith.search(
        dying, 1, directory=tmp_path / "s", backend="wandb", space=space, workers=1, progress=False
    )
    assert study.trials[0].attempt == 2
    (run,) = server.in_order()
    assert [row["loss"] for row in run.history if "loss" in row] == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("report_to", ["none", "wandb"])
@pytest.mark.parametrize("saved", ["epoch", "no"])
def test_a_trial_that_goes_on_after_a_kill_of_the_driver_logs_no_step_twice(server, tmp_path, report_to, saved):
    died = str(tmp_path / "died")
    script = textwrap.dedent(
        f"""
        import os, pathlib, signal, sys, time, transformers
        sys.path[:0] = {[str(Path(__file__).parents[1]), str(Path(__file__).parent)]!r}
        from test_wandb_runs import go
        from tunesmith.backends import wandb_file

        def written(step):
            study = pathlib.Path({str(tmp_path / "study")!r})
            ids = [path.stem.removeprefix("run-") for path in study.glob("wandb/*/run-*.wandb")]
            rows = [row for name in ids for row in wandb_file.rows(study, name) if "train/loss" in row]
            return any(row["train/global_step"] == step for row in rows)

        class Dies(transformers.TrainerCallback):
            def on_log(self, args, state, control, **_):
                if state.global_step == 7 and not os.path.exists({died!r}):
                    open({died!r}, "w").close()
                    while not written(4):  # a little later than logged: what is not is lost, before the checkpoint for good
                        time.sleep(0.05)
                    os.kill(os.getpid(), signal.SIGKILL)

        go({str(tmp_path / "study")!r}, report_to=[{report_to!r}], callbacks=[Dies()], save_strategy={saved!r})
        """
    )
    apart = {k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"}  # W&B's service of this process
    for code in (-signal.SIGKILL, 0):
        done = subprocess.run([sys.executable, "-c", script], env=apart, check=False, timeout=200, capture_output=True)
        assert done.returncode == code, done.stderr.decode()
    runs = server.in_order()
    assert len(runs) == 2
    for run in runs:
        assert [row["train/global_step"] for row in run.history if "train/loss" in row] == list(range(1, 9))
        assert [row["trial/step"] for row in run.history if "objective" in row] == [4, 8]


def test_a_script_that_is_tuned_as_it_is_has_its_logs_in_the_run_too(server, tmp_path):
    (tmp_path / "space.yaml").write_text("learning_rate: {values: [1e-3, 1e-2]}\n")
    script = Path(__file__).parents[1] / "cli" / "trainer_script.py"
    flags = "--use_cpu --report_to wandb --logging_steps 1 --max_steps 6 --eval_strategy steps --eval_steps 3"
    tuned = ["--backend", "wandb", "--n-trials", "1", "--directory", "s", "--space", "space.yaml"]
    command = [sys.executable, str(script), "--output_dir", "out", *flags.split()]
    subprocess.run(
        [sys.executable, "-m", "tunesmith", "run", *tuned, "--", *command],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"},  # W&B's service of this process
        check=True,
        capture_output=True,
        timeout=300,
    )
    (run,) = server.in_order()
    assert [row["train/global_step"] for row in run.history if "train/loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["trial/step"] for row in run.history if "objective" in row] == [3, 6]
    assert len(server.runs) == 1


def test_a_killed_service_of_wandbs_client_costs_its_run_the_end_and_no_trial(server, tmp_path):
    script = textwrap.dedent(
        f"""
        import warnings, optuna, psutil, tunesmith

        def learning(trial):
            trial.report(0.5, 1)
            if trial.number == 1:
                for child in psutil.Process().children():
                    if any("wandb-core" in part for part in child.cmdline()):
                        child.kill()
                        child.wait()
            trial.log({{"loss": 1.0}}, 2)
            trial.report(0.25, 2)
            return trial.params["x"]

        warnings.simplefilter("ignore")
        space = {{"x": optuna.distributions.FloatDistribution(0, 1)}}
        tunesmith.search(learning, 3, directory={str(tmp_path / "s")!r}, backend="wandb", method="random", space=space)
        """
    )
    apart = {k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"}  # W&B's service of this process
    done = subprocess.run([sys.executable, "-c", script], env=apart, check=False, timeout=200, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    study = tunesmith.load_study(tmp_path / "s")
    assert [t.state.value for t in study.trials] == ["COMPLETE"] * 3
    assert [t.why["wandb"] for t in study.trials] == ["W&B's sweep (random)"] * 3
    runs = {r.name: r for r in server.in_order()}
    for trial in (study.trials[0], study.trials[2]):
        assert runs[trial.why["wandb_run"]].summary["objective"] == trial.value
