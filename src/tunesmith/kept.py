"""The best trial's weights, kept for searches that save no checkpoints: in memory, or in files for other processes."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Protocol

import psutil
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from tunesmith.folders import step_of
from tunesmith.study import Study
from tunesmith.trial import LiveTrial, Trial

SHARE_OF_MEMORY = 0.25  # weights are kept when they take at most this share of the memory that is available
SHARE_OF_DISK = 0.25  # likewise of the disk's free space
FILE = "kept.safetensors"
_LOSSES = "losses"

Weights = dict[str, torch.Tensor]
Losses = tuple[float, ...]
_NONE: tuple[Losses, int] = ((math.inf,), 0)  # worse than any trial


class Kept(Protocol):
    """Keeps the best model's weights."""

    def offer(self, live: LiveTrial, losses: Losses, model: torch.nn.Module) -> None:
        """Keep the model of a trial that has completed, if it is the best so far and there is room.

        The best is the one that leads `study.best_trials`: by the first objective, where equal by the next, then by number.
        """

    def take(self, run_directory: Path, number: int) -> Weights | None:
        """The weights of trial `number`, None when they were not kept."""


class KeptInMemory:
    """Holds a CPU copy of the best model's trained parameters and buffers."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._best: tuple[Losses, int] = _NONE
        self._weights: Weights = {}

    def offer(self, live: LiveTrial, losses: Losses, model: torch.nn.Module) -> None:
        """Keep the model if it is the best so far and fits."""
        if (losses, live.number) >= self._best:
            return
        tensors = _tensors(model)
        self._weights = {}  # the earlier copy goes first: both need not fit
        self._best, self._number = (losses, live.number), None
        if _size(tensors) <= SHARE_OF_MEMORY * psutil.virtual_memory().available:
            self._weights = {n: t.detach().to("cpu", copy=True) for n, t in tensors.items()}
            self._number = live.number

    def take(self, run_directory: Path, number: int) -> Weights | None:
        """The weights of trial `number`, which are let go of here; those in a file, from a worker of an earlier start."""
        if number != self._number:
            return _in_file(run_directory)
        weights, self._weights, self._number = self._weights, {}, None
        return weights


class KeptInFiles:
    """Keeps trained parameters and buffers in a file of the trial's directory; an observer that leaves the best one.

    A worker writes its trial's file when it betters all that are there, or always where there are constraints
    (`judged`), for only the driver knows which trials keep them. The driver removes those that are not of the best trial.
    So there is one, and one more for each worker at most.
    """

    def __init__(self, *, judged: bool = False) -> None:
        self._judged = judged
        self._best: int | None = None  # the trial whose file has stayed, once others have been looked for
        self._tidy = False

    def offer(self, live: LiveTrial, losses: Losses, model: torch.nn.Module) -> None:
        """Write the model's file if it is the best so far and there is room."""
        there = live.directory.parent.glob(f"run-*/{FILE}")
        if not self._judged and any(known <= (losses, live.number) for known in map(_place_of, there)):
            return
        tensors = _tensors(model)
        if _size(tensors) > SHARE_OF_DISK * shutil.disk_usage(live.directory.parent).free:
            return
        live.directory.mkdir(exist_ok=True)
        torn = live.directory / f"{FILE}.part"
        save_file({n: _whole(t) for n, t in tensors.items()}, torn, {_LOSSES: json.dumps(losses)})
        torn.replace(live.directory / FILE)

    def take(self, run_directory: Path, number: int) -> Weights | None:  # noqa: ARG002
        """The weights in the file of a trial's directory."""
        return _in_file(run_directory)

    def on_trial_start(self, study: Study, trial: Trial) -> None:
        """A trial begins: what an attempt has left that was lost after its last step counts no more."""
        self._remove(study, trial.number)

    def on_trial_end(self, study: Study, trial: Trial) -> None:
        """A trial has ended: the best one's file stays."""
        best = next((t.number for t in study.best_trials), None)
        ended = {trial.number, self._best} if self._tidy else {t.number for t in study.trials if t.state.finished}
        for number in ended:
            if number is not None and number != best:
                self._remove(study, number)
        self._best, self._tidy = best, True

    @staticmethod
    def _remove(study: Study, number: int) -> None:
        for name in (FILE, f"{FILE}.part"):
            (study.run_directory(number) / name).unlink(missing_ok=True)


def _tensors(model: torch.nn.Module) -> Weights:
    return {n: p for n, p in model.named_parameters() if p.requires_grad} | dict(model.named_buffers())


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as a file can hold it: a part of a larger one is copied out of it."""
    part = tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size()
    return (tensor.detach().clone() if part else tensor.detach()).contiguous()


def _size(tensors: Weights) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _in_file(run_directory: Path) -> Weights | None:
    path = run_directory / FILE
    return dict(load_file(path)) if path.is_file() else None


def _place_of(path: Path) -> tuple[Losses, int]:
    """The losses that a file is of, and its trial's number; worse than any when it is no whole file, or just removed."""
    try:
        with safe_open(path, "pt") as file:
            return tuple(json.loads(file.metadata()[_LOSSES])), step_of(path.parent)
    except (OSError, SafetensorError, KeyError):
        return _NONE
