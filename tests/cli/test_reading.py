"""Commands that read."""

from __future__ import annotations

import argparse
import csv
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cli_tasks import objective

import tunesmith
from tunesmith.cli import app
from tunesmith.record import Record


def test_the_command_runs_as_a_process_and_names_every_command():
    done = subprocess.run([sys.executable, "-m", "tunesmith", "--help"], capture_output=True, text=True, check=True)
    for command in app.registered_commands:
        assert f"  {command.name} " in done.stdout


def test_ls_lists_the_studies_below_a_directory(run, home):
    done = run("ls")
    assert [line.split()[:3] for line in done.out.splitlines()[1:]] == [
        ["first", "finished", "15/15"], ["second", "finished", "12/12"],
    ]  # fmt: skip
    assert [s["name"] for s in run("ls", home, "--json").json] == ["first", "second"]


def test_ls_lists_a_damaged_study_with_what_is_wrong(run, home):
    (home / "first" / "study.sqlite").write_bytes(b"no database")
    first, second = run("ls", "--json").json
    assert "not a database" in first["error"]
    assert second["name"] == "second"


def test_show_says_how_the_search_stands_and_what_went_wrong(run, home):
    out = run("show", "first").out
    assert "15/15 trials" in out
    assert "matters most" in out
    assert "1 x ValueError: no such luck (tunesmith logs 2)" in out.replace("error: ", "")
    assert "next best" in out


def test_show_gives_the_same_as_json(run, home):
    known = run("show", "first", "--json").json
    best = tunesmith.load_study("first").best_trial
    assert (known["activity"], known["n_trials"], known["states"]) == ("finished", 15, {"complete": 13, "failed": 2})
    assert known["best"][0]["number"] == best.number
    assert known["best"][0]["params"] == dict(best.params)


def test_trials_are_filtered_and_sorted(run, home):
    rows = run("trials", "first", "--where", "x<1", "--where", "kind=b", "--sort", "value", "--reverse", "--json").json
    assert rows
    assert all(
        r["params"]["x"] < 1 and r["params"]["kind"] == "b" and r["state"] == "complete" for r in rows if r["values"]
    )
    values = [r["values"][0] for r in rows if r["values"]]
    assert values == sorted(values, reverse=True)
    assert [r["number"] for r in run("trials", "first", "--state", "failed", "--json").json] == [2, 3]
    assert len(run("trials", "first", "--limit", 4).out.splitlines()) == 5


def test_trials_without_a_value_come_last_in_either_order(run, home):
    for more in ([], ["--reverse"]):
        rows = run("trials", "first", "--sort", "value", "--json", *more).json
        assert [r["number"] for r in rows[-2:]] == [2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sort", "y"], "a trial has no 'y'; it has number, value, seconds, state, x, kind"),
        (["--where", "y<1"], "a trial has no 'y'"),
        (["--where", "x"], "a condition is NAME, one of < <= > >= == != and a value, such as \"lr<1e-3\", got 'x'"),
        (
            ["--state", "lost"],
            "a trial's state is one of waiting, running, paused, complete, pruned, failed, got 'lost'",
        ),
    ],
)
def test_a_wrong_question_about_trials_is_one_line_with_the_remedy(run, home, arguments, message):
    done = run("trials", "first", *arguments)
    assert done.code == 1
    assert done.err.startswith(f"tunesmith: {message}")
    assert done.err.count("\n") == 1


def test_the_best_parameters_can_be_pasted_as_python_yaml_and_flags(run, home):
    params = dict(tunesmith.load_study("first").best_trial.params)
    assert eval(run("best", "first", "--args", "python").out) == params
    assert yaml.safe_load(run("best", "first", "--args", "yaml").out) == params
    parser = argparse.ArgumentParser()
    parser.add_argument("--x", type=float)
    parser.add_argument("--kind")
    assert vars(parser.parse_args(shlex.split(run("best", "first", "--args", "flags").out))) == params


def test_best_says_that_there_is_no_checkpoint_and_how_to_get_one(run, home):
    done = run("best", "first", "--checkpoint")
    assert done.code == 1
    assert "has no checkpoint on disk; search with save_strategy" in done.err


