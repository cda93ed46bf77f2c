"""History: the embedded store loses nothing, keeps to itself, and its troubles never reach the task; the seed's metrics."""
from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile

import pytest

from cc_execute import AgentError, Attempt, History, Record, StoreError, metrics
from support import ROOT

WRITERS, RECORDS_EACH = 8, 25


def record(number: int = 1, **fields) -> Record:
    return Record(**{"prompt": f"create file {number}", "duration": float(number), "status": "passed",
                     "finished_at": 1000.0 + number, **fields})


def attempt(number: int = 1, error: str = "") -> Attempt:
    told = AgentError(error, error) if error else None
    return Attempt(number, "p", (), 60.0, 0, 1.5, "s", 0.01, 2, None, told, "t", ())


@pytest.fixture
def store(tmp_path):
    return History(str(tmp_path / "new" / "folder" / "history.sqlite3"))


def test_what_is_stored_comes_back_oldest_first(store):
    full = record(3, spec="spec.md", version="abc", timeout=60.0, error_kind="timeout", cost_usd=0.25, attempts=2,
                  status="timeout")
    for each in (full, record(1), record(2)):
        store.add(each, [attempt(1, "timeout"), attempt(2)])
    assert store.records() == [record(1), record(2), full]


def test_every_attempt_is_recorded(store):
    store.add(record(), [attempt(1, "timeout"), attempt(2)])
    query = "SELECT number, duration, timeout, error_kind, cost_usd FROM attempts ORDER BY number"
    rows = sqlite3.connect(store.path).execute(query).fetchall()
    assert rows == [(1, 1.5, 60.0, "timeout", 0.01), (2, 1.5, 60.0, None, 0.01)]


def test_reading_an_absent_store_makes_none(store):
    assert store.records() == [] and not os.path.exists(store.path)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_the_file_is_its_owner_s_alone(store, mask):
    old = os.umask(mask)
    try:
        store.add(record(), [attempt()])
    finally:
        os.umask(old)
    folder = os.path.dirname(store.path)
    assert {name: oct(stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode))
            for name in os.listdir(folder)} == {name: "0o600" for name in os.listdir(folder)}
    assert not stat.S_IMODE(os.stat(folder).st_mode) & 0o077


WRITER = """
import sys; sys.path.insert(0, sys.argv[1])
from cc_execute import History, Record
for number in range(int(sys.argv[3])):
    History(sys.argv[2]).add(Record(sys.argv[4], float(number), "passed", float(number)), [])
"""


def test_eight_processes_that_write_at_once_lose_nothing(store):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(ROOT), store.path, str(RECORDS_EACH), f"writer {number}"],
                                stderr=subprocess.PIPE, text=True)
               for number in range(WRITERS)]
    troubles = [writer.communicate()[1] for writer in writers]
    assert troubles == [""] * WRITERS
    expected = sorted((f"writer {writer}", float(number)) for writer in range(WRITERS) for number in range(RECORDS_EACH))
    assert sorted((each.prompt, each.duration) for each in store.records()) == expected


def test_a_writer_that_dies_in_the_middle_leaves_a_store_that_works(store):
    store.add(record(1), [attempt()])
    dying = "import sqlite3, sys, os; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN IMMEDIATE');" \
            "c.execute('DELETE FROM executions'); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", dying, store.path], check=False).returncode == -9
    store.add(record(2), [attempt()])
    assert store.records() == [record(1), record(2)]


# ---- A store that is broken costs one StoreError, which names the file. ----

def spoil_newer(path: str) -> None:
    History(path).add(record(), [])
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 999")
    connection.commit()
    connection.close()


def spoil_tables(path: str) -> None:
    History(path).add(record(), [])
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE executions")
    connection.commit()
    connection.close()


def write_bytes(data: bytes):
    def write(path: str) -> None:
        with open(path, "wb") as file:
            file.write(data)
    return write


SPOILED = {"a newer schema": spoil_newer,
           "no database": write_bytes(b"this is no database, but it is long enough to be looked at" * 40),
           "a cut-off database": write_bytes(b"SQLite format 3\0" + b"\0" * 5), "a folder": os.mkdir,
           "its table is gone": spoil_tables}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
