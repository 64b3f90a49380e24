"""Every command, option and exit code is in docs/cli.md, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from tunesmith.cli import EXIT_CODES, app

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
COMMANDS = get_command(app).commands


def section(name: str) -> str:
    found = re.search(rf"^### `tunesmith {name}\b.*?(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found, f"docs/cli.md has no section on {name}"
    return found[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_options_are_documented(name):
    text = section(name)
    for option in (o for p in COMMANDS[name].params for o in (*p.opts, *p.secondary_opts) if o.startswith("-")):
        if option not in ("-h", "--help"):
            assert f"{option}" in re.findall(r"--?[\w-]+", text), f"{name} {option}"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_section_names_no_option_that_it_has_not(name):
    known = {o for p in COMMANDS[name].params for o in (*p.opts, *p.secondary_opts)}
    assert set(re.findall(r"`(--[a-z-]+)[ `]", section(name))) <= known  # a script's own are written otherwise


def test_no_section_is_about_a_command_that_is_not():
    assert set(re.findall(r"^### `tunesmith ([\w-]+)", PAGE, re.MULTILINE)) == set(COMMANDS)


def test_every_command_prints_json_and_has_help():
    for name, command in COMMANDS.items():
        assert "--json" in {o for p in command.params for o in p.opts}, name
        assert command.help, name
        assert all(p.help for p in command.params if p.param_type_name == "option" and p.name != "help"), name


def test_the_exit_codes_are_documented():
    table = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    assert table == {0, 2, 130, *(code for _, code in EXIT_CODES)}
