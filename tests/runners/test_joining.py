"""The gate: only who knows the key comes in, and nobody keeps the driver waiting."""

import json
import pickle
import select
import socket
import stat
import tempfile
import threading
import time
from contextlib import closing
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path

import pytest

from tunesmith.folders import GATE
from tunesmith.runners import joining, reception
from tunesmith.runners.joining import Gate, knock
from tunesmith.runners.reception import Invitation
from tunesmith.runners.workers import WorkersRunner
from tunesmith.testing.runners import LIMIT, Driver, next_ended, square
from tunesmith.trial import Assignment


@pytest.fixture
def gate(tmp_path):
    with tempfile.TemporaryDirectory() as scratch, closing(Gate(tmp_path, Path(scratch))) as gate:
        yield gate


class Betrays:
    """Unpickling this is noticed."""

    def __reduce__(self):
        return (BETRAYED.append, ("unpickled",))


BETRAYED = []


def test_the_file_with_the_key_is_for_this_user_only_and_goes_with_the_gate(tmp_path):
    with tempfile.TemporaryDirectory() as scratch, closing(Gate(tmp_path, Path(scratch))):
        assert stat.S_IMODE((tmp_path / GATE).stat().st_mode) == 0o600
    assert not (tmp_path / GATE).exists()


def test_who_knows_the_key_comes_in_with_its_setup(gate, tmp_path):
    with knock(tmp_path, b"my setup"):
        connection, setup = gate.arrived()
        connection.close()
    assert setup == b"my setup"


def test_who_does_not_know_the_key_stays_outside_and_nothing_of_it_is_unpickled(gate, tmp_path):
    address = json.loads((tmp_path / GATE).read_text())["address"]
    with pytest.raises(AuthenticationError):
        Client(address, "AF_UNIX", authkey=b"guessed")
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(address)
        message = pickle.dumps(Betrays())
        stranger.sendall(len(message).to_bytes(4, "big") + message)
        stranger.shutdown(socket.SHUT_WR)
        while stranger.recv(4096):
            pass
    with knock(tmp_path, b"friend"):  # the gate goes on
        assert gate.arrived()[1] == b"friend"
    assert BETRAYED == []


def test_who_says_nothing_keeps_nobody_waiting_at_the_gate(gate, tmp_path, monkeypatch):
    monkeypatch.setattr(reception, "_PROOF_LIMIT", 1.0)
    address = json.loads((tmp_path / GATE).read_text())["address"]
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(address)
        with knock(tmp_path, b"friend"):
            assert gate.arrived()[1] == b"friend"


def test_who_comes_in_and_says_no_more_keeps_nobody_waiting_and_is_sent_away(gate, tmp_path, monkeypatch):
    monkeypatch.setattr(joining, "_SETUP_LIMIT", 1.0)
    way = json.loads((tmp_path / GATE).read_text())
    with Invitation(way["address"], 0, bytes.fromhex(way["key"])).accept() as suspended:
        with knock(tmp_path, b"friend"):
            assert select.select([gate], [], [], LIMIT)[0]
            assert gate.arrived()[1] == b"friend"
        with pytest.raises(EOFError):
            suspended.recv_bytes()


def test_nobody_is_there_when_a_killed_driver_has_left_its_file(tmp_path):
    (tmp_path / GATE).write_text(json.dumps({"address": str(tmp_path / "gone"), "key": "00"}))
    assert knock(tmp_path, b"") is None
    (tmp_path / GATE).write_text("{")
    assert knock(tmp_path, b"") is None
    (tmp_path / GATE).unlink()
    assert knock(tmp_path, b"") is None


def test_a_runner_takes_in_workers_and_they_go_when_it_ends(tmp_path):
    driving, lending = WorkersRunner(square, workers=1), WorkersRunner(square, workers=1)
    driving.open_gate(tmp_path)
    over = []
    lender = threading.Thread(target=lambda: over.append(lending.lend(tmp_path)))
    lender.start()
    until, number, ended = time.monotonic() + 60, 0, 0
    while driving.slots < 2 and time.monotonic() < until:
        driving.start(Assignment(number), Driver())
        number += 1
        ended += len(next_ended(driving))
    drivers = Driver(), Driver()
    for driver in drivers:
        driving.start(Assignment(number), driver)
        number += 1
    while ended < number:
        ended += len(next_ended(driving))
    assert [d.asked for d in drivers] == [["x"], ["x"]]
    driving.close()
    lender.join(60)
    lending.close()
    assert over == [True]
