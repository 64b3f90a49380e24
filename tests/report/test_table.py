"""Trials as tables, and the parameters that come first in them."""

from __future__ import annotations

import io
import random
from types import SimpleNamespace

from rich.console import Console

import tunesmith
from tunesmith.report.summary import failures, telling_parameters
from tunesmith.report.table import study_html, trial_html, trial_table
from tunesmith.trial import Report, Trial, TrialState


def complete(number, value, **params):
    return Trial(number, TrialState.COMPLETE, params=params, values=(value,), started=0.0, ended=1.0)


def text(trials, width=120, **settings):
    out = io.StringIO()
    Console(file=out, width=width).print(trial_table(trials, **settings))
    return out.getvalue()


def test_a_table_shows_state_value_parameters_and_reason():
    trials = [
        complete(0, 0.25, lr=1e-4, kind="a"),
        Trial(1, TrialState.FAILED, params={"lr": 0.5, "kind": None}, reason="oom: CUDA out of memory"),
        Trial(2, TrialState.RUNNING, params={"lr": 0.1}, reports=(Report(5, (0.5,), share=0.5),)),
        Trial(3, TrialState.PRUNED, params={"lr": 0.1}, reason="pruned: worse than the median"),
    ]
    lines = text(trials, best={0}).splitlines()
    assert lines[0].split() == ["trial", "state", "objective", "lr", "kind", "note"]
    assert lines[1].split() == ["0", "complete", "0.25", "0.0001", "a", "best"]
    assert lines[2].split() == ["1", "failed", "0.5", "None", "oom:", "CUDA", "out", "of", "memory"]
    assert lines[3].split() == ["2", "running", "0.5", "0.1", "50%"]
    assert lines[4].split() == ["3", "pruned", "0.1", "worse", "than", "the", "median"]


def test_a_long_note_gives_way_to_the_numbers():
    trials = [
        Trial(1, TrialState.FAILED, params={f"parameter_{k}": 0.12345 for k in range(4)}, reason="error: " + 200 * "x")
    ]
    row = text(trials, width=200).splitlines()[1]
    assert row.split()[:6] == ["1", "failed", *4 * ["0.12345"]]


def test_in_a_narrow_terminal_long_names_give_way_to_state_objective_and_numbers():
    names = ["learning_rate", "weight_decay", "per_device_train_batch_size", "optimizer_name"]
    trials = [complete(k, 0.20012, **dict.fromkeys(names, 1.0007e-05)) for k in range(2)]
    lines = text(trials, width=80, names=names, best={0}).splitlines()
    assert lines[1].split() == ["0", "complete", "0.20012", *4 * ["1.0007e-05"], "best"]
    assert lines[0].split()[:3] == ["trial", "state", "objective"]
    assert max(map(len, lines)) <= 80


def test_the_parameter_that_explains_the_objective_comes_first_and_constant_ones_last():
    rng = random.Random(0)
    trials = []
    for k in range(40):
        x, noise = rng.uniform(-1, 1), rng.uniform(-1, 1)
        trials.append(complete(k, x**2, constant=1, noise=noise, x=x, kind=rng.choice("ab")))
    assert telling_parameters(trials)[0] == "x"
    assert telling_parameters(trials)[-1] == "constant"
    assert telling_parameters(trials[:5])[-1] == "constant"


def test_a_category_that_decides_comes_first():
    rng = random.Random(1)
    trials = [complete(k, float(k % 3), noise=rng.random(), kind="abc"[k % 3]) for k in range(30)]
    assert telling_parameters(trials)[0] == "kind"


def test_equal_objectives_and_infinite_ones_are_no_trouble():
    trials = [complete(k, 1.0, x=k) for k in range(20)] + [complete(20, float("inf"), x=2)]
    assert telling_parameters(trials) == ["x"]


def test_failures_are_counted_by_the_first_word_of_their_reason():
    reasons = ["oom: a", "oom: b", "error: c", None]
    trials = [Trial(k, TrialState.FAILED, reason=reason) for k, reason in enumerate(reasons)]
    assert failures(trials) == "4 failed (2 oom, 1 error, 1 unknown)"
    assert failures([complete(0, 1.0)]) == ""


def test_html_is_escaped():
    evil = "<script>alert(1)</script>"
    trials = [complete(0, 1.0, **{evil: evil}), Trial(1, TrialState.FAILED, reason=evil)]
    for html in (
        trial_html(trials, best={0}),
        study_html(SimpleNamespace(name=evil, trials=tuple(trials), best_trials=(trials[0],))),
    ):
        assert "<script" not in html
        assert "&lt;script&gt;" in html


def test_a_long_study_is_cut_in_a_notebook_and_keeps_its_best():
    trials = tuple(complete(k, float(k), x=k) for k in range(100))
    html = study_html(SimpleNamespace(name="s", trials=trials, best_trials=trials[:1]))
    assert html.count("<tr") == 1 + 20
    assert "and 80 more" in html
    assert "best 0 (trial 0)" in html


def test_a_notebook_shows_a_study_as_a_table(tmp_path):
    found = tunesmith.search(lambda t: t.suggest_float("x", 0, 1), 3, directory=tmp_path, study="<s>", progress=False)
    html = found._repr_html_()
    assert "&lt;s&gt;" in html
    assert html.count("<tr") == 4


def test_a_trial_that_just_completed_says_why_it_was_suggested():
    why = {"text": "explores where little is known; expects 0.3 (0.2 to 0.4); nearest: trials 1, 2"}
    trials = [complete(0, 0.5, lr=0.1), Trial(1, TrialState.COMPLETE, params={"lr": 0.2}, values=(0.6,), why=why)]
    assert why["text"][:40] in text(trials, width=200)
    assert why["text"] in trial_html(trials)
