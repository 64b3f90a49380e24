"""Tasks for workers of two ranks, in touch by a process group of torch's, that go wrong on one or on both."""

import json
import os
import signal
import time
from pathlib import Path

import optuna

STEPS = 6
FAULTS = (
    "none", "rank 0 fails", "rank 1 fails", "both fail", "the study prunes",
    "rank 1 is killed", "rank 0 is killed", "rank 1 exits", "none again", "FSDP, and rank 1 fails", "FSDP",
)  # fmt: skip


def note(trial, **facts):
    """Append a line to the study's notes; one write, so that it is whole."""
    line = json.dumps({"trial": trial.number, "rank": int(os.environ["RANK"]), "pid": os.getpid(), **facts}) + "\n"
    handle = os.open(trial.directory.parent / "notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, line.encode())
    os.close(handle)


def notes(folder):
    """What all ranks have noted."""
    return [json.loads(line) for line in (folder / "notes").read_text().splitlines()]


class OneFaultEach:
    """Sums a number over the ranks at each step, and goes wrong at the fourth, in a way of its own in each trial."""

    def __init__(self, faults=FAULTS):
        self.faults = faults

    def __call__(self, trial):
        import torch
        import torch.distributed as dist

        if not dist.is_initialized():
            dist.init_process_group("gloo")
        rank, x = dist.get_rank(), trial.suggest_float("x", 0, 1)
        start = 0 if trial.resume_from is None else int(Path(trial.resume_from).name.rpartition("-")[2])
        value = x
        for step in range(start, STEPS):
            total = torch.tensor([x + rank])
            dist.all_reduce(total)
            value = float(total) / 2
            note(trial, x=x, step=step, value=value, attempt=trial.attempt, port=os.environ["MASTER_PORT"])
            dist.barrier()  # both have noted the step
            fault = self.faults[trial.number % len(self.faults)]
            if "FSDP" in fault:
                train_sharded(x)
            if step == 3 and trial.attempt == 1:
                self.go_wrong(fault, rank)
            checkpoint = trial.directory / f"checkpoint-{step + 1}"
            if rank == 0:
                checkpoint.mkdir(parents=True, exist_ok=True)
            trial.report(value, step, checkpoint=str(checkpoint))
            time.sleep(float(os.environ.get("PAUSE", "0")))  # no argument, for with another it is another search
            if trial.should_prune():
                raise optuna.TrialPruned
        return value if rank == 0 else None

    @staticmethod
    def go_wrong(fault, rank):
        if fault == "both fail" or fault.endswith(f"rank {rank} fails"):
            raise ValueError(fault)
        if fault == f"rank {rank} exits":
            raise SystemExit(3)
        if fault == f"rank {rank} is killed":
            os.kill(os.getpid(), signal.SIGKILL)


def train_sharded(x):
    """A step of a model of which each rank has a part."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = fully_shard(torch.nn.Linear(8, 2), mesh=init_device_mesh("cpu", (2,)))
    before = [p.to_local().clone() for p in model.parameters()]
    model(torch.full((2, 8), x)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert model.weight.to_local().shape == (1, 8)
    assert not any(torch.equal(p.to_local(), b) for p, b in zip(model.parameters(), before, strict=True))


class PruneOne(optuna.pruners.BasePruner):
    """Prunes the trial whose fault it is, at its second report."""

    def prune(self, study, trial):
        return FAULTS[trial.number % len(FAULTS)] == "the study prunes" and len(trial.intermediate_values) == 2


def sleep_on_rank_1(trial):
    """Hang on one rank, while the other waits for it."""
    if os.environ["RANK"] == "1":
        hang_in_here()
    print("rank 0 waits")
    time.sleep(300)


def hang_in_here():
    print("rank 1 hangs")
    time.sleep(300)
