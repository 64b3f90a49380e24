"""A SigOpt server on loopback for the real client: the core experiments API, answered by SigOpt's own optimiser.

Paths, verbs, keys and status codes are those of a self-hosted sigopt-server (test_sigopt_contract.py compares them with
what one has answered), and it refuses what that one does (sigopt_rules). Lists come newest first, and in pages. Requests
that it does not know are kept in `unknown`, for the tests to find none there. `fail_next` injects failures: (method, path's end, status, before or after
the request took effect); status None cuts the connection.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import sigopt_rules as rules
from sigopt_rules import Refused

from tunesmith.backends.sigopt_lite import optimiser

TOKEN = "loopback"
CLIENT = "1"
PAGE = 3  # items of a list at once; a real server has 1000


class Experiment:
    """One experiment: its form, its suggestions and observations in order."""

    def __init__(self, id_, body):
        self.id, self.body = id_, body
        self.parameters = {p["name"]: p for p in body["parameters"]}
        self.conditionals = {c["name"]: c["values"] for c in body.get("conditionals") or []}
        self.suggestions, self.observations, self.queue = {}, {}, []
        self.deleted = False
        self.model = self._model()

    def _model(self):
        optimiser()
        from sigoptlite.builders import LocalExperimentBuilder

        flat = [{k: v for k, v in p.items() if k != "conditions"} for p in self.body["parameters"]]
        flat += [{"name": n, "type": "categorical", "categorical_values": v} for n, v in self.conditionals.items()]
        metrics = [dict(m) for m in self.body["metrics"] if m["strategy"] != "store"]
        try:
            return LocalExperimentBuilder(
                {"name": "e", "parameters": flat, "metrics": metrics}
                | {"observation_budget": self.body.get("observation_budget")}
            )
        except ValueError as error:
            raise Refused(400, str(error)) from error

    def wanted(self, name, assignments):
        return all(assignments.get(c) in values for c, values in self.parameters[name].get("conditions", {}).items())

    def check(self, assignments):
        """Refuse assignments that are not exactly the parameters, each with a value of its own kind."""
        wanted = {n for n in self.parameters if self.wanted(n, assignments)} | set(self.conditionals)
        if set(assignments) != wanted:
            raise Refused(400, f"assignments must be those of {sorted(wanted)}, got {sorted(assignments)}")
        for name, value in assignments.items():
            p = self.parameters.get(name, {"type": "categorical", "categorical_values": self.conditionals.get(name)})
            if p["type"] == "categorical":
                good = value in p["categorical_values"]
            elif isinstance(value, bool) or not isinstance(value, int | float):
                good = False
            elif p.get("grid"):
                good = value in p["grid"]
            else:
                good = p["bounds"]["min"] <= value <= p["bounds"]["max"]
                good = good and (p["type"] == "double" or value == int(value))
            if not good:
                raise Refused(400, f"{name}={value!r} is no value of {p}")

    def propose(self):
        if self.queue:
            return self.queue.pop(0)["assignments"]
        sources = optimiser()
        from sigoptlite.models import LocalObservation, MetricEvaluation

        data = [
            LocalObservation(
                assignments=o["assignments"],
                failed=o["failed"],
                metric_evaluations={v["name"]: MetricEvaluation(name=v["name"], value=v["value"]) for v in o["values"]},
            )
            for o in self.observations.values()
        ]
        state = np.random.get_state()  # noqa: NPY002  the generator that libsigopt uses
        np.random.seed(len(self.suggestions))  # noqa: NPY002
        try:
            good = sum(not o.failed for o in data)
            if good <= max(2 * self.model.dimension, 4):
                found = sources.RandomSearchSource(self.model).get_suggestion(data).assignments
            else:
                source = sources.GPSource(self.model)
                source.update_hyperparameters(data, None)
                found = source.get_suggestion(data).assignments
        finally:
            np.random.set_state(state)  # noqa: NPY002
        found = json.loads(json.dumps(dict(found), default=lambda v: v.item()))
        return {n: v for n, v in found.items() if n in self.conditionals or self.wanted(n, found)}

    def observe(self, id_, body):
        rules.observation(self.body, body)
        suggestion, assignments = body.get("suggestion"), body.get("assignments")
        if suggestion is not None:
            if str(suggestion) not in self.suggestions:
                raise Refused(400, f"Suggestion {suggestion} does not exist")
            self.suggestions[str(suggestion)]["state"] = "closed"
            assignments = self.suggestions[str(suggestion)]["assignments"]
        self.check(assignments)
        self.observations[id_] = {
            "object": "observation", "id": id_, "assignments": assignments, "suggestion": suggestion,
            "experiment": self.id, "created": int(time.time()), **self._values(body),
        }  # fmt: skip
        return self.observations[id_]

    def _values(self, body):
        values = [{"object": "metric_evaluation", "value_stddev": None, **v} for v in body.get("values") or []]
        return {"failed": bool(body.get("failed")), "values": values, "metadata": body.get("metadata")}

    def public(self):
        return {
            "object": "experiment", "id": self.id, "state": "deleted" if self.deleted else "active", "client": CLIENT,
            **self.body,
            "parameters": [{"conditions": {}, "bounds": None, "transformation": None, **p, "object": "parameter",
                            "categorical_values": [{"name": v, "enum_index": i + 1, "object": "categorical_value"}
                                                   for i, v in enumerate(p.get("categorical_values") or [])] or None}
                           for p in self.body["parameters"]],
        }  # fmt: skip


class SigOptServer:
    def __init__(self):
        self.experiments, self.projects, self.requests, self.unknown, self.fail_next = {}, set(), [], [], []
        self._ids, self._lock = 0, threading.RLock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def _serve(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                url = urllib.parse.urlsplit(self.path)
                failure = server._failure(self.command, url.path)
                try:
                    if failure and failure[3] == "before":
                        raise Refused(failure[2], "injected")
                    if self.headers["Authorization"] != "Basic " + base64.b64encode(f"{TOKEN}:".encode()).decode():
                        raise Refused(403, "This endpoint requires a valid API token.")
                    with server._lock:
                        query = dict(urllib.parse.parse_qsl(url.query))
                        answer = server._answer(self.command, url.path, json.loads(body or b"{}"), query)
                    status = 200
                    if failure:
                        raise Refused(failure[2], "injected")
                except Refused as error:
                    if error.status is None:
                        self.close_connection = True
                        self.connection.close()
                        return
                    status, answer = error.status, {"message": str(error), "status": error.status}
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_DELETE = _serve

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                """A connection that a test cuts."""

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self):
        self._http.shutdown()
        self._http.server_close()

    def count(self, method, end):
        """How many requests of this method had a path that ends so."""
        return sum(m == method and p.endswith(end) for m, p in self.requests)

    def _failure(self, method, path):
        with self._lock:
            self.requests.append((method, path))
            for failure in self.fail_next:
                if method == failure[0] and path.endswith(failure[1]):
                    self.fail_next.remove(failure)
                    return failure
        return None

    def _id(self):
        self._ids += 1
        return str(self._ids)

    def _answer(self, method, path, body, query):
        routes = [
            ("GET", r"/v1/tokens/self", lambda: {"object": "token", "client": CLIENT, "token": TOKEN}),
            ("POST", rf"/v1/clients/{CLIENT}/projects", lambda: self._make_project(body)),
            ("POST", rf"/v1/clients/{CLIENT}/experiments", lambda: self._make_experiment(body)),
            ("GET", rf"/v1/clients/{CLIENT}/projects/([^/]+)/experiments", lambda p: _page(
                [e.public() for e in self.experiments.values() if e.body["project"] == p and not e.deleted], query)),
            ("GET", r"/v1/experiments/(\d+)", lambda e: self._experiment(e).public()),
            ("PUT", r"/v1/experiments/(\d+)", lambda e: self._update(self._experiment(e), body)),
            ("DELETE", r"/v1/experiments/(\d+)", lambda e: self._delete(self._experiment(e))),
            ("GET", r"/v1/experiments/(\d+)/suggestions", lambda e: _page(
                [s for s in self._experiment(e).suggestions.values() if query.get("state") in (None, s["state"])], query)),
            ("POST", r"/v1/experiments/(\d+)/suggestions", lambda e: self._suggest(self._experiment(e), body)),
            ("DELETE", r"/v1/experiments/(\d+)/suggestions/(\d+)", lambda e, s: self._drop(self._experiment(e), s)),
            ("GET", r"/v1/experiments/(\d+)/queued_suggestions", lambda e: _page(self._experiment(e).queue, query)),
            ("POST", r"/v1/experiments/(\d+)/queued_suggestions", lambda e: self._queue(self._experiment(e), body)),
            ("GET", r"/v1/experiments/(\d+)/observations", lambda e: _page(
                list(self._experiment(e).observations.values()), query)),
            ("POST", r"/v1/experiments/(\d+)/observations",
             lambda e: self._experiment(e).observe(self._id(), body)),
            ("POST", r"/v1/experiments/(\d+)/observations/batch", lambda e: self._observe_all(self._experiment(e), body)),
            ("PUT", r"/v1/experiments/(\d+)/observations/(\d+)", lambda e, o: self._change(self._experiment(e), o, body)),
        ]  # fmt: skip
        for verb, pattern, answer in routes:
            if verb == method and (match := re.fullmatch(pattern, path)):
                return answer(*match.groups())
        self.unknown.append((method, path))
        raise Refused(404, f"Endpoint not found: {path}")

    def _experiment(self, id_):
        if id_ not in self.experiments:
            raise Refused(404, "The requested resource could not be found")
        return self.experiments[id_]

    def _make_project(self, body):
        rules.project(body)
        if body["id"] in self.projects:
            raise Refused(409, f"The project {body['id']} already exists")
        self.projects.add(body["id"])
        return {"object": "project", **body}

    def _make_experiment(self, body):
        body = {"metadata": None, "project": None, "conditionals": [], **body}
        body["metrics"] = [{"strategy": "optimize", "threshold": None, **m} for m in body["metrics"]]
        rules.experiment(body)
        rules.demand(body["project"] in {None, *self.projects}, "Could not assign to a project that does not exist.")
        made = Experiment(self._id(), body)
        self.experiments[made.id] = made
        return made.public()

    def _observe_all(self, experiment, body):
        rules.keys("batch", body)
        made = [experiment.observe(self._id(), b) for b in body["observations"]]
        return {"object": "pagination", "count": len(made), "data": made, "paging": {"before": None, "after": None}}

    def _update(self, experiment, body):
        rules.update(experiment.body, body)
        experiment.body.update(body)
        return experiment.public()

    def _delete(self, experiment):
        experiment.deleted = True
        return {}

    def _suggest(self, experiment, body):
        rules.keys("suggestion", body)
        if experiment.deleted:
            raise Refused(400, "Cannot create suggestions for deleted experiment")
        made = {"object": "suggestion", "id": self._id(), "assignments": experiment.propose(), "state": "open",
                "experiment": experiment.id, "metadata": body.get("metadata"), "created": int(time.time()),
                "deleted": False}  # fmt: skip
        experiment.suggestions[made["id"]] = made
        return made

    def _drop(self, experiment, suggestion):
        experiment.suggestions[suggestion]["state"] = "deleted"
        return {}

    def _queue(self, experiment, body):
        rules.keys("queued", body)
        experiment.check(body["assignments"])
        made = {"object": "queued_suggestion", "id": self._id(), "assignments": body["assignments"],
                "experiment": experiment.id, "created": int(time.time())}  # fmt: skip
        experiment.queue.append(made)
        return made

    def _change(self, experiment, observation, body):
        before = experiment.observations[observation]
        rules.changed(experiment.body, body, before)
        before.update(experiment._values(body))
        return before


def _page(items, query):
    """The newest first; the next page has what was made before the last of this one."""
    left = [i for i in reversed(items) if int(i["id"]) < int(query.get("before") or 10**9)]
    more = left[PAGE - 1]["id"] if len(left) > PAGE else None
    paging = {"object": "paging", "before": more, "after": None}
    return {"object": "pagination", "count": len(items), "data": left[:PAGE], "paging": paging}
