"""What the trials suggest in words: where a range is too narrow, and what those that failed have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import FloatDistribution, IntDistribution

from tunesmith.report.summary import is_number, number
from tunesmith.trial import Trial, TrialState, signs

_MATTERS = 0.05  # the importance below which an end of a range means nothing
_LEADERS = 0.2  # of the completed trials
_AT_END = 0.04  # of the range
_ENOUGH = 3
_BY_CHANCE = 0.02  # how likely it may be that trials that failed at random have as much in common (Bonferroni's bound)


def narrow_ranges(trials: Sequence[Trial], directions: Sequence[str], importance: Mapping[str, float]) -> list[str]:
    """The parameters that matter, and of which the best trials all lie at one end of the range, one sentence each."""
    sign = signs(directions)[0]
    done = [t for t in trials if t.values and math.isfinite(t.values[0]) and t.feasible]
    done.sort(key=lambda t: (sign * (t.values or (0.0,))[0], t.number))
    leaders = done[: max(_ENOUGH, round(_LEADERS * len(done)))]
    found = []
    for name in (n for n, share in importance.items() if share >= _MATTERS):
        distribution = leaders[0].distributions.get(name) if leaders else None
        if not isinstance(distribution, FloatDistribution | IntDistribution) or distribution.low == distribution.high:
            continue
        places = [_place(t.params[name], distribution) for t in leaders if name in t.params]
        if len(places) < _ENOUGH:
            continue
        for end, value, beyond in (("lower", distribution.low, "below"), ("upper", distribution.high, "above")):
            if all(abs(p - (end == "upper")) <= _AT_END for p in places):
                found.append(
                    f"The best {len(places)} trials lie at the {end} end of {name}: a range that goes {beyond} "
                    f"{number(value)} may hold better ones."
                )
    return found


def _place(value: Any, distribution: FloatDistribution | IntDistribution) -> float:
    """Where a value lies in its range, from 0 to 1."""
    to = math.log if distribution.log else float
    low, high = to(distribution.low), to(distribution.high)
    return (to(value) - low) / (high - low)


def in_common(failed: Sequence[Trial], trials: Sequence[Trial]) -> str:
    """What sets failed trials apart from those that did not fail, in words; empty where no parameter does."""
    others = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    if len(failed) < 2 or len(others) < _ENOUGH:  # noqa: PLR2004  one trial has everything in common with itself
        return ""
    shared = set.intersection(*(set(t.params) for t in failed))
    found = [rule for name in sorted(shared) for rule in _rules(name, failed, others)]
    if not found:
        return ""
    count, text = min(found)
    by_chance = math.comb(count + len(failed), count) / math.comb(len(others) + len(failed), len(failed))
    if by_chance * len(found) > _BY_CHANCE:
        return ""
    return f"all have {text}, as {count or 'none'} of the {len(others)} that did not fail"


def _rules(name: str, failed: Sequence[Trial], others: Sequence[Trial]) -> list[tuple[int, str]]:
    """What holds for all the failed ones, each with the number of others for which it holds too."""
    values = [t.params[name] for t in failed]
    rest = [t.params[name] for t in others if name in t.params]
    if len({repr(v) for v in values}) == 1:
        return [(sum(v == values[0] for v in rest), f"{name} = {number(values[0])}")]
    if not all(is_number(v) for v in (*values, *rest)):
        return []
    low, high = min(values), max(values)
    return [
        (sum(v >= low for v in rest), f"{name} of at least {number(low)}"),
        (sum(v <= high for v in rest), f"{name} of at most {number(high)}"),
    ]
