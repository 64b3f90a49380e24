"""The backend "optuna": Optuna's samplers (or a user's own) propose, its pruners judge."""

from __future__ import annotations

import copy
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers._lazy_random_state import LazyRandomState
from optuna.trial import Trial as OptunaTrial
from optuna.trial import TrialState as OptunaState

from tunesmith.backends import Proposal, Setting
from tunesmith.backends.pruning import Judge
from tunesmith.export import quiet_study, to_frozen
from tunesmith.trial import Decision, Params, Trial, TrialState

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

_NAME = "tunesmith"
_STATELESS = (optuna.samplers.RandomSampler, optuna.samplers.TPESampler, optuna.samplers.GPSampler)


class OptunaBackend:
    """Proposes by an Optuna sampler, as `optuna.create_study` would (TPE; NSGA-II for several objectives).

    The sampler sees an in-memory study that is rebuilt from our record. Its random numbers are keyed by (seed, trial
    number), so that a resumed search proposes what an uninterrupted one would (with random, TPE and GP sampling;
    NSGA-II may differ after a resume). `storage`: an Optuna storage (URL or
    object) that each finished trial is also written to; trials found there beforehand inform the sampler.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        sampler: BaseSampler | None = None,
        pruner: BasePruner | None = None,
        storage: Any = None,
        study_name: str | None = None,
        load_if_exists: bool = False,
    ) -> None:
        directions = list(setting.directions)
        self._setting = setting
        self._sampler = sampler if sampler is not None else _default_sampler(directions)
        # these keep nothing but caches, which must not tell a resumed search from an uninterrupted one
        self._stateless = type(self._sampler) in _STATELESS
        self._judge = Judge(optuna.pruners.MedianPruner() if pruner is None else pruner, setting)
        self._study = quiet_study(
            storage=optuna.storages.InMemoryStorage(), directions=directions, sampler=self._sampler, study_name=_NAME
        )
        self._trials: dict[int, OptunaTrial] = {}
        self._mirror = None
        if storage is not None:
            self._mirror = quiet_study(
                storage=storage,
                study_name=study_name or setting.study_name or None,
                load_if_exists=load_if_exists or bool(setting.history()),
                directions=directions,
            )
            ours = {t.user_attrs.get("tunesmith_number") for t in self._mirror.get_trials(deepcopy=False)} - {None}
            for frozen in self._mirror.get_trials(states=(OptunaState.COMPLETE, OptunaState.PRUNED)):
                if "tunesmith_number" not in frozen.user_attrs:
                    self._study.add_trial(frozen)
            self._written = ours
        for trial in setting.history():
            if trial.state.finished:
                if self._stateless:
                    self._study.add_trial(to_frozen(trial))
                else:  # generations, populations and a user's own state come from asking again
                    self._begin(trial.number, trial.params)
                    self._end(trial)
                self._write(trial)

    def ask(self, number: int, fixed: Params) -> Proposal:
        """Let the sampler propose; values are drawn as the trial asks for them."""
        trial = self._begin(number, fixed)

        def draw(name: str, distribution: BaseDistribution) -> Any:
            return _suggest(trial, name, distribution)

        return Proposal(dict(fixed), draw)

    def judge(self, trial: Trial) -> Decision:
        """What the pruner says."""
        return self._judge.judge(trial)

    def tell(self, trial: Trial) -> None:
        """Tell sampler and pruner, and write the trial to the user's storage."""
        self._judge.tell(trial)
        self._end(trial)
        self._write(trial)

    def _begin(self, number: int, fixed: Params) -> OptunaTrial:
        """Ask with random numbers keyed by the trial."""
        sampler = copy.deepcopy(self._sampler) if self._stateless else self._sampler
        _reseed(sampler, (self._setting.seed, number), set())
        self._study.sampler = sampler
        if fixed:
            self._study.enqueue_trial(dict(fixed))
        trial = self._trials[number] = self._study.ask()
        return trial

    def _end(self, trial: Trial) -> None:
        """Tell the sampler's study."""
        mine = self._trials.pop(trial.number, None)
        if mine is None:
            self._study.add_trial(to_frozen(trial))
        else:
            # values that were fixed beforehand did not pass through draw
            for name, distribution in trial.distributions.items():
                if name not in mine.params:
                    _suggest(mine, name, distribution)
            for report in trial.reports:
                if len(report.values) == 1 and len(self._setting.directions) == 1:
                    mine.report(report.values[0], report.step)
            if trial.state is TrialState.COMPLETE and trial.values is not None:
                self._study.tell(mine, list(trial.values))
            elif trial.state is TrialState.PRUNED:
                self._study.tell(mine, state=OptunaState.PRUNED)
            else:
                self._study.tell(mine, state=OptunaState.FAIL)

    def close(self) -> None:
        """Nothing is held."""

    def _write(self, trial: Trial) -> None:
        if self._mirror is not None and trial.number not in self._written:
            frozen = to_frozen(trial)
            frozen.set_user_attr("tunesmith_number", trial.number)
            self._mirror.add_trial(frozen)
            self._written.add(trial.number)


def _default_sampler(directions: list[str]) -> BaseSampler:
    return optuna.samplers.TPESampler(seed=0) if len(directions) == 1 else optuna.samplers.NSGAIISampler(seed=0)


def _suggest(trial: OptunaTrial, name: str, d: BaseDistribution) -> Any:
    if isinstance(d, optuna.distributions.CategoricalDistribution):
        return trial.suggest_categorical(name, d.choices)
    if isinstance(d, optuna.distributions.IntDistribution):
        return trial.suggest_int(name, d.low, d.high, step=d.step, log=d.log)
    if isinstance(d, optuna.distributions.FloatDistribution):
        return trial.suggest_float(name, d.low, d.high, step=d.step, log=d.log)
    raise TypeError(f"unknown distribution {d!r}")


def _reseed(thing: Any, key: tuple[int, ...], seen: set[int]) -> None:
    """Seed every random number generator that a sampler holds, its inner samplers included, by its attribute's path."""
    if id(thing) in seen or not hasattr(thing, "__dict__"):
        return
    seen.add(id(thing))
    for name, value in sorted(vars(thing).items()):
        path = (*key, *name.encode())
        seed = int(np.random.default_rng(path).integers(2**31))
        if isinstance(value, LazyRandomState):
            value.rng.seed(seed)
        elif isinstance(value, np.random.RandomState | random.Random):
            value.seed(seed)
        elif isinstance(value, np.random.Generator):
            setattr(thing, name, np.random.default_rng(seed))
        elif type(value).__module__.startswith("optuna.samplers") or isinstance(value, optuna.samplers.BaseSampler):
            _reseed(value, path, seen)
