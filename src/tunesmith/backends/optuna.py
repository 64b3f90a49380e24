"""The backend "optuna": Optuna's samplers (or a user's own) propose, its pruners judge."""

from __future__ import annotations

import copy
import random
import uuid
import zlib
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.samplers._lazy_random_state import LazyRandomState
from optuna.trial import FrozenTrial
from optuna.trial import Trial as OptunaTrial
from optuna.trial import TrialState as OptunaState

from tunesmith.backends import Proposal, Setting
from tunesmith.backends.pruning import Judge
from tunesmith.errors import SettingError
from tunesmith.export import quiet_study, to_frozen
from tunesmith.trial import CONSTRAINT, Decision, Params, Trial, TrialState, fitted

_OURS = "tunesmith"  # user attribute: which of our studies wrote the trial, and as which


class OptunaBackend:
    """Proposes by an Optuna sampler, as `optuna.create_study` would (TPE; NSGA-II for several objectives).

    The sampler sees an in-memory study that is rebuilt from our record. Its random numbers are keyed by (seed, trial
    number), so that a resumed search proposes what an uninterrupted one would; the seed is that of the sampler when
    the user gave it one, else the study's. `pruner` is Optuna's default (the median) when None. `storage`: an Optuna
    storage (URL or object) that each finished trial is also written to, with its true steps; finished trials found
    there beforehand inform the sampler.

    Raises SettingError when the study found in `storage` has other directions, or a sampler or pruner is not Optuna's.
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
        if sampler is not None and not isinstance(sampler, BaseSampler):
            raise SettingError(
                f"sampler must be an Optuna sampler, got {sampler!r}; make one, such as optuna.samplers.TPESampler()"
            )
        if pruner is not None and not isinstance(pruner, BasePruner):
            raise SettingError(
                f"pruner must be an Optuna pruner, got {pruner!r}; make one, such as optuna.pruners.MedianPruner()"
            )
        if sampler is None:
            sampler = TPESampler() if len(directions) == 1 else NSGAIISampler()
        # Optuna's own are copied, for the user may pass the same object to another search
        self._sampler = copy.deepcopy(sampler) if type(sampler).__module__.startswith("optuna.") else sampler
        seed = _own_seed(sampler)
        self._seed = setting.seed if seed is None else seed
        self._stateless = _stateless(sampler)
        self._setting = setting
        self._judge = Judge(optuna.pruners.MedianPruner() if pruner is None else pruner, setting)
        self._study = quiet_study(
            storage=optuna.storages.InMemoryStorage(),
            directions=directions,
            sampler=self._sampler,
            study_name="tunesmith",
        )
        # GridSampler and BruteForceSampler end the study they sample for; ours ends with its budget
        self._study.stop = lambda: None  # type: ignore[method-assign]
        # drawn, for another study of the same name and seed may write to the same storage
        self._identity = "" if storage is None else setting.memory.setdefault("optuna", uuid.uuid4().hex)
        self._trials: dict[int, OptunaTrial] = {}
        self._fixed: dict[int, Params] = {}
        self._mirror = None if storage is None else self._open(storage, study_name, load_if_exists=load_if_exists)
        self._written = set() if self._mirror is None else self._read(self._mirror)
        for trial in setting.history():
            if trial.state.finished:
                if self._stateless:
                    self._study.add_trial(_frozen(trial))
                else:  # generations, populations and a user's own state come from asking again
                    self._begin(trial.number, trial.offered if _enqueued(trial) else {})
                    self._end(trial)
                self._write(trial)

    def ask(self, number: int, fixed: Params) -> Proposal:
        """Let the sampler propose; values are drawn as the trial asks for them."""
        trial = self._trials.get(number)  # tried again: the sampler has proposed it already
        if trial is None:
            known = next((t for t in reversed(self._setting.history()) if t.number == number), None)
            # what an interrupted trial was given is no news to the sampler: it proposes the same again
            trial = self._begin(number, fixed if known is None or _enqueued(known) or not known.params else {})

        def draw(name: str, distribution: BaseDistribution) -> Any:
            # trials that run side by side draw in any order
            sampler = self._study.sampler
            _reseed(sampler, (self._seed, number, zlib.crc32(name.encode())), "", set())
            if name in self._fixed.get(number, {}):  # out of range, or the search would have used it; Optuna uses it
                frozen = self._study._storage.get_trial(trial._trial_id)  # noqa: SLF001
                return sampler.sample_independent(self._study, frozen, name, distribution)
            return trial._suggest(name, distribution)  # noqa: SLF001  takes any distribution

        return Proposal(dict(fixed), draw)

    def judge(self, trial: Trial) -> Decision:
        """What the pruner says."""
        return self._judge.judge(trial)

    def tell(self, trial: Trial) -> None:
        """Tell sampler and pruner, and write the trial to the user's storage."""
        self._judge.tell(trial)
        if trial.number in self._trials:
            self._end(trial)
        else:
            self._study.add_trial(_frozen(trial))
        self._write(trial)

    def close(self) -> None:
        """Nothing is held."""

    # -- the sampler's study -------------------------------------------------------------------------------------

    def _begin(self, number: int, fixed: Params) -> OptunaTrial:
        """Ask with random numbers keyed by the trial."""
        # a fresh copy: caches must not tell a resumed search from an uninterrupted one
        sampler = copy.deepcopy(self._sampler) if self._stateless else self._sampler
        _reseed(sampler, (self._seed, number), "", set())
        self._study.sampler = sampler
        if fixed:
            self._study.enqueue_trial(dict(fixed))
            self._fixed[number] = fixed
        trial = self._trials[number] = self._study.ask()
        return trial

    def _end(self, trial: Trial) -> None:
        """Bring the sampler's trial to where ours is, and finish it."""
        mine = self._trials.pop(trial.number)
        fixed = self._fixed.pop(trial.number, {})
        for name, distribution in trial.distributions.items():
            if name not in mine.params and name not in fixed:  # asked again after a restart
                mine._suggest(name, distribution)  # noqa: SLF001
            if name not in mine.params or mine.params[name] != trial.params[name]:
                internal = distribution.to_internal_repr(fitted(distribution, trial.params[name]))
                mine.storage.set_trial_param(mine._trial_id, name, internal, distribution)  # noqa: SLF001
        for key, attr in trial.attrs.items():
            if not key.startswith(CONSTRAINT):
                mine.set_user_attr(key, attr)
        _constrain(mine, trial)
        if len(self._setting.directions) == 1:
            for report in trial.reports:
                mine.report(report.values[0], report.step)
        if trial.state is TrialState.COMPLETE and trial.values is not None:
            self._study.tell(mine, list(trial.values))
        else:
            self._study.tell(mine, state=OptunaState.PRUNED if trial.state is TrialState.PRUNED else OptunaState.FAIL)

    # -- the user's storage --------------------------------------------------------------------------------------

    def _open(self, storage: Any, name: str | None, *, load_if_exists: bool) -> optuna.Study:
        directions = list(self._setting.directions)
        study = quiet_study(
            storage=storage,
            study_name=name or self._setting.study_name or None,
            load_if_exists=load_if_exists or bool(self._setting.history()),
            directions=directions,
        )
        found = [d.name.lower() for d in study.directions]
        if found != directions:
            raise SettingError(
                f'a study keeps its directions, got {directions} for "{study.study_name}", which has {found} in the '
                "storage; give another study_name"
            )
        return study

    def _read(self, mirror: optuna.Study) -> set[int]:
        """Learn from the trials that others wrote; the numbers of those that we did."""
        ours = set()
        for frozen in mirror.get_trials():
            study, _, number = str(frozen.user_attrs.get(_OURS, "")).rpartition("#")
            if study == self._identity:
                ours.add(int(number))
            elif frozen.state in (OptunaState.COMPLETE, OptunaState.PRUNED):
                self._study.add_trial(frozen)
        return ours

    def _write(self, trial: Trial) -> None:
        if self._mirror is not None and trial.number not in self._written:
            frozen = _frozen(trial)
            frozen.set_user_attr(_OURS, f"{self._identity}#{trial.number}")
            self._mirror.add_trial(frozen)
            self._written.add(trial.number)


