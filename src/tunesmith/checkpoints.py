"""Checkpoints of a search on disk: which are whole, which are kept, and whether they will fit."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from tunesmith.errors import SettingError
from tunesmith.folders import step_of
from tunesmith.study import Study
from tunesmith.trial import Trial, TrialState, signs

Keep = int | Literal["best"] | None
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin")


def checked_keep(keep: Keep) -> Keep:
    """The setting `keep_checkpoints`, or SettingError."""
    if keep is None or keep == "best" or (isinstance(keep, int) and not isinstance(keep, bool) and keep >= 1):
        return keep
    raise SettingError(f'keep_checkpoints must be None, "best" or a number from 1, got {keep!r}')


def whole(path: Path) -> bool:
    """Whether a checkpoint can be resumed from: its state (written near the end) and its weights are there."""
    latest = path / "latest"  # of DeepSpeed's shards: the name of the folder that it has written
    shards = (latest.is_file() and (path / latest.read_text().strip()).is_dir()) or any(
        path.glob("pytorch_model_fsdp*")
    )
    return (gathered(path) or shards) and (path / "trainer_state.json").is_file()


def gathered(path: Path) -> bool:
    """Whether a checkpoint holds the weights of the model, not only what each rank had of them."""
    return any((path / name).is_file() for name in _WEIGHTS) or any(path.glob("*.index.json"))


def resumable(recorded: Path, *, schedule: bool = False) -> Path | None:
    """The newest whole checkpoint of a trial up to the one that was recorded last (a torn one was never recorded).

    `schedule`: one that holds where the learning rate's schedule stands, which `save_only_model` leaves out.
    """
    known = [p for p in recorded.parent.glob("checkpoint-*") if 0 <= step_of(p) <= step_of(recorded) and whole(p)]
    fit = [p for p in known if not schedule or (p / "scheduler.pt").is_file()]
    return max(fit, key=step_of, default=None)


def clear_torn(study: Study, trial: Trial) -> None:
    """Remove checkpoints that were being saved when the process died (newer than the last recorded one)."""
    last = -1 if trial.checkpoint_step is None else trial.checkpoint_step
    for path in study.run_directory(trial.number).glob("checkpoint-*"):
        if step_of(path) > last:
            shutil.rmtree(path)


def clear_half_written(run: Path) -> None:
    """Remove what is no whole checkpoint: its saving has failed."""
    for path in run.glob("checkpoint-*"):
        if not (path / "trainer_state.json").is_file():  # written last, whatever the format of the weights
            shutil.rmtree(path, ignore_errors=True)


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
        run = study.run_directory(trial.number)
        if not trial.state.finished or not run.is_dir():
            continue
        chosen = study.checkpoint(trial) if trial.number in kept else None
        for path in run.glob("checkpoint-*"):
            if chosen is None or path.resolve() != chosen.resolve():
                shutil.rmtree(path)
                removed.append(path)
    return removed


class DiskWatch:
    """An observer of a search that removes checkpoints that are torn or beyond `keep`, and warns of a disk too small."""

    def __init__(self, keep: Keep, expected: int = 0) -> None:
        """`expected` bytes are what a trial is expected to leave behind, until one has."""
        self._keep = keep
        self._expected = expected
        self._warned = False

    def on_search_start(self, study: Study, n_trials: int | None) -> None:
        """Before the first trial: what the checkpoints will need, by the model's size."""
        self._project(study, n_trials, self._expected)

    def on_trial_start(self, study: Study, trial: Trial) -> None:
        """A trial begins, or goes on from its last whole checkpoint."""
        clear_torn(study, trial)

    def on_trial_end(self, study: Study, trial: Trial) -> None:
        """A trial has ended: its checkpoints are among those that are kept, or not."""
        if trial.state is TrialState.COMPLETE:
            self._project(study, study.info.settings.get("n_trials"), size([study.run_directory(trial.number)]))
        prune_disk(study, self._keep)

    def _project(self, study: Study, n_trials: int | None, each: int) -> None:
        """Warn, once, when the trials to come will not fit the disk if each leaves so many bytes."""
        if self._keep is not None or self._warned or n_trials is None:
            return
        to_come = n_trials - sum(t.state.finished for t in study.trials)
        short = shortage(study.directory, each * max(0, to_come))
        if short is not None:
            self._warned = True
            warnings.warn(short, UserWarning, stacklevel=2)


def expected_size(trainer: Any) -> int:
    """Bytes of checkpoints that one trial will leave by the Trainer's save settings, about.

    A checkpoint holds the weights (of a PEFT model the adapters') and, unless `save_only_model`, the optimizer's state:
    for Adam and its kin two numbers for each trained parameter.
    """
    args, model = trainer.args, trainer.model
    strategy = str(getattr(args.save_strategy, "value", args.save_strategy))
    if strategy == "no" or model is None:
        return 0
    trained: int = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    whole_model: int = sum(p.numel() * p.element_size() for p in model.parameters())
    weights = trained if hasattr(model, "peft_config") else whole_model
    optimizer = str(getattr(args.optim, "value", args.optim))
    state = 0 if args.save_only_model or "adam" not in optimizer else trained // (4 if "8bit" in optimizer else 1) * 2
    return (weights + state) * _checkpoints_of_a_trial(trainer, strategy)


def _checkpoints_of_a_trial(trainer: Any, strategy: str) -> int:
    args = trainer.args
    steps: int = args.max_steps
    epochs = math.ceil(args.num_train_epochs)
    if steps <= 0 and hasattr(trainer.train_dataset, "__len__"):
        steps = epochs * max(
            1, len(trainer.train_dataset) // (args.train_batch_size * args.gradient_accumulation_steps)
        )
    saves = 1
    if strategy == "epoch":
        saves = epochs
    elif strategy == "steps" and steps > 0:
        saves = math.ceil(steps / (args.save_steps if args.save_steps >= 1 else args.save_steps * steps))
    limit: int | None = args.save_total_limit
    return saves if limit is None else min(saves, max(limit, 2 if args.load_best_model_at_end else 1))


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
