"""Which functions are the same to a study, and which study goes on with which function."""

from __future__ import annotations

import enum
import functools
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import tunesmith
from tunesmith.errors import StudyChangedError, UserFunctionError
from tunesmith.function_identity import described, differences, edited
from tunesmith.record import Record

STOP = {"at": 2}  # the trial in which a search is interrupted


def suggested(trial, low, high):
    x = trial.suggest_float("x", low, high)
    if trial.number == STOP["at"]:
        raise UserFunctionError("interrupted")
    return x


def within(low, high, *, calls=None):
    def objective(trial):
        if calls is not None:
            calls.append(trial.number)
        return suggested(trial, low, high)

    return objective


class Within:
    """An objective as Optuna's documents write one with arguments of its own."""

    def __init__(self, low, high):
        self.low, self.high, self.calls = low, high, 0

    def __call__(self, trial):
        self.calls += 1
        return suggested(trial, self.low, self.high)

    def method(self, trial):
        return self(trial)


def go(tmp_path, objective, **settings):
    return tunesmith.search(objective, 4, directory=tmp_path, progress=False, seed=0, **settings)


@pytest.fixture(autouse=True)
def stop_at_two():
    STOP["at"] = 2


def interrupted(tmp_path, objective, **settings):
    with pytest.raises(UserFunctionError):
        go(tmp_path, objective, **settings)
    STOP["at"] = None


