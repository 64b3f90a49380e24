"""What belongs to the whole process, borrowed for a while and put back: environment variables, global random numbers."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def restored(names: Iterable[str]) -> Iterator[None]:
    """Put these environment variables back afterwards, and take away those that were not set."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What draws from the global random numbers draws by this seed, whatever has seeded them before."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002  Tune, libsigopt and users' functions draw from them
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
