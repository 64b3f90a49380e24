"""Kill -9 the driver of a Trainer's search with workers, as `kill_driver.py` does it for functions.

`python tests/faults/kill_trainer.py --rounds 20`. Prints counts as JSON; exits with 1 when something was lost or done
twice, or when a trial that was interrupted has another result than one that was not.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil
import tiny
import transformers
from kill_driver import Acknowledge, alive, begin, to_come_again, wait_until_gone

import tunesmith
from tunesmith import Trainer
from tunesmith.record import FILE
from tunesmith.trial import TrialState

TRIALS = 4
LAST = 32  # steps of a trial, in four epochs
PATIENCE = 300.0


class Note(transformers.TrainerCallback):
    """Takes its time, and writes down each step."""

    def __init__(self, directory):
        self.directory = directory

    def on_step_end(self, args, state, control, **kwargs):
        with (self.directory / f"steps-{state.trial_name}").open("a") as file:
            file.write(f"{state.global_step} ")
        time.sleep(0.03)


def rates(trial):
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)}


def drive(directory, pipe):
    warnings.simplefilter("ignore")
    trainer = tiny.make(Trainer, directory, callbacks=[Note(directory)], num_train_epochs=4)
    best = trainer.hyperparameter_search(
        hp_space=rates,
        n_trials=TRIALS,
        workers=2,
        max_retries=10**6,
        seed=1,
        pruner=None,
        progress=False,
        callbacks=[Acknowledge(pipe)],
    )
    assert abs(trainer.evaluate()["eval_loss"] - best.objective) < 1e-6  # the best model is in hand


def steps(directory):
    return {path.name: [int(s) for s in path.read_text().split()] for path in sorted(directory.glob("steps-*"))}


def one_round(directory, said, wrong, *, kill_after):
    """Start a driver, kill it some seconds after it has trained a step; whether it was killed."""
    before = steps(directory)
    pid, pipe = begin(directory, drive)
    driver, family, killed = psutil.Process(pid), [], False
    until = time.monotonic() + PATIENCE
    while alive(driver) and steps(directory) == before and time.monotonic() < until:
        time.sleep(0.01)
    until = time.monotonic() + kill_after
    while alive(driver) and time.monotonic() < until:
        time.sleep(0.01)
    if alive(driver):
        family, killed = driver.children(recursive=True), True
        driver.kill()
    _, status = os.waitpid(pid, 0)
    if not killed and status != 0:
        wrong.append(f"the driver ended with status {status}")
    if wait_until_gone(family):
        wrong.append("processes have outlived their driver")
    with os.fdopen(pipe) as lines:
        said += [json.loads(line) for line in lines]
    return killed


def check(directory, said, wrong):
    """Compare the record with what was acknowledged; whether the study is finished."""
    if not (directory / FILE).exists():
        return False
    study = tunesmith.load_study(directory)
    for what, number, *rest in said:
        trial = study.trials[number]
        if (
            what == "report"
            and not to_come_again(trial, rest[0])
            and [r.values[0] for r in trial.reports if r.step == rest[0]] != [rest[1]]
        ):
            wrong.append(f"report {rest[0]} of trial {number} is lost")
        if what == "end" and [trial.state.value, trial.value] != rest:
            wrong.append(f"the end of trial {number} is lost")
    for name, seen in steps(directory).items():
        trial = study.trials[int(name.rpartition("-")[2])]
        again = [k for k in range(1, len(seen)) if seen[k] != seen[k - 1] + 1]
        if any(seen[k] > seen[k - 1] + 1 or (seen[k] - 1) % 8 for k in again) or seen[0] != 1:
            wrong.append(f"trial {trial.number} did not go on from a checkpoint: {seen}")
        if trial.state is TrialState.COMPLETE and seen[-1] != LAST:
            wrong.append(f"trial {trial.number} ended at step {seen[-1]}")
    return bool(study.info.settings["finished"])


def result_of(params):
    """What a trial with these parameters gives when nothing interrupts it."""
    with tempfile.TemporaryDirectory() as directory:
        trainer = tiny.make(transformers.Trainer, directory, num_train_epochs=4, **params)
        trainer.train()
        return trainer.evaluate()["eval_loss"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    counts = {"kills": 0, "studies": 0, "reports": 0, "interrupted trials": 0, "wrong": []}
    finished = []
    with tempfile.TemporaryDirectory(prefix="kill-trainer-") as home:
        while counts["kills"] < options.rounds and not counts["wrong"]:
            directory = Path(home) / str(counts["studies"])
            directory.mkdir()
            said, done = [], False
            while not done and not counts["wrong"]:
                enough = counts["kills"] >= options.rounds
                kill_after = PATIENCE if enough else rng.uniform(0.0, 2.0)
                counts["kills"] += one_round(directory, said, counts["wrong"], kill_after=kill_after)
                done = check(directory, said, counts["wrong"])
                print("kills:", counts["kills"], file=sys.stderr, flush=True)
            trials = tunesmith.load_study(directory).trials
            if [t.state for t in trials] != [TrialState.COMPLETE] * TRIALS:
                counts["wrong"].append(f"{TRIALS} complete trials were wanted, got {[t.state.value for t in trials]}")
            counts["studies"] += 1
            counts["reports"] += sum(what == "report" for what, *_ in said)
            finished += trials
        interrupted = [t for t in finished if t.attempt > 1]
        counts["interrupted trials"] = len(interrupted)
        for trial in interrupted[:5]:
            if result_of(dict(trial.params)) != trial.value:
                counts["wrong"].append(f"trial {trial.number} has another result than without interruptions")
    print(json.dumps(counts))
    sys.exit(1 if counts["wrong"] else 0)


if __name__ == "__main__":
    main()