PAIRS = {
    "closures": (lambda: within(0, 1), lambda: within(5, 6)),
    "objects": (lambda: Within(0, 1), lambda: Within(5, 6)),
    "methods": (lambda: Within(0, 1).method, lambda: Within(5, 6).method),
    "partials": tuple(lambda low=low: functools.partial(suggested, low=low, high=9) for low in (0, 5)),
    "defaults": tuple(lambda low=low: lambda trial, low=low: suggested(trial, low, 9) for low in (0, 5)),
    "lambdas": (lambda: lambda trial: suggested(trial, 0, 1), lambda: lambda trial: suggested(trial, 5, 6)),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_two_functions_of_one_name_do_not_share_an_interrupted_study(tmp_path, pair):
    first, second = PAIRS[pair]
    interrupted(tmp_path, first(), study="one")
    with pytest.raises(StudyChangedError, match=r"objective.*resume=False to start beside it"):
        go(tmp_path, second(), study="one")
    assert len(go(tmp_path, first(), study="one").trials) == 4


def test_under_its_name_a_study_takes_another_function_by_resume_true(tmp_path):
    interrupted(tmp_path, within(0, 1), study="one")
    with pytest.raises(StudyChangedError, match="resume=True to go on with it all the same"):
        go(tmp_path, within(5, 6), study="one")
    with pytest.warns(
        UserWarning, match="since 'one' began objective's high was 1, now 6; objective's low was 0, now 5"
    ):
        study = go(tmp_path, within(5, 6), study="one", resume=True)
    assert (study.directory, len(study.trials)) == (tmp_path, 4)


def test_without_a_name_another_function_begins_a_study_beside_and_says_why(tmp_path, capsys):
    interrupted(tmp_path, within(0, 1))
    study = tunesmith.search(within(5, 6), 4, directory=tmp_path, seed=0)
    assert study.directory == tmp_path / "study-2"
    assert all(t.params["x"] >= 5 for t in study.trials)
    said = " ".join("".join(capsys.readouterr()).split())
    assert "is not finished, and this is another search: objective's high was 1, now 6; objective's low was 0" in said


def test_resume_true_says_why_a_finished_study_does_not_go_on(tmp_path, capsys):
    before = tunesmith.search(within(0, 1), 2, directory=tmp_path, seed=0, progress=False)
    assert before.info.settings["finished"]
    study = tunesmith.search(within(5, 6), 2, directory=tmp_path, seed=0, resume=True)
    assert study.directory == tmp_path / "study-2"
    said = " ".join("".join(capsys.readouterr()).split())
    assert "is finished, and this is another search: objective's high was 1, now 6" in said


@pytest.mark.parametrize("calls", [[], {}], ids=["list", "dict"])
def test_what_trials_change_in_a_function_does_not_keep_its_study_from_going_on(tmp_path, calls):
    def objective(trial):
        calls.append(trial.number) if isinstance(calls, list) else calls.update({str(trial.number): 1})
        nonlocal count
        count += 1
        return suggested(trial, 0, 1)

    count = 0
    interrupted(tmp_path, objective, study="one")
    assert len(go(tmp_path, objective, study="one").trials) == 4
    again = Within(0, 1)
    STOP["at"] = 2
    interrupted(tmp_path, again, study="two", resume=False)
    assert len(go(tmp_path, again, study="two").trials) == 4


SOURCE = '''
def objective(trial):
    """{words}"""
    # {words}
    return trial.suggest_float("x", 0,{space}1) {more}
'''


def written(words="a", space=" ", more=""):
    names = {"__name__": "script", "stop": lambda trial: suggested(trial, 0, 1)}
    exec(textwrap.dedent(SOURCE.format(words=words, space=space, more=more)), names)
    return names["objective"]


def test_comments_and_line_breaks_are_no_change_of_a_function():
    assert described(written())["code"] == described(written("much more", "\n\n        "))["code"]
    assert described(written())["code"] != described(written(more="+ 1"))["code"]


def test_a_named_function_that_was_edited_goes_on_with_a_warning_once(tmp_path):
    interrupted(tmp_path, written(more="+ stop(trial)"), study="one")
    with pytest.warns(UserWarning, match="since 'one' began objective's code was edited"):
        go(tmp_path, written(more="+ 0"), study="one")
    go(tmp_path, written(more="+ 0"), study="one", resume=True)


def test_a_record_that_knows_nothing_of_functions_goes_on(tmp_path):
    interrupted(tmp_path, within(0, 1), study="one")
    with Record.open(tmp_path) as record:
        identity = dict(record.info.settings["identity"])
        del identity["functions"]
        record.update_settings(identity=identity)
    assert len(go(tmp_path, within(5, 6), study="one").trials) == 4


def holds(function):
    return described(function)["holds"]


class Kind(enum.Enum):
    ADAM = 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float64(0.5), "0.5"),
        (Path("a"), "a"),
        (Kind.ADAM, "Kind.ADAM"),
        ({"b": [1, (2, "x")], "c": {2, 1}}, "{'b': [1, [2, 'x']], 'c': {1, 2}}"),
        (Within, f"{__name__}.Within"),
        ("x" * 200, "'" + "x" * 79 + "... dc5e2491094afdfa"),
        ("hf_abcdefghijklmnopqrst", "'hf_***'"),
    ],
)
def test_plain_values_are_held_as_text(value, text):
    assert holds(lambda trial: value) == {"value": text}


def test_what_is_not_plain_is_not_held():
    endless = []
    endless.append(endless)
    for value in (object(), [object()], list(range(1000)), endless, np.zeros(3), pytest):
        assert holds(lambda trial: value) == {}  # noqa: B023  described within the round


def test_what_a_held_function_holds_counts():
    assert holds(functools.partial(lambda loss, trial: 0, within(1, 2))) == {
        "0": f"{__name__}.within.<locals>.objective", "0.calls": "None", "0.high": "2", "0.low": "1",
    }  # fmt: skip
    assert holds(lambda trial, f=lambda x: x: f)["f"] != holds(lambda trial, f=lambda x: 2 * x: f)["f"]


def test_a_set_in_the_code_is_the_same_in_every_process():
    code = (
        "from tunesmith.function_identity import described\n"
        "print(described(lambda t: t in {'a', 'b', 'c', 'd', 'e', 'f', 'g'})['code'])"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


def test_what_another_python_wrote_is_not_compared():
    now = described(lambda trial: 1)
    before = {**now, "code": "cpython-30-0:" + "0" * 16}
    assert not edited(before, now)
    assert differences("objective", before, now) == []


@pytest.mark.parametrize("function", [len, print, [].append, int, functools.partial(max, 1)])
def test_functions_without_code_are_described(function):
    assert described(function)["code"] in ("", described(int)["code"])
