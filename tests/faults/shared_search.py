"""A search that several processes may start: `shared_search.py DIRECTORY TRIALS JOIN CLOCK`; CLOCK is in seconds off."""

import os
import sys
import time

DIRECTORY, TRIALS, JOIN, CLOCK = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "join", float(sys.argv[4])
true_time = time.time
time.time = lambda: true_time() + CLOCK

from functools import partial  # noqa: E402  the clock is off before anything is imported

from fault_tasks import learn  # noqa: E402

import tunesmith  # noqa: E402

study = tunesmith.search(
    partial(learn, pause=0.05),
    TRIALS,
    study="shared",
    directory=DIRECTORY,
    workers=2,
    join=JOIN,
    max_retries=100,
    seed=1,
    pruner=None,
    progress=False,
)
print(os.getpid(), study.summary(), flush=True)
