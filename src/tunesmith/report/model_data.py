"""What the engine's model says of a study, as plain JSON for the page: trust, importances, fitted curves, maps."""

from __future__ import annotations

import math
from dataclasses import asdict
from itertools import combinations
from typing import TYPE_CHECKING, Any

from tunesmith.dimensions import dimensions
from tunesmith.engine import Dimension, Number
from tunesmith.engine.effects import Effect, Map, effects
from tunesmith.errors import TunesmithError
from tunesmith.report.hints import narrow_ranges
from tunesmith.trial import signs

if TYPE_CHECKING:
    from tunesmith.study import Study

ENOUGH = 10  # completed trials
_CURVES = 8  # parameters with a fitted curve, those that matter most
_MAPPED = 3  # parameters of which each two have a map
_OPTIONS = 24  # of a choice with expected values


def model_data(study: Study) -> dict[str, Any] | None:
    """Trust in the best, importances, curves and maps, for the first objective; None when too few trials have completed. Takes a second."""
    done = [t for t in study.trials if t.values and math.isfinite(t.values[0]) and t.params]
    space = {name: d for t in done for name, d in t.distributions.items()}
    if len(done) < ENOUGH or not space:
        return None
    try:
        ranking = study.importances()
        known = dimensions(space)
    except TunesmithError:  # a space that the engine does not know: the page says nothing of a model
        return None
    shown = [n for n in ranking if _is_varied(known[n])][:_CURVES]
    numbers = [n for n in ranking if isinstance(known[n], Number) and _is_varied(known[n])]
    sign = signs(study.directions)[0]
    losses = [sign * t.values[0] for t in done if t.values]
    pairs = list(combinations(numbers[:_MAPPED], 2))
    curves, maps = effects(known, [t.params for t in done], losses, names=shown, pairs=pairs, seed=study.info.seed)
    known_trust = study.trust()
    return {
        "trust": None if known_trust is None else {**asdict(known_trust), "sentences": known_trust.sentences},
        "ranges": narrow_ranges(done, study.directions, {name: i.total for name, i in ranking.items()}),
        "importances": [{"name": name, **asdict(i)} for name, i in ranking.items()],
        "curves": {name: _curve(effect, known[name], sign) for name, effect in curves.items()},
        "maps": [{"names": pair, **_map(plane, sign)} for pair, plane in zip(pairs, maps, strict=True)],
    }


def _is_varied(dimension: Dimension) -> bool:
    if isinstance(dimension, Number):
        return dimension.low < dimension.high
    return 1 < len(dimension.options) <= _OPTIONS


def _curve(effect: Effect, dimension: Dimension, sign: float) -> dict[str, Any]:
    ends = (effect.low, effect.high) if sign > 0 else (effect.high, effect.low)
    return {
        "x": _short(effect.values) if isinstance(dimension, Number) else [str(v) for v in effect.values],
        "mean": _short([sign * v for v in effect.mean]),
        "low": _short([sign * v for v in ends[0]]),
        "high": _short([sign * v for v in ends[1]]),
    }


def _map(plane: Map, sign: float) -> dict[str, Any]:
    return {
        "x": _short(plane.x),
        "y": _short(plane.y),
        "mean": [_short([sign * v for v in row]) for row in plane.mean],
    }


def _short(values: Any) -> list[float]:
    return [float(f"{v:.4g}") for v in values]
