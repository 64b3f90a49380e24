"""The inline runner keeps the contract."""

from runner_contract import RunnerContract

from tunesmith.runners.inline import InlineRunner


class TestInlineRunner(RunnerContract):
    def make(self, task):
        return InlineRunner(task)
