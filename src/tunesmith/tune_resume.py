"""The rest of a search that Ray Tune drives: its configurations without those that have begun at an earlier start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.tune.search import BasicVariantGenerator

from tunesmith.tune_record import Keeper


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
