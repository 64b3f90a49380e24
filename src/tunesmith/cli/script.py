"""The command `run`: a search over an untouched script."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import optuna
import typer
import yaml

from tunesmith import checkpoints
from tunesmith.cli.find import JsonOption
from tunesmith.cli.shown import print_json, study_json
from tunesmith.conduct import Plan, conduct, describe
from tunesmith.errors import SettingError, SpaceError
from tunesmith.folders import REPORT
from tunesmith.hp_space import Probe, as_space_function, default_space
from tunesmith.loop import Budget
from tunesmith.report.summary import best_text
from tunesmith.runners.script import ScriptRunner
from tunesmith.space import parse_space
from tunesmith.study import Study
from tunesmith.trial import Space


def run(
    command: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND...", help="The script to tune, with its own flags.")
    ],
    *,
    space: Annotated[
        Path | None, typer.Option("--space", help="The parameters, as YAML or JSON; default: that of transformers.")
    ] = None,
    n_trials: Annotated[int, typer.Option("--n-trials", min=1, help="How many trials in all.")] = 20,
    minimize: Annotated[
        list[str] | None, typer.Option("--minimize", help="A metric; may be given several times.")
    ] = None,
    maximize: Annotated[
        list[str] | None, typer.Option("--maximize", help="A metric; may be given several times.")
    ] = None,
    workers: Annotated[str, typer.Option("--workers", help='Trials at a time; "auto": as many as fit.')] = "1",
    threads: Annotated[int, typer.Option("--threads-per-trial", min=1, help="CPU threads of each trial.")] = 1,
    gpus: Annotated[
        float | None, typer.Option("--gpus-per-trial", min=0, help="GPUs of each trial, or a share of one.")
    ] = None,
    directory: Annotated[Path | None, typer.Option("--directory", help="Where the study lies.")] = None,
    study: Annotated[str | None, typer.Option("--study", help="The study's name.")] = None,
    backend: Annotated[str, typer.Option("--backend", help="Who proposes the trials.")] = "tunesmith",
    prune: Annotated[
        bool, typer.Option("--prune/--no-prune", help="End trials early that the backend gives little chance.")
    ] = True,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the suggestions.")] = None,
    timeout: Annotated[float | None, typer.Option("--timeout", help="Seconds after which the search pauses.")] = None,
    trial_timeout: Annotated[
        float | None, typer.Option("--trial-timeout", help="Seconds that a trial may take.")
    ] = None,
    max_failures: Annotated[
        int | None, typer.Option("--max-failures", min=1, help="Failed trials that end the search.")
    ] = None,
    extend: Annotated[bool, typer.Option("--extend", help="Go on with a study that is finished, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Tune a script as it is: each trial runs it with other flags.

    An unfinished study of the same command and space goes on. Metrics are read from JSON that the script prints, and
    from what a Trainer in it evaluates and saves.
    """
    metrics = [*(minimize or ()), *(maximize or ())]
    if not metrics:
        metrics, minimize = ["eval_loss"], ["eval_loss"]
    parameters = _default() if space is None else read_space(space)
    runner = ScriptRunner(
        command,
        parameters,
        metrics,
        workers=_workers(workers),
        threads_per_trial=threads,
        gpus_per_trial=gpus,
        trial_timeout=trial_timeout,
    )
    plan = Plan(
        directions=("minimize",) * len(minimize or ()) + ("maximize",) * len(maximize or ()),
        backend=backend,
        options={} if prune else {"pruner": optuna.pruners.NopPruner()},
        directory=directory or Path("tunesmith-studies") / _script(command),
        name=study,
        resume=True if extend else "auto",
        identity={"command": list(command), "objective": metrics, "space": describe(parameters)},
        seed=seed,
        space=parameters,
        budget=Budget(n_trials, timeout, max_failures),
        progress=not as_json,
        prune_metric=None,
    )

    def prepare(opened: Study) -> None:
        runner.directory = opened.directory
        for trial in opened.trials:
            if not trial.state.finished:
                checkpoints.clear_torn(opened, trial)

    found = conduct(plan, runner, prepare=prepare)
    if as_json:
        print_json(study_json(found))
        return
    if found.best_trials:
        typer.echo(f"{best_text(found.best_trials)}; its flags: tunesmith best {found.directory} --args flags")
    typer.echo(f"report: {found.directory / REPORT}")


def read_space(path: Path) -> Space:
    """The space in a YAML or JSON file: W&B's sweep form, or a SigOpt list. Raises SpaceError when it cannot be read."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506  a SafeLoader
    except OSError as error:
        raise SpaceError(f"the space must be a file that can be read, got {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise SpaceError(
            f"the space must be YAML or JSON, and {path} is neither: {' '.join(str(error).split())}"
        ) from error
    return parse_space(content)


def _default() -> Space:
    """The space that transformers searches when none is given."""
    return {name: d[0] for name, d in Probe.of(as_space_function(default_space)).distributions.items()}


# YAML 1.1 takes 1e-5 for a text; here it is a number, as in YAML 1.2
_Loader: Any = type("_Loader", (yaml.SafeLoader,), {})
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _workers(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise SettingError(f'workers must be a whole number from 1, or "auto", got {text!r}') from None


def _script(command: list[str]) -> str:
    """A name for the study's directory: that of the script."""
    scripts = [Path(part).stem for part in command if part.endswith((".py", ".sh"))]
    return scripts[0] if scripts else Path(command[0]).stem


settings: dict[str, Any] = {"allow_interspersed_args": False}  # the script's own options are its own
