"""Commands that only read: ls, show, trials, best, logs, importance, compare."""

from __future__ import annotations

import operator
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from tunesmith.cli.find import JsonOption, StudyArgument, TrialArgument, opened, studies_below
from tunesmith.cli.shown import print_json, print_rich, print_table, study_json, trial_json
from tunesmith.errors import RecordError, SettingError, TunesmithError
from tunesmith.folders import LOGS
from tunesmith.report.hints import in_common, narrow_ranges
from tunesmith.report.standing import standing_of
from tunesmith.report.summary import (
    duration,
    newest,
    number,
    numbers,
    plain,
    reason_text,
    telling_parameters,
)
from tunesmith.report.table import trial_table
from tunesmith.report.terminal import standing_view
from tunesmith.settings_text import as_flags, as_python, as_yaml
from tunesmith.steering import activity
from tunesmith.study import Study, load_study
from tunesmith.trial import Trial, TrialState, signs

_REFRESH = 1.0
_ENOUGH = 10  # completed trials from which importances say something
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}


class Format(str, Enum):
    """How parameters are written."""

    PYTHON = "python"
    YAML = "yaml"
    FLAGS = "flags"


def list_studies(
    directory: Annotated[Path, typer.Argument(help="Where to look.")] = Path(),
    *,
    as_json: JsonOption = False,
) -> None:
    """List the studies below a directory."""
    if not directory.is_dir():
        raise SettingError(f"ls looks below a directory, got {str(directory)!r}, which is none")
    found = [_study(path) for path in studies_below(directory)]
    if as_json:
        print_json(found)
        return
    if not found:
        typer.echo(f"no study below {directory.resolve()}")
        return
    print_table(("study", "activity", "trials", "best", "failed", "directory"), [_listed(s) for s in found])


def _study(path: Path) -> dict[str, Any]:
    try:
        return study_json(load_study(path))
    except RecordError as error:
        return {"name": path.name, "directory": str(path.resolve()), "error": error.strerror or str(error)}


def _listed(study: dict[str, Any]) -> Sequence[str]:
    if "error" in study:
        return study["name"], "unreadable", "", study["error"], "", study["directory"]
    states, total, best = study["states"], study["n_trials"], study["best"]
    done = sum(states.get(s.value.lower(), 0) for s in TrialState if s.finished)
    value = "" if not best else numbers(best[0]["values"]) if len(best) == 1 else f"{len(best)} in the Pareto set"
    trials = f"{done}/{total}" if total is not None else str(done)
    return study["name"], study["activity"], trials, value, str(states.get("failed", 0)), study["directory"]


