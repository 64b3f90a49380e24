"""CPU time that keeping a trial costs: the record, and Optuna's SQLite and journal storages, side by side in one run.

One trial is: begin, four parameters (each durable before it is given out), ten reports, end; and, as every driver
does, a look at all trials before it. Random values, so that no sampler is timed. `python benchmarks/overhead.py`
"""

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

import optuna
from optuna.distributions import FloatDistribution
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial

from tunesmith.record import Record
from tunesmith.trial import Report, TrialState

SPACE = {name: FloatDistribution(0.0, 1.0) for name in "abcd"}


class Ours:
    """The record, as a driver uses it."""

    name = "tunesmith record"

    def __init__(self, directory):
        self.record = Record.create(directory / "ours", name="s", directions=["minimize"], seed=0, settings={})

    def fill(self, trials):
        """Add trials that are not timed."""
        db = self.record._db
        db.execute("PRAGMA synchronous = OFF")  # only while filling
        for _ in range(trials):
            self.trial(random.Random(0))
        db.execute("PRAGMA synchronous = FULL")

    def trial(self, rng):
        """Run one trial."""
        self.record.trials()
        number = self.record.start_new(offered={}).number
        for name, distribution in SPACE.items():
            self.record.add_params(number, {name: rng.random()}, {name: distribution})
        for step in range(10):
            self.record.add_report(number, Report(step, (rng.random(),), time=time.time()))
        self.record.end(number, TrialState.COMPLETE, values=[rng.random()])


class Optunas:
    """An Optuna study over a storage."""

    def __init__(self, storage):
        self.study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))

    def fill(self, trials):
        """Add trials that are not timed."""
        self.study.add_trials(
            [
                create_trial(
                    state=OptunaState.COMPLETE,
                    value=0.5,
                    params=dict.fromkeys(SPACE, 0.5),
                    distributions=SPACE,
                    intermediate_values=dict.fromkeys(range(10), 0.5),
                )
                for _ in range(trials)
            ]
        )

    def trial(self, rng):
        """Run one trial."""
        trial = self.study.ask()
        for name in SPACE:
            trial.suggest_float(name, 0.0, 1.0)
        for step in range(10):
            trial.report(rng.random(), step)
        self.study.tell(trial, rng.random())


class Sqlite(Optunas):
    """Over Optuna's SQLite storage."""

    name = "Optuna SQLite"

    def __init__(self, directory):
        super().__init__(RDBStorage(f"sqlite:///{directory / 'optuna.db'}"))


class Journal(Optunas):
    """Over Optuna's journal file."""

    name = "Optuna journal"

    def __init__(self, directory):
        super().__init__(JournalStorage(JournalFileBackend(str(directory / "optuna.log"))))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--at", type=int, nargs="+", default=[10, 5000], help="trials that are there already")
    parser.add_argument("--trials", type=int, default=20, help="trials to time; the median is shown")
    settings = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(f"{'store':18} {'trials':>7} {'CPU ms':>8} {'wall ms':>8} {'ratio':>6}")
    for size in settings.at:
        base = None
        for kind in (Ours, Sqlite, Journal):
            with tempfile.TemporaryDirectory() as home:
                store = kind(Path(home))
                store.fill(size)
                rng = random.Random(1)
                cpu, wall = [], []
                for _ in range(settings.trials):
                    begin = time.process_time(), time.perf_counter()
                    store.trial(rng)
                    cpu.append(time.process_time() - begin[0])
                    wall.append(time.perf_counter() - begin[1])
                ms = 1000 * statistics.median(cpu)
                base = base or ms
                took = 1000 * statistics.median(wall)
                print(f"{kind.name:18} {size:7} {ms:8.2f} {took:8.2f} {ms / base:6.1f}", flush=True)


if __name__ == "__main__":
    main()
