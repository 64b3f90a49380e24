"""What goes to the Hub with a Trainer that has searched: the real client, against a server of the Hub's protocol."""

import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("push_script.py")


class Hub(BaseHTTPRequestHandler):
    """Takes commits of any files, and leaves to the client's `.gitignore` what it leaves out, as the Hub does."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.endswith("/preupload/main"):
            asked = json.loads(body)
            rules = asked.get("gitIgnore", "").split()
            modes = [(f["path"], any(ignores(rule, f["path"]) for rule in rules)) for f in asked["files"]]
            answer = {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": ignored} for p, ignored in modes]}
        elif "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            self.server.commits.append([line["value"]["path"] for line in lines if line["key"] == "file"])
            answer = {"commitUrl": f"{self.server.url}/me/model/commit/0", "commitOid": "0", "success": True}
        else:
            answer = {"url": f"{self.server.url}/me/model", "id": "1", "name": "me/model"}
        self.answer(answer)

    def do_GET(self):
        self.answer({"id": "me/model", "sha": "0", "siblings": []})

    def answer(self, content):
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def ignores(rule, path):
    """Whether a rule, `/file*`, `/folder*/` or `/folder/file*`, is about this path."""
    top, inside, _ = path.partition("/")
    return fnmatch(f"/{top}{inside}", rule) or fnmatch(f"/{path}", rule)


@contextmanager
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url, server.commits = f"http://127.0.0.1:{server.server_port}", []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("kind", ["ours", "plain"])
def test_only_the_best_model_is_pushed_and_nothing_of_the_study(tmp_path, kind):
    left = {
        "study.gate",
        "tune-trials/1",
        "logs/trial-0.log",
        "wandb/run",
        "wandb-upload.log",
        "study.sqlite.damaged-1",
    }
    for name in left:  # by searches before, of other kinds
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with hub() as server:
        environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        subprocess.run([sys.executable, SCRIPT, tmp_path, kind], check=True, env=environment, cwd=SCRIPT.parent)
    (pushed,) = server.commits  # by the call after the search; none by trials
    found = {path.name for path in tmp_path.iterdir()}
    assert {"study.sqlite", "study.lock", "report.html", "run-0", "run-1", "study-2"} < found
    assert set(pushed) == {".gitignore", "README.md", "config.json", "model.safetensors", "training_args.bin"}
