"""The process between a driver and a script: it keeps the script's output, and ends it with all its processes.

The script may start processes in sessions of their own (torchrun does): they are found as descendants of the guard,
which adopts orphans. The guard ends when the script does; when the driver asks for it through the control socket, the
script gets SIGTERM and some seconds; when the driver has died, everything is killed at once, so that the next one finds
nobody in a trial's directory.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import psutil

from tunesmith.masking import mask

TERM_TIME = 5.0  # seconds from SIGTERM to SIGKILL
_TICK = 0.2
_PR_SET_CHILD_SUBREAPER, _PR_SET_PDEATHSIG = 36, 1


def command(control: int, log: Path, script: Sequence[str]) -> list[str]:
    """The command that starts a guard; `control` is its end of a socket pair, which it inherits."""
    return [sys.executable, "-m", "tunesmith.guard", str(control), str(log), *script]


def main() -> None:
    """Run the script; exit with its code, 128 and more for a signal."""
    control, log, script = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)  # the driver decides; not SIG_IGN, which the script would inherit
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    with log.open("ab") as output:
        try:
            process = subprocess.Popen(  # noqa: S603  the user's own command
                script,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  this process has no threads
            )
        except OSError as error:
            output.write(f"{script[0]} cannot be run: {error}\n".encode())
            sys.exit(127)
        if process.stdout is None:
            raise RuntimeError("the script's output is a pipe")
        _watch(process, control, _Masked(output), process.stdout.fileno())
    code = process.wait()
    _end_all()
    sys.exit(code if code >= 0 else 128 - code)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _watch(process: subprocess.Popen[bytes], control: int, output: _Masked, source: int) -> None:
    """Keep the output until the script has ended; end it when the driver is gone or says so."""
    sources = [control, source]
    until = float("inf")
    while process.poll() is None:
        ready, _, _ = select.select(sources, [], [], _TICK)
        if control in ready:
            sources.remove(control)
            if os.read(control, 1):
                os.killpg(process.pid, signal.SIGTERM)
                until = time.monotonic() + TERM_TIME
            else:
                until = 0.0
        if time.monotonic() >= until:
            _signal_all(signal.SIGKILL)
            process.wait()
        if source in ready:
            _copy(source, output, sources)
    while source in sources and select.select([source], [], [], 0)[0]:  # what is left; orphans may hold the pipe
        _copy(source, output, sources)
    output.flush(whole=True)


def _copy(source: int, output: _Masked, sources: list[int]) -> None:
    chunk = os.read(source, 65536)
    if chunk:
        output.write(chunk)
    else:
        sources.remove(source)


def _end_all() -> None:
    """End what the script left running."""
    psutil.wait_procs(_signal_all(signal.SIGTERM), timeout=TERM_TIME)
    _signal_all(signal.SIGKILL)


def _signal_all(number: int) -> list[psutil.Process]:
    """Signal all descendants of this process."""
    left = [p for p in psutil.Process().children(recursive=True) if p.is_running()]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    return left


class _Masked:
    """Writes output line by line, without secrets."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode
        self._rest = ""

    def write(self, chunk: bytes) -> None:
        """Keep a piece of output; the last line waits for its end."""
        self._rest += self._decode(chunk)
        self.flush(whole=len(self._rest) > 1_000_000)  # noqa: PLR2004  one without line ends

    def flush(self, *, whole: bool) -> None:
        """Write the lines that are complete, or everything. A progress bar's returns end lines too."""
        end = len(self._rest) if whole else max(self._rest.rfind("\n"), self._rest.rfind("\r")) + 1
        self._file.write(mask(self._rest[:end]).encode())
        self._file.flush()
        self._rest = self._rest[end:]


if __name__ == "__main__":
    main()
