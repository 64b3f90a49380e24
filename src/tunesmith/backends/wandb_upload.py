"""The uploader of W&B runs: a process of its own, so that no network ever holds up a search.

Started as `python -m tunesmith.backends.wandb_upload`. Each line of its input is JSON: `{"path": run file, "how": ...}`,
where how is "live" (it is being written), "whole" (it has been) or "left" (an earlier process left it, perhaps cut off).
A run is sent by W&B's own sync, again and again until that succeeds, and then its path is written to the output. It
ends when its input does, after what can be sent then; the rest is sent at the next start of the study, or by `wandb
sync`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

LAST_TRY = 0.5  # seconds for the runs that are on their way when the input ends
_AGAIN = 1.0  # seconds between tries


def synced(path: Path) -> bool:
    """Whether W&B's sync has sent the whole run."""
    return path.with_suffix(".wandb.synced").exists()


def empty(path: Path) -> bool:
    """Whether a killed process has left a file without even the run in it: W&B's sync would wait for that for ever."""
    return path.stem.removeprefix("run-").encode() not in path.read_bytes()


class Uploads:
    """The files to be sent, each by a thread of its own; those of one run (of a trial that went on) one after the other."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._turns: dict[str, threading.Lock] = {}  # by the file's name, which has the run's id
        self._threads: dict[Path, threading.Thread] = {}
        self._finished: set[Path] = set()
        self._lock = threading.Lock()

    def add(self, path: Path, how: str) -> None:
        """Send a run."""
        with self._lock:
            if how != "live":
                self._finished.add(path)
            if path not in self._threads:
                turn = self._turns.setdefault(path.name, threading.Lock())
                self._threads[path] = threading.Thread(target=self._send, args=(path, turn, how), daemon=True)
                self._threads[path].start()

    def wait(self, seconds: float) -> None:
        """Wait for the runs that were written to their end."""
        until = time.monotonic() + seconds
        for path, thread in list(self._threads.items()):
            if path in self._finished:
                thread.join(max(0.0, until - time.monotonic()))

    def _send(self, path: Path, turn: threading.Lock, how: str) -> None:
        with turn:
            while not synced(path) and not (how == "left" and empty(path)):
                # a run of ours is followed until the file has its end, which W&B's client may write after finish()
                self._sync(path, live=how != "left")
                if not synced(path):
                    time.sleep(_AGAIN)
        with self._lock:
            self._out.write(f"{path}\n")
            self._out.flush()

    def _sync(self, path: Path, *, live: bool) -> None:
        from wandb.cli.beta_sync import sync  # noqa: PLC0415  an optional package

        try:
            sync(
                [path],
                live=live,
                entity="",
                project="",
                run_id="",
                job_type="",
                replace_tags="",
                dry_run=False,
                skip_confirmation=True,
                skip_synced=True,
                skip_online=False,
                verbose=False,
                parallelism=1,
            )
        except Exception as error:  # noqa: BLE001  whatever it was, the run is on disk and is tried again
            sys.stderr.write(f"{path.name}: {type(error).__name__}: {error}\n")


def main() -> None:
    """Serve until the input ends."""
    os.environ["WANDB_MODE"] = "online"
    os.environ.setdefault("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "1")  # it is cut to whole seconds
    uploads = Uploads(sys.stdout)
    with contextlib.redirect_stdout(io.StringIO()):
        for line in sys.stdin:
            request = json.loads(line)
            uploads.add(Path(request["path"]), request["how"])
        uploads.wait(LAST_TRY)
    os._exit(0)  # W&B's own exit would wait for a network that is gone


if __name__ == "__main__":
    main()
