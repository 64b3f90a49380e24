"""NumPy's scalars as Python's: what comes out of arrays and samplers is a plain value to users, and JSON knows no others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def python_scalar(value: Any) -> Any:
    """The one element of a NumPy scalar, of an array or a tensor with one element; anything else as it is.

    Such values are known by what they have, so that neither NumPy nor torch is loaded to tell.
    """
    item, shape = getattr(value, "item", None), getattr(value, "shape", None)
    return item() if callable(item) and isinstance(shape, tuple) and math.prod(shape) == 1 else value


def floats(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are numbers, NumPy's and torch's too; text, lists and the like are left out."""
    plain = {name: python_scalar(value) for name, value in metrics.items()}
    return {name: float(value) for name, value in plain.items() if isinstance(value, int | float)}
