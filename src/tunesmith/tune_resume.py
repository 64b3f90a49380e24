"""The rest of a search that Ray Tune drives: its configurations without those that have begun at an earlier start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import BasicVariantGenerator, Searcher, SearchGenerator

from tunesmith.errors import SettingError
from tunesmith.runners.tune import flat
from tunesmith.trial import Trial, TrialState
from tunesmith.tune_record import Keeper


def searcher_of(search_alg: Any) -> Searcher | None:
    """The searcher within one of Tune's search algorithms, None where there is none."""
    found = search_alg.searcher if isinstance(search_alg, SearchGenerator) else search_alg
    return found if isinstance(found, Searcher) else None


class Rest(BasicVariantGenerator):  # type: ignore[misc]
    """Tune's own configurations by a seed: first the trials of the record that are to go on, then those that never began.

    Tune draws them all anew, as at the first start, so that the rest is what it would have been; as many as have `begun`
    are left out, or stand for the `unfinished` trials, with the parameters that those had.
    """

    max_concurrent: int

    def __init__(self, keeper: Keeper, *, begun: int, **settings: Any) -> None:
        super().__init__(**settings)
        self._keeper = keeper
        self._begun = begun
        self._first: list[Any] | None = None

    def next_trial(self) -> Any:
        """The next of Tune's trials, None when there is none (now)."""
        if self._first is None:
            self._first = self._drawn_again()
        if self._first and not self._at_once():
            trial = self._first.pop(0)
            self._live_trials.add(trial.trial_id)
            return trial
        return None if self._first else super().next_trial()

    def get_state(self) -> dict[str, Any]:
        """What Tune stores; the record knows the rest."""
        return {k: v for k, v in super().get_state().items() if k not in ("_keeper", "_first")}

    def is_finished(self) -> bool:
        """Whether there is no other trial."""
        return not self._first and bool(super().is_finished())

    def _at_once(self) -> bool:
        return 0 < self.max_concurrent <= len(self._live_trials)

    def _drawn_again(self) -> list[Any]:
        """Draw what has been drawn before; the trials of it that go on."""
        limit, self.max_concurrent = self.max_concurrent, 0
        drawn: Sequence[Any] = [super(Rest, self).next_trial() for _ in range(self._begun)]
        self.max_concurrent = limit
        self._live_trials.clear()
        going_on = [t for t in self._keeper.study.trials if not t.state.finished]
        trials = [t for t in drawn if t is not None][: len(going_on)]
        for trial, known in zip(trials, going_on, strict=False):
            trial.set_config({**trial.config, **known.offered, **known.params})
            self._keeper.numbers[trial.trial_id] = known.number
        return trials


