"""Kill -9 a process that runs a study, again and again, and compare the record with what had been acknowledged.

A program rather than a test: `python tests/kill_record.py --kills 1000`. The parent forks a writer, kills it after a
random time, reopens the record, and checks it against the lines the writer had sent after each finished step. Prints
counts as JSON; exits with 1 when something acknowledged is missing.
"""

import argparse
import json
import os
import random
import signal
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

from optuna.distributions import FloatDistribution

from tunesmith.record import FILE, Record
from tunesmith.trial import Report, TrialState

KILLS_PER_STUDY = 50


def write(directory, pipe, rng):
    """Drive the study until killed, sending a line after (and for a start also before) each step."""

    def say(what, number, value=None):
        os.write(pipe, (json.dumps([what, number, value]) + "\n").encode())

    with Record.create(directory, name="killed", directions=["minimize"], seed=0, settings={}) as record, record.lock():
        say("open", 0)
        for number in record.interrupted():
            record.requeue(number, TrialState.WAITING, reason="interrupted", count_attempt=True)
            say("wait", number)
        waiting = [t.number for t in record.trials() if t.state is TrialState.WAITING]
        while True:
            if not waiting:
                waiting.append(record.add_waiting({}))
                say("new", waiting[-1])
            number = waiting.pop()
            say("will start", number)
            first = record.start(number).checkpoint_step
            say("start", number, first)
            x = rng.random()
            record.add_params(number, {"x": x}, {"x": FloatDistribution(0, 1)})
            say("params", number, x)
            for step in range(0 if first is None else first + 1, 10):
                record.add_report(number, Report(step, (x + step,), {"loss": x}, time=time.time()))
                say("report", number, step)
                if step % 4 == 3:
                    record.set_checkpoint(number, f"run-{number}/checkpoint-{step}", step)
                    say("checkpoint", number, step)
            record.end(number, TrialState.COMPLETE, values=[x])
            say("end", number, x)


class Acknowledged:
    """What the record must hold, by the lines received."""

    def __init__(self):
        self.trials = {}
        self.count = 0

    def take(self, what, number, value):
        if what == "open":
            return
        self.count += what != "will start"
        trial = self.trials.setdefault(number, {"steps": set(), "x": None, "checkpoint": None, "ended": None})
        if what in ("will start", "start"):
            last = -1 if trial["checkpoint"] is None else trial["checkpoint"]
            trial["steps"] = {s for s in trial["steps"] if s <= last}
        elif what == "params":
            trial["x"] = value
        elif what == "report":
            trial["steps"].add(value)
        elif what == "checkpoint":
            trial["checkpoint"] = value
        elif what == "end":
            trial["ended"] = value

    def missing(self, trials):
        lost = []
        for number, known in self.trials.items():
            if number >= len(trials):
                lost.append(f"trial {number}")
                continue
            trial = trials[number]
            if not known["steps"] <= {r.step for r in trial.reports}:
                lost.append(f"reports of trial {number}")
            if known["checkpoint"] is not None and (trial.checkpoint_step or -1) < known["checkpoint"]:
                lost.append(f"checkpoint of trial {number}")
            if known["ended"] is not None and (trial.state, trial.values) != (TrialState.COMPLETE, (known["ended"],)):
                lost.append(f"end of trial {number}")
            elif known["x"] is not None and "x" not in trial.params:
                lost.append(f"params of trial {number}")
        if len(trials) > len(self.trials) + 1:
            lost.append(f"{len(trials)} trials where {len(self.trials)} were begun")
        return lost


def kill_once(directory, acknowledged, rng):
    """Fork a writer, kill it, and take in what it had acknowledged. Returns whether it had opened the study."""
    reading, writing = os.pipe()
    seed = rng.random()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            write(directory, writing, random.Random(seed))
        finally:
            os._exit(3)  # only reached when the writer failed
    os.close(writing)
    time.sleep(rng.uniform(0.0, 0.15))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    with os.fdopen(reading, "rb") as pipe:
        lines = pipe.read().split(b"\n")[:-1]
    for line in lines:
        acknowledged.take(*json.loads(line))
    return len(lines) > 0, os.WIFEXITED(status)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    rng = random.Random(settings.seed)
    counts = {"kills": 0, "before_opening": 0, "steps": 0, "trials": 0, "writer_failures": 0}
    lost, wall, cpu = [], [], []
    with tempfile.TemporaryDirectory() as home:
        while counts["kills"] < settings.kills:
            directory = Path(home) / str(counts["kills"])
            acknowledged = Acknowledged()
            trials = ()
            for _ in range(min(KILLS_PER_STUDY, settings.kills - counts["kills"])):
                opened, failed = kill_once(directory, acknowledged, rng)
                counts["kills"] += 1
                counts["before_opening"] += not opened
                counts["writer_failures"] += failed
                if not (directory / FILE).exists():
                    if acknowledged.count:
                        lost.append("the study")
                    continue
                begin = time.perf_counter(), time.process_time()
                with Record.open(directory) as record:
                    trials = record.trials()
                wall.append(time.perf_counter() - begin[0])
                cpu.append(time.process_time() - begin[1])
                lost += acknowledged.missing(trials)
            if trials:
                connection = sqlite3.connect(directory / FILE)
                if connection.execute("PRAGMA integrity_check").fetchone()[0] != "ok":
                    lost.append("integrity")
                connection.close()
            counts["steps"] += acknowledged.count
            counts["trials"] += len(trials)
    reopening = {
        name: {"median": round(statistics.median(times), 4), "slowest": round(max(times), 4)}
        for name, times in (("wall_s", wall), ("cpu_s", cpu))
    }
    over = sum(seconds >= 1.0 for seconds in wall)
    report = {**counts, "lost": lost, "reopenings": len(wall), "of_1_s_or_more": over, **reopening}
    print(json.dumps(report))
    return 1 if lost or counts["writer_failures"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
