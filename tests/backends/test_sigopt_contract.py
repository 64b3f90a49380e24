"""The SigOpt server of these tests answers as a real one did (`sigopt_contract.json`, recorded from a sigopt-server).

It refuses what that one refuses, so that whatever a search sends in the tests of the backend, a real server takes.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sigopt_server import TOKEN, SigOptServer

sigopt = pytest.importorskip("sigopt", reason="SigOpt's client is not installed")
pytest.importorskip("sigoptlite", reason="SigOpt's optimiser, which the server uses, is not installed")

RECORDED = json.loads(Path(__file__).with_name("sigopt_contract.json").read_text(encoding="utf-8"))
PARAMETERS = [
    {"name": "x", "type": "double", "bounds": {"min": 0, "max": 1}},
    {"name": "lr", "type": "double", "bounds": {"min": 1e-5, "max": 1e-1}, "transformation": "log"},
    {"name": "k", "type": "int", "bounds": {"min": 1, "max": 5}},
    {"name": "o", "type": "categorical", "categorical_values": ["adam", "sgd"]},
]
POINT = {"x": 0.1, "lr": 1e-3, "k": 2, "o": "sgd"}


def metric(name, **more):
    return {"name": name, "objective": "minimize", **more}


@pytest.fixture
def answers(monkeypatch):
    """What the real client sees of this server, by the names of the recording."""
    server = SigOptServer()
    monkeypatch.setenv("SIGOPT_API_URL", server.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = {}

    def note(name, request):
        try:
            found[name] = request()
        except sigopt.exception.ApiException as error:
            found[name] = f"{type(error).__name__} {error.status_code}"
        return found[name]

    connection = sigopt.Connection(client_token=TOKEN)
    client = connection.clients(note("token", lambda: connection.tokens("self").fetch()).client)

    def create(**changes):
        return client.experiments().create(
            **{
                "name": "n",
                "parameters": PARAMETERS,
                "metrics": [metric("a")],
                "observation_budget": 6,
                "parallel_bandwidth": 2,
                **changes,
            }
        )

    own = connection.experiments(note("experiment", create).id)
    first, second = note("suggestion", own.suggestions().create), own.suggestions().create()
    note("open", lambda: list(own.suggestions().fetch(state="open").iterate_pages()))
    half = [{"name": "a", "value": 0.5}]
    note("observation", lambda: own.observations().create(suggestion=first.id, values=half))
    note("observation twice", lambda: own.observations().create(suggestion=first.id, values=half))
    note("failed", lambda: own.observations().create(suggestion=second.id, failed=True))
    note("own", lambda: own.observations().create(assignments=POINT, values=half, metadata={"q": 1}))
    note("missing metric", lambda: own.observations().create(assignments=POINT, values=[]))
    note("queued", lambda: own.queued_suggestions().create(assignments=POINT))
    note("update", lambda: own.update(observation_budget=20))
    note("no such", lambda: connection.experiments(999999).fetch())
    note("3 metrics", lambda: create(metrics=[metric(n) for n in "abc"]))
    note("unknown key", lambda: create(training_monitor={}))
    note("multimetric", lambda: create(metrics=[metric("a"), metric("b")], observation_budget=30))
    momentum = {"name": "m", "type": "double", "bounds": {"min": 0, "max": 1}, "conditions": {"opt": ["sgd"]}}
    opt = {"name": "opt", "values": ["sgd", "adam"]}
    note("conditionals", lambda: create(parameters=[*PARAMETERS[:1], momentum], conditionals=[opt]))
    note("project", lambda: client.projects().create(id="p", name="p"))
    note("project twice", lambda: client.projects().create(id="p", name="p"))
    note("bad token", lambda: sigopt.Connection(client_token="bad").tokens("self").fetch())
    yield found
    server.stop()
    assert server.unknown == []


def agrees(ours, recorded, path=""):
    """Where an answer has what the recorded one lacks, or of another type; what may be null there may be so here."""
    if hasattr(ours, "to_json"):
        ours = ours.to_json()
    if isinstance(ours, dict):
        if not recorded:
            return []  # nothing was there to be recorded
        if not isinstance(recorded, dict):
            return [] if recorded == "NoneType" else [f"{path}: {recorded}"]
        odd = [f"{path}.{key}" for key in ours if key not in recorded]
        return odd + [e for key in ours if key in recorded for e in agrees(ours[key], recorded[key], f"{path}.{key}")]
    if isinstance(ours, list):
        return [e for item in ours if recorded not in ([], "NoneType") for e in agrees(item, recorded[0], path)]
    kind = type(ours).__name__ if isinstance(ours, bool | str) or ours is None else "number"
    good = "NoneType" in (kind, recorded) or kind == recorded
    return [] if good else [f"{path}: {kind}, recorded {recorded}"]


def test_each_answer_has_only_what_a_real_server_gave(answers):
    expected = {n: r for n, r in RECORDED.items() if not isinstance(r, str)}
    assert {n: agrees(answers[n], r) for n, r in expected.items()} == {n: [] for n in expected}


def test_what_the_backend_reads_is_in_each_answer(answers):
    assert set(answers["suggestion"].to_json()) == set(RECORDED["suggestion"])
    assert set(answers["observation"].to_json()) == set(RECORDED["observation"])
    assert set(answers["queued"].to_json()) == set(RECORDED["queued"])
    assert {"id", "metadata", "metrics", "parameters", "conditionals"} <= set(answers["experiment"].to_json())


def test_what_a_real_server_refused_is_refused_with_the_same_status(answers):
    refused = {n: r for n, r in RECORDED.items() if isinstance(r, str)}
    refused["project twice"] = "ConflictingProjectException 409"  # recorded by its class
    assert {n: answers[n].partition(" ")[2] for n in refused} == {n: r.partition(" ")[2] for n, r in refused.items()}
