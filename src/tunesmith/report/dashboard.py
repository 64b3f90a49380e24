"""The live dashboard: the report pages of several studies, served with updates (server-sent events) and a few actions.

Standard library only: a thread a client, one watcher a study, and 50 clients cost no more than one. Nothing in a request
names a file: studies have keys that are looked up. See `access` for who may do what.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tunesmith import steering
from tunesmith.errors import SettingError, TunesmithError
from tunesmith.record import Record
from tunesmith.report.access import Access
from tunesmith.report.data import report_data
from tunesmith.report.model_data import model_data
from tunesmith.report.page import index, island, page, policy
from tunesmith.report.standing import standing_of
from tunesmith.report.summary import best_text
from tunesmith.study import Study

_LOOK = 1.0  # seconds between looks at a study that somebody watches
_HEARTBEAT = 10.0
_CLIENTS = 256  # event streams at once
_BODY = 64_000
_MODEL_SHARE = 0.1  # of the time may go into the model
_FINDING = 5.0  # seconds between looks for new studies


class Dashboard(ThreadingHTTPServer):
    """Serves the studies that `find()` gives, on `host` and `port` (0: a free one), until `shutdown`.

    Raises SettingError when the address cannot be served.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, find: Callable[[], Iterable[Path]], *, host: str, port: int, token: str) -> None:
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise SettingError(f"a dashboard needs an address of this machine, got {host}:{port}: {error}") from error
        self.access = Access(host, self.server_port, token)
        self.clients = threading.BoundedSemaphore(_CLIENTS)
        self._find = find
        self._lock = threading.Lock()
        self._feeds: dict[str, Feed] = {}
        self._looked = float("-inf")

    def feeds(self) -> Mapping[str, Feed]:
        """The studies by their keys."""
        with self._lock:
            if time.monotonic() - self._looked > _FINDING:
                known = {hashlib.sha256(str(p.resolve()).encode()).hexdigest()[:12]: p for p in self._find()}
                self._feeds = {key: self._feeds.get(key) or Feed(path) for key, path in known.items()}
                self._looked = time.monotonic()
            return self._feeds


@dataclass
class Feed:
    """What is new of one study, for all that watch it: read once, however many they are."""

    path: Path
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _version: int = 0
    _message: str = ""
    _watchers: int = 0
    _watcher: threading.Thread | None = None
    _study: Study | None = None
    _model: Mapping[str, Any] | None = None
    _modelled: tuple[int, float] = (-1, float("-inf"))  # completed trials, and when a model may be made again

    def data(self) -> dict[str, Any]:
        """The study as the page's JSON. Raises RecordError when it cannot be read."""
        with self._changed:
            study = self._opened()
            trials = study.trials
            done = sum(t.values is not None for t in trials)
            if done != self._modelled[0] and time.monotonic() >= self._modelled[1]:
                began = time.monotonic()
                self._model = model_data(study)
                spent = time.monotonic() - began
                self._modelled = done, began + spent / _MODEL_SHARE
            began = min((t.started for t in trials if t.started is not None), default=time.time())
            running = steering.activity(study)
            now = {}
            if running == "running":
                now = {"now": round(time.time() - began, 1), "left": standing_of(study).seconds_left(time.time())}
            return {**report_data(study, self._model), "activity": running, **now}

    def messages(self) -> Iterator[str | None]:
        """The study as JSON, now and whenever it has changed; None when it is time for a sign of life."""
        seen = -1
        with self._watching():
            while True:
                message, seen = self._wait(seen)
                yield message

    def _wait(self, seen: int) -> tuple[str | None, int]:
        with self._changed:
            new = self._changed.wait_for(lambda: self._version != seen and bool(self._message), _HEARTBEAT)
            return (self._message if new else None), (self._version if new else seen)

    @contextmanager
    def _watching(self) -> Iterator[None]:
        with self._changed:
            self._watchers += 1
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="tunesmith-dashboard", daemon=True)
                self._watcher.start()
        try:
            yield
        finally:
            with self._changed:
                self._watchers -= 1

    def _watch(self) -> None:
        last: tuple[Any, str] = (None, "")
        while True:
            with self._changed:
                if not self._watchers:
                    self._watcher = None
                    return
                last = self._look(last)
            time.sleep(_LOOK)

    def _look(self, last: tuple[Any, str]) -> tuple[Any, str]:
        """Publish what has changed since `last`: the trials, and whether the search runs; or an error."""
        try:
            study = self._opened()
            trials, activity = study.trials, steering.activity(study)
            due = (
                self._modelled[0] != sum(t.values is not None for t in trials) and time.monotonic() >= self._modelled[1]
            )
            if trials is not last[0] or activity != last[1] or due:
                self._publish(island(self.data()))
        except (TunesmithError, OSError) as error:  # it was removed, or is being repaired
            self._study = None
            if last[1] != str(error):
                self._publish(island({"error": str(error)}))
            return None, str(error)
        return trials, activity

    def _publish(self, message: str) -> None:
        with self._changed:
            self._message, self._version = message, self._version + 1
            self._changed.notify_all()

    def _opened(self) -> Study:
        if self._study is None:
            self._study = Study(Record.open(self.path, read_only=True))
        return self._study


