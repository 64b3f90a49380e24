"""The embedded engine: pure functions of (space, history, rng) that say what to try next; numpy and scipy only."""

from tunesmith.engine.suggest import Observation, Suggestion, draw, suggest

__all__ = ["Observation", "Suggestion", "draw", "suggest"]
