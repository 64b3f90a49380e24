"""docs/extending.md: its backend and its runner pass the shipped contracts, and are found by their entry points."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """The files of the page, installed as a package with its entry points."""
    place = tmp_path_factory.mktemp("plugin")
    text = PAGE.read_text(encoding="utf-8")
    for name, code in re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", text, re.DOTALL):
        (place / name).write_text(code)
    points = re.search(r"```toml\n(.*?)```", text, re.DOTALL)[1]
    points = re.sub(r'\[project\.entry-points\."([^"]+)"\]', r"[\1]", points).replace('"', "")
    (place / "plugin-1.0.dist-info").mkdir()
    (place / "plugin-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (place / "plugin-1.0.dist-info" / "entry_points.txt").write_text(points)
    return place


def run(place, *command):
    path = os.pathsep.join([str(place), *(p for p in sys.path if p)])
    return subprocess.run(
        [sys.executable, *command],
        cwd=place,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(("file", "at_least"), [("test_halton.py", 30), ("test_threads.py", 20)])
def test_the_pages_classes_pass_the_shipped_contracts(plugin, file, at_least):
    done = run(plugin, "-m", "pytest", "-q", "-p", "no:cacheprovider", file)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= at_least


def test_they_are_found_by_their_names(plugin):
    code = (
        "import tunesmith; from optuna.distributions import FloatDistribution as F\n"
        "study = tunesmith.search(lambda t: t.params['x'], 4, space={'x': F(0, 1)}, backend='halton', runner='threads',"
        " progress=False, seed=1)\n"
        "print([t.why['halton'] for t in study.trials], len({t.params['x'] for t in study.trials}))"
    )
    done = run(plugin, "-c", code)
    assert done.stdout.strip() == "['point 0', 'point 1', 'point 2', 'point 3'] 4", done.stderr[-2000:]


def test_the_classes_are_short():
    text = PAGE.read_text(encoding="utf-8")
    backend = re.search(r"<!-- file: halton_backend.py -->\n```python\n(.*?)```", text, re.DOTALL)[1]
    assert len(backend.splitlines()) <= 40
