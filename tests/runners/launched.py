"""Starts scripts on the ranks of a job as users do, with torchrun or accelerate, and reads what each rank has noted."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

LIMIT = 240.0  # seconds: a job that takes longer hangs


def command(script, *arguments, ranks=2, restarts=0):
    return [
        sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node", str(ranks),
        "--max-restarts", str(restarts), "--standalone", str(script), *map(str, arguments),
    ]  # fmt: skip


def by_accelerate(script, *arguments, ranks=2):
    return [
        sys.executable, "-W", "ignore", "-m", "accelerate.commands.launch", "--multi_gpu",  # several, of any device
        "--num_processes", str(ranks), "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
        "--main_process_port", "0", str(script), *map(str, arguments),
    ]  # fmt: skip


def settings():
    return {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}


@contextmanager
def torchrun(script, *arguments, launch=command, **how):
    """The running job; ended with all its ranks when it is left before its end."""
    with subprocess.Popen(
        launch(script, *arguments, **how), env=settings(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as job:
        try:
            yield job
        finally:
            if job.poll() is None:
                job.terminate()


def run(script, *arguments, limit=LIMIT, **how):
    """The job's exit code and output; what each rank has noted lies in the folder."""
    with torchrun(script, *arguments, **how) as job:
        output, _ = job.communicate(timeout=limit)
    return job.returncode, output


def notes(folder: Path, rank: int):
    """What the rank has noted so far."""
    file = folder / f"rank-{rank}.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
