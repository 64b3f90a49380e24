"""The backend "ray": our engine in Ray actors; with a scheduler or search algorithm of Ray Tune's, Tune drives instead."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
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

# arguments of tune.run that a search has by another name
_OURS = {
    "config": "space", "num_samples": "n_trials", "mode": "direction", "name": "study", "storage_path": "directory",
    "local_dir": "directory", "resume": "resume", "restore": "resume", "max_failures": "max_retries",
    "max_concurrent_trials": "workers", "time_budget_s": "timeout", "points_to_evaluate": "enqueue",
}  # fmt: skip
SCHEDULERS = (AsyncHyperBandScheduler, HyperBandScheduler, FIFOScheduler)  # the others of Tune's are kinds of FIFO
_EXCLUDED = (PopulationBasedTrainingReplay,)
_NOT_TAKEN = ("run_or_experiment", "metric", "raise_on_failed_trial", "callbacks", "resources_per_trial")


class RayBackend(EngineBackend):
    """Proposes as "tunesmith" does."""

    runner = "ray"

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
        return [n for n in names if not n.startswith("_") and n not in _OURS and n not in _NOT_TAKEN]

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
