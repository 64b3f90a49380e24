"""The report page: complete, escaped, self-contained, small. See `test_browser` for how it looks."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution
from report_fakes import hostile, modelled, study, trial

from tunesmith.report.data import report_data
from tunesmith.report.model_data import model_data
from tunesmith.report.page import island, render, write_report
from tunesmith.trial import Report, TrialState


class Elements(HTMLParser):
    """The start tags of a page, each with the text that directly follows it; and all texts."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.own = []
        self.texts = []
        self.begun = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.own.append("")
        self.begun = True

    def handle_endtag(self, tag):
        self.begun = False

    def handle_data(self, data):
        self.texts.append(data)
        if self.begun:
            self.own[-1] += data


def test_hostile_texts_add_no_element_to_the_file():
    kinds = [tag for tag, _ in Elements(render(hostile())).found]
    assert kinds == [tag for tag, _ in Elements(render(study([trial(0)]))).found]
    assert kinds.count("script") == 2


def test_no_element_names_anything_to_load():
    for tag, attrs in Elements(render(hostile())).found:
        assert not {"src", "href", "srcset", "style", "action"} & set(attrs)
        assert tag not in {"link", "img", "iframe", "object", "base"}


def test_the_policy_allows_this_script_and_this_style_and_nothing_else():
    page = Elements(render(study([trial(0)])))
    policy = next(a["content"] for _, a in page.found if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    texts = dict(zip([(tag, attrs.get("type")) for tag, attrs in page.found], page.own, strict=True))
    for rule, tag in (("script-src", "script"), ("style-src", "style")):
        digest = base64.b64encode(hashlib.sha256(texts[tag, None].encode()).digest()).decode()
        assert rules.pop(rule) == f"'sha256-{digest}'"
    assert rules.pop("default-src") == "'none'"
    assert not {"connect-src", "img-src", "font-src", "frame-src"} & set(rules)


@settings(max_examples=50)
@given(st.recursive(st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_the_data_island_is_the_data_and_never_markup(data):
    text = island({"data": data})
    assert json.loads(text) == {"data": data}
    assert not re.search("[<>&\u2028\u2029]", text)


def test_the_licence_of_the_chart_library_goes_with_it():
    html = render(study([trial(0)]))
    assert "Copyright (c) 2022 Leon Sorokin" in html
    assert "Permission is hereby granted" in html


def test_a_thousand_trials_with_ten_parameters_stay_below_600_kb():
    trials = [
        trial(k, params={f"parameter_{j}": math.sin(k + j) for j in range(10)}, distributions={},
              reports=tuple(Report(s, (math.cos(s + k),), share=s / 20) for s in range(1, 21)))
        for k in range(1000)
    ]  # fmt: skip
    assert len(render(study(trials)).encode()) <= 600_000


def test_numbers_that_json_has_not_are_texts():
    data = report_data(study([trial(0, values=(math.inf,), params={"x": math.nan}, distributions={}), trial(1)]))
    assert data["trials"][0][2] == ["inf"]
    assert {"name": "x", "numeric": False, "log": False, "choices": ["nan"]} in data["parameters"]
    json.dumps(data, allow_nan=False)


def test_the_settings_of_the_best_trial_keep_all_digits():
    params = {"lr": 0.1 + 0.2, "kind": None, "name'": "a\nb"}
    data = report_data(study([trial(0, params=params)]))
    assert eval(data["settings"]["Python"]) == params


def test_choices_are_rows_of_places_and_keep_the_order_of_the_space():
    data = report_data(study([trial(k) for k in range(4)]))
    (kind,) = [k for k, p in enumerate(data["parameters"]) if p["name"] == "kind"]
    assert data["parameters"][kind]["choices"] == ["a", "b"]
    assert [row[4][kind] for row in data["trials"]] == [0, 1, 0, 1]


def test_long_learning_curves_are_thinned_and_keep_both_ends():
    reports = tuple(Report(s, (float(s),)) for s in range(1, 1001))
    (curve,) = report_data(study([trial(0, reports=reports)]))["curves"]["shown"]
    assert len(curve["points"]) <= 60
    assert curve["points"][0] == [1, 1.0]
    assert curve["points"][-1] == [1000, 1000.0]


def test_the_best_trials_curve_is_shown_among_thousands():
    data = report_data(study([trial(k) for k in range(300)], best=[trial(0)]))
    assert data["curves"]["of"] == 300
    assert 0 in {c["trial"] for c in data["curves"]["shown"]}


def test_failures_are_grouped_with_the_newest_traceback():
    trials = [trial(k, TrialState.FAILED, reason="oom: x", detail=f"trace {k}") for k in range(3)]
    (group,) = report_data(study(trials))["failures"]
    assert group == {"reason": "oom: x", "trials": [0, 1, 2], "common": "", "detail": "trace 2"}


def test_a_report_that_cannot_be_made_leaves_the_old_one(tmp_path):
    path = write_report(study([trial(0)]), tmp_path / "report.html")
    before = path.read_text()
    with pytest.raises(AttributeError):
        write_report(None, path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_model_tells_what_matters_and_where_the_best_is_expected():
    model = model_data(modelled())
    importances = {i["name"]: i for i in model["importances"]}
    assert importances["x"]["low"] > importances["y"]["high"]
    curve = model["curves"]["x"]
    best = min(range(len(curve["x"])), key=lambda k: curve["mean"][k])
    assert abs(curve["x"][best] - 0.3) < 0.1
    assert all(low <= mean <= high for low, mean, high in zip(curve["low"], curve["mean"], curve["high"], strict=True))
    assert [m["names"] for m in model["maps"]] == [("x", "y")]
    assert report_data(modelled(), model)["parameters"][0]["name"] == "x"


def test_a_choice_has_an_expected_value_for_each_option():
    kind = CategoricalDistribution((16, "b", None))
    trials = [
        replace(t, params={**t.params, "kind": kind.choices[t.number % 3]}, values=(float(t.number % 3),),
                distributions={**t.distributions, "kind": kind})
        for t in modelled().trials
    ]  # fmt: skip
    curve = model_data(study(trials))["curves"]["kind"]
    assert curve["x"] == ["16", "b", "None"]
    assert curve["mean"] == sorted(curve["mean"])
    json.dumps(curve, allow_nan=False)


def test_the_model_says_whether_the_best_can_be_trusted():
    known = model_data(modelled())["trust"]
    assert known["best"] == modelled().best_trial.number
    assert len(known["sentences"]) >= 2


def test_with_few_trials_no_model_is_shown():
    assert model_data(modelled(9)) is None


def test_a_maximized_objective_has_its_curve_the_right_way_round():
    trials = [replace(t, values=(-t.values[0],)) for t in modelled().trials]
    curve = model_data(study(trials, directions=("maximize",)))["curves"]["x"]
    assert abs(curve["x"][max(range(len(curve["x"])), key=lambda k: curve["mean"][k])] - 0.3) < 0.1
    assert all(low <= high for low, high in zip(curve["low"], curve["high"], strict=True))
