"""What holds for every backend: one test for each row of the table in docs/backends.md, which is made of their results.

W&B and SigOpt are asked over their own clients, at servers on loopback.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from table_script import objective

import tunesmith
from tunesmith.backends import known_backends
from tunesmith.trial import TrialState

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "runners")]
BACKENDS = [b for b in ("tunesmith", "optuna", "wandb", "sigopt", "ray") if b in known_backends()]
NEEDS = {"wandb": ("wandb", "sweeps"), "sigopt": ("sigopt", "sigoptlite"), "ray": ("ray",)}
SCRIPT = Path(__file__).with_name("table_script.py")
D = optuna.distributions
LINE = {"x": D.FloatDistribution(-1, 1)}
OWN = {
    "tunesmith": {"x": D.FloatDistribution(-1, 1), "kind": D.CategoricalDistribution(("a", "b"))},
    "optuna": {"x": D.FloatDistribution(-1, 1), "kind": D.CategoricalDistribution(("a", "b"))},
    "wandb": {"method": "random", "parameters": {"x": {"min": -1.0, "max": 1.0}, "kind": {"values": ["a", "b"]}}},
    "sigopt": [
        {"name": "x", "type": "double", "bounds": {"min": -1, "max": 1}},
        {"name": "kind", "type": "categorical", "categorical_values": ["a", "b"]},
    ],
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """The services on loopback, and the environment in which their clients find them."""
    started = []
    with pytest.MonkeyPatch.context() as patch:  # sets back no more than this, for Ray keeps settings there too
        for name in [n for n in os.environ if n.startswith(("WANDB_", "SIGOPT_"))]:
            patch.delenv(name)
        patch.setenv("NO_PROXY", "127.0.0.1")
        if "wandb" in BACKENDS and not missing("wandb"):
            from wandb_server import WandbServer

            started.append(WandbServer())
            for name, value in started[-1].environment(tmp_path_factory.mktemp("home")).items():
                patch.setenv(name, value)
        if "sigopt" in BACKENDS and not missing("sigopt"):
            from sigopt_server import TOKEN, SigOptServer

            started.append(SigOptServer())
            patch.setenv("SIGOPT_API_URL", started[-1].url)
            patch.setenv("SIGOPT_API_TOKEN", TOKEN)
        if "ray" in BACKENDS and not missing("ray"):  # one for all rows, and for the scripts of some
            import ray

            settings = {"include_dashboard": False, "logging_level": "ERROR", "log_to_driver": False}
            ours = ray.init(address="local", num_cpus=2, **settings)
            patch.setenv("RAY_ADDRESS", ours.address_info["address"])
        yield
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()
        if "wandb" in sys.modules:
            sys.modules["wandb"].teardown()  # it keeps the settings that it has read first
    for server in started:
        server.stop()
        assert server.unknown == []


def missing(backend):
    import importlib.util

    return [package for package in NEEDS.get(backend, ()) if importlib.util.find_spec(package) is None]


def here():
    """The backends whose packages are installed."""
    return [backend for backend in BACKENDS if not missing(backend)]


@pytest.fixture(params=BACKENDS)
def backend(request, servers):
    if lacking := missing(request.param):
        pytest.skip(f"{', '.join(lacking)} not installed")
    return request.param


def go(directory, backend, n_trials=3, function=objective, **settings):
    return tunesmith.search(
        function,
        n_trials,
        directory=directory,
        backend=backend,
        progress=False,
        **{"seed": 1, "space": LINE, **settings},
    )


def test_define_by_run_space_own_format_and_defaults(backend, tmp_path):
    def branching(trial):
        if trial.suggest_categorical("kind", ["a", "b"]) == "a":
            return trial.suggest_float("x", 0, 1)
        return trial.suggest_int("n", 1, 5) / 5

    by_run = go(tmp_path / "run", backend, 4, branching, space=None)
    own = go(tmp_path / "own", backend, space=OWN.get(backend, LINE))
    for study in (by_run, own):
        assert all(t.state is TrialState.COMPLETE for t in study.trials)
    assert all({"kind", "x"} <= set(t.params) for t in own.trials) or backend not in OWN


def test_multi_objective(backend, tmp_path):
    study = go(tmp_path, backend, 4, lambda t: (t.params["x"], -t.params["x"]), direction=["minimize", "minimize"])
    assert len(study.best_trials) == len({t.values for t in study.trials})


def test_early_stopping(backend, tmp_path):
    def learning(trial):
        for step in (1, 2):
            trial.report(trial.params["x"], step, share=step / 2)
            if trial.should_prune():
                raise optuna.TrialPruned
        return trial.params["x"]

    study = go(tmp_path, backend, 4, learning, pruner=optuna.pruners.ThresholdPruner(upper=-2.0))
    assert [t.state for t in study.trials] == [TrialState.PRUNED] * 4


@pytest.fixture(scope="module")
def under_torchrun(servers, tmp_path_factory):
    """The folder of one search for each backend, all in one script under torchrun: a start of it takes seconds."""
    from launched import run

    folder = tmp_path_factory.mktemp("torchrun")
    code, output = run(SCRIPT, folder, *here())
    return folder, code, output


def sum_over_ranks(trial):
    """Each rank gives its number, from 1."""
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo")
    total = torch.tensor([1.0 + dist.get_rank()])
    dist.all_reduce(total)
    return float(total)


def test_ddp_by_torchrun_and_in_ray_by_a_group_of_actors(backend, under_torchrun, tmp_path):
    folder, code, output = under_torchrun
    assert code == 0, output
    assert [t.state for t in tunesmith.load_study(folder / backend).trials] == [TrialState.COMPLETE] * 3
    if backend == "ray":  # has ranks of its own: a group of actors for each trial
        study = go(tmp_path, backend, 2, sum_over_ranks, ranks_per_trial=2)
        assert [(t.state, t.values) for t in study.trials] == [(TrialState.COMPLETE, (1.0 + 2.0,))] * 2


def test_worker_processes(backend, tmp_path):
    study = go(tmp_path, backend, 4, workers=2)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 4


def test_failed_trials_are_reported_and_the_search_goes_on(backend, tmp_path):
    def failing(trial):
        if trial.number == 1:
            raise MemoryError("no room")
        return objective(trial)

    study = go(tmp_path, backend, 3, failing)
    assert [t.state.value for t in study.trials] == ["COMPLETE", "FAILED", "COMPLETE"]
    assert study.trials[1].reason == "oom: MemoryError: no room"


@pytest.fixture(scope="module")
def killed_and_resumed(servers, tmp_path_factory):
    """The folder of a search for each backend whose drivers were killed; one script went on with all of them."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, str(SCRIPT), str(folder)]
    apart = {k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"}  # W&B's service of this process
    for backend in here():
        killed = subprocess.run(
            [*command, backend], env={**apart, "KILL": "1"}, timeout=200, check=False, capture_output=True
        )
        assert killed.returncode == -signal.SIGKILL
    done = subprocess.run([*command, *here()], env=apart, timeout=200, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_resume_after_kill_with_a_total_budget(backend, killed_and_resumed):
    trials = tunesmith.load_study(killed_and_resumed / backend).trials
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 3
    assert trials[1].attempt == 2  # in Ray others may have been under way too


def test_initial_points(backend, tmp_path):
    study = go(tmp_path, backend, 2, enqueue=[{"x": 0.25}])
    assert study.trials[0].params["x"] == 0.25


def test_recorded_table_report_to_optuna_and_best_model(backend, tmp_path):
    import tiny
    import torch

    trainer = tiny.make(tunesmith.Trainer, tmp_path, num_train_epochs=1)
    space = {"learning_rate": D.FloatDistribution(1e-3, 1e-1, log=True)}
    best = trainer.hyperparameter_search(
        space, n_trials=2, direction="minimize", backend=backend, seed=1, progress=False
    )
    study = best.run_summary
    assert len(study.to_dataframe()) == len(study.to_optuna().trials) == 2
    assert study.to_optuna().best_value == best.objective
    assert (study.directory / "report.html").stat().st_size > 1000
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best.objective)
    assert isinstance(trainer.model, torch.nn.Module)
