"""A W&B server on loopback for the real client: sweeps and runs, with suggestions by W&B's own `sweeps` package.

W&B's server is closed: what this one answers is inferred from what the client (0.31) asks. Operations that it does not
know are kept in `unknown`, for the tests to find none there.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import random
import re
import threading
import time
import urllib.parse
import warnings
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import yaml

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import sweeps

    # its first suggestion takes a second, in which the client might take the server for lost
    sweeps.next_run({"method": "random", "parameters": {"x": {"values": [1]}}}, [])

KEY = "f" * 40
ENTITY = "tester"


@contextmanager
def served(monkeypatch, directory):
    """A server, and an environment that leads W&B's client to it; what it did not know is a failure."""
    started = WandbServer()
    for name in [n for n in os.environ if n.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in started.environment(directory).items():
        monkeypatch.setenv(name, value)
    try:
        yield started
    finally:
        started.stop()
    assert started.unknown == []


class Run:
    def __init__(self, name, sweep=None, args=None):
        self.name, self.sweep, self.args = name, sweep, dict(args or {})
        self.config, self.summary, self.history = dict(args or {}), {}, []
        self.state, self.exitcode, self.should_stop, self.resumed = "pending", None, False, 0
        self.display_name = self.group = self.project = None

    @property
    def values(self):
        """The configuration without W&B's own part."""
        return {k: v["value"] for k, v in self.config.items() if k != "_wandb"}


class Sweep:
    def __init__(self, name, config, project):
        self.name, self.yaml, self.project = name, config, project
        self.config = yaml.safe_load(config)
        self.id = base64.b64encode(f"Sweep:{name}".encode()).decode()
        self.state, self.runs, self.queue, self.display_name = "PENDING", [], [], None

    def as_seen_by_sweeps(self):
        return [
            sweeps.SweepRun(name=r.name, state=r.state, config=r.args or r.config, summary_metrics=r.summary,
                            history=r.history, should_stop=r.should_stop, stopped=r.should_stop)
            for r in self.runs
        ]  # fmt: skip


class WandbServer:
    def __init__(self, *, scheduler=True):  # noqa: C901  one handler of HTTP
        self.scheduler, self.sweeps, self.runs, self.agents = scheduler, {}, {}, {}
        self.operations, self.unknown = [], []
        self.hold = threading.Event()  # cleared: the server accepts connections and does not answer
        self.hold.set()
        self._lock, self._made = threading.RLock(), 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def _body(self):
                data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

            def do_POST(self):
                body = json.loads(self._body() or b"{}")
                server.hold.wait()
                auth = "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode()
                if self.headers.get("Authorization") != auth:
                    return self._send(401, {"errors": [{"message": "user is not logged in"}]})
                stream = re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", self.path)
                with server._lock:
                    if self.path.endswith("/graphql"):
                        return self._send(*server._graphql(body))
                    if stream:
                        return self._send(200, server._stream(urllib.parse.unquote(stream[3]), body))
                server.unknown.append(self.path)
                return self._send(404, {})

            def do_PUT(self):
                self._body()
                if not self.path.startswith("/storage/"):
                    server.unknown.append(self.path)
                self._send(200, {})

            def do_GET(self):
                server.hold.wait()
                if self.path != "/healthz":
                    server.unknown.append(self.path)
                self._send(200, {})

            def _send(self, status, answer):
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                """The client resets idle connections when it ends."""

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self):
        self.hold.set()
        self._http.shutdown()
        self._http.server_close()

    def environment(self, directory):
        Path(directory).mkdir(parents=True, exist_ok=True)
        return {
            "WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online", "WANDB_ERROR_REPORTING": "false",
            "WANDB_SILENT": "true", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
            **{f"WANDB_{k}_DIR": f"{directory}/{k.lower()}" for k in ("CACHE", "CONFIG", "DATA")}, "WANDB_DIR": str(directory),
        }  # fmt: skip

    def only_sweep(self):
        (sweep,) = self.sweeps.values()
        return sweep

    def count(self, operation):
        return self.operations.count(operation)

    def in_order(self):
        """The runs in the order of our trials, without those that were given and never began, once all have arrived."""
        until = time.monotonic() + 60
        while any(run.state == "running" for run in self.runs.values()) and time.monotonic() < until:
            time.sleep(0.05)  # a search does not wait for its last runs to be sent
        return sorted((r for r in self.runs.values() if "trial" in r.values), key=lambda r: r.values["trial"])

    # -- what the client asks ------------------------------------------------------------------------------------

    def _graphql(self, body):
        operation = re.search(r"(?:query|mutation)\s+(\w+)", body["query"])[1]
        self.operations.append(operation)
        answer = getattr(self, f"_on_{operation}", None)
        if answer is None:
            self.unknown.append(operation)
            return 400, {"errors": [{"message": f"unknown operation {operation}"}]}
        try:
            return 200, {"data": answer(body.get("variables") or {})}
        except KeyError as error:
            return 404, {"errors": [{"message": f"not found: {error}"}]}

    def _on_Viewer(self, _):
        user = {"id": "VXNlcjox", "entity": ENTITY, "username": ENTITY, "name": ENTITY, "email": "", "admin": False}
        return {"viewer": {**user, "flags": "{}", "teams": {"edges": []}}}

    def _on_GetDefaultEntity(self, _):
        return {"viewer": {"id": "VXNlcjox", "entity": ENTITY}}

    def _on_ServerFeaturesQuery(self, _):
        return {
            "serverInfo": {"features": [{"name": "SWEEPS_LOCAL_SCHEDULER", "isEnabled": True}] * bool(self.scheduler)}
        }

    def _on_UpsertSweep(self, v):
        sweep = Sweep(self._name(), v["config"], v["projectName"])
        sweep.display_name = v.get("displayName")
        self.sweeps[sweep.name] = sweep
        for prior in json.loads(v.get("priorRunsFilters") or '{"$or": []}')["$or"]:
            run = self.runs[prior["name"]]
            run.sweep = sweep
            sweep.runs.append(run)
        project = {"id": "UDo=", "name": sweep.project, "entity": {"id": "RTo=", "name": v["entityName"]}}
        bad = sweeps.schema_violations_from_proposed_config(sweep.config)
        return {"upsertSweep": {"sweep": {"name": sweep.name, "project": project}, "configValidationWarnings": bad}}

    def _on_GetSweep(self, v):
        s = self.sweeps.get(v["name"])
        if s is None:
            return {"project": {"sweep": None}}
        return {"project": {"sweep": {
            "__typename": "Sweep", "id": s.id, "name": s.name, "displayName": s.display_name, "method": "", "state": s.state,
            "description": None, "bestLoss": None, "config": s.yaml, "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": "2026-01-01T00:00:00Z", "runCount": len(s.runs), "runCountExpected": None,
        }}}  # fmt: skip

    _on_GetSweepLegacy = _on_GetSweep

    def _on_GetSweepState(self, v):
        return {"project": {"sweep": {"state": self.sweeps[v["sweep"]].state}}}

    def _on_EnqueueSweepRun(self, v):
        sweep = next(s for s in self.sweeps.values() if s.id == v["id"])
        run = self._new_run(sweep, json.loads(v["config"]))
        sweep.queue.append(run)
        return {"enqueueSweepRun": {"id": run.name, "runQueueItemId": "Q"}}

    def _on_CreateAgent(self, v):
        sweep = self.sweeps[v["sweep"]]
        sweep.state = "RUNNING" if sweep.state == "PENDING" else sweep.state
        agent = f"agent-{len(self.agents)}"
        self.agents[agent] = (sweep, [])
        return {"createAgent": {"agent": {"id": agent}}}

    def _on_Heartbeat(self, v):
        sweep, mine = self.agents[v["id"]]
        commands = self._commands(sweep, mine, json.loads(v["runState"]))
        return {"agentHeartbeat": {"agent": {"id": v["id"]}, "commands": json.dumps(commands)}}

    def _on_UpsertBucket(self, v):
        run = self.runs.get(v.get("name")) or self.runs.setdefault(v["name"], Run(v["name"]))
        sweep = self.sweeps.get(v.get("sweep") or "")
        if sweep is not None and run not in sweep.runs:
            sweep.runs.append(run)
        run.sweep = run.sweep or sweep
        if v.get("config"):
            run.config.update(json.loads(v["config"]))
        run.group, run.display_name = v.get("groupName") or run.group, v.get("displayName") or run.display_name
        run.project = v.get("project") or v.get("modelName") or run.project
        inserted = run.state == "pending"
        run.resumed += run.state in ("failed", "finished", "killed", "crashed")
        run.state = "running"
        bucket = {
            "id": base64.b64encode(f"Run:{run.name}".encode()).decode(), "name": run.name, "displayName": run.display_name,
            "description": None, "config": json.dumps(run.config), "sweepName": run.sweep.name if run.sweep else None,
            "summaryMetrics": json.dumps(run.summary), "historyLineCount": len(run.history), "logLineCount": 0,
            "eventsLineCount": 0, "historyTail": json.dumps([json.dumps(h) for h in run.history[-1:]]), "tags": [],
            "eventsTail": "[]", "wandbConfig": None,
            "project": {"id": "UDo=", "name": run.project, "entity": {"id": "RTo=", "name": ENTITY}},
        }  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _on_RunResumeStatus(self, v):
        run = self.runs.get(v["name"])
        if run is None:
            return {
                "model": {
                    "id": "UDo=",
                    "name": v.get("project"),
                    "entity": {"id": "RTo=", "name": ENTITY},
                    "bucket": None,
                }
            }
        bucket = self._on_UpsertBucket({"name": run.name})["upsertBucket"]["bucket"]
        return {
            "model": {"id": "UDo=", "name": run.project, "entity": {"id": "RTo=", "name": ENTITY}, "bucket": bucket}
        }

    def _on_CreateRunFiles(self, v):
        files = [{"name": f, "uploadUrl": f"{self.url}/storage/{urllib.parse.quote(f)}"} for f in v["files"]]
        return {"createRunFiles": {"runID": "", "uploadHeaders": [], "files": files}}

    def _stream(self, name, body):
        run = self.runs[name]
        for file, part in body.get("files", {}).items():
            lines, start = part["content"], part["offset"]
            if file == "wandb-history.jsonl":
                run.history[start : start + len(lines)] = [json.loads(line) for line in lines]
            elif file == "wandb-summary.json":
                run.summary = json.loads(lines[-1])
        if body.get("complete"):
            run.exitcode = body["exitcode"]
            run.state = "finished" if run.exitcode == 0 else ("killed" if run.should_stop else "failed")
        if run.sweep is not None and run.sweep.config.get("early_terminate"):
            for bad in sweeps.stop_runs(run.sweep.config, run.sweep.as_seen_by_sweeps()):
                other = self.runs[bad.name]
                other.should_stop = other.should_stop or other.state == "running"
        return {"stopped": run.should_stop, "exitcode": None, "limits": {}}

    # -- the sweeps ----------------------------------------------------------------------------------------------

    def _name(self):
        self._made += 1
        return f"name{self._made:04d}"

    def _new_run(self, sweep, args):
        run = self.runs[name] = Run(name := self._name(), sweep, args)
        sweep.runs.append(run)
        return run

    def _commands(self, sweep, mine, running):
        stops = [{"type": "stop", "run_id": n} for n in running if n in self.runs and self.runs[n].should_stop]
        if stops or running or sweep.state == "PAUSED":
            return stops
        for run in mine:  # given to this agent, which does not have it any more
            run.state = "crashed" if run.state in ("pending", "running") else run.state
        run = None if sweep.state in ("FINISHED", "CANCELED") else self._next(sweep)
        if run is None:
            return [{"type": "exit"}] if sweep.state in ("FINISHED", "CANCELED") else []
        mine.append(run)
        return [{"type": "run", "run_id": run.name, "args": run.args, "program": "", "logs": []}]

    def _next(self, sweep):
        if sweep.queue or "scheduler" in sweep.config:
            return sweep.queue.pop(0) if sweep.queue else None
        states = random.getstate(), np.random.get_state()  # noqa: NPY002  the generators that `sweeps` uses
        random.seed(len(sweep.runs))
        np.random.seed(len(sweep.runs))  # noqa: NPY002
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = sweeps.next_run(sweep.config, sweep.as_seen_by_sweeps())
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
        if found is None:
            sweep.state = "FINISHED"
            return None
        return self._new_run(sweep, json.loads(json.dumps(found.config, default=lambda v: v.item())))
