"""Checkpoints in storage that every node reaches by a URL (s3://, gs://, file:// ...), through fsspec."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from tunesmith.errors import MissingDependencyError, SettingError
from tunesmith.masking import mask


class Storage:
    """A copy of a study's checkpoints at `url`, under the paths that they have in the study's directory.

    Raises SettingError for a URL that fsspec cannot open, MissingDependencyError where fsspec, or its part for such URLs, is
    not installed.
    """

    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs  # type: ignore[import-untyped]  # noqa: PLC0415  an optional package
        except ImportError as error:
            raise MissingDependencyError("storage needs fsspec: pip install fsspec") from error
        try:
            self._fs, root = url_to_fs(str(url))
        except ImportError as error:
            raise MissingDependencyError(f"storage {mask(url)!r} needs a package: {error}") from error
        except ValueError as error:
            raise SettingError(f"storage must be a URL that fsspec can open, got {mask(url)!r}: {error}") from error
        self._root = str(root).rstrip("/")

    def put(self, checkpoint: Path, study: Path) -> None:
        """Send a checkpoint of the study; those that lay beside it and are gone from here go there, too."""
        self.clear(checkpoint.parent, study)
        run = self._place(checkpoint.parent, study)
        if checkpoint.name in self._names(run):
            self._fs.rm(f"{run}/{checkpoint.name}", recursive=True)
        self._fs.makedirs(run, exist_ok=True)
        self._fs.put(f"{checkpoint}/", f"{run}/{checkpoint.name}/", recursive=True)

    def clear(self, folder: Path, study: Path) -> None:
        """Remove what is stored of a trial's checkpoints and gone from its folder."""
        run = self._place(folder, study)
        for name in self._names(run):
            if name.startswith("checkpoint-") and not (folder / name).is_dir():
                self._fs.rm(f"{run}/{name}", recursive=True)

    def bring(self, checkpoint: Path, study: Path) -> None:
        """Have a checkpoint here, and those that lie beside it there; nothing is done where it is here already."""
        if checkpoint.is_dir():
            return
        run = self._place(checkpoint.parent, study)
        names = [n for n in self._names(run) if n == checkpoint.name or n.startswith("checkpoint-")]
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        for name in names:
            part = Path(tempfile.mkdtemp(prefix="taken-", dir=checkpoint.parent))
            try:
                self._fs.get(f"{run}/{name}/", f"{part}/", recursive=True)
                with suppress(OSError):  # another rank on this node was first
                    part.rename(checkpoint.parent / name)
            finally:
                shutil.rmtree(part, ignore_errors=True)

    def _place(self, folder: Path, study: Path) -> str:
        try:
            inner = folder.absolute().relative_to(study.absolute())
        except ValueError as error:
            raise SettingError(
                f"a checkpoint must lie in its trial's directory to be stored, got {folder} outside of {study}; save it "
                "under trial.directory"
            ) from error
        return f"{self._root}/{inner.as_posix()}"

    def _names(self, folder: str) -> set[str]:
        self._fs.invalidate_cache()
        try:
            return {str(path).rstrip("/").rpartition("/")[2] for path in self._fs.ls(folder, detail=False)}
        except FileNotFoundError:
            return set()


def stores() -> bool:
    """Whether this process sends checkpoints: of the ranks of a trial, the first one does."""
    return os.environ.get("RANK", "0") == "0"