@pytest.mark.parametrize("use", [lambda store: store.records(), lambda store: store.add(record(), [attempt()])],
                         ids=["read", "write"])
def test_a_broken_store_is_a_store_error_that_names_the_file(spoil, use, tmp_path):
    path = str(tmp_path / "history.sqlite3")
    spoil(path)
    with pytest.raises(StoreError) as trouble:
        use(History(path))
    assert path in str(trouble.value) and "\n" not in str(trouble.value)


def test_a_newer_store_is_refused_and_not_touched(tmp_path):
    path = str(tmp_path / "history.sqlite3")
    spoil_newer(path)
    before = open(path, "rb").read()
    with pytest.raises(StoreError, match="newer"):
        History(path).add(record(2), [])
    assert open(path, "rb").read() == before


def test_a_store_in_a_place_that_cannot_be_written_is_a_store_error():
    for path in ("/proc/nowhere/history.sqlite3", "/dev/null/history.sqlite3"):
        with pytest.raises(StoreError, match=path):
            History(path).add(record(), [])


READ_ONLY = """
import os, sys; sys.path.insert(0, sys.argv[1])
import contextlib, sqlite3  # before the user changes: another one may not be able to read this interpreter's library
from cc_execute import History, Record, StoreError
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
try:
    History(sys.argv[2]).add(Record("p", 1.0, "passed", 1.0), [])
except StoreError as error:
    print("StoreError:", error)
"""


def test_a_read_only_store_is_a_store_error():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to the other user that root becomes
        path = os.path.join(folder, "history.sqlite3")
        History(path).add(record(), [])
        os.chmod(path, 0o444)
        os.chmod(folder, 0o555)
        done = subprocess.run([sys.executable, "-c", READ_ONLY, str(ROOT), path], capture_output=True, text=True, check=False)
        os.chmod(folder, 0o755)
        assert done.stdout.startswith("StoreError: ") and path in done.stdout, done.stderr
        assert len(History(path).records()) == 1


# ---- Metrics. ----

def many(successes: int, failures: int, status: str = "failed") -> list:
    return [record(number) for number in range(successes)] + [record(100 + number, status=status) for number in range(failures)]


GRADUATION = [(9, 0, False), (10, 0, True), (10, 1, True), (11, 1, True), (10, 2, False), (19, 2, False), (20, 2, True),
              (0, 0, False), (0, 5, False), (100, 11, False)]


@pytest.mark.parametrize("successes, failures, graduated", GRADUATION)
def test_a_spec_graduates_at_ten_successes_and_ten_for_each_failure(successes, failures, graduated):
    told = metrics(many(successes, failures))
    assert (told["successes"], told["failures"], told["ratio"], told["graduated"]) == (successes, failures,
        f"{successes}:{failures}", graduated)


@pytest.mark.parametrize("status", ["failed", "error", "timeout"])
def test_time_limits_errors_and_unmet_criteria_are_failures(status):
    assert metrics(many(3, 2, status))["failures"] == 2


def test_nothing_stored_has_no_date():
    assert metrics([])["last_updated"] is None and metrics([])["versions"] == []


def test_the_last_update_is_the_newest_record_s():
    assert metrics([record(1, finished_at=1_751_328_000.0), record(2, finished_at=0.0)])["last_updated"] == "2025-07-01T00:00:00Z"


def test_each_version_of_a_spec_has_a_row():
    rows = metrics([record(1, spec="a.md", version="v1", status="failed", error_kind="timeout", timeout=45.0),
                    record(2, spec="a.md", version="v2", cost_usd=0.5, timeout=60.0),
                    record(3, spec="a.md", version="v2", cost_usd=0.25, timeout=90.0),
                    record(4, spec="b.md", version="v1")])["versions"]
    assert [(row["spec"], row["version"], row["runs"], row["successes"]) for row in rows] == [("a.md", "v1", 1, 0),
        ("a.md", "v2", 2, 2), ("b.md", "v1", 1, 1)]
    assert rows[0]["errors"] == ["timeout"]
    assert [row["cost_usd"] for row in rows] == [None, 0.75, None] and rows[1]["timeout"] == 90.0
    assert rows[1]["typical_duration"] in (2.0, 2.5, 3.0)
