"""Networks that are lost: what a search waits for, and what it does not."""

from __future__ import annotations

import socket
import time

import optuna
import pytest

import tunesmith
from tunesmith.backends.wandb_sweep import Pulse


@pytest.fixture(autouse=True)
def server(served_wandb):
    return served_wandb


def never(seconds):
    time.sleep(seconds)
    return False


def test_a_server_that_says_nothing_is_found_to_be_lost_while_somebody_waits(server):
    server.hold.clear()
    pulse = Pulse(server.url)
    assert not pulse.wait(never, 60.0)
    assert pulse.down
    server.hold.set()
    while pulse.down:  # it looks again by itself
        time.sleep(0.05)
    assert not pulse.wait(never, 0.1)
    assert not pulse.down


def test_a_server_that_is_not_there_is_found_to_be_lost():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        pulse = Pulse(f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert not pulse.wait(never, 60.0)
        assert pulse.down


@pytest.mark.parametrize("mode", ["service", "scheduler"])
def test_training_waits_for_no_answer_of_wandb(server, tmp_path, mode):
    """W&B says nothing for the whole of a trial's training: would it wait, the network would count as lost."""

    def learning(trial):
        server.hold.clear()
        for step in range(1, 21):
            trial.log({"loss": 1.0 / step}, step)
            trial.report(1.0 / step, step)
            trial.should_prune()
        server.hold.set()
        return trial.params["x"]

    more = {"method": "random", "early_terminate": {"type": "hyperband", "min_iter": 99}} if mode == "service" else {}
    study = tunesmith.search(
        learning, 3, directory=tmp_path / "s", backend="wandb", mode=mode, progress=False, seed=1,
        space={"x": optuna.distributions.FloatDistribution(0, 1)}, **more,
    )  # fmt: skip
    runs = server.in_order()
    assert [r.name for r in runs] == [r.name for r in server.only_sweep().runs]
    assert [t.why["wandb"] for t in study.trials] == {
        "service": ["W&B's sweep (random)"] * 3, "scheduler": ["the embedded engine"] * 3,
    }[mode]  # fmt: skip
    assert [len([row for row in r.history if "loss" in row]) for r in runs] == [20, 20, 20]
