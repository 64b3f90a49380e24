"""Where the trials of a search run: in this process, in worker processes, in Ray actors, or in Slurm jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from tunesmith.errors import SettingError, UnknownBackendError
from tunesmith.runners import Runner, Task
from tunesmith.runners.inline import InlineRunner
from tunesmith.runners.slots import ranks_of
from tunesmith.runners.workers import WorkersRunner

RUNNERS = ("inline", "workers", "ray", "slurm")
PLUGINS = "tunesmith.runners"  # the entry points of runners that other packages add


@dataclass(frozen=True)
class Places:
    """Where trials run, as the arguments of a search say it; checked, so that no bad input costs a trial.

    `runner` None is "workers" where `workers` are given, or a trial is to have several GPUs or ranks; else "inline": in
    this process, one at a time. `ranks_per_trial` None is one for each of several GPUs. A runner of a plugin is called
    as `cls(task, **arguments)`, with those of the arguments that were given.
    """

    workers: int | Literal["auto"] | None = None
    threads_per_trial: int | None = None
    gpus_per_trial: float | None = None
    trial_timeout: float | None = None
    runner: str | None = None
    resources_per_trial: Mapping[str, Any] | None = None
    ranks_per_trial: int | None = None

    def __post_init__(self) -> None:
        if self.name not in RUNNERS:
            self._plugin()
            return
        allowed = {
            "inline": (),
            "workers": ("workers", "threads_per_trial", "gpus_per_trial", "ranks_per_trial", "trial_timeout"),
            "ray": ("workers", "resources_per_trial", "ranks_per_trial", "trial_timeout"),
            "slurm": ("workers", "resources_per_trial", "trial_timeout"),
        }[self.name]
        given = [n for n in self._given() if n not in allowed]
        if not given:
            return
        if self.name == "inline":
            hint = "a trial in this process has all that the process has, and cannot be ended; pass workers=1 or more"
        elif self.name == "ray":
            hint = 'say it as resources_per_trial={"cpu": ..., "gpu": ...}, which each of ranks_per_trial gets'
        elif self.name == "slurm":
            hint = 'say it as resources_per_trial={"cpu": ..., "gpu": ...}; a trial is one process there'
        else:
            hint = 'say it as threads_per_trial and gpus_per_trial, or pass runner="ray"'
        raise SettingError(f'{" and ".join(given)} cannot be with runner "{self.name}": {hint}')

    @property
    def name(self) -> str:
        """The name of the runner."""
        apart = self.workers is not None or self.ranks_per_trial is not None or self.ranks != 1
        return self.runner or ("workers" if apart else "inline")

    @property
    def ranks(self) -> int:
        """How many ranks a trial has."""
        return ranks_of(self.gpus_per_trial, self.ranks_per_trial)

    def make(self, task: Task, *, preload: Sequence[str] = (), bare: Sequence[object] = ()) -> Runner:
        """The runner of a task; `preload` and `bare` are as in `WorkersRunner`.

        Raises MissingDependencyError for a runner whose package is not installed.
        """
        if self.name == "inline":
            return InlineRunner(task)
        if self.name not in RUNNERS:
            runner: Runner = self._plugin().load()(task, **self._given())
            return runner
        workers = "auto" if self.workers is None else self.workers
        if self.name == "ray":
            from tunesmith.runners.ray import RayRunner  # noqa: PLC0415  an optional package

            return RayRunner(
                task,
                workers=workers,
                resources_per_trial=self.resources_per_trial,
                ranks_per_trial=self.ranks,
                trial_timeout=self.trial_timeout,
                bare=bare,
            )
        if self.name == "slurm":
            from tunesmith.runners.slurm import SlurmRunner  # noqa: PLC0415  an optional package

            return SlurmRunner(
                task,
                workers=workers,
                resources_per_trial=self.resources_per_trial,
                trial_timeout=self.trial_timeout,
                bare=bare,
            )
        return WorkersRunner(
            task,
            workers=workers,
            threads_per_trial=1 if self.threads_per_trial is None else self.threads_per_trial,
            gpus_per_trial=self.gpus_per_trial,
            ranks_per_trial=self.ranks,
            trial_timeout=self.trial_timeout,
            preload=preload or (("torch",) if self.ranks != 1 else ()),
            bare=bare,
        )

    def _given(self) -> dict[str, Any]:
        return {n: value for n, value in vars(self).items() if n != "runner" and value is not None}

    def _plugin(self) -> EntryPoint:
        plugins = {entry.name: entry for entry in entry_points(group=PLUGINS)}
        if self.name not in plugins:
            raise UnknownBackendError(f"unknown runner {self.name!r}: one of {', '.join([*RUNNERS, *sorted(plugins)])}")
        return plugins[self.name]
