"""`tunesmith run`: real scripts, real processes, real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import tunesmith
from tunesmith.cli.script import read_space
from tunesmith.errors import SpaceError
from tunesmith.runners.script_results import built, printed
from tunesmith.trial import TrialState

SPACE = "x: {min: 0.0, max: 1.0}\nkind: {values: [a, b]}\n"
PRELUDE = """
import argparse, json, os, pathlib, signal, subprocess, sys, time
p = argparse.ArgumentParser()
p.add_argument("--x", type=float); p.add_argument("--kind"); p.add_argument("--output_dir")
a = p.parse_args()
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE)

    def write(body):
        (tmp_path / "train.py").write_text(PRELUDE + body)
        return ["--", sys.executable, "train.py"]

    return write


def search(run, command, *options, n=3):
    done = run("run", "--space", "space.yaml", "--n-trials", n, "--minimize", "loss", "--seed", 0, *options, *command)
    return done, tunesmith.load_study("tunesmith-studies/train")


def test_each_trial_runs_the_script_with_other_flags_and_a_directory_of_its_own(run, script):
    command = script("print(json.dumps(vars(a) | {'loss': a.x}))")
    done, study = search(run, [*command, "--output_dir", "out"], "--workers", 2, n=4)
    assert done.code == 0
    assert "its flags: tunesmith best tunesmith-studies/train --args flags" in done.out
    for trial in study.trials:
        log = json.loads((study.directory / "logs" / f"trial-{trial.number}.log").read_text())
        assert (log["x"], log["kind"]) == (trial.params["x"], trial.params["kind"])
        assert log["output_dir"] == str((study.directory / f"run-{trial.number}").resolve())
        assert trial.values == (trial.params["x"],)
    assert len({t.params["x"] for t in study.trials}) == 4
    assert not Path("out").exists()


