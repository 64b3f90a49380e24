"""How many rounds a fault test runs: few in `make test`, the full count in `make soak`."""

import os


def rounds(short: int, full: int) -> int:
    """`full` when the environment variable TUNESMITH_SOAK is set, else `short`."""
    return full if os.environ.get("TUNESMITH_SOAK") else short
