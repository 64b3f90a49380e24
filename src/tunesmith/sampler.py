"""The engine as an Optuna sampler, for Optuna users: `optuna.create_study(sampler=tunesmith.Sampler())`."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.search_space import intersection_search_space
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tunesmith.dimensions import dimension, dimensions
from tunesmith.engine import Observation, draw, middle, suggest


class Sampler(optuna.samplers.BaseSampler):
    """tunesmith's engine behind Optuna's interface. Draws are keyed by (seed, trial number).

    Args:
        seed: keys every draw; None: a new one.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._seed = secrets.randbits(31) if seed is None else seed

    def reseed_rng(self) -> None:
        """Take a new seed (Optuna calls this in each worker)."""
        self._seed = secrets.randbits(31)

    def infer_relative_search_space(
        self,
        study: optuna.Study,
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """The parameters that all complete trials have; while there is none, those that any trial has so far.

        So trials that begin before the first result are spread over the space.
        """
        trials = study.get_trials(deepcopy=False)
        if any(t.state is TrialState.COMPLETE for t in trials):
            space = intersection_search_space(trials)
        else:
            space = {n: d for t in trials for n, d in t.distributions.items()}
        return {n: space[n] for n in sorted(space) if not space[n].single()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The engine's suggestion."""
        if not search_space:
            return {}
        trials = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        history = [o for t in trials if (o := _observation(t, study.directions)) is not None]
        running = [t.params for t in trials if t.state is TrialState.RUNNING and t.params]
        return suggest(dimensions(search_space), history, running, seed=self._seed, number=trial.number).params

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A value for a parameter that not all earlier trials had: the middle the first time, then at random.

        An earlier trial that has yet to meet its first parameter will be the one in the middle.
        """
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        waits = any(t.number < trial.number and t.state is TrialState.RUNNING and not t.params for t in others)
        if not waits and not any(param_name in t.params for t in others):
            return middle(dimension(param_distribution))
        return draw(dimension(param_distribution), seed=self._seed, number=trial.number, name=param_name)


def _observation(trial: FrozenTrial, directions: Sequence[StudyDirection]) -> Observation | None:
    if trial.state is TrialState.COMPLETE:
        values = trial.values
    elif trial.state is TrialState.FAIL:
        values = [float("nan")] * len(directions)
    elif trial.state is TrialState.PRUNED and trial.intermediate_values and len(directions) == 1:
        values = [trial.intermediate_values[max(trial.intermediate_values)]]
    else:
        return None
    if not trial.params:
        return None
    signs = [-1.0 if d is StudyDirection.MAXIMIZE else 1.0 for d in directions]
    constraints = getattr(trial, "constraints", {})  # Optuna >= 5.0
    losses = tuple(s * v for s, v in zip(signs, values, strict=True))
    return Observation(trial.params, losses, tuple(constraints.values()), trial.number)
