"""Opening a study: which earlier one a search goes on with, and where a new one begins."""

from __future__ import annotations

import errno
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tunesmith import function_identity
from tunesmith.errors import RecordCorruptError, SettingError, StudyChangedError
from tunesmith.masking import masked
from tunesmith.record import FILE, Record, StudyInfo
from tunesmith.record_file import set_aside
from tunesmith.record_lock import driving
from tunesmith.study import Study

Resume = Literal["auto"] | bool


def studies_in(directory: str | Path) -> list[Path]:
    """The folders of the studies that began in `directory`, oldest first."""
    home = Path(directory)
    numbered = [p for p in home.glob("study-*") if p.name.removeprefix("study-").isdigit()]
    folders = [home, *sorted(numbered, key=lambda p: int(p.name.removeprefix("study-")))]
    return [p for p in folders if (p / FILE).is_file()]


def open_study(
    directory: str | Path,
    *,
    name: str | None,
    directions: Sequence[str],
    seed: int,
    identity: Mapping[str, Any],
    resume: Resume,
) -> tuple[Study, str | None]:
    """Open the study that goes on, or begin a new one; also a sentence for the user when one goes on or might have.

    `identity` (JSON) is what must be the same for a study to go on: space, arguments, objective; under "functions" those
    that `function_identity` describes, which may be edited, with a warning. `resume="auto"` continues an unfinished study
    of the same identity and directions, `True` a finished one too, `False` none, and puts a damaged file aside. Under its
    `name`, `True` also takes other functions for the study's own, with a warning.
    Raises StudyChangedError when a study called `name` would go on but differs.
    """
    if resume not in ("auto", True, False):
        raise SettingError(f'resume must be "auto", True or False, got {resume!r}')
    home = Path(directory)
    identity = masked(json.loads(json.dumps(identity, default=str, sort_keys=True)))
    taken: set[str] = set()
    notice: str | None = None
    for folder in reversed(studies_in(home)):
        record = _whole(folder, anew=resume is False)
        if record is None:
            continue
        info = record.info
        taken.add(info.name)
        finished = bool(info.settings.get("finished"))
        wanted = name is None or info.name == name
        if wanted and resume is not False and (resume is True or not finished):
            differs = _differences(info, directions, identity)
            others = _other_functions(info, identity)
            insisted = name is not None and resume is True
            if not differs and (insisted or not others):
                _warn_of_edits(info, identity, others)
                return Study(record), _resume_message(Study(record))
            if name is not None:
                record.close()
                remedy = "" if differs else ", or resume=True to go on with it all the same"
                raise StudyChangedError(
                    f"study {name!r} in {folder} exists with other settings: {'; '.join([*others, *differs])}. "
                    f"Give this search another study name, or resume=False to start beside it{remedy}"
                )
            if notice is None and (resume is True or not finished):
                standing = "is finished" if finished else "is not finished"
                notice = (
                    f"study {info.name!r} in {folder} {standing}, and this is another search: {'; '.join([*others, *differs])}. "
                    "A new one begins beside it"
                )
        record.close()
    folder = _new_folder(home)
    label = _free_name(name or folder.name or "study", taken)
    record = Record.create(
        folder, name=label, directions=tuple(directions), seed=seed, settings={"identity": identity, "finished": False}
    )
    return Study(record), notice


def _whole(folder: Path, *, anew: bool) -> Record | None:
    """The record in a folder; where a study is to begin anew, a damaged one is put aside instead, with a warning."""
    path = folder / FILE
    try:
        return Record.open(folder)
    except RecordCorruptError as error:
        foreign = error.errno == errno.EINVAL and path.stat().st_size > 0  # perhaps another program's
        if foreign or not anew:
            raise
    with driving(folder, folder.name):
        kept = set_aside(path)
    warnings.warn(
        f"the study in {folder} is damaged and cannot be read: its file is kept as {kept.name}, and a new study begins",
        UserWarning,
        stacklevel=6,
    )
    return None


def _new_folder(home: Path) -> Path:
    """`home` itself when nothing of a search lies there, else the next free `home/study-<k>`."""
    if not (home / FILE).exists() and not any(home.glob("run-*")):
        return home
    k = 2
    while (home / f"study-{k}").exists():
        k += 1
    return home / f"study-{k}"


def _free_name(name: str, taken: set[str]) -> str:
    label, k = name, 2
    while label in taken:
        label, k = f"{name}-{k}", k + 1
    return label


def _differences(info: StudyInfo, directions: Sequence[str], identity: Mapping[str, Any]) -> list[str]:
    found = []
    if tuple(info.directions) != tuple(directions):
        found.append(f"directions were {list(info.directions)}, now {list(directions)}")
    known = info.settings.get("identity", {})
    for key in sorted({*known, *identity} - {"functions"}):
        before, now = known.get(key), identity.get(key)
        if before == now:
            continue
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            names = [n for n in sorted({*before, *now}) if before.get(n) != now.get(n)]
            found += [f"{key} {n!r} was {before.get(n, 'absent')}, now {now.get(n, 'absent')}" for n in names[:4]]
        else:
            found.append(f"{key} was {before}, now {now}")
    return found


def _functions(known: Mapping[str, Any], identity: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """The functions that both describe: records of older versions know of none."""
    before, now = known.get("functions", {}), identity.get("functions", {})
    return ((role, before[role], now[role]) for role in before if role in now)


def _other_functions(info: StudyInfo, identity: Mapping[str, Any]) -> list[str]:
    known = info.settings.get("identity", {})
    return [
        text
        for role, before, now in _functions(known, identity)
        for text in function_identity.differences(role, before, now)
    ]


def _warn_of_edits(info: StudyInfo, identity: Mapping[str, Any], others: Sequence[str]) -> None:
    known = info.settings.get("identity", {})
    edited = [role for role, before, now in _functions(known, identity) if function_identity.edited(before, now)]
    changed = [*others, *(f"{role}'s code was edited" for role in edited if not others)]
    if changed:
        warnings.warn(
            f"a study's trials should come of the same functions, and since {info.name!r} began {'; '.join(changed)}; "
            "where values no longer compare, pass resume=False",
            UserWarning,
            stacklevel=6,
        )


def _resume_message(study: Study) -> str:
    done = sum(t.state.finished for t in study.trials)
    return (
        f"resuming study {study.name!r} in {study.directory}: {done} trial(s) done "
        "(resume=False starts afresh, beside it)"
    )
