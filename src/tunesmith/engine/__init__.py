"""The embedded engine: pure functions of (space, history, key) that say what to try next; numpy and scipy only."""

from tunesmith.engine.encoding import Choice, Dimension, Number
from tunesmith.engine.importance import Importance, importances
from tunesmith.engine.suggest import Observation, Suggestion, draw, middle, suggest, suggest_many

__all__ = [
    "Choice",
    "Dimension",
    "Importance",
    "Number",
    "Observation",
    "Suggestion",
    "draw",
    "importances",
    "middle",
    "suggest",
    "suggest_many",
]
