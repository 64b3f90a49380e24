"""The README's and the docs' Python blocks run as they stand, in a directory of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[str]:
    """The Python blocks of a page, without those marked as needing the reader's own data."""
    found = re.findall(
        r"(<!-- (?:not run|file):[^\n]*-->\n)?```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL
    )
    return [code for mark, code in found if not mark]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_blocks_of_a_page_run_in_order(page, tmp_path):
    code = "\n".join(blocks(page))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_readme_names_the_two_commands_on_its_first_screen():
    first = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:15]
    assert any(line.startswith("make demo") for line in first)
    assert any(line.startswith("make test") for line in first)


@pytest.mark.parametrize("example", ["demo.py", "pytorch_loop.py", "sklearn_search.py", "lora_peft.py"])
def test_the_offline_examples_run(example, tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / example)],
        cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "best" in done.stdout


def test_every_page_can_be_reached_and_every_link_between_pages_leads_somewhere():
    pages = {p.name: p.read_text(encoding="utf-8") for p in (ROOT / "docs").glob("*.md")}
    listed = set(re.findall(r"^ +- .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    linked = {link for text in pages.values() for link in re.findall(r"\]\(([\w.-]+\.md)[)#]", text)}
    assert listed | linked == set(pages), "a page is in the nav of mkdocs.yml, or another page links to it"


def test_every_link_to_a_heading_leads_to_one():
    pages = {p.name: p.read_text(encoding="utf-8") for p in (ROOT / "docs").glob("*.md")}
    anchors = {name: {slug(h) for h in re.findall(r"^#+ (.*)$", text, re.MULTILINE)} for name, text in pages.items()}
    for name, text in pages.items():
        for page, anchor in re.findall(r"\]\(([\w.-]+\.md)?#([^)]+)\)", text):
            assert anchor in anchors[page or name], f"{name} links to {page or name}#{anchor}"


def slug(heading):
    """The anchor that MkDocs gives a heading."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())