class _Handler(BaseHTTPRequestHandler):
    """Answers one client."""

    server: Dashboard
    timeout = 60
    protocol_version = "HTTP/1.1"

    def version_string(self) -> str:
        """Nothing of Python's version."""
        return "tunesmith"

    def log_message(self, *_: Any) -> None:
        """Nothing: addresses hold the token once."""

    def do_GET(self) -> None:
        """Pages and event streams."""
        address = urlsplit(self.path)
        refusal = self.server.access.refusal(self.headers)
        if refusal is not None:
            self._text(HTTPStatus.FORBIDDEN, refusal)
            return
        given = parse_qs(address.query).get("token", [""])[0]
        if given and self.server.access.right(given):
            self._redirect(address.path or "/", cookie=self.server.access.cookie(given))
            return
        if not self.server.access.may_look(self.headers):
            self._text(HTTPStatus.UNAUTHORIZED, "open the address that `tunesmith dashboard` printed, with its token")
            return
        feeds = self.server.feeds()
        parts = address.path.split("/")
        if address.path == "/":
            if len(feeds) == 1:
                self._redirect(f"/s/{next(iter(feeds))}/")
            else:
                self._html(index([(f"/s/{key}/", _summary(feed)) for key, feed in feeds.items()]))
        elif len(parts) == 4 and parts[1] == "s" and parts[2] in feeds and parts[3] in ("", "events"):  # noqa: PLR2004
            feed = feeds[parts[2]]
            if parts[3] == "events":
                self._stream(feed)
            else:
                self._study(feed)
        else:
            self._text(HTTPStatus.NOT_FOUND, "there is no such page; / lists the studies")

    def do_POST(self) -> None:
        """Actions."""
        refusal = self.server.access.refusal_to_act(self.headers)
        size = (
            int(self.headers.get("Content-Length") or 0)
            if (self.headers.get("Content-Length") or "0").isdigit()
            else -1
        )
        if refusal is not None or not 0 < size <= _BODY:
            self.close_connection = True  # the body is not read
            status = HTTPStatus.FORBIDDEN if refusal is not None else HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            self._json(status, refusal or f"a request has 1 to {_BODY} bytes of JSON")
            return
        body = self.rfile.read(size)
        parts = urlsplit(self.path).path.split("/")
        feed = self.server.feeds().get(parts[2]) if len(parts) == 4 and parts[1::2] == ["s", "actions"] else None  # noqa: PLR2004
        if feed is None:
            self._json(HTTPStatus.NOT_FOUND, "there is no such study")
            return
        try:
            self._json(HTTPStatus.OK, _act(feed.path, json.loads(body)))
        except (TunesmithError, ValueError, TypeError, AttributeError) as error:
            self._json(HTTPStatus.BAD_REQUEST, str(error))

    # -- answers -------------------------------------------------------------------------------------------------

    def _study(self, feed: Feed) -> None:
        try:
            data = feed.data()
        except (TunesmithError, OSError) as error:
            self._text(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
            return
        self._html(page(data["name"], data, live=True))

    def _stream(self, feed: Feed) -> None:
        if not self.server.clients.acquire(blocking=False):
            self._text(HTTPStatus.SERVICE_UNAVAILABLE, f"{_CLIENTS} pages are open; close some")
            return
        try:
            self._head(HTTPStatus.OK, "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            for message in feed.messages():
                self.wfile.write(b": alive\n\n" if message is None else f"data: {message}\n\n".encode())
                self.wfile.flush()
        except (OSError, ValueError):
            return  # the client has gone
        finally:
            self.server.clients.release()

    def _head(self, status: HTTPStatus, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        for name, value in _HEADERS.items():
            self.send_header(name, value)

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        content = text.encode("utf-8", "replace")
        self._head(status, kind)
        self.send_header("Content-Security-Policy", policy(live=True) + "; frame-ancestors 'none'")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _html(self, text: str) -> None:
        self._send(HTTPStatus.OK, "text/html", text)

    def _text(self, status: HTTPStatus, text: str) -> None:
        self._send(status, "text/plain", text + "\n")

    def _json(self, status: HTTPStatus, message: str) -> None:
        self._send(status, "application/json", json.dumps({"message": message}))

    def _redirect(self, where: str, *, cookie: str | None = None) -> None:
        self._head(HTTPStatus.SEE_OTHER, "text/plain")
        self.send_header("Location", "/" + where.lstrip("/"))  # never //another.host
        if cookie is not None:
            self.send_header("Set-Cookie", cookie)
        self.send_header("Content-Length", "0")
        self.end_headers()


_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def _summary(feed: Feed) -> tuple[str, str, str, str, str]:
    """A study's name, whether it runs, its best value, how its trials ended, and its directory."""
    try:
        study = Study(Record.open(feed.path, read_only=True))
    except (TunesmithError, OSError) as error:
        return feed.path.name, str(error), "", "", str(feed.path)
    with study.record:
        best = study.best_trials
        return study.name, steering.activity(study), best_text(best) if best else "", study.summary(), str(feed.path)


def _act(path: Path, wanted: Mapping[str, Any]) -> str:
    """Do what a page asks for, and say what was done. Raises TunesmithError, or ValueError for a malformed request."""
    with Record.open(path) as record:
        study, action = Study(record), wanted.get("action")
        if action == "stop":
            return f"{steering.stop(study, 'asked on the dashboard')} will pause its trials"
        if action == "retry":
            trial = steering.retry(study, _number(wanted))
            return f"trial {trial.number} waits for attempt {trial.attempt}; {steering.outlook(study)}"
        if action == "enqueue":
            values = wanted.get("values")
            if not isinstance(values, list):
                raise SettingError(f"values are a list of NAME=VALUE, got {values!r}")
            number, params = steering.enqueue(study, [str(v) for v in values])
            return f"trial {number} waits with {params}; {steering.outlook(study)}"
        if action == "note":
            number = _number(wanted)
            steering.note(study, number, str(wanted.get("text", "")))
            return f"noted on trial {number}"
    raise SettingError(f"an action is stop, retry, enqueue or note, got {action!r}")


def _number(wanted: Mapping[str, Any]) -> int:
    number = wanted.get("trial")
    if not isinstance(number, int) or isinstance(number, bool):
        raise SettingError(f"a trial's number is a whole number, got {number!r}")
    return number
