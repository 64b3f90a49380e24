"""The report page: complete, escaped, self-contained, small; and drawn by a real browser."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import math
import re
import threading
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from browser import dom
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from report_fakes import study, trial

from tunesmith.report.data import report_data
from tunesmith.report.model_data import model_data
from tunesmith.report.page import island, render, write_report
from tunesmith.trial import Report, TrialState

EVIL = [
    "<script>document.title = 'owned'</script>",
    '"><img src=/leak1 onerror="document.title = \'owned\'">',
    "</script><script src=/leak2></script>",
    "</style><style>@import url(/leak3);</style>",
    "<!--<script>",
    "<svg onload=document.title='owned'>",
    "javascript:document.title='owned'",
    "&lt;b&gt; \u2028 \u2029 ]]> ${document.title='owned'} `",
    "__proto__",
    "\ud800 \x00 \x1b[31m",
]


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


def hostile():
    failed = [
        trial(k, TrialState.FAILED, reason=f"error: {e}", detail=e, params={e: e, "n": k}, distributions={})
        for k, e in enumerate(EVIL)
    ]
    done = [trial(k + 20, params={e: e}, distributions={}, checkpoint=e) for k, e in enumerate(EVIL)]
    pruned = [trial(k + 40, TrialState.PRUNED, reason=e) for k, e in enumerate(EVIL)]
    return study([*failed, *done, *pruned], name=EVIL[0])


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
    assert group == {"reason": "oom: x", "trials": [0, 1, 2], "detail": "trace 2"}


def test_a_report_that_cannot_be_made_leaves_the_old_one(tmp_path):
    path = write_report(study([trial(0)]), tmp_path / "report.html")
    before = path.read_text()
    with pytest.raises(AttributeError):
        write_report(None, path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_browser_draws_every_chart_and_every_trial(tmp_path):
    trials = [
        *[trial(k, values=(1 / (k + 1), float(k))) for k in range(12)],
        trial(12, TrialState.PRUNED, reason="pruned: worse than the median", reports=(
            Report(1, (0.5, 2.0), share=0.1), Report(2, (0.4, 2.0), share=0.2))),
        trial(13, TrialState.FAILED, reason="oom: CUDA out of memory", detail="Traceback"),
    ]  # fmt: skip
    two = study(trials, directions=("minimize", "maximize"), best=[trials[0], trials[11]])
    html = dom(write_report(two, tmp_path / "report.html").as_uri(), tmp_path / "profile")
    page = Elements(html)
    charts = [a["aria-label"] for _, a in page.found if a.get("role") == "img"]
    assert sorted(label.split(":")[0] for label in charts) == [
        "Pareto front", "kind", "lr", "objective 0", "objective 0, minimize", "objective 1, maximize", "timeline",
    ]  # fmt: skip
    assert sum(tag == "canvas" for tag, _ in page.found) == len(charts) - 1  # the timeline is no chart of uPlot's
    assert sum("data-trial" in attrs for _, attrs in page.found) == len(trials)
    assert "trial 12, at 20 %: pruned: worse than the median" in page.texts
    assert page.texts.count("oom: CUDA out of memory") == 2  # among what failed, and in the table


def modelled(n=40):
    """A study in which x matters and y does not."""
    space = {"x": FloatDistribution(0, 1), "y": FloatDistribution(1e-4, 1, log=True)}
    trials = []
    for k in range(n):
        params = {"x": (k * 0.618) % 1, "y": 10 ** (-4 * ((k * 0.414) % 1))}
        trials.append(trial(k, params=params, distributions=space, values=((params["x"] - 0.3) ** 2,)))
    return study(trials)


def test_the_model_tells_what_matters_and_where_the_best_is_expected():
    model = model_data(modelled())
    importances = {i["name"]: i for i in model["importances"]}
    assert importances["x"]["low"] > importances["y"]["high"]
    curve = model["curves"]["x"]
    best = min(range(len(curve["x"])), key=lambda k: curve["mean"][k])
    assert abs(curve["x"][best] - 0.3) < 0.1
    assert all(low <= mean <= high for low, mean, high in zip(curve["low"], curve["mean"], curve["high"], strict=True))
    assert model["map"]["names"] == ("x", "y")
    assert report_data(modelled(), model)["parameters"][0]["name"] == "x"


def test_with_few_trials_no_model_is_shown():
    assert model_data(modelled(9)) is None


def test_a_maximized_objective_has_its_curve_the_right_way_round():
    trials = [replace(t, values=(-t.values[0],)) for t in modelled().trials]
    curve = model_data(study(trials, directions=("maximize",)))["curves"]["x"]
    assert abs(curve["x"][max(range(len(curve["x"])), key=lambda k: curve["mean"][k])] - 0.3) < 0.1
    assert all(low <= high for low, high in zip(curve["low"], curve["high"], strict=True))


def test_a_browser_draws_what_the_model_says_and_the_parallel_coordinates(tmp_path):
    page = Elements(dom(write_report(modelled(), tmp_path / "report.html").as_uri(), tmp_path / "profile"))
    sections = [a["aria-label"] for tag, a in page.found if tag == "section"]
    assert sections == [
        "Objective over trials", "Which parameters matter", "Parameters against objective",
        "The two that matter most", "Parallel coordinates", "Learning curves", "When trials ran", "Trials (40)",
    ]  # fmt: skip
    assert sum(a.get("class", "").startswith("line") for _, a in page.found) == 40
    axes = [a for _, a in page.found if a.get("role") == "slider"]
    assert [a["aria-label"] for a in axes] == ["x", "y", "objective"]
    assert all(a["tabindex"] == "0" and a["aria-valuetext"] == "all" for a in axes)


def test_everything_that_reacts_has_a_name_for_a_screen_reader(tmp_path):
    page = Elements(dom(write_report(modelled(), tmp_path / "report.html").as_uri(), tmp_path / "profile"))
    for (tag, attrs), text in zip(page.found, page.own, strict=True):
        if tag in ("button", "select", "input") or attrs.get("role") in ("img", "slider", "group", "region"):
            assert attrs.get("aria-label") or text.strip(), (tag, attrs)
    assert [tag for tag, _ in page.found if tag in ("h1", "h2")] == ["h1"] + ["h2"] * 8


def test_a_browser_draws_an_empty_study(tmp_path):
    html = dom(write_report(study([]), tmp_path / "report.html").as_uri(), tmp_path / "profile")
    assert "no trials yet" in html
    assert 'data-ready="true"' in html


def test_in_a_browser_hostile_texts_stay_texts_and_fetch_nothing(tmp_path):
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200 if self.path == "/report.html" else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            if self.path == "/report.html":
                self.wfile.write(page)

        def log_message(self, *args):
            pass

    page = write_report(hostile(), tmp_path / "report.html").read_bytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        html = dom(f"http://127.0.0.1:{server.server_port}/report.html", tmp_path / "profile")
        server.shutdown()
    assert 'data-ready="true"' in html
    assert set(asked) <= {"/report.html", "/favicon.ico"}
    found = Elements(html).found
    assert sum(tag == "script" for tag, _ in found) == 2
    assert not {tag for tag, _ in found} & {"img", "iframe", "link"}
    assert not [name for _, attrs in found for name in attrs if name.startswith("on") or name in ("src", "href")]
    assert "<title>owned" not in html
    assert sum("data-trial" in attrs for _, attrs in found) == len(hostile().trials)
