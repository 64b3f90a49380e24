"""Checkpoints of a search on disk: which are whole, which are kept, and whether they will fit."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from tunesmith.errors import SettingError
from tunesmith.study import Study
from tunesmith.trial import Trial, TrialState, signs

Keep = int | Literal["best"] | None
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin")


def checked_keep(keep: Keep) -> Keep:
    """The setting `keep_checkpoints`, or SettingError."""
    if keep is None or keep == "best" or (isinstance(keep, int) and not isinstance(keep, bool) and keep >= 1):
        return keep
    raise SettingError(f'keep_checkpoints must be None, "best" or a number from 1, got {keep!r}')


def run_directory(study: Study, number: int) -> Path:
    """Where the trial's checkpoints lie; made from its number, never from a name."""
    return study.directory / f"run-{number}"


def step_of(path: Path) -> int:
    """The step in a checkpoint directory's name, -1 when there is none."""
    tail = path.name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else -1


def whole(path: Path) -> bool:
    """Whether a checkpoint can be resumed from: its state (written near the end) and its weights are there."""
    weights = any((path / name).is_file() for name in _WEIGHTS) or any(path.glob("*.index.json"))
    return weights and (path / "trainer_state.json").is_file()


def resumable(study: Study, trial: Trial) -> Path | None:
    """The newest whole checkpoint that the record vouches for (a torn one was never recorded)."""
    if trial.checkpoint_step is None:
        return None
    saved = run_directory(study, trial.number).glob("checkpoint-*")
    known = [p for p in saved if 0 <= step_of(p) <= trial.checkpoint_step and whole(p)]
    return max(known, key=step_of, default=None)


def clear_torn(study: Study, trial: Trial) -> None:
    """Remove checkpoints that were being saved when the process died (newer than the last recorded one)."""
    last = -1 if trial.checkpoint_step is None else trial.checkpoint_step
    for path in run_directory(study, trial.number).glob("checkpoint-*"):
        if step_of(path) > last:
            shutil.rmtree(path)


def prune_disk(study: Study, keep: Keep) -> list[Path]:
    """Remove the checkpoints of finished trials beyond `keep`; those of the best trials stay. Returns what went.

    With several objectives "best" keeps the Pareto set. Trials that are to go on keep their checkpoints.
    """
    if keep is None:
        return []
    if keep == "best":
        kept = {t.number for t in study.best_trials}
    else:
        ranked = _ranked(study)
        kept = {t.number for t in ranked[:keep]}
    removed = []
    for trial in study.trials:
        run = run_directory(study, trial.number)
        if not trial.state.finished or not run.is_dir():
            continue
        chosen = study.checkpoint(trial) if trial.number in kept else None
        for path in run.glob("checkpoint-*"):
            if chosen is None or path.resolve() != chosen.resolve():
                shutil.rmtree(path)
                removed.append(path)
    return removed


def _ranked(study: Study) -> list[Trial]:
    front = list(study.best_trials)
    sign = signs(study.directions)[0]
    rest = [t for t in study.trials if t.state is TrialState.COMPLETE and t.values and t not in front]
    return front + sorted(rest, key=lambda t: sign * (t.values or (0.0,))[0])


def size(paths: Iterable[Path]) -> int:
    """Bytes of all files below the paths."""
    return sum(f.stat().st_size for p in paths for f in p.rglob("*") if f.is_file())


def shortage(directory: Path, needed: int) -> str | None:
    """A sentence when `needed` more bytes will not fit the free space of the directory's disk."""
    free = shutil.disk_usage(directory).free
    if needed <= free:
        return None
    return (
        f"the checkpoints of this search will need about {needed / 1e9:.1f} GB more, and {directory} has "
        f'{free / 1e9:.1f} GB free; keep_checkpoints="best" (or save_total_limit, save_only_model) bounds them'
    )
