"""The folders of a search: a trial's checkpoints, by name; one that another trial takes over; what is not for commits."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tunesmith.record_file import FILE
from tunesmith.record_lock import LOCK

_STUDYS_OWN = (f"/{FILE}*", f"/{LOCK}", "/report.html", "/run-*/", "/study-*/")


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
    path.write_text("\n".join([*there, *(name for name in _STUDYS_OWN if name not in there)]) + "\n", encoding="utf-8")