def _enqueued(trial: Trial) -> bool:
    return bool(trial.attrs.get("enqueued"))


def _frozen(trial: Trial) -> FrozenTrial:
    frozen = to_frozen(trial)
    _constrain(frozen, trial)
    return frozen


def _constrain(theirs: OptunaTrial | FrozenTrial, trial: Trial) -> None:
    for key, value in trial.constraints.items():
        if hasattr(theirs, "set_constraint"):  # Optuna >= 5.0
            theirs.set_constraint(key, value)


def _stateless(sampler: BaseSampler) -> bool:
    """Whether the sampler keeps nothing but caches, and so needs only the finished trials and not to be asked again."""
    constrained = getattr(sampler, "_constraints_func", None) is not None
    return type(sampler) in (RandomSampler, TPESampler, GPSampler) and not constrained


def _own_seed(sampler: BaseSampler) -> int | None:
    """The seed that the user gave to one of Optuna's samplers, in effect; None when there is none."""
    state = vars(sampler).get("_rng")
    if not type(sampler).__module__.startswith("optuna.") or not isinstance(state, LazyRandomState):
        return None
    made = state._rng  # noqa: SLF001  only a seed makes it before its first use
    return None if made is None else int.from_bytes(copy.deepcopy(made).bytes(4), "little")


def _reseed(thing: Any, key: tuple[int, ...], path: str, seen: set[int]) -> None:
    """Seed every random number generator that a sampler holds, its inner samplers included."""
    if id(thing) in seen or not hasattr(thing, "__dict__"):
        return
    seen.add(id(thing))
    for name, value in list(vars(thing).items()):
        where = f"{path}.{name}"
        seed = int(np.random.default_rng([*key, zlib.crc32(where.encode())]).integers(2**31))
        if isinstance(value, LazyRandomState):
            value.rng.seed(seed)
        elif isinstance(value, np.random.RandomState | random.Random):
            value.seed(seed)
        elif isinstance(value, np.random.Generator):
            setattr(thing, name, np.random.default_rng(seed))
        elif isinstance(value, BaseSampler) or type(value).__module__.startswith("optuna.samplers"):
            _reseed(value, key, where, seen)
