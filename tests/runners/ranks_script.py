"""Searches on the ranks of a job, for test_ranks_launched.py: torchrun ... ranks_script.py SCENARIO FOLDER."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import optuna
import torch
import torch.distributed as dist

import tunesmith
import tunesmith.runners.ranks
from tunesmith.errors import SearchFailedError, UserFunctionError

SCENARIO, FOLDER = sys.argv[1], Path(sys.argv[2])
dist.init_process_group("gloo")
RANK, SIZE = dist.get_rank(), dist.get_world_size()
KEPT = []  # what a user's own list keeps alive must not keep others waiting


def note(**facts):
    with (FOLDER / f"rank-{RANK}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": time.time(), **facts}) + "\n")


def step_together(trial, step):
    value = torch.tensor([trial.params["x"] + step])
    dist.all_reduce(value)
    return float(value) / SIZE


def go_wrong(fault, step):
    if step != 2:
        return
    if fault in ("rank 1 fails", "rank 1 fails and its model is kept") and RANK == 1:
        raise ValueError("of rank 1")
    if fault == "rank 0 fails" and RANK == 0:
        raise ValueError("of rank 0")
    if fault == "all fail":
        raise ValueError("of all")
    if fault == "rank 1 exits" and RANK == 1:
        sys.exit(3)
    if fault == "rank 0 runs out of memory" and RANK == 0:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
    if fault == "all prune themselves" or (fault == "rank 1 is pruned alone" and RANK == 1):
        raise optuna.TrialPruned
    if fault == f"rank {RANK} hangs":
        time.sleep(300)


def faults(kinds):
    def fault_of(number):
        return kinds[number % len(kinds)]

    def objective(trial):
        fault = fault_of(trial.number)
        trial.suggest_float("x", 0, 1)
        model = torch.nn.Linear(4, 4)
        if (trial.number + trial.number // len(kinds)) % 2:  # as DDP does it: collectives in flight in other threads
            model = torch.nn.parallel.DistributedDataParallel(model)
        if fault == "rank 1 fails and its model is kept":
            KEPT.append(model)
        for step in range(5):
            note(trial=trial.number, x=trial.params["x"], step=step)
            model(torch.ones(2, 4)).sum().backward()
            go_wrong(fault, step)
            value = step_together(trial, step)
            if fault == "the trial takes too long":
                time.sleep(1)
            trial.report(float("nan") if fault == "not finite" and step == 2 else value, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value if RANK == 0 else None

    return objective


class PruneSome(optuna.pruners.BasePruner):
    def __init__(self, fault_of):
        self.fault_of = fault_of

    def prune(self, study, trial):
        return self.fault_of(trial.number) == "the study prunes" and len(trial.intermediate_values) == 3


def search(objective, n_trials, **settings):
    return tunesmith.search(objective, n_trials, directory=FOLDER, progress=False, seed=0, **settings)


def run_faults():
    tunesmith.runners.ranks._LATE = tunesmith.runners.ranks._ALONE_LIMIT = 1.0
    torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1))(torch.ones(1))  # loads much, once
    count, kinds = int(sys.argv[3]), sys.argv[4].split(",")
    study = search(
        faults(kinds),
        count,
        backend="optuna",
        pruner=PruneSome(lambda number: kinds[number % len(kinds)]),
        sampler=optuna.samplers.RandomSampler(seed=0),
        max_failures=10**6,
        trial_timeout=3,
    )
    note(best=study.best_trial.number, value=study.best_trial.value, trials=len(study.trials))


def run_ends():
    """The ways in which a search ends are the same on all ranks."""

    def out_of_step(trial):
        if RANK == 0:
            trial.suggest_float("x", 0, 1)
        return trial.suggest_float("y", 0, 1)

    def fail(trial):
        raise ValueError(f"as ever {trial.number * 0}")

    for name, objective, error in (("bug", out_of_step, UserFunctionError), ("failing", fail, SearchFailedError)):
        try:
            search(objective, 9, study=name)
        except error as raised:
            note(search=name, error=type(raised).__name__, text=str(raised))
    study = search(lambda trial: step_together(trial, trial.suggest_int("x", 0, 9)), 3, study="next")
    note(search="next", best=study.best_trial.value, params=dict(study.best_trial.params))
    study = search(slow, None, study="timeout", timeout=1.0)
    note(search="timeout", states=[t.state.value for t in study.trials], reason=study.trials[-1].reason)


def slow(trial):
    trial.suggest_float("x", 0, 1)
    for step in range(1000):
        step_together(trial, step)
        time.sleep(0.02)
        note(trial=trial.number, step=step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return trial.params["x"]


def run_signal():
    note(pid=os.getpid())
    try:
        search(slow, 3)
    except (KeyboardInterrupt, SystemExit) as error:
        note(left=type(error).__name__, code=getattr(error, "code", None))
        raise


def run_kills():
    """In each start but the last one rank dies, at a moment of its own."""
    restart, last = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(sys.argv[3])
    note(restart=restart, pid=os.getpid())

    def objective(trial):
        trial.suggest_float("x", 0, 1)
        start = 0 if trial.resume_from is None else int(Path(trial.resume_from).name.rpartition("-")[2])
        note(trial=trial.number, attempt=trial.attempt, start=start)
        for step in range(start, 12):
            value = step_together(trial, step)
            if restart < last and restart % 2 == RANK and step == 3 + (5 * restart) % 7:
                note(dies=restart)
                os.kill(os.getpid(), signal.SIGKILL)
            checkpoint = FOLDER / f"checkpoint-{trial.number}-{step + 1}"
            if RANK == 0:
                checkpoint.mkdir(exist_ok=True)
            trial.report(value, step, checkpoint=str(checkpoint))
            time.sleep(0.01)
        return value

    study = search(objective, last + 1, max_retries=5)
    note(best=study.best_trial.number, states=[t.state.value for t in study.trials])


{"faults": run_faults, "ends": run_ends, "signal": run_signal, "kills": run_kills}[SCENARIO]()
dist.destroy_process_group()
