"""What a script's trial came to: metrics from what it printed and from the files that transformers writes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.settings_text import flag_value, nested

_RESULTS = ("all_results.json", "eval_results.json")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "model.safetensors.index.json")
OUTPUT_DIR = "output_dir"


def built(command: Sequence[str], params: Mapping[str, Any], output_dir: Path) -> list[str]:
    """The command of a trial: `{name}` is replaced by a parameter's value, the other parameters follow as flags.

    A value given to `--output_dir`, and `{output_dir}`, become the trial's directory. An argument that consists of a
    placeholder with an empty value is left out, and so is a flag whose value is None. Dotted names become JSON dicts.
    """
    values = {name: "" if v is None else flag_value(v) for name, v in params.items()} | {OUTPUT_DIR: str(output_dir)}
    used: set[str] = set()

    def fill(found: re.Match[str]) -> str:
        if found[1] not in values:
            return found[0]  # braces of the user's own
        used.add(found[1])
        return values[found[1]]

    result: list[str] = []
    for before, argument in zip([None, *command], command, strict=False):
        if before == f"--{OUTPUT_DIR}":
            argument = str(output_dir)  # noqa: PLW2901
        elif argument.startswith(f"--{OUTPUT_DIR}="):
            argument = f"--{OUTPUT_DIR}={output_dir}"  # noqa: PLW2901
        filled = re.sub(r"\{([\w.]+)\}", fill, argument)
        if filled or not argument:
            result.append(filled)
    left = nested({name: v for name, v in params.items() if name not in used and v is not None})
    return [*result, *(part for name, v in left.items() for part in (f"--{name}", flag_value(v)))]


def printed(lines: Iterable[str], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """The JSON objects among the lines that hold all of `metrics`."""
    found = []
    for line in lines:
        text = line.rpartition("\r")[2].strip()
        if text.startswith("{") and text.endswith("}") and all(f'"{m}"' in text for m in metrics):
            value = _parsed(text)
            if all(_is_number(value.get(m)) for m in metrics):
                found.append(value)
    return found


def from_files(directory: Path, metrics: Sequence[str], *, since: float) -> dict[str, float] | None:
    """The metrics in transformers' results files, else its last evaluation, when written after `since` (Unix time)."""
    for name in _RESULTS:
        known = _read(directory / name, since)
        if all(_is_number(known.get(m)) for m in metrics):
            return numbers(known)
    checkpoints = sorted(directory.glob("checkpoint-*"), key=lambda p: p.stat().st_mtime, reverse=True)
    for path in (directory, *checkpoints[:1]):
        for entry in reversed(_read(path / "trainer_state.json", since).get("log_history", [])):
            if all(_is_number(entry.get(m)) for m in metrics):
                return numbers(entry)
    return None


def known_names(directory: Path, lines: Iterable[str], *, since: float) -> list[str]:
    """The names of all metrics that a script gave, for an error message."""
    known = {name for file in _RESULTS for name in numbers(_read(directory / file, since))}
    return sorted(known | {name for value in printed(lines, ()) for name in numbers(value)})


def weights(directory: Path) -> Path | None:
    """The directory of the model that a script left: its own, else its newest checkpoint."""
    saved = sorted(directory.glob("checkpoint-*"), key=lambda p: p.stat().st_mtime, reverse=True)
    return next((p for p in (directory, *saved) if any((p / name).is_file() for name in _WEIGHTS)), None)


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The entries that are numbers."""
    return {name: float(v) for name, v in values.items() if _is_number(v)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _read(path: Path, since: float) -> dict[str, Any]:
    try:
        if path.stat().st_mtime < math.floor(since):
            return {}  # an earlier attempt's
        return _parsed(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return {}
