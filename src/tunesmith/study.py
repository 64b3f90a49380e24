"""The study: where its files lie, and what is known of its results."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import export
from tunesmith.errors import SettingError, TunesmithError
from tunesmith.masking import MASK
from tunesmith.record import FILE, Record, StudyInfo
from tunesmith.storage import Storage
from tunesmith.trial import GIVEN, Trial, TrialState, signs

if TYPE_CHECKING:
    import optuna
    import pandas as pd

    from tunesmith.engine import Importance
    from tunesmith.trust import Trust


@dataclass(frozen=True)
class Snapshot:
    """A study's record as it was at one moment, for processes that do not have its file."""

    path: Path
    info: StudyInfo
    found: tuple[Trial, ...]

    def trials(self) -> tuple[Trial, ...]:
        """All trials in order of their numbers."""
        return self.found


class Study:
    """One search: its trials and what follows from them. Reading is safe while another process runs it."""

    def __init__(self, record: Record | Snapshot, storage_url: str | None = None) -> None:
        self._record = record
        self.storage_url = storage_url  # where this process has it from: the record keeps no passwords
        self.analysis: Any = None  # what Ray Tune gives of a search that it drove in this process

    def __reduce__(self) -> tuple[type[Study], tuple[Snapshot, str | None]]:
        """Elsewhere it is what it was when it was pickled."""
        return Study, (Snapshot(self._record.path, self.info, self.trials), self.storage_url)

    def __repr__(self) -> str:
        done = sum(t.state.finished for t in self.trials)
        return f"Study(name={self.name!r}, directory={str(self.directory)!r}, finished_trials={done})"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        show = import_module("tunesmith.report.table").study_html  # found by name: the report stands above the study
        return str(show(self))

    @property
    def record(self) -> Record:
        """The store behind this study. Raises TunesmithError for a study that came from another process."""
        if isinstance(self._record, Snapshot):
            raise TunesmithError(
                f"the record of a study is open where it runs; load_study({str(self.directory)!r}) reads it"
            )
        return self._record

    @property
    def info(self) -> StudyInfo:
        """Name, directions, seed and settings."""
        return self._record.info

    @property
    def name(self) -> str:
        """The study's name."""
        return self.info.name

    @property
    def directory(self) -> Path:
        """The folder that holds the record, the report and the runs."""
        return self._record.path.parent

    @property
    def directions(self) -> tuple[str, ...]:
        """`"minimize"` or `"maximize"`, one per objective."""
        return tuple(self.info.directions)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials in order of their numbers."""
        return self._record.trials()

    @property
    def best_trial(self) -> Trial:
        """The completed trial with the best objective (the first one of equals) among those that keep their constraints.

        Raises TunesmithError when there is none, SettingError when there are several objectives.
        """
        if len(self.directions) > 1:
            raise SettingError(
                f"best_trial needs one objective, got {len(self.directions)}; best_trials gives the Pareto set"
            )
        done = self.completed()
        if not done:
            raise TunesmithError(f"no trial of study {self.name!r} has completed: {self.summary()}")
        done = [t for t in done if t.feasible]
        if not done:
            raise TunesmithError(
                f"no completed trial of study {self.name!r} keeps its constraints: loosen them, or go on"
            )
        sign = signs(self.directions)[0]
        return min(done, key=lambda t: (sign * _values(t)[0], t.number))

    @property
    def best_trials(self) -> tuple[Trial, ...]:
        """The Pareto set, best first objective first (with one objective: its best trial), of the completed trials that
        keep their constraints; empty if there are none."""  # noqa: D205, D209  one sentence
        done = [t for t in self.completed() if t.feasible]
        if not done:
            return ()
        if len(self.directions) == 1:
            return (self.best_trial,)
        to_losses = signs(self.directions)
        losses = {t.number: tuple(s * v for s, v in zip(to_losses, _values(t), strict=True)) for t in done}
        front = [t for t in done if not any(_dominates(losses[o.number], losses[t.number]) for o in done if o is not t)]
        return tuple(sorted(front, key=lambda t: (losses[t.number], t.number)))

    def completed(self) -> list[Trial]:
        """The trials that completed."""
        return [t for t in self.trials if t.state is TrialState.COMPLETE and t.values is not None]

    def run_directory(self, number: int) -> Path:
        """Where a trial's files lie; made from its number, never from a name."""
        return self.directory / f"run-{number}"

    def checkpoint(self, trial: Trial) -> Path | None:
        """The directory of the weights that the trial's value belongs to, None when they were not saved or are gone."""
        if trial.checkpoint is None:
            return None
        path = self.directory / trial.checkpoint
        return path if path.is_dir() else None

    @property
    def storage(self) -> str | None:
        """The URL where checkpoints are copied to: the one that this process was given, else the recorded one."""
        recorded: str | None = self.info.settings.get("storage")
        return self.storage_url or recorded

    def bring(self, trial: Trial) -> Path | None:
        """As `checkpoint`, from the study's storage where it is not here.

        Raises SettingError where the storage has a password, which the record does not keep, and this process was not given it.
        """
        if trial.checkpoint is not None and self.storage is not None and self.checkpoint(trial) is None:
            if MASK in self.storage:
                raise SettingError(
                    f"the record keeps no passwords, and the checkpoint of trial {trial.number} lies at {self.storage}; pass the "
                    f"whole URL: load_study({str(self.directory)!r}, storage_url=...)"
                )
            Storage(self.storage).bring(self.directory / trial.checkpoint, self.directory)
        return self.checkpoint(trial)

    def given(self, trial: Trial) -> dict[str, Any]:
        """What training was given: what hp_space has made of the suggested `params`, and what else was suggested."""
        made = trial.attrs.get(GIVEN)
        if made is None:
            return dict(trial.params)
        space = self.info.settings.get("identity", {}).get("space") or {}
        return {**made, **{n: v for n, v in trial.params.items() if n not in space}}

    def summary(self) -> str:
        """How many trials ended how, with the commonest reasons, in one line."""
        counts: dict[str, int] = {}
        reasons: dict[str, int] = {}
        for t in self.trials:
            counts[t.state.value.lower()] = counts.get(t.state.value.lower(), 0) + 1
            if t.state is TrialState.FAILED and t.reason:
                reasons[t.reason] = reasons.get(t.reason, 0) + 1
        text = ", ".join(f"{n} {state}" for state, n in counts.items()) or "no trials"
        common = sorted(reasons.items(), key=lambda item: -item[1])[:3]
        return text + "".join(f"; {n} x {reason}" for reason, n in common)

    def importances(self, objective: int = 0) -> dict[str, Importance]:
        """How much each parameter matters for an objective, the one that matters most first.

        `importances["learning_rate"].total` is the share of the objective's variance over the space that the parameter
        has a hand in, with its 90 % interval `low` to `high`; `.main` what it explains alone. Wide intervals mean that
        the trials do not tell yet. Computed from a model of the completed trials, the same each time; about a second.

        Raises TunesmithError when fewer than six trials have completed, SettingError when there is no such objective.
        """
        from tunesmith.dimensions import dimensions  # noqa: PLC0415  a study that is only read needs no scipy
        from tunesmith.engine.importance import FEWEST, importances  # noqa: PLC0415

        if not 0 <= objective < len(self.directions):
            raise SettingError(f"objective must be from 0 to {len(self.directions) - 1}, got {objective}")
        done = [t for t in self.completed() if t.params]
        if len(done) < FEWEST:
            raise TunesmithError(f"importances need {FEWEST} completed trials with parameters, got {len(done)}")
        space = {name: d for t in done for name, d in t.distributions.items()}
        sign = signs(self.directions)[objective]
        losses = [sign * _values(t)[objective] for t in done]
        return importances(dimensions(space), [t.params for t in done], losses, seed=self.info.seed)

    def trust(self) -> Trust | None:
        """Whether the best trial can be trusted: what training it again would come to, and how likely it is the best.

        `study.trust().sentences` says it in words. None with several objectives, and while too few trials have completed
        (six, and two for each parameter more). Some 20 ms.
        """
        from tunesmith.trust import trust  # noqa: PLC0415  a study that is only read needs no scipy

        return trust(self.trials, self.directions, seed=self.info.seed)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per trial."""
        return export.to_dataframe(self.trials, self.directions)

    def to_optuna(self) -> optuna.Study:
        """An in-memory Optuna study with all trials, whichever backend proposed them."""
        return export.to_optuna(self.trials, self.directions, self.name)

    def export(self, path: str | Path) -> Path:
        """Write the trials to `path`: .csv, .parquet, .log for an Optuna journal that optuna-dashboard opens, or
        .tensorboard for a folder that TensorBoard's HParams page shows."""  # noqa: D205, D209  one sentence
        return export.export(self.trials, self.directions, self.name, Path(path))


class Memory(MutableMapping[str, Any]):
    """What a backend keeps with the study, in the record: durable once it is set. Values are JSON."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def __getitem__(self, key: str) -> Any:
        return self._all()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._record.update_settings(backend={**self._all(), key: value})

    def __delitem__(self, key: str) -> None:
        self._record.update_settings(backend={k: v for k, v in self._all().items() if k != key})

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict[str, Any]:
        return dict(self._record.info.settings.get("backend", {}))


def load_study(path: str | Path, *, storage_url: str | None = None) -> Study:
    """Open the study in a directory for reading; `storage_url` is its search's, where that has a password."""
    path = Path(path)
    return Study(Record.open(path.parent if path.name == FILE else path, read_only=True), storage_url)


def _values(trial: Trial) -> tuple[float, ...]:
    return trial.values or ()


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))
