"""Kill -9 workers of a search at random moments: only the trials they were at are tried again, from their checkpoints.

A program rather than a test: `python tests/faults/kill_worker.py --rounds 200`. A thread kills a random worker now and
then while searches run. Prints counts as JSON; exits with 1 when something is not as it must be.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path

from fault_tasks import STEPS, attempts, learn

import tunesmith
from tunesmith.trial import TrialState

TRIALS = 12
RETRIES = 50


class Killer(threading.Thread):
    """Kills the worker of a random trial that is under way, at random moments; `victims` are the pids."""

    def __init__(self, directory, rng, most):
        super().__init__(daemon=True)
        self.directory, self.rng, self.most = directory, rng, most
        self.victims = []
        self.over = threading.Event()

    def run(self):
        while len(self.victims) < self.most and not self.over.wait(self.rng.uniform(0.02, 0.4)):
            under_way = []
            for known in attempts(self.directory).values():
                last = known[max(known)]
                pid = last[-1][2]
                if last[-1][0] != "returns" and pid not in self.victims:
                    under_way.append(pid)
            if under_way:
                victim = self.rng.choice(under_way)
                os.kill(victim, signal.SIGKILL)
                self.victims.append(victim)
                print("killed", victim, file=sys.stderr, flush=True)


def check(study, victims):
    """What is wrong with a finished study; and how many attempts were lost."""
    wrong, lost = [], 0
    known = attempts(study.directory)
    for trial in study.trials:
        number = trial.number
        if trial.state is not TrialState.COMPLETE or [r.step for r in trial.reports] != list(range(STEPS)):
            wrong.append(f"trial {number} is not whole: {trial}")
        failures = trial.attrs.get("failures", [])
        lost += len(failures)
        if len(failures) != trial.attempt - 1 or not all("killed by SIGKILL" in f for f in failures):
            wrong.append(f"trial {number}, attempt {trial.attempt}, has other failures than the kills: {failures}")
        done = -1
        for attempt in range(1, trial.attempt + 1):
            begun = known[number].get(attempt)
            if begun is None:
                continue  # killed before its first note: the victim had ended its last trial, and got this one
            (_, first, pid), *rest = begun
            if attempt < trial.attempt and pid not in victims:
                wrong.append(f"attempt {attempt} at trial {number} was tried again, and its worker not killed")
            if not done < first <= max([done, *known_steps(known[number], attempt)]) + 1:
                wrong.append(f"attempt {attempt} at trial {number} begins at step {first}, after {done} were done")
            done = max([done, *(step for what, step, _ in rest if what == "acknowledged")])
    return wrong, lost


def known_steps(known, before):
    """The steps that were begun in attempts before this one."""
    return [step for a in known if a < before for what, step, _ in known[a] if what == "step"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    counts = {"kills": 0, "lost attempts": 0, "studies": 0, "trials": 0, "wrong": []}
    while counts["kills"] < options.rounds:
        with tempfile.TemporaryDirectory(prefix="kill-worker-") as directory:
            killer = Killer(Path(directory), rng, options.rounds - counts["kills"])
            killer.start()
            study = tunesmith.search(
                partial(learn, pause=0.05),
                n_trials=TRIALS,
                directory=directory,
                workers=2,
                max_retries=RETRIES,
                seed=1,
                pruner=None,
                progress=False,
            )
            killer.over.set()
            killer.join()
            wrong, lost = check(study, killer.victims)
            counts["kills"] += len(killer.victims)
            counts["lost attempts"] += lost
            counts["studies"] += 1
            counts["trials"] += len(study.trials)
            counts["wrong"] += wrong
            if wrong:
                break
    print(json.dumps(counts))
    sys.exit(1 if counts["wrong"] else 0)


if __name__ == "__main__":
    main()