def test_a_script_that_is_to_have_no_gpu_sees_none(run, script, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    command = script("print(json.dumps({'loss': 0 if os.environ.get('CUDA_VISIBLE_DEVICES') == '' else 1}))")
    _, study = search(run, command, "--gpus-per-trial", 0, n=1)
    assert study.trials[0].values == (0.0,)


def test_metrics_are_read_from_the_files_of_transformers(run, script):
    results = script("pathlib.Path(a.output_dir, 'all_results.json').write_text(json.dumps({'loss': a.x, 'acc': 1}))")
    _, study = search(run, [*results, "--output_dir", "o"], n=2)
    assert [t.values for t in study.trials] == [(t.params["x"],) for t in study.trials]
    assert study.trials[0].metrics["acc"] == 1
    state = script(
        "pathlib.Path(a.output_dir, 'trainer_state.json').write_text(json.dumps({'log_history': "
        "[{'loss': 7.0}, {'loss': a.x + 1}, {'lr': 1}]}))"
    )
    _, study = search(run, [*state, "--output_dir", "o"], "--extend", n=3)
    assert study.trials[2].values == (study.trials[2].params["x"] + 1,)


def test_several_metrics_are_several_objectives(run, script):
    command = script("print(json.dumps({'loss': a.x, 'acc': -a.x}))")
    _, study = search(run, command, "--maximize", "acc")
    assert study.directions == ("minimize", "maximize")
    assert study.trials[0].values == (study.trials[0].params["x"], -study.trials[0].params["x"])


def test_a_script_that_gives_no_such_metric_fails_with_the_names_of_those_it_gives(run, script):
    done, study = search(run, script("print(json.dumps({'eval_loss': 1.0, 'acc': 2.0}))"))
    assert done.code == 5
    assert study.trials[0].reason == (
        "error: the script gave no 'loss': print it in a line of JSON, or let the Trainer evaluate; it gave acc, eval_loss"
    )


def test_a_script_that_fails_is_recorded_with_its_last_output_and_without_secrets(run, script):
    command = script("print('token: hf_AbCdEfGhIjKlMnOpQrStUvWx'); raise ValueError(f'x is {a.kind}')")
    _, study = search(run, [*command, "--kind", "a"])
    trial = study.trials[0]
    assert trial.reason == f"error: the script exited with code 1: ValueError: x is {trial.params['kind']}"
    assert "Traceback (most recent call last):" in trial.detail
    assert f"ValueError: x is {trial.params['kind']}" in run("logs", 0).out
    for path in study.directory.rglob("*"):
        assert path.is_dir() or b"AbCdEfGhIj" not in path.read_bytes()


def test_running_out_of_memory_is_told_from_other_errors(run, script):
    _, study = search(run, script("raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')"))
    assert study.trials[0].reason.startswith("oom: RuntimeError: CUDA out of memory")


def test_a_script_that_is_killed_is_tried_again_with_the_same_flags(run, script):
    command = script(
        "first = pathlib.Path(f'killed-{a.x}')\n"
        "if a.kind == 'b' and not first.exists(): first.touch(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "print(json.dumps({'loss': a.x}))"
    )
    _, study = search(run, command, n=5)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 5
    assert {t.attempt for t in study.trials if t.params["kind"] == "b"} == {2}
    assert len(list(Path().glob("killed-*"))) == sum(t.params["kind"] == "b" for t in study.trials)


def test_a_script_that_takes_too_long_is_ended_with_its_children(run, script):
    command = script(
        "child = subprocess.Popen(['sleep', '300'], start_new_session=True)\n"
        "print(child.pid, flush=True)\ntime.sleep(300)"
    )
    _done, study = search(run, command, "--trial-timeout", 2, n=1)
    assert study.trials[0].reason == "timeout: the trial took longer than 2 s"
    assert not psutil.pid_exists(int((study.directory / "logs" / "trial-0.log").read_text()))


def test_a_script_that_prints_a_bad_value_is_ended_early(run, script):
    command = script(
        "for step in range(1, 200 if int(os.environ['TUNESMITH_TRIAL']) > 5 else 4):\n"
        "    print(json.dumps({'step': step, 'loss': 1.0 if int(os.environ['TUNESMITH_TRIAL']) < 6 else 9.0}), flush=True)\n"
        "    time.sleep(0.05)"
    )
    _, study = search(run, command, "--backend", "optuna", n=7)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 6 + [TrialState.PRUNED]
    assert study.trials[6].reports[-1].step < 150


def test_a_script_is_tried_again_when_the_process_that_watches_it_is_killed(run, script):
    command = script(
        "if not pathlib.Path('again').exists():\n"
        "    pathlib.Path('again').touch(); os.kill(os.getppid(), signal.SIGKILL); time.sleep(300)\n"
        "print(json.dumps({'loss': a.x}))"
    )
    _, study = search(run, command, n=1)
    (trial,) = study.trials
    assert (trial.state, trial.attempt) == (TrialState.COMPLETE, 2)
    assert trial.attrs["failures"] == ["lost: the script was killed by SIGKILL"]


def test_no_trial_is_ended_early_when_that_is_not_wanted(run, script):
    command = script("for step in (1, 2): print(json.dumps({'step': step, 'loss': a.x}), flush=True); time.sleep(0.6)")
    _, study = search(run, command, "--backend", "optuna", "--no-prune", "--workers", 2, n=8)
    assert {t.state for t in study.trials} == {TrialState.COMPLETE}


HANGS = """
if int(os.environ['TUNESMITH_TRIAL']) == 1 and not pathlib.Path('again').exists():
    child = subprocess.Popen(['sleep', '300'], start_new_session=True)
    pathlib.Path('pids').write_text(f'{os.getpid()} {child.pid}')
    time.sleep(300)
print(json.dumps({'loss': a.x}))
"""


def hanging(script):
    """A search whose second trial hangs, as a process; and the trial's own processes."""
    command = script(HANGS)
    arguments = ["run", "--space", "space.yaml", "--n-trials", "3", "--minimize", "loss", "--seed", "0", *command]
    driver = subprocess.Popen([sys.executable, "-m", "tunesmith", *arguments])
    until = time.monotonic() + 60
    while not (Path("pids").exists() and Path("pids").read_text().count(" ")) and time.monotonic() < until:
        time.sleep(0.05)
    Path("again").touch()
    return driver, [int(pid) for pid in Path("pids").read_text().split()]


def gone(pids):
    until = time.monotonic() + 20
    while any(psutil.pid_exists(p) and psutil.Process(p).status() != "zombie" for p in pids):
        assert time.monotonic() < until
        time.sleep(0.05)
    return True


def test_nothing_of_a_script_outlives_a_killed_search_which_then_goes_on(run, script):
    driver, pids = hanging(script)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert gone(pids)
    done = run("resume")
    assert done.code == 0
    study = tunesmith.load_study("tunesmith-studies/train")
    assert [(t.state, t.attempt) for t in study.trials] == [
        (TrialState.COMPLETE, 1), (TrialState.COMPLETE, 2), (TrialState.COMPLETE, 1),
    ]  # fmt: skip


def test_ctrl_c_pauses_and_the_same_command_goes_on(run, script):
    driver, pids = hanging(script)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(60) == 130
    assert gone(pids)
    study = tunesmith.load_study("tunesmith-studies/train")
    assert [t.state for t in study.trials] == [TrialState.COMPLETE, TrialState.PAUSED]
    _, study = search(run, ["--", sys.executable, "train.py"])
    assert [(t.state, t.attempt) for t in study.trials] == [(TrialState.COMPLETE, 1)] * 3


RANKS = """
sys.path.insert(0, os.environ["INJECT"])
import threading, importlib.util
spec = importlib.util.spec_from_file_location("inject", os.environ["INJECT"] + "/sitecustomize.py")
inject = importlib.util.module_from_spec(spec); spec.loader.exec_module(inject)
told = {0: [], 1: []}
def rank(k):
    line = inject._Line(os.environ["TUNESMITH_SOCKET"])
    for number in range(1, 41):
        time.sleep(0.01 * (1 - k))
        told[k].append(line.ask({"number": number, "event": "evaluation", "rank": k, "ranks": 2, "step": number,
            "max_steps": 40, "epoch": 0.1, "examples": number, "saves": True,
            "metrics": {"loss": a.x + 9 * (int(os.environ["TUNESMITH_TRIAL"]) == 5)}}).get("action"))
threads = [threading.Thread(target=rank, args=(k,)) for k in (0, 1)]
[t.start() for t in threads]; [t.join() for t in threads]
print(json.dumps({"same": told[0] == told[1], "stopped": "prune" in told[0]}))
print(json.dumps({"loss": a.x}))
"""


def test_all_ranks_are_told_the_same_in_the_same_place(run, script, monkeypatch):
    monkeypatch.setenv("INJECT", str(Path(tunesmith.__file__).parent / "runners" / "inject"))
    _, study = search(run, script(RANKS), "--backend", "optuna", n=6)
    for trial in study.trials:
        said = json.loads((study.directory / "logs" / f"trial-{trial.number}.log").read_text().splitlines()[0])
        assert said == {"same": True, "stopped": trial.number == 5}
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 5 + [TrialState.PRUNED]
    assert len(study.trials[0].reports) == 40


ELSEWHERE = """
import socket
line = socket.socket(socket.AF_UNIX); line.connect(os.environ["TUNESMITH_SOCKET"])
line.sendall(json.dumps({"number": 1, "event": "begin", "rank": 0, "ranks": 1, "step": 0, "max_steps": 40, "epoch": 0,
    "examples": 0, "saves": True, "output_dir": os.path.abspath("trainer_output")}).encode() + b"\\n")
time.sleep(300)
"""


def test_a_trainer_that_writes_where_other_trials_do_ends_the_search_at_once(run, script, tmp_path):
    done, study = search(run, script(ELSEWHERE))
    assert done.code == 1
    written = tmp_path / "trainer_output"
    assert f"each trial writes to a directory of its own, and the script writes to {written}: give it" in done.err
    assert len(study.trials) == 1


def test_the_scripts_own_sitecustomize_is_loaded_too(run, script, tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "sitecustomize.py").write_text("import builtins; builtins.MINE = 0.5")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'own'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    _, study = search(run, script("print(json.dumps({'loss': MINE}))"), n=1)
    assert study.trials[0].values == (0.5,)


def test_a_command_is_built_from_placeholders_flags_and_the_directory():
    params = {"lr": 1e-5, "layers": 3, "drop": None, "kw.a": 1, "kw.b": "x", "fp16": True, "mode": ""}
    command = ["python", "t.py", "lr={lr}", "{mode}", "--output_dir=o", "{unknown}", '{"json": 1}', ""]
    assert built(command, params, Path("/s/run-0")) == [
        "python", "t.py", "lr=1e-05", "--output_dir=/s/run-0", "{unknown}", '{"json": 1}', "",
        "--layers", "3", "--kw", '{"a": 1, "b": "x"}', "--fp16", "True",
    ]  # fmt: skip
    assert built(["t", "--output_dir", "o", "-o", "{output_dir}"], {}, Path("/r")) == [
        "t",
        "--output_dir",
        "/r",
        "-o",
        "/r",
    ]


def test_json_is_found_among_other_output():
    lines = [
        "loss: 1",
        '{"loss": 2}',
        '50%|##|\r{"loss": 3, "step": 1}',
        '{"loss": true}',
        '{"loss": "x"}',
        "{'loss': 4}",
        '{"a": 1}',
    ]
    assert printed(lines, ["loss"]) == [{"loss": 2}, {"loss": 3, "step": 1}]


def test_numbers_in_yaml_may_be_written_with_an_exponent_alone(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text("lr: {distribution: log_uniform_values, min: 1e-5, max: 1E-2}\nwd: {values: [0, 1e-2, .5, a1e5]}\n")
    space = read_space(path)
    assert (space["lr"].low, space["lr"].high) == (1e-5, 1e-2)
    assert space["wd"].choices == (0, 0.01, 0.5, "a1e5")


@pytest.mark.parametrize("content", ["{", "a: b: c", "- 1\n- 2", "!!python/object/apply:os.system ['true']"])
def test_a_file_that_holds_no_space_is_an_error(tmp_path, content):
    path = tmp_path / "space.yaml"
    path.write_text(content)
    with pytest.raises(SpaceError):
        read_space(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--", "no-such-command"],
            "the command to tune must be one that can be run, and 'no-such-command' is not found",
        ),
        (
            ["--space", "nope.yaml", "--", "true"],
            "the space must be a file that can be read, got nope.yaml: No such file",
        ),
        (["--workers", "some", "--", "true"], "workers must be a whole number from 1, or \"auto\", got 'some'"),
        (["--backend", "nope", "--", "true"], "unknown backend 'nope'"),
    ],
)
def test_what_cannot_be_is_said_before_any_trial(run, script, tmp_path, arguments, message):
    done = run("run", *arguments)
    assert done.code == 1
    assert done.err.startswith(f"tunesmith: {message}")
    assert [p.name for p in tmp_path.iterdir()] == ["space.yaml"]
