"""The report page: one self-contained HTML file that draws a study's data; it loads nothing and trusts no text."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.report.data import report_data
from tunesmith.report.model_data import model_data

if TYPE_CHECKING:
    from tunesmith.study import Study

_SCRIPTS = ("dom", "charts", "parallel", "model", "sections", "table", "live")  # each may use those before it
_ESCAPES = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


def write_report(study: Study, path: str | Path) -> Path:
    """Write the report of a study to `path` and return it. A reader never sees half a page."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(render(study), encoding="utf-8", errors="replace")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def render(study: Study) -> str:
    """The report as HTML."""
    return page(study.name, report_data(study, model_data(study)))


def page(name: str, data: Mapping[str, Any], *, live: bool = False) -> str:
    """The page for a study's data; a live one asks the server it came from, and nobody else, for what is new."""
    style, script = _assets()
    return (
        f'<!doctype html>\n<html lang="en" data-live="{str(live).lower()}"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(live=live)}">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(name)} - tunesmith</title>\n<style>{style}</style></head>\n"
        "<body><noscript>The report is drawn by a script in this file, and scripts are off. The same data: "
        "<code>tunesmith.load_study(directory).to_dataframe()</code></noscript><main></main>\n"
        f'<script type="application/json" id="study">{island(data)}</script>\n'
        f"<script>{script}</script></body></html>\n"
    )


def policy(*, live: bool = False) -> str:
    """The content security policy: this script, this style and nothing else; a live page may ask its own server."""
    style, script = _assets()
    return (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
        + ("; connect-src 'self'" if live else "")
    )


def index(studies: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A page that lists studies: the address of each, and its name, standing, best value and place."""
    style, _ = _assets()
    rows = "".join(
        f'<tr><td><a href="{escape(where)}">{escape(name)}</a></td>{"".join(f"<td>{escape(f)}</td>" for f in facts)}</tr>'
        for where, (name, *facts) in studies
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="10">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>studies - tunesmith</title>\n<style>{style}</style></head>\n<body><main><h1>Studies</h1>"
        f'<div class="scroll"><table><thead><tr><th>study</th><th>standing</th><th>best</th><th>trials</th><th>directory</th></tr></thead><tbody>{rows}</tbody></table>'
        f"</div>{'' if studies else '<p>There is none below this directory yet.</p>'}</main></body></html>\n"
    )


def island(data: Any) -> str:
    """JSON that cannot end the script element it stands in: it has no `<`, `>`, `&` and no line separators."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    text = text.encode("utf-8", "replace").decode()  # half a surrogate pair is not text
    return text.translate(_ESCAPES)


@cache
def _assets() -> tuple[str, str]:
    """The page's style and script, each with the chart library's in front, and its licence."""
    home = files("tunesmith.report") / "assets"
    read = {p.name: p.read_text(encoding="utf-8") for p in home.iterdir() if p.is_file()}
    licence = f"/* uPlot\n{read['uPlot.LICENSE'].strip()}\n*/\n"
    style = f"{licence}{read['uPlot.min.css'].strip()}\n{read['page.css']}"
    own = "".join(read[f"{name}.js"] for name in _SCRIPTS)
    script = f'{licence}{read["uPlot.iife.min.js"].strip()}\n(() => {{\n"use strict";\n{own}}})();\n'
    return style, script


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