def test_best_prints_the_checkpoint_alone(run, home):
    (home / "first" / "run-0" / "checkpoint-1").mkdir(parents=True)
    with Record.open("first") as record:
        record.add_waiting({})
        record.start(15)
        record.end(15, tunesmith.TrialState.COMPLETE, values=(-1.0,), checkpoint="run-0/checkpoint-1")
    assert run("best", "first", "--checkpoint").out == "first/run-0/checkpoint-1\n"


def test_logs_print_reason_traceback_and_kept_output(run, home):
    (home / "first" / "logs").mkdir()
    (home / "first" / "logs" / "trial-2.log").write_text("one\ntwo\nthree\n")
    out = run("logs", 2, "first", "--lines", 2).out
    assert out.startswith("trial 2: failed, error: ValueError: no such luck\nTraceback (most recent call last):")
    assert out.endswith("two\nthree\n")
    assert "one\n" not in out
    assert run("logs", 99, "first").err == "tunesmith: study 'first' has trials 0 to 14, got 99\n"


def test_importance_ranks_the_parameters_with_intervals(run, home):
    known = run("importance", "first", "--json").json
    assert set(known) == {"x", "kind"}
    assert all(0 <= i["low"] <= i["total"] <= i["high"] <= 1 for i in known.values())
    assert "90 %" in run("importance", "first").out


def test_two_studies_are_compared_at_equal_numbers_of_trials(run, home):
    known = run("compare", "first", "second", "--json").json
    done = [t.value for t in tunesmith.load_study("first").trials[:12] if t.value is not None]
    assert known["equal_trials"] == 12
    assert known["a"]["best_at_equal_trials"] == min(done)
    assert "best of the first 12" in run("compare", "first", "second").out


def test_studies_with_other_directions_are_not_compared(run, home):
    tunesmith.search(objective, 2, direction="maximize", directory=home / "third", progress=False)
    assert "studies are compared when their directions are equal" in run("compare", "first", "third").err


def test_export_writes_each_format(run, home):
    assert run("export", "first").out == "trials.csv\n"
    with Path("trials.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 15
    assert run("export", "first", "--format", "optuna").out == "trials.log\n"
    assert run("export", "first", "-o", "t.parquet", "--json").json == {"export": "t.parquet"}
    assert (
        "written to a file that ends in .log, got 'x.csv'"
        in run("export", "first", "-o", "x.csv", "--format", "optuna").err
    )


def test_report_writes_the_page(run, home):
    (home / "first" / "report.html").unlink()
    assert run("report", "first").out == "first/report.html\n"
    assert (home / "first" / "report.html").stat().st_size > 10_000


def test_a_study_is_found_by_directory_file_name_or_because_it_is_the_only_one(run, home, monkeypatch):
    for way in ("first", home / "first", home / "first" / "study.sqlite"):
        assert run("show", way, "--json").json["name"] == "first"
    monkeypatch.chdir(home / "first")
    assert run("show", "--json").json["name"] == "first"


def test_a_study_that_is_not_clear_is_an_error_that_names_the_known_ones(run, home):
    assert run("show").err == "tunesmith: there are 2 studies below this directory; give one: first, second\n"
    assert "no study 'thrid'" in run("show", "thrid").err
    assert "first, second" in run("show", "thrid").err


@pytest.mark.parametrize("command", ["show", "trials", "best", "importance", "report", "doctor"])
def test_no_study_at_all_is_said_in_one_line(run, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    done = run(command)
    assert (done.code, done.err) == (1, "tunesmith: there is no study below this directory; give a study's directory\n")


def test_a_damaged_file_has_an_exit_code_of_its_own(run, home):
    (home / "first" / "study.sqlite").write_bytes(b"no database" * 100)
    done = run("show", "first")
    assert done.code == 3
    assert done.err.count("\n") == 1


def test_wrong_usage_has_exit_code_2(run, home):
    assert run("show", "--nope").code == 2
    assert run("nope").code == 2
