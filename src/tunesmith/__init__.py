"""Hyperparameter search for training runs: better settings in fewer trials, and nothing lost."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.errors import TunesmithError as TunesmithError
    from tunesmith.function_search import search as search
    from tunesmith.sampler import Sampler as Sampler
    from tunesmith.study import Study as Study
    from tunesmith.study import load_study as load_study
    from tunesmith.trainer_search import Trainer as Trainer
    from tunesmith.trainer_search import hyperparameter_search as hyperparameter_search
    from tunesmith.trainer_search import tunable as tunable
    from tunesmith.trial import LiveTrial as LiveTrial
    from tunesmith.trial import Trial as Trial
    from tunesmith.trial import TrialState as TrialState

__version__ = "0.1.0"

# loaded at first use: `import tunesmith` must not cost what torch, transformers and Optuna cost
_HOMES = {
    "LiveTrial": "trial",
    "Sampler": "sampler",
    "Study": "study",
    "Trainer": "trainer_search",
    "Trial": "trial",
    "TrialState": "trial",
    "TunesmithError": "errors",
    "hyperparameter_search": "trainer_search",
    "load_study": "study",
    "search": "function_search",
    "tunable": "trainer_search",
}

__all__ = [  # noqa: PLE0604  the keys of _HOMES, and the version
    *_HOMES,
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tunesmith' has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    value = getattr(import_module(f"tunesmith.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
