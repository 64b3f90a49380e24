"""Searches with several backends: python table_script.py FOLDER BACKEND ...; with KILL set, the driver is killed in trial 1."""

import os
import signal
import sys
from pathlib import Path

from optuna.distributions import FloatDistribution

import tunesmith

DRIVER, KILL = os.getpid(), "KILL" in os.environ  # what is pickled for a worker has the driver's


def objective(trial):
    if trial.number == 1 and trial.attempt == 1 and KILL:
        os.kill(DRIVER, signal.SIGKILL)
    return trial.params["x"] ** 2


if __name__ == "__main__":
    for backend in sys.argv[2:]:
        tunesmith.search(
            objective,
            3,
            space={"x": FloatDistribution(-1, 1)},
            backend=backend,
            directory=Path(sys.argv[1]) / backend,
            progress=False,
            seed=1,
        )
