"""The backend "ray": our engine in Ray actors; with a scheduler or search algorithm of Ray Tune's, Tune drives instead."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import ray.tune
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    PopulationBasedTraining,
    PopulationBasedTrainingReplay,
)
from ray.tune.search import SearchAlgorithm, Searcher

from tunesmith.backends.engine import EngineBackend
from tunesmith.errors import SettingError

# arguments of tune.run that a search has by another name: those that are taken so, and those that are not
_ALIASES = {
    "name": "study", "storage_path": "directory", "time_budget_s": "timeout", "max_concurrent_trials": "workers",
    "points_to_evaluate": "enqueue",
}  # fmt: skip
_OURS = {
    "config": "space", "num_samples": "n_trials", "mode": "direction", "local_dir": "directory", "restore": "resume",
}  # fmt: skip
_RESUME: dict[str, str | bool] = {"AUTO": "auto", "LOCAL": True}  # tune.run's words and ours
SCHEDULERS = (AsyncHyperBandScheduler, HyperBandScheduler, FIFOScheduler)  # the others of Tune's are kinds of FIFO
_EXCLUDED = (PopulationBasedTrainingReplay,)
_NOT_TAKEN = (
    "run_or_experiment", "metric", "raise_on_failed_trial", "callbacks", "resources_per_trial", "max_failures", "resume",
)  # fmt: skip


class RayBackend(EngineBackend):
    """Proposes as "tunesmith" does."""

    runner = "ray"

    @classmethod
    def aliases(cls, settings: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
        """What is given by the names of `tune.run`: the search's own name and value for each."""
        found = {n: (_ALIASES[n], v) for n, v in settings.items() if n in _ALIASES and v is not None}
        if "time_budget_s" in found and isinstance(settings["time_budget_s"], timedelta):
            found["time_budget_s"] = ("timeout", settings["time_budget_s"].total_seconds())
        if "://" in str(settings.get("storage_path")):  # the record stays on a local disk
            found["storage_path"] = ("storage_url", settings["storage_path"])
        if isinstance(settings.get("resume"), str) and settings["resume"] != "auto":
            if settings["resume"] not in _RESUME:
                raise SettingError(
                    f'resume must be "auto", True or False, or {" or ".join(_RESUME)} of tune.run, got {settings["resume"]!r}; '
                    "`tunesmith retry` has a failed trial tried again"
                )
            found["resume"] = ("resume", _RESUME[settings["resume"]])
        if cls.leaves_loop(settings):
            if settings.get("max_failures") is not None:  # of each trial, to Tune's users
                often = settings["max_failures"]
                found["max_failures"] = ("max_retries", sys.maxsize if often == -1 else often)
        elif any(isinstance(c, ray.tune.Callback) for c in settings.get("callbacks") or ()):
            raise SettingError(
                "callbacks of Ray Tune are for a search that Tune drives; pass a scheduler or search_alg, or observers"
            )
        return found

    @classmethod
    def takes(cls, options: Mapping[str, Any]) -> list[str]:
        """The options that go with these: the engine's, or those of `tune.run` where Tune drives."""
        for name in options:
            if name in _OURS:
                raise SettingError(f"backend 'ray' takes tune.run's {name!r} as {_OURS[name]!r}; pass that")
        if not cls.leaves_loop(options):
            engine = [*inspect.signature(EngineBackend).parameters][1:]
            alone = [n for n in options if n not in engine and n in inspect.signature(ray.tune.run).parameters]
            if alone:
                raise SettingError(
                    f"{alone[0]!r} is for Ray Tune, which drives when a scheduler or search_alg is given; pass one of "
                    f"them too, or leave {alone[0]!r} out"
                )
            return engine
        _check_objects(options)
        names = inspect.signature(ray.tune.run).parameters
        others = (*_OURS, *_ALIASES, *_NOT_TAKEN)
        return [n for n in names if not n.startswith("_") and n not in others]

    @staticmethod
    def leaves_loop(options: Mapping[str, Any]) -> bool:
        """Whether Tune drives the search."""
        return any(options.get(name) is not None for name in ("scheduler", "search_alg"))


def _check_objects(options: Mapping[str, Any]) -> None:
    """What the user gives of Tune's must be what a search is known to go through with."""
    scheduler, search_alg = options.get("scheduler"), options.get("search_alg")
    if scheduler is not None and (not isinstance(scheduler, SCHEDULERS) or isinstance(scheduler, _EXCLUDED)):
        raise SettingError(
            "scheduler must be Ray Tune's ASHAScheduler, HyperBandScheduler, MedianStoppingRule, PopulationBasedTraining, "
            f"PB2 or FIFOScheduler, got {scheduler!r}; pass the object; schedulers that change resources or replay are not "
            "supported"
        )
    if isinstance(scheduler, PopulationBasedTraining) and search_alg is not None:
        raise SettingError(
            f"population based training proposes by itself, got search_alg={search_alg!r}; leave out one of the two"
        )
    if search_alg is not None and not isinstance(search_alg, Searcher | SearchAlgorithm):
        raise SettingError(
            f"search_alg must be one of Ray Tune's searchers, such as OptunaSearch(), got {search_alg!r}; pass the object"
        )