class Told(Searcher):  # type: ignore[misc]
    """A user's searcher that is told what the trials of earlier starts came to, before it proposes.

    Trials that are to go on come first, with the values that they had. Nothing that was stored is unpickled: finished trials
    are added as evaluated points, or, where the searcher takes none, proposed again and completed, which needs proposals
    that are the same at each start. Raises SettingError where neither is possible.
    """

    def __init__(self, searcher: Searcher, keeper: Keeper) -> None:
        super().__init__()
        self.searcher = searcher
        self._keeper = keeper
        self._begun: list[Trial] = list(keeper.study.trials)
        self._going_on = [t for t in self._begun if not t.state.finished]
        self._proposed: dict[int, str] = {}  # trials that go on, which the searcher knows by another id
        self._apart: dict[str, str | None] = {}  # the searcher's id of a trial that goes on; None: it takes points
        self._names: list[str] = []

    @property
    def metric(self) -> Any:
        """The searcher's."""
        return self.searcher.metric

    @property
    def mode(self) -> Any:
        """The searcher's."""
        return self.searcher.mode

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Let the searcher know the space, then the past."""
        done = bool(self.searcher.set_search_properties(metric, mode, config, **spec))
        self._names = list(config)
        if done and self._begun:
            self._tell_all()
        return done

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Whether the searcher itself sees to it."""
        return bool(self.searcher.set_max_concurrency(max_concurrent))

    def suggest(self, trial_id: str) -> Any:
        """The values of a trial that goes on, then the searcher's."""
        if not self._going_on:
            return self.searcher.suggest(trial_id)
        known = self._going_on.pop(0)
        self._keeper.numbers[trial_id] = known.number
        self._apart[trial_id] = self._proposed.get(known.number)
        return self._values(known)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A trial has reported."""
        known_as = self._apart.get(trial_id, trial_id)
        if known_as is not None:
            self.searcher.on_trial_result(known_as, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial has ended."""
        known_as = self._apart.pop(trial_id, trial_id)
        if known_as is not None:
            self.searcher.on_trial_complete(known_as, result, error)
            return
        value = self._of(result or {})
        known = self._keeper.record.trial(self._keeper.numbers[trial_id])
        self._add(known, value, failed=error or value is None, pruned=False)

    def on_pause(self, trial_id: str) -> None:
        """Of BOHB."""
        self.searcher.on_pause(trial_id)

    def on_unpause(self, trial_id: str) -> None:
        """Of BOHB."""
        self.searcher.on_unpause(trial_id)

    def get_state(self) -> dict[str, Any]:
        """What Tune stores; the record knows the rest."""
        return {}

    # -- the past ------------------------------------------------------------------------------------------------

    def _tell_all(self) -> None:
        try:
            for trial in self._begun:
                if trial.state.finished:
                    value, failed = self._of(_result(trial)), trial.state is TrialState.FAILED
                    self._add(trial, value, failed=failed, pruned=trial.state is TrialState.PRUNED)
        except NotImplementedError:  # Tune's own, of a searcher that takes no points
            for trial in self._begun:
                self._propose_again(trial)

    def _add(self, trial: Trial, value: Any, *, failed: bool, pruned: bool) -> None:
        several = isinstance(self.metric, list)
        reported = None if several else [r.values[0] for r in trial.reports]
        try:
            self.searcher.add_evaluated_point(self._values(trial), value, failed, pruned, reported)
        except NotImplementedError:  # it takes none at all: the caller proposes again
            raise
        except Exception as error:
            raise self._refusal(f"it cannot take trial {trial.number}: {type(error).__name__}: {error}") from error

    def _propose_again(self, trial: Trial) -> None:
        tune_id = TuneTrial.generate_id()
        proposed = self.searcher.suggest(tune_id)
        if not isinstance(proposed, Mapping) or flat(proposed) != self._values(trial):
            raise self._refusal(f"it proposes {proposed!r} where trial {trial.number} had {self._values(trial)}")
        if trial.state.finished:
            failed = trial.state is TrialState.FAILED
            self.searcher.on_trial_complete(tune_id, None if failed else _result(trial), failed)
        else:
            self._proposed[trial.number] = tune_id

    def _refusal(self, why: str) -> SettingError:
        return SettingError(
            f"a search_alg must take the {len(self._begun)} trial(s) of study {self._keeper.study.name!r} to go on with it, and "
            f"{type(self.searcher).__name__} does not: {why}. Pass resume=False to begin another study, leave out search_alg, "
            'or search with backend="optuna", which goes on with any of Optuna\'s samplers'
        )

    def _values(self, trial: Trial) -> dict[str, Any]:
        """A trial's values for all that the searcher proposes."""
        known = {**trial.offered, **trial.params}
        return {n: known[n] for n in self._names if n in known}

    def _of(self, result: Mapping[str, Any]) -> Any:
        """What the searcher optimizes, of a result; None where it lacks it."""
        if not isinstance(self.metric, list):
            return result.get(self.metric)
        found = [result.get(name) for name in self.metric]
        return None if None in found else found


def _result(trial: Trial) -> dict[str, Any]:
    """What Tune would give of a trial that has ended."""
    values = trial.values or (trial.reports[-1].values if trial.reports else ())
    names = ["objective", *(f"objective_{k}" for k in range(1, len(values)))]
    return {**trial.metrics, **dict(zip(names, values, strict=False)), "training_iteration": max(1, len(trial.reports))}
