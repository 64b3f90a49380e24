"""The command line as a process would see it, without the cost of one: its output, its errors and its exit code."""

from __future__ import annotations

import json
import shutil
import sys
from typing import NamedTuple

import pytest
from cli_tasks import objective

import tunesmith
from tunesmith.cli import main


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self):
        def refuse(name):
            raise AssertionError(f"{name} is not JSON")

        return json.loads(self.out, parse_constant=refuse)


@pytest.fixture
def run(capsys, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tunesmith", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        else:
            code = 0
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    for k, name in enumerate(("first", "second")):
        study = tunesmith.search(objective, 15 - 3 * k, study=name, directory=home / name, seed=k, progress=False)
        study.record.close()  # the whole record is in the one file
    return home


@pytest.fixture
def home(made, tmp_path, monkeypatch):
    """A directory with two studies, `first` of 15 trials (2 failed) and `second` of 12."""
    copy = tmp_path / "home"
    shutil.copytree(made, copy)
    monkeypatch.chdir(copy)
    return copy
