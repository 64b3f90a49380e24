"""The inline runner: trials run in this process, one after the other, so that closures and notebooks keep working."""

from __future__ import annotations

from collections.abc import Iterator

from tunesmith.runners import Ended, Task, execute
from tunesmith.trial import Assignment, Link, LiveTrial


class InlineRunner:
    """Runs one trial at a time in the caller's thread, inside `events`."""

    slots = 1

    def __init__(self, task: Task) -> None:
        self._task = task
        self._next: tuple[Assignment, Link] | None = None

    def start(self, assignment: Assignment, link: Link) -> None:
        """Take the trial; it runs at the next call of `events`."""
        self._next = (assignment, link)

    def events(self, timeout: float | None) -> Iterator[Ended]:  # noqa: ARG002  a trial in this thread cannot be cut off
        """Run the trial that was started to its end."""
        if self._next is not None:
            (assignment, link), self._next = self._next, None
            outcome = execute(self._task, LiveTrial(assignment, link), n_objectives=assignment.n_objectives)
            yield Ended(assignment.number, outcome)

    def stop(self, number: int, reason: str) -> None:
        """Nothing to stop: between two calls of `events` no trial is running."""

    def close(self) -> None:
        """Nothing is held."""
