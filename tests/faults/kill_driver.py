"""Kill -9 the driver of a search with workers, again and again, and compare the record with what was acknowledged.

A program rather than a test: `python tests/faults/kill_driver.py --rounds 200`. The parent forks a driver, kills it
after a random time, checks what it left, and starts it again until its study is finished; then a new study begins.
Prints counts as JSON; exits with 1 when something was lost, done twice, or left behind.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import psutil
from fault_tasks import attempts, learn, notes, value_of

import tunesmith
from tunesmith.record import FILE
from tunesmith.trial import TrialState

TRIALS = 8
LIMIT = 60.0  # seconds for what must happen soon


class Acknowledge:
    """Says what the driver has recorded."""

    def __init__(self, pipe):
        self.pipe = pipe

    def say(self, *what):
        os.write(self.pipe, (json.dumps(what) + "\n").encode())

    def on_report(self, study, trial):
        self.say("report", trial.number, trial.reports[-1].step, trial.reports[-1].values[0])

    def on_trial_end(self, study, trial):
        self.say("end", trial.number, trial.state.value, trial.values[0])


def drive(directory, pipe):
    """Be the driver until killed or done."""
    tunesmith.search(
        partial(learn, pause=0.05),
        n_trials=TRIALS,
        study="killed",
        directory=directory,
        workers=2,
        max_retries=10**6,
        seed=1,
        pruner=None,
        progress=False,
        callbacks=[Acknowledge(pipe)],
    )


def begin(directory, drive):
    """A driver in a child process; its pid, and the file of what it acknowledges."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(ours)
            drive(directory, theirs)
            code = 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(theirs)
    return pid, ours


def alive(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def to_come_again(trial, step):
    """Whether a report lies after the checkpoint from which its trial goes on: that part is run, and reported, again."""
    last = -1 if trial.checkpoint_step is None else trial.checkpoint_step
    return not trial.state.finished and step > last


def wait_until_gone(processes):
    until = time.monotonic() + LIMIT
    while any(map(alive, processes)):
        if time.monotonic() > until:
            return [p.pid for p in processes if alive(p)]
        time.sleep(0.01)
    return []


class Study:
    """A study as the harness knows it: what was acknowledged, and what must be so at the end."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.reports = {}
        self.ends = {}
        self.wrong = []
        self.finished = False

    def take(self, line):
        what, number, *rest = json.loads(line)
        if what == "report":
            self.reports[number, rest[0]] = rest[1]
        elif number in self.ends:
            self.wrong.append(f"trial {number} ended twice")
        else:
            self.ends[number] = tuple(rest)

    def check(self):
        """Compare with the record, opened anew; whether the study is finished."""
        if not (self.directory / FILE).exists():
            return False
        study = tunesmith.load_study(self.directory)
        trials = {t.number: t for t in study.trials}
        for what, number, _attempt, step, _pid in notes(self.directory):
            if what == "acknowledged":  # to the trial itself
                x = trials[number].params["x"]
                self.reports.setdefault((number, step), value_of(x, step))
        for (number, step), value in self.reports.items():
            if to_come_again(trials[number], step):
                continue
            if [r.values[0] for r in trials[number].reports if r.step == step] != [value]:
                self.wrong.append(f"report {step} of trial {number} is lost")
        for number, (state, value) in self.ends.items():
            if (trials[number].state.value, trials[number].value) != (state, value):
                self.wrong.append(f"the end of trial {number} is lost")
        self.check_attempts(trials)
        finished = bool(study.info.settings["finished"])
        if finished:
            self.check_end(study, trials)
        return finished

    def check_attempts(self, trials):
        """Each attempt goes on from the last checkpoint that was recorded before it."""
        for number, known in attempts(self.directory).items():
            done = -1
            for attempt in sorted(known):
                (_, first, _), *rest = known[attempt]
                saved = max([done, *(step for what, step, _ in rest if what == "step")])
                acknowledged = max([done, *(step for what, step, _ in rest if what == "acknowledged")])
                if not done < first:
                    self.wrong.append(f"attempt {attempt} at trial {number} does again what was acknowledged")
                if [s for w, s, _ in rest if w == "step"] != list(range(first, saved + 1 if rest else first)):
                    self.wrong.append(f"attempt {attempt} at trial {number} leaves steps out")
                done = acknowledged

    def check_end(self, study, trials):
        if sorted(trials) != list(range(TRIALS)) or any(t.state is not TrialState.COMPLETE for t in trials.values()):
            self.wrong.append(f"{TRIALS} complete trials were wanted: {study.summary()}")
        for number, trial in trials.items():
            if [r.step for r in trial.reports] != list(range(6)) or trial.value != trial.params["x"]:
                self.wrong.append(f"trial {number} is not whole: {trial}")


def one_round(study, *, kill_after, at_work):
    """Start a driver, kill it after so many seconds unless it is done, and check everything; whether it was killed.

    `at_work`: the seconds count from the first step of a trial.
    """
    before = len(notes(study.directory))
    pid, pipe = begin(study.directory, drive)
    driver, family, killed = psutil.Process(pid), [], False
    while at_work and alive(driver) and len(notes(study.directory)) == before:
        time.sleep(0.005)
    until = time.monotonic() + kill_after
    while time.monotonic() < until and alive(driver):
        time.sleep(0.005)
    if alive(driver):
        family = driver.children(recursive=True)
        driver.kill()
        killed = True
    _, status = os.waitpid(pid, 0)
    if not killed and status != 0:
        study.wrong.append(f"the driver ended with status {status}")
    left = wait_until_gone([*family, *workers_of(study.directory)])
    if left:
        study.wrong.append(f"processes {left} have outlived their driver")
    with os.fdopen(pipe) as lines:
        for line in lines:
            study.take(line)
    study.finished = study.check()
    if not killed and not study.finished:
        study.wrong.append("the driver ended before its study was finished")
    return killed


def workers_of(directory):
    """Processes that have written notes, as far as they are still workers."""
    found = []
    for pid in {note[-1] for note in notes(directory)}:
        try:
            process = psutil.Process(pid)
            if "tunesmith.runners.forkserver" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    counts = {"kills": 0, "studies": 0, "reports": 0, "ends": 0, "resumed": 0, "wrong": []}
    while counts["kills"] < options.rounds:
        with tempfile.TemporaryDirectory(prefix="kill-driver-") as directory:
            study = Study(Path(directory) / "study")
            while not study.finished and not study.wrong:
                enough = counts["kills"] >= options.rounds  # then the last study comes to its end
                at_work = rng.random() < 0.8  # the others die while they begin
                kill_after = LIMIT if enough else rng.uniform(0.0, 0.8 if at_work else 2.0)
                counts["kills"] += one_round(study, kill_after=kill_after, at_work=at_work)
                print("kills:", counts["kills"], file=sys.stderr, flush=True)
            counts["studies"] += 1
            counts["reports"] += len(study.reports)
            counts["ends"] += len(study.ends)
            counts["resumed"] += sum(k[a][0][1] > 0 for k in attempts(study.directory).values() for a in k)
            counts["wrong"] += study.wrong
    print(json.dumps(counts))
    sys.exit(1 if counts["wrong"] else 0)


if __name__ == "__main__":
    main()
