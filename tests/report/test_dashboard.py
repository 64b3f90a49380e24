"""The live dashboard, as browsers and attackers meet it."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import threading

import pytest
from test_page import Elements

import tunesmith
from tunesmith.errors import SettingError
from tunesmith.record import Record
from tunesmith.report.dashboard import Dashboard, Feed
from tunesmith.trial import TrialState

TOKEN = "right-token-0123456789"


def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    if trial.number == 2:
        raise ValueError("no such luck")
    return x


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    home = tmp_path_factory.mktemp("made")
    for name in ("one", "two"):
        tunesmith.search(objective, 5, directory=home / name, study=name, seed=0, progress=False).record.close()
    return home


@pytest.fixture
def directory(made, tmp_path):
    return shutil.copytree(made, tmp_path / "home")


@pytest.fixture
def server(directory):
    with Dashboard(
        lambda: sorted(p.parent for p in directory.rglob("study.sqlite")), host="127.0.0.1", port=0, token=TOKEN
    ) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(server, path, *, method="GET", body=None, **headers):
    """A request with exactly these headers; underscores stand for hyphens."""
    port = server.server_port
    given = {"Host": f"127.0.0.1:{port}", **{k.replace("_", "-"): v for k, v in headers.items()}}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    content = b"" if body is None else (body if isinstance(body, bytes) else json.dumps(body).encode())
    if body is not None:
        given.setdefault("Content-Length", str(len(content)))
    for name, value in given.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(content)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer, text


def act(server, study, body, **changes):
    headers = {
        "Origin": f"http://127.0.0.1:{server.server_port}", "Content_Type": "application/json",
        "Cookie": f"tunesmith-{server.server_port}={TOKEN}", **changes,
    }  # fmt: skip
    answer, text = ask(server, f"/s/{key(server, study)}/actions", method="POST", body=body, **headers)
    return answer.status, json.loads(text)["message"]


def key(server, name):
    return next(k for k, feed in server.feeds().items() if feed.path.name == name)


def stream(server, name, **headers):
    port = server.server_port
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    lines = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
    connection.sendall(f"GET /s/{key(server, name)}/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{lines}\r\n".encode())
    return connection.makefile("r", encoding="utf-8"), connection


def message(file):
    for line in file:
        if line.startswith("data: "):
            return json.loads(line[6:])
    raise AssertionError("the stream has ended")


def test_the_studies_are_listed_and_each_has_the_page_of_the_report(server):
    _, text = ask(server, "/")
    assert sorted(line for line in Elements(text).texts if line in ("one", "two")) == ["one", "two"]
    assert "4 complete, 1 failed; 1 x error: ValueError: no such luck" in Elements(text).texts
    assert any(line.startswith("best ") for line in Elements(text).texts)
    answer, text = ask(server, f"/s/{key(server, 'one')}/")
    assert answer.status == 200
    assert 'data-live="true"' in text
    assert "connect-src 'self'" in answer.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]


def test_fifty_clients_see_what_changes(server, directory):
    clients = [stream(server, "one") for _ in range(50)]
    assert all(len(message(file)["trials"]) == 5 for file, _ in clients)
    before = threading.active_count()
    with Record.open(directory / "one") as record:
        record.add_waiting({"x": 0.5})
    assert all(len(message(file)["trials"]) == 6 for file, _ in clients)
    assert threading.active_count() <= before
    for file, connection in clients:
        file.close()
        connection.close()


def test_a_study_that_is_removed_is_said_to_be_gone(server, directory):
    file, connection = stream(server, "one")
    message(file)
    for path in (directory / "one").glob("study.sqlite*"):
        path.unlink()
    server.feeds()[key(server, "one")]._study = None
    assert "no study here" in message(file)["error"]
    file.close()
    connection.close()


def test_a_running_search_says_how_long_it_will_take(tmp_path):
    go_on, waits = threading.Event(), threading.Event()

    def objective(trial):
        if trial.number == 2:
            waits.set()
            assert go_on.wait(120)
        return trial.suggest_float("x", 0, 1)

    def search():
        tunesmith.search(objective, 5, directory=tmp_path, seed=0, progress=False).record.close()

    running = threading.Thread(target=search)
    running.start()
    assert waits.wait(120)
    seen = Feed(tmp_path).data()
    go_on.set()
    running.join()
    assert (seen["activity"], seen["n_trials"]) == ("running", 5)
    assert seen["left"] > 0
    assert "left" not in Feed(tmp_path).data()


def test_actions_do_what_they_say(server, directory):
    assert act(server, "one", {"action": "retry", "trial": 2})[1].startswith(
        "trial 2 waits for attempt 2; it runs when"
    )
    assert act(server, "one", {"action": "enqueue", "values": ["x=0.25"]})[1].startswith(
        "trial 5 waits with {'x': 0.25}"
    )
    assert act(server, "one", {"action": "note", "trial": 0, "text": "odd <b>"}) == (200, "noted on trial 0")
    status, text = act(server, "one", {"action": "stop"})
    assert (status, "is not running: nothing to stop" in text) == (400, True)
    trials = tunesmith.load_study(directory / "one").trials
    assert (trials[2].state, trials[5].offered, trials[0].attrs["note"]) == (TrialState.WAITING, {"x": 0.25}, "odd <b>")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"action": "rm"}, 400), ({"action": "retry", "trial": "2; DROP TABLE trial"}, 400), ({"action": "retry", "trial": 99}, 400),
        ({"action": "enqueue", "values": ["y=1"]}, 400), ({"action": "enqueue", "values": 3}, 400), ({"action": "enqueue"}, 400),
        ({"action": "note", "trial": 0, "text": "x" * 3000}, 400), ([], 400), ("text", 400), (None, 400), (b"{", 400),
        (b"", 413), (b"x" * 70_000, 413),
    ],
)  # fmt: skip
def test_malformed_actions_change_nothing(server, directory, body, status):
    before = tunesmith.load_study(directory / "one").trials
    given = b"null" if body is None else body
    assert act(server, "one", given)[0] == status
    assert tunesmith.load_study(directory / "one").trials == before


@pytest.mark.parametrize(
    "changes",
    [
        {"Cookie": None}, {"Cookie": "tunesmith-0=x"}, {"Cookie": None, "Authorization": "Bearer wrong"}, {"Cookie": "\x80=;;"},
        {"Origin": None}, {"Origin": "null"}, {"Origin": "http://evil.example"}, {"Origin": "http://127.0.0.1:1"},
        {"Host": "evil.example"}, {"Content_Type": "text/plain"}, {"Content_Type": "application/x-www-form-urlencoded"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"},
    ],
    ids=str,
)  # fmt: skip
def test_an_action_without_token_origin_or_right_host_is_refused(server, directory, changes):
    status, _ = act(server, "one", {"action": "note", "trial": 0, "text": "owned"}, **changes)
    assert status == 403
    assert "note" not in tunesmith.load_study(directory / "one").trials[0].attrs


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        "",
        "localhost:{port}@evil",
        "[::1",
        None,
    ],
)
def test_a_page_of_another_name_that_resolves_here_gets_nothing(server, host):
    given = host if host is None else host.format(port=server.server_port)
    for path in ("/", f"/s/{key(server, 'one')}/", f"/s/{key(server, 'one')}/events"):
        answer, text = ask(server, path, Host=given)
        assert answer.status == 403
        assert "trials" not in text


def test_the_names_of_this_machine_are_taken(server):
    for name in ("127.0.0.1", "localhost", "LOCALHOST", "[::1]"):
        assert ask(server, "/", Host=f"{name}:{server.server_port}")[0].status == 200


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/s/../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/s/one/", "/s//events", "/study.sqlite",
     "//evil.example/", "/s/{key}/study.sqlite", "/s/{key}/..%2f..%2fetc%2fpasswd", "/s/{key}/../", "/s/{key}/events/x"],
)  # fmt: skip
def test_no_path_reaches_a_file(server, path):
    answer, text = ask(server, path.format(key=key(server, "one")))
    assert answer.status == 404
    assert text == "there is no such page; / lists the studies\n"


def test_the_token_moves_from_the_address_to_a_cookie(server):
    answer, _ = ask(server, f"//evil.example/?token={TOKEN}")
    assert answer.headers["Location"].startswith("/")
    assert not answer.headers["Location"].startswith("//")
    answer, _ = ask(server, f"/?token={TOKEN}")
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    assert answer.headers["Set-Cookie"] == f"tunesmith-{server.server_port}={TOKEN}; Path=/; HttpOnly; SameSite=Strict"
    assert ask(server, "/?token=wrong")[0].headers["Set-Cookie"] is None


def test_from_another_machine_nothing_is_seen_without_the_token(directory):
    with Dashboard(lambda: [directory / "one"], host="0.0.0.0", port=0, token=TOKEN) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        study = key(server, "one")
        for path in ("/", f"/s/{study}/", f"/s/{study}/events"):
            answer, text = ask(server, path)
            assert (answer.status, "one" in text) == (401, False)
        assert ask(server, f"/s/{study}/", Cookie=f"tunesmith-{server.server_port}={TOKEN}")[0].status == 200
        assert (
            ask(server, "/", Host=f"evil.example:{server.server_port}", Authorization=f"Bearer {TOKEN}")[0].status
            == 403
        )
        server.shutdown()


def test_an_address_that_is_not_this_machines_is_refused():
    with pytest.raises(SettingError, match=r"needs an address of this machine, got 192\.0\.2\.1:80"):
        Dashboard(list, host="192.0.2.1", port=80, token=TOKEN)


def test_the_command_prints_an_address_and_serves_it(tmp_path, directory):
    import signal
    import subprocess
    import sys

    command = [sys.executable, "-m", "tunesmith", "dashboard", str(directory), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    url = json.loads(process.stdout.readline())["url"]
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=30)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    connection.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    process.stdout.close()
