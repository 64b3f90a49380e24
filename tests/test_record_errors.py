"""A record that cannot be used says what is affected and what to do, and loses nothing that was finished."""

import contextlib
import errno
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import tunesmith
from tunesmith.errors import (
    RecordCorruptError,
    RecordError,
    RecordReadOnlyError,
    RecordVersionError,
    StudyLockedError,
)
from tunesmith.record import FILE, Record
from tunesmith.record_file import filesystem, refuse_network
from tunesmith.record_lock import driving
from tunesmith.trial import Report, TrialState

NFS = "/dev/vda / ext4 rw 0 0\nserver:/homes /home nfs4 rw 0 0\nserver:/x /home/a\\040b lustre rw 0 0\n"


def fill(directory, trials=40):
    with Record.create(directory, name="s", directions=["minimize"], seed=0, settings={}) as record:
        for number in range(trials):
            record.start(record.add_waiting({}), offered={"x": number})
            record.add_report(number, Report(1, (1.0,), {"loss": 0.5}))
            record.end(number, TrialState.COMPLETE, values=[number], detail="text " * 20)
    return directory / FILE


def test_a_directory_without_a_study_is_said_to_be_one(tmp_path):
    with pytest.raises(RecordError, match="no study here") as caught:
        Record.open(tmp_path)
    assert caught.value.errno == errno.ENOENT


def test_a_newer_version_asks_for_an_upgrade(tmp_path):
    connection = sqlite3.connect(fill(tmp_path, 1))
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for opening in (Record.open, lambda d: Record.create(d, name="s", directions=["minimize"], seed=0, settings={})):
        with pytest.raises(RecordVersionError, match=r"format 99.*pip install -U tunesmith"):
            opening(tmp_path)


def test_another_program_s_database_is_left_alone(tmp_path):
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(RecordCorruptError, match="not a study of tunesmith"):
        Record.create(tmp_path, name="s", directions=["minimize"], seed=0, settings={})
    assert (tmp_path / FILE).read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"garbage", bytes(range(256)) * 64])
