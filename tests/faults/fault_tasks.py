"""Tasks that keep their own checkpoints and write down what they do, for tests that kill processes."""

import json
import os
import time
from pathlib import Path

import optuna

STEPS = 6


def value_of(x, step):
    """What a trial with parameter x reports at a step."""
    return x + step


def learn(trial, pause=0.01):
    """Report each step after saving a checkpoint of it; go on after the last one."""
    x = trial.suggest_float("x", 0, 1)
    first = 0
    if trial.resume_from is not None:
        first = json.loads((Path(trial.resume_from) / "state.json").read_text())["step"] + 1
    note(trial, "begin", first)
    for step in range(first, STEPS):
        time.sleep(pause)
        note(trial, "step", step)
        save(trial.directory / f"checkpoint-{step}", {"step": step, "x": x})
        trial.report(value_of(x, step), step, checkpoint=str(trial.directory / f"checkpoint-{step}"))
        note(trial, "acknowledged", step)
        if trial.should_prune():
            raise optuna.TrialPruned
    note(trial, "returns", STEPS)
    return x


def save(folder, state):
    """Write a checkpoint that is whole or not there."""
    part = folder.with_name(f"{folder.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    (part / "state.json").write_text(json.dumps(state))
    if not folder.exists():
        part.rename(folder)


def note(trial, what, step):
    """Append a line to the trial's notes; one write, so that it is whole or not there."""
    line = json.dumps([what, trial.number, trial.attempt, step, os.getpid()]) + "\n"
    handle = os.open(trial.directory.parent / f"notes-{trial.number}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


def notes(directory):
    """All notes below a study's directory: (what, number, attempt, step, pid), in order for each trial."""
    found = []
    for path in sorted(Path(directory).glob("notes-*")):
        found += [tuple(json.loads(line)) for line in path.read_text().splitlines()]
    return found


def attempts(directory):
    """The notes by trial and attempt."""
    found = {}
    for what, number, attempt, step, pid in notes(directory):
        found.setdefault(number, {}).setdefault(attempt, []).append((what, step, pid))
    return found
