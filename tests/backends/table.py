"""Writes docs/backends.md from the results of test_backends_table.py: python tests/backends/table.py."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
COLUMNS = ("tunesmith", "optuna", "wandb", "sigopt", "ray")
HEAD = """# What every backend does

Each cell is a test (`tests/backends/test_backends_table.py`), and the table is what `make backends-table` made of its results:
**y** passed, **no** failed, **-** not run. `wandb` and `sigopt` were asked over their own clients, at servers on loopback.

"""


class Results:
    """A pytest plugin that notes how each test ended."""

    def __init__(self):
        self.cells = defaultdict(dict)

    def pytest_runtest_logreport(self, report):
        found = re.search(r"::test_(\w+)\[(\w+)\]", report.nodeid)
        if found and (report.when == "call" or report.outcome != "passed"):
            row, backend = found.groups()
            mark = {"passed": "y", "failed": "no", "skipped": "-"}[report.outcome]
            self.cells[row.replace("_", " ")][backend] = mark


def table(cells):
    """The results as Markdown."""
    lines = [f"| | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [f"| {row} | {' | '.join(marks.get(c, '-') for c in COLUMNS)} |" for row, marks in cells.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    results = Results()
    code = pytest.main([str(Path(__file__).with_name("test_backends_table.py"))], plugins=[results])
    text = table(results.cells)
    (ROOT / "docs" / "backends.md").write_text(HEAD + text, encoding="utf-8")
    sys.stdout.write(text)
    sys.exit(code)
