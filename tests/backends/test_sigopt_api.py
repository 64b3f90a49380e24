"""The backend "sigopt" in api mode: SigOpt's own client against a server on loopback."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import optuna
import pytest
from sigopt_server import TOKEN, SigOptServer

import tunesmith
from tunesmith.backends import sigopt_api
from tunesmith.backends.sigopt import SigOptBackend
from tunesmith.errors import ServiceError, SettingError
from tunesmith.record import Record
from tunesmith.study import load_study
from tunesmith.testing.backends import BackendContract, TwoObjectives
from tunesmith.trial import TrialState

pytest.importorskip("sigopt", reason="SigOpt's client is not installed")
pytest.importorskip("sigoptlite", reason="SigOpt's optimiser, which the server uses, is not installed")


@pytest.fixture(autouse=True)
def server(monkeypatch, tmp_path):
    started = SigOptServer()
    monkeypatch.setenv("SIGOPT_API_URL", started.url)
    monkeypatch.setenv("SIGOPT_API_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("SIGOPT_PROJECT", raising=False)
    yield started
    started.stop()
    assert started.unknown == []


class TestApi(BackendContract):
    def make(self, setting):
        return SigOptBackend(setting)


class TestApiForTwo(TwoObjectives):
    def make(self, setting):
        return SigOptBackend(setting)


SPACE = {"x": optuna.distributions.FloatDistribution(-1, 1), "n": optuna.distributions.IntDistribution(1, 64, log=True)}


def bowl(trial):
    return trial.params["x"] ** 2 + trial.params["n"]


def go(directory, n_trials, objective=bowl, **settings):
    return tunesmith.search(
        objective,
        n_trials,
        directory=directory,
        backend="sigopt",
        progress=False,
        **{"seed": 1, "space": SPACE, **settings},
    )


def only(server):
    """The one experiment there is, and its observations in the order of our trials."""
    (experiment,) = (e for e in server.experiments.values() if not e.deleted)
    found = sorted(experiment.observations.values(), key=lambda o: int(o["metadata"]["tunesmith"].partition("#")[2]))
    return experiment, found


def test_a_search_makes_its_project_and_experiment_and_sends_each_trial_once(server, tmp_path):
    def some_fail(trial):
        if trial.number == 2:
            raise MemoryError("no room")
        return bowl(trial)

    study = go(tmp_path, 5, some_fail, project="mine", name="bowls")
    experiment, sent = only(server)
    assert server.projects == {"mine"}
    assert (experiment.body["name"], experiment.body["observation_budget"]) == ("bowls", 5)
    assert experiment.body["parallel_bandwidth"] == 1
    assert [o["failed"] for o in sent] == [False, False, True, False, False]
    assert [o["values"][0]["value"] for o in sent if not o["failed"]] == [t.value for t in study.completed()]
    assert sent[2]["metadata"]["reason"] == "oom: MemoryError: no room"
    assert all(o["suggestion"] == t.why["sigopt_suggestion"] for o, t in zip(sent, study.trials, strict=True))
    assert all(s["state"] == "closed" for s in experiment.suggestions.values())


def test_the_servers_model_proposes_and_finds_the_bottom(server, tmp_path):
    line = {"x": SPACE["x"]}
    study = go(tmp_path, 9, lambda trial: (trial.params["x"] - 0.3) ** 2, space=line)
    assert study.best_trial.value < 0.01


def test_a_resumed_study_goes_on_in_its_experiment_with_the_new_budget(server, tmp_path):
    go(tmp_path, 3)
    study = go(tmp_path, 5, resume=True)
    experiment, sent = only(server)
    assert len(sent) == len(study.trials) == 5
    assert len(experiment.suggestions) == 5
    assert experiment.body["observation_budget"] == 5


def test_several_objectives_two_are_optimised_and_the_rest_stored(server, tmp_path):
    study = go(
        tmp_path,
        3,
        lambda trial: (trial.params["x"], -trial.params["x"], 7.0),
        direction=["minimize", "maximize", "minimize"],
    )
    experiment, sent = only(server)
    assert [(m["objective"], m["strategy"]) for m in experiment.body["metrics"]] == [
        ("minimize", "optimize"),
        ("maximize", "optimize"),
        ("minimize", "store"),
    ]
    assert [tuple(v["value"] for v in o["values"]) for o in sent] == [t.values for t in study.trials]


def test_with_two_objectives_a_larger_budget_is_ours_alone_for_sigopt_lets_nobody_change_it(server, tmp_path):
    settings = {"direction": ["minimize", "minimize"]}
    go(tmp_path, 2, lambda trial: (trial.params["x"], 1.0), **settings)
    study = go(tmp_path, 4, lambda trial: (trial.params["x"], 1.0), resume=True, **settings)
    experiment, sent = only(server)
    assert len(sent) == len(study.completed()) == 4
    assert experiment.body["observation_budget"] == 2


def test_a_stored_metric_that_a_trial_lacks_fails_it_for_sigopt_for_a_server_takes_all_or_none(server, tmp_path):
    with pytest.warns(UserWarning, match='trial 0 has no "size"'):
        study = go(tmp_path, 2, metrics=[{"name": "size", "strategy": "store"}])
    _, sent = only(server)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 2
    assert [(o["failed"], o["values"]) for o in sent] == [(True, [])] * 2


def test_long_choices_and_steps_are_sent_as_a_server_takes_them(server, tmp_path):
    d = optuna.distributions
    space = {
        "path": d.CategoricalDistribution(tuple(f"{'a' * 60}/{k}" for k in range(3))),
        "share": d.FloatDistribution(0.0, 1.0, step=0.1),
    }
    study = go(
        tmp_path, 3, lambda trial: trial.params["share"], space=space, enqueue=[{"path": "a" * 60 + "/2", "share": 0.3}]
    )
    _, sent = only(server)
    assert study.trials[0].params == {"path": "a" * 60 + "/2", "share": 0.3}
    assert sent[0]["assignments"]["path"] == "2:" + "a" * 40
    assert sent[0]["suggestion"] is not None
    assert [o["values"][0]["value"] for o in sent] == [t.value for t in study.trials]


def test_a_name_that_a_server_would_refuse_is_refused_at_once(server, tmp_path):
    with pytest.raises(SettingError, match="lower-case letters"):
        go(tmp_path, 1, project="My project")
    assert server.requests == []


def test_metrics_with_a_threshold_and_stored_ones_are_sent(server, tmp_path):
    def measured(trial):
        trial.report(1.0, 1, metrics={"latency": 3.0, "size": 4.0})
        return 1.0

    more = [
        {"name": "latency", "strategy": "constraint", "objective": "minimize", "threshold": 5.0},
        {"name": "size", "strategy": "store"},
    ]
    go(tmp_path, 2, measured, metrics=more)
    experiment, sent = only(server)
    assert experiment.body["metrics"][1]["threshold"] == 5.0
    assert {v["name"]: v["value"] for v in sent[0]["values"]} == {"objective": 1.0, "latency": 3.0, "size": 4.0}


def test_initial_points_are_queued_and_served_first(server, tmp_path):
    study = go(tmp_path, 3, enqueue=[{"x": 0.25, "n": 8}, {"x": 0.5}])
    assert [dict(t.params) for t in study.trials[:1]] == [{"x": 0.25, "n": 8}]
    assert study.trials[1].params["x"] == 0.5
    experiment, sent = only(server)
    assert server.count("POST", "queued_suggestions") == 1
    assert sent[0]["assignments"] == {"x": 0.25, "n": 8.0}
    assert sent[0]["suggestion"] is not None
    assert (sent[1]["assignments"]["x"], sent[1]["suggestion"]) == (0.5, None)
    assert "open" not in {s["state"] for s in experiment.suggestions.values()}


def test_a_space_that_is_defined_by_run_grows_into_a_wider_experiment_with_all_observations(server, tmp_path):
    def branching(trial):
        if trial.suggest_categorical("kind", ["a", "b"]) == "a":
            return trial.suggest_float("x", 0, 1)
        return trial.suggest_int("n", 1, 5) / 5

    study = go(tmp_path, 8, branching, space=None)
    assert {len(t.params) for t in study.trials} == {2}
    assert {n for t in study.trials for n in t.params} == {"kind", "x", "n"}
    assert len(server.experiments) == 2
    experiment, sent = only(server)
    assert set(experiment.parameters) == {"kind", "x", "n"}
    assert [o["values"][0]["value"] for o in sent] == [t.value for t in study.trials]


def test_a_traced_space_has_sigopts_conditionals(server, tmp_path):
    from tunesmith.backends import Setting
    from tunesmith.testing.backends import Drive

    def define(trial):
        trial.suggest_float("lr", 1e-4, 1e-1, log=True)
        if trial.suggest_categorical("optimizer", ["adam", "sgd"]) == "sgd":
            trial.suggest_float("momentum", 0, 1)

    def asked(ask):
        d = optuna.distributions
        ask("lr", d.FloatDistribution(1e-4, 1e-1, log=True))
        if ask("optimizer", d.CategoricalDistribution(("adam", "sgd"))) == "sgd":
            ask("momentum", d.FloatDistribution(0, 1))

    drive = Drive(SigOptBackend, define=define)
    assert isinstance(drive.backend._setting, Setting)
    for _ in range(6):
        trial = drive.start(asked)
        assert set(trial.offered) == set(trial.params)
        drive.finish(trial.number, TrialState.COMPLETE, 1.0)
    experiment, sent = only(server)
    assert experiment.body["conditionals"] == [{"name": "optimizer", "values": ["adam", "sgd"]}]
    assert {("momentum" in o["assignments"]) == (o["assignments"]["optimizer"] == "sgd") for o in sent} == {True}
    assert len({o["assignments"]["optimizer"] for o in sent}) == 2


@pytest.mark.parametrize("status", [None, 502])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("path", ["observations", "suggestions", "experiments", "projects"])
def test_a_request_that_fails_is_tried_again_and_nothing_is_done_twice(server, tmp_path, path, status, moment):
    server.fail_next = [("POST", "/" + path, status, moment)]
    study = go(tmp_path, 3)
    assert server.fail_next == []
    experiment, sent = only(server)
    assert len(server.experiments) == 1
    assert len(experiment.suggestions) == 3
    assert [o["values"][0]["value"] for o in sent] == [t.value for t in study.trials]


@pytest.mark.parametrize("status", [None, 500])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("path", ["queued_suggestions", "observations/batch"])
def test_initial_points_and_whole_batches_are_not_done_twice_either(server, tmp_path, path, status, moment):
    def growing(trial):
        return trial.suggest_float("x", 0, 1) + (trial.suggest_float("y", 0, 1) if trial.number > 1 else 0.0)

    server.fail_next = [("POST", "/" + path, status, moment)]
    queues = path == "queued_suggestions"
    objective, more = (bowl, {"enqueue": [{"x": 0.25, "n": 8}]}) if queues else (growing, {"space": None})
    study = go(tmp_path, 4, objective, **more)
    assert server.fail_next == []
    experiment, sent = only(server)
    assert experiment.queue == []
    assert [o["values"][0]["value"] for o in sent] == [t.value for t in study.trials]
    assert len({json.dumps(dict(t.params)) for t in study.trials}) == 4


def test_a_point_that_a_killed_process_has_queued_is_not_queued_again(server, tmp_path):
    go(tmp_path, 1)
    experiment, _ = only(server)
    server._queue(experiment, {"assignments": {"x": 0.25, "n": 8.0}})
    with Record.open(tmp_path) as record:
        record.add_waiting({"x": 0.25, "n": 8})
    study = go(tmp_path, 3, resume=True)
    assert study.trials[1].params == {"x": 0.25, "n": 8}
    assert study.trials[2].params != study.trials[1].params
    assert server.count("POST", "queued_suggestions") == 0


def test_results_that_could_not_be_sent_are_sent_later(server, tmp_path, monkeypatch):
    monkeypatch.setattr(sigopt_api, "PATIENCE_TELL", 0.01)
    server.fail_next = [("POST", "/observations", 503, "before")] * 1
    with pytest.warns(UserWarning, match="sent when SigOpt answers again"):
        study = go(tmp_path, 3)
    _, sent = only(server)
    assert [o["values"][0]["value"] for o in sent] == [t.value for t in study.trials]


def test_a_server_that_cannot_be_reached_ends_the_search_which_goes_on_later(server, tmp_path, monkeypatch):
    monkeypatch.setattr(sigopt_api, "PATIENCE", 0.3)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("SIGOPT_API_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(ServiceError, match=r"cannot be reached .*run the same search again"):
            go(tmp_path, 3)
    monkeypatch.setenv("SIGOPT_API_URL", server.url)
    assert [t.state for t in go(tmp_path, 3).trials] == [TrialState.COMPLETE] * 3


def test_a_token_that_is_refused_is_an_error_at_once(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SIGOPT_API_TOKEN", "wrong")
    with pytest.raises(ServiceError, match=r"refused \(status 403\)"):
        go(tmp_path, 3)


def test_without_a_token_the_error_says_what_to_set(server, tmp_path, monkeypatch):
    monkeypatch.delenv("SIGOPT_API_TOKEN")
    monkeypatch.setenv("SIGOPT_HOME", str(tmp_path))
    with pytest.raises(SettingError, match="set SIGOPT_API_TOKEN"):
        go(tmp_path, 3)


def test_an_experiment_can_be_joined_by_another_study(server, tmp_path):
    go(tmp_path / "one", 3)
    experiment, _ = only(server)
    go(tmp_path / "two", 2, experiment=experiment.id)
    assert len(experiment.observations) == 5
    assert len(server.experiments) == 1


def test_joining_an_experiment_with_other_parameters_or_metrics_is_refused(server, tmp_path):
    go(tmp_path / "one", 1)
    experiment, _ = only(server)
    other = {**SPACE, "x": optuna.distributions.FloatDistribution(-1, 2)}
    with pytest.raises(SettingError, match=r"'x' is .*leave experiment= out"):
        go(tmp_path / "two", 1, experiment=experiment.id, space=other)
    with pytest.raises(SettingError, match="keeps its metrics"):
        go(tmp_path / "three", 1, experiment=experiment.id, direction="maximize")
    with pytest.raises(ServiceError, match="status 404"):
        go(tmp_path / "four", 1, experiment="9999")


def test_workers_share_one_experiment_with_their_number_as_its_bandwidth(server, tmp_path):
    study = go(tmp_path, 6, workers=2)
    experiment, sent = only(server)
    assert experiment.body["parallel_bandwidth"] == 2
    assert [o["values"][0]["value"] for o in sent] == [t.value for t in study.trials]


@pytest.mark.usefixtures("small_ray")
@pytest.mark.filterwarnings("ignore:no worker has started")  # on a loaded machine
def test_workers_that_are_yet_to_come_count_in_the_bandwidth(server, tmp_path):
    go(tmp_path, 1, runner="ray", workers=2)
    experiment, _ = only(server)
    assert experiment.body["parallel_bandwidth"] == 2


def test_a_killed_search_goes_on_in_its_experiment_and_sends_nothing_twice(server, tmp_path):
    script = textwrap.dedent(
        f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_sigopt_api import bowl, go

        def fatal(trial):
            if trial.number == 2 and trial.attempt == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return bowl(trial)

        go({str(tmp_path)!r}, 5, fatal)
        """
    )  # fmt: skip
    for code in (-signal.SIGKILL, 0):
        assert subprocess.run([sys.executable, "-c", script], check=False, timeout=120).returncode == code
    study = load_study(tmp_path)
    experiment, sent = only(server)
    assert len(server.experiments) == 1
    assert len(experiment.suggestions) == 5
    assert [o["values"][0]["value"] for o in sent] == [t.value for t in study.trials]
    assert study.trials[2].attempt == 2


def test_a_suggestion_that_was_made_just_before_the_end_is_used(server, tmp_path):
    go(tmp_path, 2)
    experiment, sent = only(server)
    token = sent[0]["metadata"]["tunesmith"].partition("#")[0]
    experiment.suggestions["900"] = {
        "object": "suggestion", "id": "900", "assignments": {"x": 0.125, "n": 2.0}, "state": "open",
        "metadata": {"tunesmith": f"{token}#2"},
    }  # fmt: skip
    study = go(tmp_path, 3, resume=True)
    assert dict(study.trials[2].params) == {"x": 0.125, "n": 2}
    assert json.dumps(study.trials[2].why["sigopt_suggestion"]) == '"900"'
