"""SigOpt's own optimiser, the open-source `sigoptlite` and `libsigopt`, in this process."""

from __future__ import annotations

import math
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tunesmith.backends.sigopt_space import Coded
from tunesmith.errors import MissingDependencyError
from tunesmith.restoring import seeded
from tunesmith.trial import Params

INSTALL = 'pip install "tunesmith[sigopt]" && pip install --no-deps sigoptlite libsigopt'
BUDGET = 100  # what SigOpt is told where a search has no n_trials
MANY_TRIALS, MANY_PARAMETERS = 600, 50  # SigOpt leaves its Gaussian process for density estimates beyond these


@dataclass(frozen=True)
class Observed:
    """A finished trial: its parameters, and its value for each metric (None: it failed)."""

    params: Params
    values: Mapping[str, float] | None = field(default=None)


def optimiser() -> types.ModuleType:
    """`sigoptlite.sources`. Raises MissingDependencyError where it is not installed.

    The packages are of 2023: they warn of what NumPy has renamed since, and need `numpy.product`, which NumPy 2 lacks.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import sigoptlite.sources as sources  # noqa: PLC0415, PLR0402  an optional package
            import threadpoolctl  # noqa: F401, PLC0415  so is this one
            from libsigopt.compute import probabilistic_failures  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            f'backend "sigopt" without SIGOPT_API_URL runs SigOpt\'s optimiser here, which needs sigoptlite: {INSTALL} '
            "(their metadata ask for NumPy 1, so --no-deps; they work with NumPy 2)"
        ) from error
    if not hasattr(np, "product"):
        probabilistic_failures.numpy = _WithProduct("numpy")
    return sources  # type: ignore[no-any-return]


class _WithProduct(types.ModuleType):
    """NumPy with the name that NumPy 2 dropped, for the one module of libsigopt that uses it."""

    product = staticmethod(np.prod)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def suggest(
    coded: Coded,
    metrics: Sequence[Mapping[str, Any]],
    observed: Sequence[Observed],
    pending: Sequence[Params],
    *,
    budget: int | None,
    seed: int,
) -> tuple[dict[str, Any], str]:
    """SigOpt's next parameters, and by what they were found: random, a Gaussian process, or density estimates.

    As its server does: random points until there are twice as many good observations as parameters, then a Gaussian
    process that takes open suggestions into account. A pure function: libsigopt draws from NumPy's global generator,
    which is seeded for the call and put back afterwards.
    """
    sources = optimiser()
    from sigoptlite.builders import LocalExperimentBuilder  # noqa: PLC0415  an optional package
    from sigoptlite.models import LocalObservation, MetricEvaluation  # noqa: PLC0415
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    flat = Coded(coded.space)  # it makes choices of conditionals itself, and calls numpy.product to check them
    experiment = LocalExperimentBuilder(
        {"name": "study", "parameters": flat.parameters, "metrics": [dict(m) for m in metrics]}
        | {"observation_budget": max(budget or BUDGET, len(observed) + 1)}
    )
    data = []
    for o in observed:
        assignments = flat.assignments(o.params)
        if assignments is not None:
            values = {k: MetricEvaluation(name=k, value=v) for k, v in (o.values or {}).items()}
            data.append(LocalObservation(assignments=assignments, metric_evaluations=values, failed=o.values is None))
    good = sum(not o.failed for o in data)
    kind = "SigOpt's Gaussian process"
    if good <= max(2 * experiment.dimension, 4):
        source, kind = sources.RandomSearchSource(experiment), "random"
    elif experiment.dimension > MANY_PARAMETERS or len(data) > MANY_TRIALS:
        source, kind = sources.SPESource(experiment), "SigOpt's density estimates"
    else:
        source = sources.GPSource(experiment)
    # many products of small matrices, for which a second thread costs twenty times what it saves
    with seeded(seed), threadpool_limits(1, "blas"), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of libsigopt's numerics
        try:
            if kind == "SigOpt's Gaussian process":
                source.update_hyperparameters(data, None)
            _hold_open(source, [a for p in pending if (a := flat.assignments(p)) is not None])
            suggestion = source.get_suggestion(data)
        except (ArithmeticError, ValueError, IndexError, np.linalg.LinAlgError, _compute_error()) as error:
            kind = f"random, for SigOpt's optimiser failed: {type(error).__name__}: {error}"
            suggestion = sources.RandomSearchSource(experiment).get_suggestion(data)
    return flat.params(suggestion.assignments), kind


def finite(values: Mapping[str, float | None] | None) -> Mapping[str, float] | None:
    """The values when all are finite numbers, else None: the observation has failed."""
    if values is None or any(v is None or not math.isfinite(v) for v in values.values()):
        return None
    return {k: float(v) for k, v in values.items() if v is not None}


def _compute_error() -> type[Exception]:
    from libsigopt.aux.errors import SigoptComputeError  # noqa: PLC0415  an optional package

    return SigoptComputeError  # type: ignore[no-any-return]


def _hold_open(source: Any, pending: Sequence[Mapping[str, Any]]) -> None:
    """Let the source count open suggestions as points being sampled; sigoptlite's own driver has one at a time."""
    if not pending:
        return
    from libsigopt.aux.adapter_info_containers import PointsContainer  # noqa: PLC0415  an optional package

    points = np.array([source.get_point_from_assignments(source.experiment, a) for a in pending])
    call: Callable[..., Any] = source.call_libsigopt_views

    def with_open_points(view: Any, given: Mapping[str, Any]) -> Any:
        key = "points_being_sampled"
        return call(view, {**given, key: PointsContainer(points=points)} if key in given else given)

    source.call_libsigopt_views = with_open_points
