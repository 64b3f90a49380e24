"""CPU time that a trial costs beyond its own work: our search and its record, Optuna's SQLite and journal storages, in one run.

One trial is: begin, four parameters (each durable before it is given out), ten reports, end; and, as every driver
does, a look at all trials before it. Random values, so that no sampler is timed. "tunesmith search" is all of a
`tunesmith.search` from one trial's start to the next one's: asking Optuna's RandomSampler, the decision after each report
(by Optuna's NopPruner, for the storages decide nothing; `--pruner` has the default, Optuna's median), the record.
`python benchmarks/overhead.py`, without the minutes that Optuna takes to be filled `--ours`.
"""

import argparse
import itertools
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

import tunesmith
from tunesmith.opening import open_study
from tunesmith.record import Record
from tunesmith.trial import Report, TrialState

SPACE = {name: FloatDistribution(0.0, 1.0) for name in "abcd"}


def fill_record(record, trials):
    """Add trials that are not timed."""
    record._db.execute("PRAGMA synchronous = OFF")  # only while filling
    for _ in range(trials):
        run_trial(record, random.Random(0))
    record._db.execute("PRAGMA synchronous = FULL")


def run_trial(record, rng):
    """Run one trial by the record alone."""
    number = record.start(record.add_waiting({})).number
    for name, distribution in SPACE.items():
        record.add_params(number, {name: rng.random()}, {name: distribution})
    for step in range(10):
        record.add_report(number, Report(step, (rng.random(),), time=time.time()))
    record.end(number, TrialState.COMPLETE, values=[rng.random()])


def search(home, size, trials, pruner):
    """CPU and wall seconds of each trial of a search that goes on after `size` trials."""
    rng, starts = random.Random(1), []

    def objective(trial):
        starts.append((time.process_time(), time.perf_counter()))
        for name in SPACE:
            trial.suggest_float(name, 0.0, 1.0)
        for step in range(10):
            trial.report(rng.random(), step)
        return rng.random()

    identity = {"objective": f"{objective.__module__}.{objective.__qualname__}", "space": None}
    study, _ = open_study(home, name=None, directions=["minimize"], seed=0, identity=identity, resume=False)
    fill_record(study.record, size)
    study.record.close()
    sampler = optuna.samplers.RandomSampler(seed=0)
    done = tunesmith.search(
        # one more is not timed at either end: the first loads what is loaded late, the last has none after it
        objective, size + trials + 2, directory=home, backend="optuna", sampler=sampler, pruner=pruner, progress=False
    )  # fmt: skip
    if len(done.trials) != size + trials + 2:
        raise SystemExit(f"the search was to go on after {size} trials, and it has {len(done.trials)}")
    return [[b - a for a, b in zip(*pair, strict=True)] for pair in itertools.pairwise(starts[1:])]


class Ours:
    """The record, as a driver uses it."""

    name = "tunesmith record"

    def __init__(self, directory):
        self.record = Record.create(directory / "ours", name="s", directions=["minimize"], seed=0, settings={})

    def fill(self, trials):
        """Add trials that are not timed."""
        fill_record(self.record, trials)

    def trial(self, rng):
        """Run one trial."""
        self.record.trials()
        run_trial(self.record, rng)


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


def store_trials(kind, home, size, trials):
    """CPU and wall seconds of each trial over a store that has `size` trials."""
    store = kind(home)
    store.fill(size)
    rng, spent = random.Random(1), []
    for _ in range(trials):
        begin = time.process_time(), time.perf_counter()
        store.trial(rng)
        spent.append((time.process_time() - begin[0], time.perf_counter() - begin[1]))
    return spent


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--at", type=int, nargs="+", default=[10, 5000], help="trials that are there already")
    parser.add_argument("--trials", type=int, default=20, help="trials to time; the median is shown")
    parser.add_argument("--ours", action="store_true", help="leave out Optuna's storages")
    parser.add_argument("--pruner", action="store_true", help="let Optuna's median pruner judge in our search")
    settings = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = None if settings.pruner else optuna.pruners.NopPruner()
    print(f"{'store':18} {'trials':>7} {'CPU ms':>8} {'wall ms':>8} {'ratio':>6}")
    for size in settings.at:
        base = None
        for kind in (None, Ours, *([] if settings.ours else [Sqlite, Journal])):
            with tempfile.TemporaryDirectory() as home:
                if kind is None:
                    spent = search(Path(home), size, settings.trials, pruner)
                else:
                    spent = store_trials(kind, Path(home), size, settings.trials)
            cpu, wall = (1000 * statistics.median(seconds) for seconds in zip(*spent, strict=True))
            base = base or cpu
            name = "tunesmith search" if kind is None else kind.name
            print(f"{name:18} {size:7} {cpu:8.2f} {wall:8.2f} {cpu / base:6.1f}", flush=True)


if __name__ == "__main__":
    main()
