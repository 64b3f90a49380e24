"""The backend "tunesmith": the embedded engine, with its own early stopping or one of Optuna's pruners."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution

from tunesmith.backends import Proposal, Setting
from tunesmith.backends.known import drawn, seen_space
from tunesmith.backends.stopping import Stopper
from tunesmith.backends.transfer import Earlier, transferred
from tunesmith.dimensions import dimension, dimensions
from tunesmith.engine import Observation, middle, suggest
from tunesmith.errors import SettingError
from tunesmith.trial import CONTINUE, Decision, Params, Space, Trial, TrialState, signs

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

    from tunesmith.backends.pruning import Judge


UNTOLD = ("lost", "timeout", "interrupted")  # failures that say nothing of the parameters: they are not learned from


class EngineBackend:
    """Proposes by the engine.

    `pruner`: "model" stops trials that have little chance to become the best, None stops none, an Optuna pruner decides
    by its own rule; trials are compared at equal shares of training. `warm_start`: earlier studies (or their paths)
    whose best configurations are tried first, after what is enqueued.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        pruner: BasePruner | str | None = "model",
        warm_start: Sequence[Earlier | str | Path] = (),
    ) -> None:
        if isinstance(pruner, str) and pruner != "model":
            raise SettingError(f'pruner must be "model", None or an Optuna pruner, got {pruner!r}')
        self._setting = setting
        self._stopper = Stopper(setting)
        self._judge = None if pruner is None or isinstance(pruner, str) else _judge(pruner, setting)
        self._by_model = pruner == "model"
        self._signs = signs(setting.directions)
        self._first = transferred(warm_start, setting.directions, setting.space)

    def ask(self, number: int, fixed: Params) -> Proposal:
        """The engine's suggestion from the trials that finished; those under way count as pending."""
        before = [t for t in self._setting.history() if t.number != number]
        space = seen_space(before) if self._setting.space is None else self._setting.space
        expected = self._stopper.expected(before)
        finished = [o for t in before if (o := self._observation(t, expected.get(t.number))) is not None]
        pending = [{**t.offered, **t.params} for t in before if not t.state.finished]
        seed = self._setting.seed
        warm = {} if fixed else self._untried(before)
        fixed = {**warm, **fixed}
        found = suggest(dimensions(space), finished, pending, seed=seed, number=number, fixed=fixed)
        draw = drawn(seed, number)
        taken = any(t.number < number and not t.state.finished and not {**t.offered, **t.params} for t in before)
        why = {**found.why, "how": "transfer"} if warm else found.why
        if taken and why["how"] == "empty":
            why = {"how": "start"}
        return Proposal(
            {**found.params, **fixed},
            draw if taken else _first_in_the_middle(seen_space(before), draw),
            _told(why, self._signs),
        )

    def judge(self, trial: Trial) -> Decision:
        """What the pruner says, if there is one."""
        if self._by_model:
            return self._stopper.judge(trial)
        return CONTINUE if self._judge is None else self._judge.judge(trial)

    def tell(self, trial: Trial) -> None:
        """Let the pruner know; the engine reads the history itself."""
        if self._judge is not None:
            self._judge.tell(trial)

    def close(self) -> None:
        """Nothing is held."""

    def _untried(self, before: Sequence[Trial]) -> Params:
        """The first of the earlier studies' configurations that no trial has had yet."""
        left = (c for c in self._first if not any(c.items() <= {**t.offered, **t.params}.items() for t in before))
        return next(left, {})

    def _observation(self, trial: Trial, expected: tuple[float, float] | None) -> Observation | None:
        if not trial.params or not trial.state.finished:
            return None
        spread = 0.0
        if trial.state is TrialState.COMPLETE and trial.values is not None:
            values: tuple[float, ...] = trial.values
        elif trial.state is TrialState.PRUNED and expected is not None:
            values, spread = expected[:1], expected[1]
        elif trial.state is TrialState.PRUNED and trial.reports:
            values = trial.reports[-1].values
        elif trial.state is TrialState.FAILED and not (trial.reason or "").startswith(UNTOLD):
            values = (float("nan"),) * len(self._signs)
        else:
            return None
        losses = tuple(s * v for s, v in zip(self._signs, values, strict=True))
        return Observation(trial.params, losses, tuple(trial.constraints.values()), trial.number, spread)


def _first_in_the_middle(
    seen: Space, draw: Callable[[str, BaseDistribution], Any]
) -> Callable[[str, BaseDistribution], Any]:
    """Where a trial meets a name that no earlier one had, the middle of its range; the engine starts there too.

    Not for trials that begin while an earlier one is still to meet its first name: that one is in the middle.
    """
    return lambda name, distribution: draw(name, distribution) if name in seen else middle(dimension(distribution))


def _judge(pruner: BasePruner, setting: Setting) -> Judge:
    from tunesmith.backends.pruning import Judge  # noqa: PLC0415  only searches that prune need Optuna's studies

    return Judge(pruner, setting)


def _told(why: Mapping[str, Any], to_losses: Sequence[float]) -> dict[str, Any]:
    """The engine's account with objectives for losses, and as a sentence (`text`)."""
    told = dict(why)
    if "expected" in told:
        bands = [[s * v for v in band] for s, band in zip(to_losses, told["expected"], strict=True)]
        told["expected"] = [[at, min(low, high), max(low, high)] for at, low, high in bands]
    told["text"] = _sentence(told)
    return told


def _sentence(why: Mapping[str, Any]) -> str:
    """Why, in words and numbers."""
    if why["how"] == "empty":  # no parameter is known before the first trial of a space that is defined by run
        return "as given, or the middle of each range"
    if why["how"] == "start":
        return "a first look at the space"
    if why["how"] == "transfer":
        return "the best configuration of an earlier study"
    if why["how"] == "constraints":
        return f"no trial keeps its constraints yet; the chance here is {why['chance_to_succeed']:.0%}"
    if why["how"] != "model":
        return str(why["how"])
    word = "explores where little is known" if why["mode"] == "explore" else "exploits what is known"
    bands = [f"{at:.4g} ({low:.4g} to {high:.4g})" for at, low, high in why.get("expected", ())]
    parts = [word, *([f"expects {', '.join(bands)}"] if bands else [])]
    parts.append(f"nearest: trials {', '.join(map(str, why['nearest']))}")
    if "chance_to_succeed" in why:
        parts.append(f"{why['chance_to_succeed']:.0%} chance to succeed")
    return "; ".join(parts)
