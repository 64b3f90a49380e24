"""The report page: complete, escaped, self-contained, small."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from optuna.distributions import FloatDistribution

from tunesmith.report.page import render, write_report
from tunesmith.trial import Report, Trial, TrialState

EVIL = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><script>alert(2)</script>",
    "javascript:alert(3)",
    "&lt;b&gt; \u2028 ]]>",
]


def trial(number, state=TrialState.COMPLETE, **changes):
    settings = {
        "params": {"lr": 10.0 ** -(number % 5), "kind": "ab"[number % 2]},
        "distributions": {"lr": FloatDistribution(1e-5, 1, log=True)},
        "reports": tuple(Report(s, (1.0 / (s + number + 1),), share=s / 4) for s in range(1, 5)),
        "values": (1.0 / (number + 1),) if state is TrialState.COMPLETE else None,
        "started": 1.0,
        "ended": 2.0,
        **changes,
    }
    return Trial(number, state, **settings)


def study(trials, name="s", directions=("minimize",)):
    done = [t for t in trials if t.values]
    best = tuple(sorted(done, key=lambda t: t.values)[:1])
    return SimpleNamespace(
        trials=tuple(trials), name=name, directions=directions, best_trials=best, summary=lambda: f"{len(trials)} trials",
        completed=lambda: done,
    )  # fmt: skip


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def tags(html):
    parser = Tags()
    parser.feed(html)
    return parser.found


def test_nothing_hostile_becomes_markup():
    failed = [
        trial(k, TrialState.FAILED, reason=f"error: {e}", detail=e, params={e: e, "n": k}) for k, e in enumerate(EVIL)
    ]
    complete = [trial(k + 9, params={e: e}) for k, e in enumerate(EVIL)]
    html = render(study([*failed, *complete], name=EVIL[0]))
    kinds = {tag for tag, _ in tags(html)}
    assert not kinds & {"script", "img", "iframe", "object", "link", "a"}
    assert not any(name.startswith("on") for _, attrs in tags(html) for name in attrs)


def test_nothing_is_loaded_from_outside():
    html = render(study([trial(k) for k in range(4)]))
    assert "default-src 'none'" in html
    assert not re.search(r"https?://|url\(|@import", html)
    assert not any({"src", "href"} & set(attrs) for _, attrs in tags(html))


def test_a_thousand_trials_with_ten_parameters_stay_below_600_kb():
    trials = [trial(k, params={f"parameter_{j}": 0.1234567 * (k + j) for j in range(10)}) for k in range(1000)]
    assert len(render(study(trials)).encode()) <= 600_000


def test_an_empty_study_and_infinite_values_are_shown():
    assert "no trials" in render(SimpleNamespace(**{**vars(study([])), "summary": lambda: "no trials"}))
    render(study([trial(0, values=(float("inf"),)), trial(1)]))


@pytest.mark.skipif(
    shutil.which("chromium") is None and not os.environ.get("CI"), reason="needs chromium: apt-get install chromium"
)
def test_chromium_renders_the_charts(tmp_path):
    path = write_report(study([trial(k) for k in range(12)]), tmp_path / "report.html")
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert dom.count("<svg") >= 4
    assert "Best settings" in dom
