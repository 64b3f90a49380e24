"""The folders of a search: what lies in a study's, and is not for commits; a trial's checkpoints, by name, or taken over."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tunesmith.record_file import FILE
from tunesmith.record_lock import LOCK

GATE = "study.gate"  # where a driver takes in workers of other processes
REPORT = "report.html"
UPLOAD_LOG = "wandb-upload.log"
LOGS = "logs"  # of scripts, a file for each trial
BRIEFS = "tune-trials"  # what the driver tells the workers of Tune's trials, by Tune's names
_RUNS = "run-*/"
_OWN = (FILE, f"{FILE}-wal", f"{FILE}-shm", LOCK, GATE, REPORT, f"{BRIEFS}/", f"{LOGS}/trial-*.log", _RUNS)
# what is put aside of a damaged file, studies that began beside this one, and what W&B's client leaves
_NOT_FOR_COMMITS = (*_OWN, f"{FILE}.*", "study-*/", "wandb/", UPLOAD_LOG)


def own_paths(directory: Path) -> Iterator[Path]:
    """What a search has put into its study's directory, the record first; nothing that was put aside of a damaged one."""
    for pattern in _OWN:
        for path in sorted(directory.glob(pattern)):
            if pattern != _RUNS or (path.is_dir() and path.name.removeprefix("run-").isdigit()):
                yield path


def step_of(path: Path) -> int:
    """The step in a checkpoint directory's name, -1 when there is none."""
    tail = path.name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else -1


def take_over(checkpoint: Path, run: Path) -> Path | None:
    """Another trial's checkpoint in this one's folder, as links to the same files; None when there is none any more.

    A folder `checkpoint-<step>` that is gone, since the other trial keeps only its newest, is replaced by the newest.
    The trial's own checkpoints, of other parameters, go.
    """
    if checkpoint.parent == run:
        return checkpoint
    tried: set[Path] = set()
    while checkpoint not in tried:
        tried.add(checkpoint)
        part = run / "taken-over"
        shutil.rmtree(part, ignore_errors=True)
        try:
            shutil.copytree(checkpoint, part, copy_function=_link)
        except (OSError, shutil.Error):  # removed meanwhile
            others = [p for p in checkpoint.parent.glob("checkpoint-*") if p not in tried and step_of(p) >= 0]
            checkpoint = max(others, key=step_of, default=checkpoint)
            continue
        for own in run.glob("checkpoint-*"):
            shutil.rmtree(own)
        return part.rename(run / checkpoint.name)
    return None


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def leave_out_of_commits(directory: Path) -> None:
    """Name what a search has put into this folder, if it has, in its `.gitignore`, which the Hub keeps to as git does."""
    if not (directory / FILE).is_file():
        return
    path = directory / ".gitignore"
    there = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rules = [f"/{pattern}" for pattern in _NOT_FOR_COMMITS]
    path.write_text("\n".join([*there, *(rule for rule in rules if rule not in there)]) + "\n", encoding="utf-8")
