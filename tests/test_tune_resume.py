"""A search by one of Ray Tune's search algorithms goes on: it learns what the trials of earlier starts came to."""

import json
import time
from pathlib import Path

import pytest
from ray import tune
from ray.tune.search import BasicVariantGenerator, Searcher
from ray.tune.search.optuna import OptunaSearch

from tunesmith import search
from tunesmith.errors import SettingError
from tunesmith.steering import stop
from tunesmith.trial import TrialState

pytestmark = pytest.mark.usefixtures("small_ray")

SPACE = {"x": tune.uniform(0, 1), "n": tune.randint(1, 9)}


def until_told(trial):
    """The third trial of the first start goes on until it is stopped; at another it goes on from its checkpoint."""
    x = trial.params["x"]
    if trial.number == 1:
        raise ValueError("a bad one")
    if trial.number != 2:
        return x
    start = json.loads((Path(trial.resume_from) / "step").read_text()) if trial.resume_from else 0
    step = start
    while not (start and step > start):
        step += 1
        trial.report(x, step)
        place = trial.directory / f"checkpoint-{step}"
        place.mkdir(parents=True, exist_ok=True)
        (place / "step").write_text(str(step))
        trial.save_checkpoint(str(place), step)
        time.sleep(0.05)
    return x


def run(tmp_path, n, search_alg, objective=until_told, **settings):
    given = {"space": SPACE, "seed": 3, "progress": False, "max_failures": 1, "max_concurrent_trials": 1, **settings}
    return search(objective, n, directory=tmp_path / "study", backend="ray", search_alg=search_alg, **given)


class Stops:
    """Asks the search to stop once the third trial has reported."""

    def on_report(self, study, trial):
        if trial.number == 2 and trial.checkpoint_step is not None:
            stop(study, "a test")


def endless(trial):
    for step in range(10**9):
        trial.report(0.0, step)
        time.sleep(0.05)


def test_time_budget_s_pauses_what_runs(tmp_path):
    study = run(tmp_path, 2, OptunaSearch(seed=1), endless, time_budget_s=3)
    assert [(t.state, t.reason) for t in study.trials] in ([], [(TrialState.PAUSED, "timeout: 3 s are over")])
    assert not study.info.settings["finished"]


def test_optunas_search_goes_on_with_what_it_knew_and_a_total_budget(tmp_path):
    first = run(tmp_path, 5, OptunaSearch(seed=1), callbacks=[Stops()])
    states = [t.state for t in first.trials]
    assert states == [TrialState.COMPLETE, TrialState.FAILED, TrialState.PAUSED]
    assert first.trials[2].reason == "stopped: a test"
    searcher = OptunaSearch(seed=2)
    study = run(tmp_path, 5, searcher)
    assert study.trials[:2] == first.trials[:2]
    assert study.trials[2].params == first.trials[2].params
    assert study.trials[2].reports[: len(first.trials[2].reports)] == first.trials[2].reports
    assert [t.state for t in study.trials] == [*states[:2], *[TrialState.COMPLETE] * 3]
    learned = searcher._ot_study.trials
    values = {t.params["x"]: t.value for t in learned}
    assert values == {t.params["x"]: None if t.values is None else t.values[0] for t in study.trials}
    assert study.info.settings["finished"]


class Ordered(Searcher):
    """A user's own searcher, which takes no points: proposes the next number each time."""

    def __init__(self, begin=0.0):
        super().__init__()
        self.next, self.known = begin, []

    def set_search_properties(self, metric, mode, config, **spec):
        self._metric, self._mode = metric, mode
        return True

    def suggest(self, trial_id):
        self.next += 0.125
        return {"x": self.next, "n": 3}

    def on_trial_complete(self, trial_id, result=None, error=False):
        self.known.append((trial_id, None if error else result[self.metric]))

    def save(self, checkpoint_path):
        """Nothing is worth it."""


def value(trial):
    return trial.params["x"]


def test_a_searcher_that_takes_no_points_is_asked_again_and_must_propose_the_same(tmp_path):
    run(tmp_path, 2, Ordered(), value)
    searcher = Ordered()
    study = run(tmp_path, 3, searcher, value, resume=True)
    assert [t.params["x"] for t in study.trials] == [0.125, 0.25, 0.375]
    assert [v for _, v in searcher.known] == [0.125, 0.25, 0.375]
    with pytest.raises(SettingError, match=r"Ordered does not: it proposes {'x': 0.625, 'n': 3} where trial 0 had"):
        run(tmp_path, 4, Ordered(0.5), value, resume=True)
    with pytest.raises(
        SettingError, match="must be one of Ray Tune's searchers to go on with a study, got BasicVariant"
    ):
        run(tmp_path, 4, BasicVariantGenerator(), value, resume=True)