def test_garbage_is_said_to_be_damaged(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(RecordCorruptError, match=r"damaged.*Checkpoints are not affected"):
        Record.open(tmp_path)


@pytest.mark.parametrize("part", [0.01, 0.3, 0.5, 0.9])
def test_a_truncated_file_is_said_to_be_damaged(tmp_path, part):
    path = fill(tmp_path)
    os.truncate(path, int(path.stat().st_size * part))
    with pytest.raises(RecordCorruptError, match=r"Copy the directory before anything else"):
        Record.open(tmp_path)


def read(directory):
    with Record.open(directory) as record:
        return record.info, record.trials()


def test_no_flipped_bit_is_read_as_something_else(tmp_path):
    path = fill(tmp_path)
    whole, written = path.read_bytes(), read(tmp_path)
    rng = random.Random(5)
    damage = 0
    for _ in range(300):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        for old in tmp_path.glob(FILE + "*"):
            old.unlink()
        path.write_bytes(flipped)
        try:
            found = read(tmp_path)
        except RecordError:
            damage += 1
        else:
            assert found == written  # the bit lies in free space, or in SQLite's own counters
    assert damage > 50


def test_a_damaged_trial_is_named(tmp_path):
    path = fill(tmp_path)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE trial SET value = '[0.125]' WHERE number = 7")
    connection.commit()
    connection.close()
    with Record.open(tmp_path) as record, pytest.raises(RecordCorruptError, match=r"^\[Errno 5\] trial 7 in "):
        record.trials()


def test_network_file_systems_are_refused_and_cluster_ones_doubted(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/x {tmp_path.resolve()} nfs4 rw 0 0\n", encoding="utf-8")
    with pytest.raises(RecordError, match=r"is on nfs4 .*pass a `directory=` on a local disk"):
        refuse_network(tmp_path, mounts)
    mounts.write_text(f"server:/x {tmp_path.resolve()} lustre rw 0 0\n", encoding="utf-8")
    with pytest.warns(UserWarning, match="from one machine at a time"):
        refuse_network(tmp_path, mounts)
    mounts.write_text("/dev/vda / ext4 rw 0 0\n", encoding="utf-8")
    refuse_network(tmp_path, mounts)


@pytest.mark.parametrize(
    ("directory", "kind"),
    [("/home/me", "nfs4"), ("/homes", "ext4"), ("/home", "nfs4"), ("/home/a b/c", "lustre"), ("/srv", "ext4")],
)
def test_the_innermost_mount_decides(directory, kind):
    assert filesystem(directory, NFS)[0] == kind


@contextlib.contextmanager
def not_root():
    """Whoever runs the tests, permissions bind within."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def closed_directory():
    """A study in a directory that may be read and not written."""
    directory = Path(tempfile.mkdtemp())
    fill(directory, 3).chmod(0o444)
    directory.chmod(0o555)
    yield directory
    directory.chmod(0o755)
    shutil.rmtree(directory)


def test_a_read_only_directory_is_an_error_that_says_so_and_can_be_read(closed_directory):
    with not_root():
        with pytest.raises(RecordReadOnlyError, match="mend the permissions, or open it read-only"):
            Record.open(closed_directory)
        with pytest.raises(RecordReadOnlyError, match="may not be written"):
            Record.create(closed_directory / "new", name="s", directions=["minimize"], seed=0, settings={})
        with Record.open(closed_directory, read_only=True) as record:
            assert len(record.trials()) == 3


FILLER = """
import json, resource, signal, sys
from tunesmith.errors import RecordFullError
from tunesmith.record import Record
from tunesmith.trial import TrialState
record = Record.create(sys.argv[1], name="s", directions=["minimize"], seed=0, settings={})
record.start(record.add_waiting({}))
record.end(0, TrialState.COMPLETE, values=[1.0])
if sys.argv[2] == "pages":
    record._db.execute("PRAGMA wal_checkpoint")
    record._db.execute(f"PRAGMA max_page_count = {record._db.execute('PRAGMA page_count').fetchone()[0] + 20}")
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
done = 1
try:
    for number in range(1, 1000):
        record.start(record.add_waiting({}))
        record.end(number, TrialState.COMPLETE, values=[1.0], detail="x" * 5000)
        done += 1
except RecordFullError as error:
    print(json.dumps({"done": done, "seen": len(record.trials()), "error": str(error)}))
"""


@pytest.mark.parametrize("how", ["pages", "file size"])
def test_a_full_disk_loses_nothing_that_was_finished_and_the_study_goes_on_once_there_is_space(tmp_path, how):
    ran = subprocess.run(
        [sys.executable, "-c", FILLER, str(tmp_path), how], capture_output=True, text=True, check=True, timeout=300
    )
    told = json.loads(ran.stdout)
    assert "every step before this one is kept" in told["error"]
    assert told["done"] > 1
    with Record.open(tmp_path) as record:
        assert sum(t.state is TrialState.COMPLETE for t in record.trials()) == told["done"]
        assert len(record.trials()) == told["seen"]
        record.start(record.add_waiting({}))


def begin(directory, **settings):
    return tunesmith.search(
        lambda trial: trial.suggest_float("x", 0, 1), 1, directory=directory, progress=False, **settings
    )


def test_a_damaged_study_is_kept_under_another_name_where_a_new_one_is_to_begin(tmp_path):
    path = fill(tmp_path)
    os.truncate(path, path.stat().st_size // 2)
    (tmp_path / "run-0").mkdir()
    before = path.read_bytes()
    with pytest.raises(RecordCorruptError, match=r"tunesmith doctor --repair.*resume=False"):
        begin(tmp_path)
    with pytest.warns(UserWarning, match=r"is damaged .*kept as study\.sqlite\.damaged-.*a new study begins"):
        study = begin(tmp_path, resume=False)
    assert (study.directory, len(study.trials)) == (tmp_path / "study-2", 1)
    (kept,) = tmp_path.glob("study.sqlite.damaged-*")
    assert kept.read_bytes() == before
    assert len(begin(tmp_path, resume=True).trials) == 1


def test_what_may_be_whole_or_in_use_is_no_damaged_study(tmp_path):
    fill(tmp_path / "newer", 1)
    with contextlib.closing(sqlite3.connect(tmp_path / "newer" / FILE)) as connection:
        connection.execute("PRAGMA user_version = 99")
    (tmp_path / "theirs").mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "theirs" / FILE)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    (tmp_path / "driven").mkdir()
    (tmp_path / "driven" / FILE).write_bytes(b"garbage")
    with driving(tmp_path / "driven", "driven"):
        for name, error in (
            ("newer", RecordVersionError),
            ("theirs", RecordCorruptError),
            ("driven", StudyLockedError),
        ):
            with pytest.raises(error):
                begin(tmp_path / name, resume=False)
            assert not list((tmp_path / name).glob("*damaged*"))
