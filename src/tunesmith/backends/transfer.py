"""What earlier studies found, as first trials of a new one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from tunesmith.errors import SettingError
from tunesmith.record import FILE, Record
from tunesmith.trial import Space, Trial, TrialState, contains, signs

MOST = 3  # first trials that earlier studies may have


class Earlier(Protocol):
    """A study, as far as it matters here."""

    @property
    def directions(self) -> tuple[str, ...]:
        """`"minimize"` or `"maximize"`, one per objective."""

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials."""


def transferred(
    studies: Sequence[Earlier | str | Path], directions: Sequence[str], space: Space | None
) -> list[dict[str, Any]]:
    """The best configuration of each earlier study, the newest study's first, at most `MOST`, each once.

    A study is given itself or by its path. Of a configuration, the parameters are kept whose values `space` contains (all
    where it is not known beforehand). One configuration is what proved safe: where the earlier problem was another one
    it costs a single trial, and nothing of it weighs on the model but its own result here. Raises SettingError for a
    study with other directions, without a completed trial, or that shares no parameter with the space.
    """
    found: list[dict[str, Any]] = []
    for study in reversed([studies] if isinstance(studies, str | Path) else list(studies)):
        where, theirs, trials = _read(study)
        if tuple(theirs) != tuple(directions):
            raise SettingError(
                f"warm_start studies must have the directions of this one, {list(directions)}; got {list(theirs)} in {where}"
            )
        done = [t for t in trials if t.state is TrialState.COMPLETE and t.values is not None and t.feasible]
        if not done:
            raise SettingError(f"a warm_start study must have a completed trial, got none in {where}; leave it out")
        sign = signs(directions)[0]
        best = min(done, key=lambda t: (sign * (t.values or (0.0,))[0], t.number))
        config = {n: v for n, v in best.params.items() if space is None or (n in space and contains(space[n], v))}
        if not config:
            raise SettingError(
                f"a warm_start study must share parameters with the space, got {', '.join(best.params)} in {where}; "
                f"the space has {', '.join(space or {})}"
            )
        if config not in found:
            found.append(config)
    return found[:MOST]


def _read(study: Earlier | str | Path) -> tuple[str, Sequence[str], Sequence[Trial]]:
    if not isinstance(study, str | Path):
        return repr(study), study.directions, study.trials
    path = Path(study)
    with Record.open(path.parent if path.name == FILE else path, read_only=True) as record:
        return str(path), record.info.directions, record.trials()
