"""The report page: one self-contained HTML file with tables and charts; nothing is loaded, everything is escaped."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.report.chart import Series, chart
from tunesmith.trial import Trial, TrialState

if TYPE_CHECKING:
    from tunesmith.study import Study

_STYLE = """
:root{color-scheme:light dark;--ink:#1d232b;--soft:#66707c;--paper:#fff;--line:#d9dee4;--mark:#1f6feb;--good:#1a7f37;
--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa4b0;--paper:#14181d;--line:#333b45;--mark:#6ea8ff;
--good:#57c274;--bad:#ff8a80}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1180px;padding:1.2rem;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,sans-serif}h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.1rem;margin:1.6rem 0 .5rem}
p.lead{color:var(--soft);margin:.2rem 0 1rem}.cards{display:flex;flex-wrap:wrap;gap:.8rem}.card{border:1px solid
var(--line);border-radius:8px;padding:.7rem 1rem;min-width:9rem}.card b{display:block;font-size:1.25rem}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(340px,100%),1fr));gap:1rem}.wide{overflow-x:auto}
figure{margin:0}figcaption{color:var(--soft);font-size:.85rem}svg{width:100%;height:auto;display:block}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.88rem}th,td{padding:.25rem .6rem;
text-align:left;border-bottom:1px solid var(--line);white-space:nowrap}th{position:sticky;top:0;background:var(--paper)}
tr.best td{font-weight:600;color:var(--good)}td.reason{max-width:28rem;overflow:hidden;text-overflow:ellipsis}
pre{overflow:auto;border:1px solid var(--line);border-radius:8px;padding:.7rem;font-size:.8rem}
.dot,.top{fill:none;stroke:var(--mark);stroke-width:5;stroke-linecap:round}.line{fill:none;stroke:var(--mark);stroke-width:1.5}.bestline{fill:none;stroke:var(--good);
stroke-width:2}.stopped{fill:none;stroke:var(--soft);stroke-width:1;stroke-dasharray:4 3}.top{stroke:var(--good)}
.axis{stroke:var(--line);stroke-width:1}text{fill:var(--soft);font:11px system-ui,sans-serif}
@media print{body{max-width:none}}
"""
_MOST_ROWS, _MOST_CURVES = 1000, 60


def write_report(study: Study, path: str | Path) -> Path:
    """Write the report of a study to `path` and return it."""
    path = Path(path)
    path.write_text(render(study), encoding="utf-8")
    return path


def render(study: Study) -> str:
    """The report as HTML."""
    trials = study.trials
    best = study.best_trials
    sections = [
        _cards(study, best),
        _section("Objective over trials", _objective_charts(study)),
        _section("Parameters against objective", _parameter_charts(study, {t.number for t in best})),
        _section("Learning curves", _curves(study, {t.number for t in best})),
        _section("What failed", _failures(trials)),
        _section(f"Trials ({len(trials)})", _table(trials, study.directions, {t.number for t in best})),
    ]
    title = escape(f"{study.name} - tunesmith")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'\">"
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><main><h1>{escape(study.name)}</h1>"
        f'<p class="lead">{escape(study.summary())} &middot; {escape(", ".join(study.directions))}</p>'
        f"{''.join(sections)}</main></body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _cards(study: Study, best: Sequence[Trial]) -> str:
    finished = sum(t.state.finished for t in study.trials)
    seconds = sum(t.duration or 0.0 for t in study.trials)
    cards = [("finished trials", str(finished)), ("time in trials", f"{seconds / 60:.1f} min")]
    text = ""
    if best:
        cards.insert(0, ("best objective", _numbers(best[0].values)))
        cards.insert(1, ("best trial", str(best[0].number)))
        settings = "\n".join(f"{n} = {v!r}" for n, v in best[0].params.items())
        where = f"\n# checkpoint: {best[0].checkpoint}" if best[0].checkpoint else ""
        text = f"<h2>Best settings</h2><pre>{escape(settings + where)}</pre>"
    body = "".join(f'<div class="card">{escape(label)}<b>{escape(value)}</b></div>' for label, value in cards)
    return f'<div class="cards">{body}</div>{text}'


def _objective_charts(study: Study) -> str:
    done = study.completed()
    figures = []
    for k, direction in enumerate(study.directions):
        points = [(float(t.number), _value(t, k)) for t in done]
        best, line = math.inf, []
        sign = 1.0 if direction == "minimize" else -1.0
        for x, y in points:
            best = min(best, sign * y)
            line.append((x, sign * best))
        series = [Series("dot", points, dots=True), Series("bestline", line)]
        name = "objective" if len(study.directions) == 1 else f"objective {k}"
        figures.append(chart(series, x="trial", y=name, caption=f"{name}, best so far in green ({direction})"))
    if len(study.directions) == 2:  # noqa: PLR2004
        front = {t.number for t in study.best_trials}
        rest = [(_value(t, 0), _value(t, 1)) for t in done if t.number not in front]
        top = sorted((_value(t, 0), _value(t, 1)) for t in done if t.number in front)
        series = [Series("dot", rest, dots=True), Series("bestline", top), Series("top", top, dots=True)]
        figures.append(chart(series, x="objective 0", y="objective 1", caption="Pareto front in green"))
    return f'<div class="grid">{"".join(figures)}</div>' if done else ""


def _parameter_charts(study: Study, best: set[int]) -> str:
    done = study.completed()
    figures = []
    for name in dict.fromkeys(n for t in done for n in t.params):
        having = [t for t in done if name in t.params]
        numeric = all(isinstance(t.params[name], int | float) and not isinstance(t.params[name], bool) for t in having)
        labels = None if numeric else sorted({str(t.params[name]) for t in having})
        log = bool(getattr(having[-1].distributions.get(name), "log", False))
        at = {t.number: float(t.params[name]) if labels is None else labels.index(str(t.params[name])) for t in having}
        rest = [(at[t.number], _value(t, 0)) for t in having if t.number not in best]
        top = [(at[t.number], _value(t, 0)) for t in having if t.number in best]
        series = [Series("dot", rest, dots=True), Series("top", top, dots=True)]
        figures.append(chart(series, x=name, y="objective", caption=name, log_x=log, labels=labels))
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def _curves(study: Study, best: set[int]) -> str:
    shown = [t for t in study.trials if len(t.reports) > 1][-_MOST_CURVES:]
    if not shown:
        return ""
    series = []
    for t in sorted(shown, key=lambda t: t.number in best):
        shares = all(r.share is not None for r in t.reports)
        points = [(100 * r.share if shares and r.share is not None else float(r.step), r.values[0]) for r in t.reports]
        kind = "bestline" if t.number in best else ("line" if t.state is TrialState.COMPLETE else "stopped")
        title = f"trial {t.number}: {t.state.value.lower()} {t.reason or ''}"
        series.append(Series(kind, points, title=title))
    caption = "best in green, stopped or failed trials dashed (hover for the reason)"
    return chart(series, x="% of training, or step", y="objective", caption=caption)


def _failures(trials: Sequence[Trial]) -> str:
    failed = [t for t in trials if t.state is TrialState.FAILED]
    parts = []
    for reason, count in Counter(t.reason or "unknown" for t in failed).most_common(20):
        newest = next(t for t in reversed(failed) if (t.reason or "unknown") == reason)
        detail = f"<pre>{escape(newest.detail)}</pre>" if newest.detail else ""
        parts.append(f"<details><summary>{count} &times; {escape(reason)}</summary>{detail}</details>")
    return "".join(parts)


def _table(trials: Sequence[Trial], directions: Sequence[str], best: set[int]) -> str:
    names = list(dict.fromkeys(n for t in trials for n in t.params))
    objectives = ["objective"] if len(directions) == 1 else [f"objective {k}" for k in range(len(directions))]
    head = "".join(f"<th>{escape(h)}</th>" for h in ["trial", "state", *objectives, *names, "seconds", "reason"])
    rows = []
    for t in trials[:_MOST_ROWS]:
        values = [_number(v) for v in t.values] if t.values is not None else [""] * len(objectives)
        duration = "" if t.duration is None else f"{t.duration:.1f}"
        cells = [
            str(t.number),
            t.state.value.lower(),
            *values,
            *(_number(t.params.get(n, "")) for n in names),
            duration,
        ]
        tail = f'<td class="reason">{escape(t.reason or "")}'
        mark = ' class="best"' if t.number in best else ""
        rows.append(f"<tr{mark}>{''.join(f'<td>{escape(c)}' for c in cells)}{tail}")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _value(trial: Trial, k: int) -> float:
    return trial.values[k] if trial.values is not None else math.nan


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _numbers(values: Sequence[float] | None) -> str:
    return ", ".join(_number(v) for v in values or ())