def show(
    study: StudyArgument = None,
    *,
    once: Annotated[
        bool, typer.Option("--once", help="Print the standing and do not follow a running search.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show how a search stands; while it runs, follow it."""
    known = opened(study)
    if as_json:
        trusted = known.trust()
        print_json({**study_json(known), "trust": None if trusted is None else asdict(trusted)})
        return
    console = Console()
    if console.is_terminal and not once and activity(known) == "running":
        with Live(console=console, auto_refresh=False, screen=False) as live:
            while activity(known) == "running":
                live.update(standing_view(standing_of(known), time.time(), console.height), refresh=True)
                time.sleep(_REFRESH)
    print_rich(*_standing(known))


def _standing(study: Study) -> list[Any]:
    standing = standing_of(study)
    now = time.time() if activity(study) == "running" else max((t.ended or 0.0 for t in study.trials), default=0.0)
    lines: list[Any] = [standing_view(standing, now), Text("")]
    lines.append(_fact("directory", f"{study.directory} ({activity(study)}, {', '.join(study.directions)})"))
    completed = study.completed()
    if len(completed) > 1 and len(study.directions) == 1:
        sign = signs(study.directions)[0]
        ranked = sorted(completed, key=lambda t: (sign * (t.values or (0.0,))[0], t.number))
        middle = ranked[len(ranked) // 2]
        margin = f"next best {numbers(ranked[1].values)} (trial {ranked[1].number}), median {numbers(middle.values)}"
        lines.append(_fact("margin", margin))
        known = study.trust()
        for name, text in zip(("trust", "", ""), () if known is None else known.sentences, strict=False):
            lines.append(_fact(name, text))
    if len(completed) >= _ENOUGH:
        found = study.importances()
        first = [f"{plain(name)} {i.total:.0%} ({i.low:.0%} to {i.high:.0%})" for name, i in found.items()]
        lines.append(_fact("matters most", ", ".join(first[:4])))
        ranges = narrow_ranges(completed, study.directions, {name: i.total for name, i in found.items()})
        lines += [_fact("look next", text) for text in ranges]
    groups: dict[str, list[Trial]] = {}
    for t in study.trials:
        if t.state is TrialState.FAILED:
            groups.setdefault(reason_text(t), []).append(t)
    for reason, trials in sorted(groups.items(), key=lambda item: -len(item[1]))[:5]:
        lines.append(_fact("failed", f"{len(trials)} x {reason} (tunesmith logs {trials[-1].number})"))
        common = in_common(trials, study.trials)
        if common:
            lines.append(_fact("", common))
    for trial in standing.best[:1]:
        path = study.checkpoint(trial)
        if path is not None:
            lines.append(_fact("checkpoint", str(path)))
    return lines


def _fact(name: str, text: str) -> Text:
    line = Text(f"{name:<13}", style="dim")
    line.append(plain(text), style="not dim")
    return line


def trials(
    study: StudyArgument = None,
    *,
    state: Annotated[
        list[str] | None, typer.Option("--state", help="Only trials in this state; may be given several times.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", help='Only trials for which this holds, such as "lr<1e-3" or "value>=0.9".'),
    ] = None,
    sort: Annotated[
        str, typer.Option("--sort", help="By number, value, seconds, state, a parameter or a metric.")
    ] = "number",
    reverse: Annotated[bool, typer.Option("--reverse", help="Largest first.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="So many at most.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List trials, filtered and sorted."""
    known = opened(study)
    everything = known.trials
    states = {_state(s) for s in state or ()}
    tests = [_condition(text, everything) for text in where or ()]
    chosen = [t for t in everything if (not states or t.state in states) and all(test(t) for test in tests)]
    _check_field(sort, everything)
    having = [t for t in chosen if _field(t, sort) is not None]
    rest = [t for t in chosen if _field(t, sort) is None]  # what is missing comes last, whatever the order
    having.sort(key=lambda t: _comparable(_field(t, sort)), reverse=reverse)
    chosen = [*having, *rest][:limit]
    if as_json:
        print_json([trial_json(t) for t in chosen])
        return
    if not chosen:
        typer.echo(f"none of {len(everything)} trials")
        return
    names = telling_parameters(everything)
    print_rich(trial_table(chosen, best={t.number for t in known.best_trials}, names=names))


def _state(text: str) -> TrialState:
    try:
        return TrialState(text.upper())
    except ValueError:
        states = ", ".join(s.value.lower() for s in TrialState)
        raise SettingError(f"a trial's state is one of {states}, got {text!r}") from None


def _field(trial: Trial, name: str) -> Any:
    if name == "number":
        return trial.number
    if name == "value":
        return None if trial.values is None else trial.values[0]
    if name == "seconds":
        return trial.duration
    if name == "state":
        return trial.state.value.lower()
    return trial.params.get(name, trial.metrics.get(name))


def _check_field(name: str, known: Sequence[Trial]) -> None:
    fields = ["number", "value", "seconds", "state"]
    names = [*fields, *dict.fromkeys(n for t in known for n in (*t.params, *t.metrics))]
    if known and name not in names:
        raise SettingError(f"a trial has no {name!r}; it has {', '.join(names)}")


def _condition(text: str, known: Sequence[Trial]) -> Callable[[Trial], bool]:
    parts = re.match(r"\s*([^<>=!]+?)\s*(<=|>=|==|!=|<|>|=)\s*(.+?)\s*$", text)
    if parts is None:
        raise SettingError(f'a condition is NAME, one of < <= > >= == != and a value, such as "lr<1e-3", got {text!r}')
    name, sign, wanted = parts.groups()
    _check_field(name, known)
    compare = _OPERATORS[sign]

    def holds(trial: Trial) -> bool:
        value = _field(trial, name)
        if value is None:
            return False
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                return compare(value, float(wanted))
            except ValueError:
                return compare(str(value), wanted)
        return compare(str(value), wanted)

    return holds


def _comparable(value: Any) -> tuple[int, Any]:
    """Numbers before texts, so that mixed choices can be sorted."""
    return (0, value) if isinstance(value, int | float) else (1, str(value))


def best(
    study: StudyArgument = None,
    *,
    trial: Annotated[int | None, typer.Option("--trial", help="This trial instead of the best one.")] = None,
    args: Annotated[Format | None, typer.Option("--args", help="Print its parameters in this form alone.")] = None,
    checkpoint: Annotated[bool, typer.Option("--checkpoint", help="Print the directory of its weights alone.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the best trial (with several objectives: the Pareto set) and how to use it."""
    known = opened(study)
    found = known.best_trials if trial is None else (_trial(known, trial),)
    if not found:
        raise TunesmithError(f"no trial of study {known.name!r} has completed: {known.summary()}")
    first = found[0]
    if checkpoint:
        path = known.checkpoint(first)
        if path is None:
            raise TunesmithError(
                f"trial {first.number} has no checkpoint on disk; search with save_strategy other than "
                '"no", and keep_checkpoints="best" to bound the disk'
            )
        typer.echo(str(path))
    elif args is not None:
        arguments = known.info.settings.get("identity", {}).get("arguments")
        written = {Format.PYTHON: lambda p: as_python(p, arguments), Format.YAML: as_yaml, Format.FLAGS: as_flags}
        typer.echo(written[args](known.given(first)))
    elif as_json:
        print_json([trial_json(t) for t in found])
    elif len(found) > 1:
        print_rich(trial_table(found, names=telling_parameters(known.trials)))
    else:
        path = known.checkpoint(first)
        typer.echo(f"trial {first.number}: {numbers(newest(first))}" + (f"  {path}" if path else ""))
        typer.echo(as_yaml(first.params))


def _trial(study: Study, wanted: int) -> Trial:
    found = next((t for t in study.trials if t.number == wanted), None)
    if found is None:
        raise SettingError(f"study {study.name!r} has trials 0 to {len(study.trials) - 1}, got {wanted}")
    return found


def logs(
    trial: TrialArgument,
    study: StudyArgument = None,
    *,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="So many of the last lines of its output.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Print why a trial ended as it did: its reason, its traceback, and its last output where that was kept."""
    known = opened(study)
    found = _trial(known, trial)
    kept = [known.directory / LOGS / f"trial-{trial}.log", known.directory / f"run-{trial}" / "output.log"]
    path = next((p for p in kept if p.is_file()), None)
    output = [] if path is None else path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    if as_json:
        known_path = None if path is None else str(path)
        print_json({**trial_json(found, reports=False), "log": known_path, "output": output})
        return
    attempt = f", attempt {found.attempt}" if found.attempt > 1 else ""
    typer.echo(f"trial {trial}: {found.state.value.lower()}{attempt}" + (f", {found.reason}" if found.reason else ""))
    if found.detail:
        typer.echo(found.detail.rstrip())
    if path is not None:
        typer.echo(f"-- {path}")
        typer.echo("\n".join(output))
    elif not found.detail:
        typer.echo("nothing was kept of its output: a trial in the search's own process writes where the search does")


def importance(
    study: StudyArgument = None,
    *,
    objective: Annotated[int, typer.Option("--objective", min=0, help="Of which objective, from 0.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Show how much each parameter matters, with 90 % intervals."""
    found = opened(study).importances(objective)
    if as_json:
        print_json({name: asdict(known) for name, known in found.items()})
        return
    rows = [
        (name, f"{i.total:.0%}", f"{i.low:.0%} to {i.high:.0%}", f"{i.main:.0%}", "█" * round(30 * i.total))
        for name, i in found.items()
    ]
    print_table(("parameter", "share", "90 %", "alone", ""), rows)


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A study's directory or name.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Compare two studies: their best trials, at equal numbers of trials too, their cost and their failures."""
    pair = [opened(first), opened(second)]
    if pair[0].directions != pair[1].directions:
        raise SettingError(
            f"studies are compared when their directions are equal, got {list(pair[0].directions)} in {first} and "
            f"{list(pair[1].directions)} in {second}"
        )
    equal = min(len(s.trials) for s in pair)
    facts = [_facts(s, equal) for s in pair]
    if as_json:
        print_json({**dict(zip(("a", "b"), facts, strict=True)), "equal_trials": equal})
        return
    labels: dict[str, Callable[[Any], str]] = {
        "trials": str,
        "best": numbers,
        "best_trial": lambda v: "none" if v is None else str(v),
        "best_at_equal_trials": lambda v: "none" if v is None else number(v),
        "failed": str,
        "pruned": str,
        "seconds": duration,
    }
    words = {"best_at_equal_trials": f"best of the first {equal}", "best_trial": "best trial", "seconds": "time"}
    rows = [(words.get(key, key), *(write(f[key]) for f in facts)) for key, write in labels.items()]
    params = [f["params"] for f in facts]
    names = list(dict.fromkeys(name for p in params for name in p))
    rows += [(f"best {name}", *(number(p[name]) if name in p else "" for p in params)) for name in names]
    print_table(("", pair[0].name, pair[1].name), rows)


def _facts(study: Study, equal: int) -> dict[str, Any]:
    every, found = study.trials, study.best_trials
    sign = signs(study.directions)[0]
    values = [t.values[0] for t in every[:equal] if t.state is TrialState.COMPLETE and t.values]
    return {
        "name": study.name,
        "trials": len(every),
        "best": list(found[0].values or ()) if found else None,
        "best_trial": found[0].number if found else None,
        "best_at_equal_trials": min(values, key=lambda v: sign * v) if values else None,
        "failed": sum(t.state is TrialState.FAILED for t in every),
        "pruned": sum(t.state is TrialState.PRUNED for t in every),
        "seconds": sum(t.duration or 0.0 for t in every),
        "params": dict(found[0].params) if found else {},
    }


commands: dict[str, Callable[..., None]] = {
    "ls": list_studies,
    "show": show,
    "trials": trials,
    "best": best,
    "logs": logs,
    "importance": importance,
    "compare": compare,
}
