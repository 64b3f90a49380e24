"""The inline runner keeps the contract."""

from tunesmith.runners.inline import InlineRunner
from tunesmith.testing.runners import RunnerContract


class TestInlineRunner(RunnerContract):
    def make(self, task):
        return InlineRunner(task)
