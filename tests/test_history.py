"""History: two stores with the same answers, which lose nothing; trouble with them costs one warning and never the task.

Sections: what is often needed, both stores, many writers, SQLite's file, Redis' keys, trouble, the history of a run.
"""
from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import cc_execute as cc
from cc_execute import (AttemptRecord, CorruptStore, Entry, History, Record, RedisStore, SqliteStore, StoreError, UsageError, normalise,
                        open_store)
from redis_server import running_redis, start_redis
from support import ROOT, unshare, wait_until

WRITERS, RECORDS_EACH = 8, 500
CONFIG, REFACTOR = "Create a config.py file with a database url", "Refactor the billing module"


# ---- What is often needed. ----

def record(number: int = 1, **fields) -> Record:
    usual = {"prompt": "CREATE file", "duration": float(number), "status": "passed", "finished_at": 1000.0 + number, "id": f"id {number}"}
    return Record(**{**usual, **fields})


FULL = record(3, spec="Spéc\udcff\".md".encode("utf-8", "backslashreplace").decode(), version="abc", timeout=60.0, error_kind="timeout", cost_usd=0.25,
              attempts=2, status="timeout", longest=60.0, run="run 1")
TWO_ATTEMPTS = (AttemptRecord(1, 1.5, 60.0, "timeout", 0.01), AttemptRecord(2, 2.5, 90.0, None, 0.02, True))


def add(store, *records: Record) -> None:
    store.add([Entry(each) for each in records])


@pytest.fixture(params=["sqlite", "redis"])
def store(request, tmp_path):
    if request.param == "sqlite":
        return SqliteStore(str(tmp_path / "new" / "folder" / "history.sqlite3"))
    return RedisStore(request.getfixturevalue("redis_server").url)


def again(store):
    """The same store as another process would open it."""
    return open_store(str(store))


@pytest.fixture
def sqlite(tmp_path):
    return SqliteStore(str(tmp_path / "new" / "folder" / "history.sqlite3"))


# ---- Both stores. ----

class TestStore:
    def test_what_is_stored_comes_back_oldest_first(self, store):
        for each in (FULL, record(1), record(2)):
            add(store, each)
        assert again(store).records() == [record(1), record(2), FULL]

    def test_at_first_there_is_nothing(self, store):
        assert (store.records(), store.alike(CONFIG), dict(store.outlines())) == ([], [], {})

    def test_a_second_record_of_the_same_id_takes_the_first_one_s_place(self, store):
        add(store, record(1), record(2))
        add(store, record(1, status="failed", finished_at=5000.0))
        assert store.records() == [record(2), record(1, status="failed", finished_at=5000.0)]
        assert len(store.alike("create file")) == 2

    def test_records_without_an_id_are_all_kept(self, store):
        add(store, record(1, id=""), record(1, id=""))
        add(store, record(1, id=""))
        ids = {each.id for each in store.records()}
        assert len(ids) == 3 and "" not in ids

    def test_outlines_of_versions_come_back(self, store):
        store.add([Entry(FULL, TWO_ATTEMPTS, "[1]"), Entry(record(4, spec="b", version="2"), (), "[2]")])
        store.add([Entry(record(5, spec="b", version="2"), (), "[2]")])
        assert dict(store.outlines()) == {(FULL.spec, "abc"): "[1]", ("b", "2"): "[2]"}

    def test_similar_wordings_are_found(self, store):
        add(store, record(1, prompt=normalise(CONFIG)), record(2, prompt=normalise(REFACTOR)), record(3, prompt=normalise("Install nginx")))
        question = "What is a config.py file with a database url? Show the complete file content."
        assert [each.id for each in store.alike(question)] == ["id 1"]
        assert [each.id for each in store.alike(REFACTOR)] == ["id 2"]
        assert [each.id for each in store.alike("Install nginx")] == ["id 3"]

    def test_what_says_nothing_of_its_time_is_not_handed_on(self, store):
        add(store, *(record(number, prompt=normalise(CONFIG), status=status) for number, status in enumerate(["passed", "error", "timeout", "failed"])))
        assert [each.status for each in store.alike(CONFIG)] == ["passed", "timeout", "failed"] and len(store.records()) == 4

    def test_of_many_similar_ones_the_newest_are_handed_on(self, store):
        add(store, *(record(number, prompt=normalise(CONFIG)) for number in range(cc.MOST_SAMPLES + 50)))
        assert [each.duration for each in store.alike(CONFIG)] == [float(number) for number in range(50, cc.MOST_SAMPLES + 50)]

    def test_a_limit_is_the_same_from_what_is_handed_on_as_from_all(self, store):
        chosen = random.Random(3)
        things = ["config", "settings", "parser", "server", "billing", "cache"]
        add(store, *(record(number, prompt=normalise(f"{chosen.choice(['Create a', 'Refactor the'])} {chosen.choice(things)} {chosen.choice(things)} module"),
                            duration=chosen.lognormvariate(4, 1), status=chosen.choice(["passed"] * 9 + ["timeout", "error", "failed"]),
                            finished_at=chosen.uniform(0, 1e7)) for number in range(700)))
        for prompt in ("Create a config module", "Refactor the cache server module", "Create a billing parser module", "Deploy it"):
            assert cc.estimate_timeout(prompt, store.alike(prompt)) == cc.estimate_timeout(prompt, store.records())


def test_both_stores_give_the_same_answers(tmp_path, redis_server):
    chosen = random.Random(5)
    prompts = [CONFIG, REFACTOR, "Create a config.json file", "What is a settings.py file with X?", "Add tests for the parser", "", "Fix it"]
    records = [record(number, prompt=normalise(chosen.choice(prompts)), finished_at=float(chosen.randrange(50)), spec=chosen.choice("ab"),
                      version=chosen.choice("12"), cost_usd=chosen.choice([None, 0.1])) for number in range(1500)]
    stores = SqliteStore(str(tmp_path / "h.db")), RedisStore(redis_server.url)
    for store in stores:
        for at in range(0, len(records), 100):
            add(store, *records[at:at + 100])
    first, second = stores
    assert first.records() == second.records() and len(first.records()) == 1500
    assert dict(first.outlines()) == dict(second.outlines())
    for prompt in (*prompts, "Write a config.py"):
        assert first.alike(prompt) == second.alike(prompt)
        assert cc.estimate_timeout(prompt, first.alike(prompt)) == cc.estimate_timeout(prompt, second.alike(prompt))


# ---- Many writers. ----

WRITER = """
import sys; sys.path.insert(0, sys.argv[1])
from cc_execute import Entry, Record, open_store
for number in range(int(sys.argv[3])):
    open_store(sys.argv[2]).add([Entry(Record("Create it", float(number), "passed", float(number), sys.argv[4]))])
"""


@pytest.mark.parametrize("is_new", [True, False], ids=["a new store", "a store in use"])
def test_eight_processes_that_write_at_once_lose_nothing(store, is_new):
    if not is_new:
        add(store, record(1))
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(ROOT), str(store), str(RECORDS_EACH), f"writer {number}"],
                                stderr=subprocess.PIPE, text=True) for number in range(WRITERS)]
    assert [writer.communicate()[1] for writer in writers] == [""] * WRITERS
    expected = sorted((f"writer {writer}", float(number)) for writer in range(WRITERS) for number in range(RECORDS_EACH))
    assert sorted((each.spec, each.duration) for each in store.records() if each.spec) == expected


def test_a_store_that_another_process_makes_meanwhile_is_not_taken_for_another_program_s(sqlite):
    """It is made after any of the statements with which one looks what the file is."""
    class Meanwhile:
        def __init__(self, statements: int) -> None:
            self.left, self.connection = statements, sqlite3.connect(sqlite.path)

        def execute(self, statement: str) -> sqlite3.Cursor:
            found = self.connection.execute(statement).fetchall()
            self.left -= 1
            if not self.left:
                add(SqliteStore(sqlite.path), record(1))
            return self.connection.execute("SELECT 1 LIMIT 0") if not found else self.connection.execute(f"SELECT {found[0][0]}")

    for statements in (1, 2, 3):
        Path(sqlite.path).parent.mkdir(parents=True, exist_ok=True)
        connection = Meanwhile(statements)
        version, owner, is_empty = sqlite._look(connection)
        connection.connection.close()
        assert is_empty or (version, owner) == (cc.STORE_VERSION, cc.APPLICATION_ID), statements
        shutil.rmtree(Path(sqlite.path).parent)


@pytest.mark.parametrize("attempt", range(3))
def test_a_store_that_eight_processes_make_at_once_is_whole(sqlite, attempt):
    starts = [subprocess.Popen([sys.executable, "-c", WRITER, str(ROOT), str(sqlite), "1", f"writer {number}"], stderr=subprocess.PIPE, text=True)
              for number in range(WRITERS)]
    assert [start.communicate()[1] for start in starts] == [""] * WRITERS and len(sqlite.records()) == WRITERS


def test_a_writer_that_dies_in_the_middle_leaves_a_store_that_works(sqlite):
    add(sqlite, record(1))
    dying = "import sqlite3, sys, os; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN IMMEDIATE');" \
            "c.execute('DELETE FROM executions'); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", dying, sqlite.path], check=False).returncode == -9
    add(sqlite, record(2))
    assert sqlite.records() == [record(1), record(2)]


# ---- SQLite's file. ----

def test_every_attempt_is_recorded_in_sqlite(sqlite):
    sqlite.add([Entry(record(), TWO_ATTEMPTS)])
    sqlite.add([Entry(record(), TWO_ATTEMPTS)])
    rows = sqlite3.connect(sqlite.path).execute("SELECT * FROM attempts ORDER BY number").fetchall()
    assert rows == [("id 1", 1, 1.5, 60.0, "timeout", 0.01, 0), ("id 1", 2, 2.5, 90.0, None, 0.02, 1)]


def test_reading_an_absent_store_makes_none(sqlite):
    assert sqlite.records() == [] and sqlite.alike(CONFIG) == [] and not os.path.exists(os.path.dirname(sqlite.path))


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_the_file_is_its_owner_s_alone(sqlite, mask):
    old = os.umask(mask)
    try:
        add(sqlite, record())
    finally:
        os.umask(old)
    folder = Path(sqlite.path).parent
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes == {name: 0o700 if name == folder.name else 0o600 for name in modes} and "history.sqlite3" in modes


VERSION_1 = """
CREATE TABLE executions (id INTEGER PRIMARY KEY, prompt TEXT, duration REAL, status TEXT, finished_at REAL, spec TEXT, version TEXT, timeout REAL,
 error_kind TEXT, cost_usd REAL, attempts INTEGER);
CREATE TABLE attempts (execution INTEGER REFERENCES executions, number INTEGER, duration REAL, timeout REAL, error_kind TEXT, cost_usd REAL);
INSERT INTO executions VALUES (1, 'config create file', 9.5, 'passed', 100.0, 'a.md', 'v1', 45.0, NULL, 0.5, 1);
INSERT INTO executions VALUES (2, 'module refactor', 60.0, 'timeout', 200.0, 'a.md', 'v2', 60.0, 'timeout', NULL, 2);
INSERT INTO attempts VALUES (1, 1, 9.5, 45.0, NULL, 0.5);
INSERT INTO attempts VALUES (2, 1, 40.0, 40.0, 'timeout', NULL);
INSERT INTO attempts VALUES (2, 2, 60.0, 60.0, 'timeout', NULL);
PRAGMA user_version = 1;
"""


def make_version_1(path: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA journal_mode = WAL;" + VERSION_1)
    connection.close()


@pytest.mark.parametrize("first", ["records", "add"])
def test_an_older_store_is_migrated(tmp_path, first):
    path = str(tmp_path / "history.sqlite3")
    make_version_1(path)
    store = SqliteStore(path)
    if first == "add":
        add(store, record(9))
    found = [each for each in store.records() if each.id != "id 9"]
    assert [(each.prompt, each.duration, each.status, each.spec, each.version, each.cost_usd, each.attempts) for each in found] == [
        (normalise("config create file"), 9.5, "passed", "a.md", "v1", 0.5, 1), (normalise("module refactor"), 60.0, "timeout", "a.md", "v2", None, 2)]
    assert [each.status for each in store.alike("Refactor the module") if each.id != "id 9"] == ["timeout"]
    rows = sqlite3.connect(path).execute("SELECT execution, number, duration FROM attempts ORDER BY 1, 2").fetchall()
    assert rows == [("version-1-1", 1, 9.5), ("version-1-2", 1, 40.0), ("version-1-2", 2, 60.0)]
    add(store, record(10))
    assert len(SqliteStore(path).records()) == len(found) + 1 + (first == "add")


def test_eight_processes_migrate_it_once(tmp_path):
    path = str(tmp_path / "history.sqlite3")
    make_version_1(path)
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(ROOT), path, "1", f"writer {number}"], stderr=subprocess.PIPE, text=True)
               for number in range(WRITERS)]
    assert [writer.communicate()[1] for writer in writers] == [""] * WRITERS
    assert len(SqliteStore(path).records()) == WRITERS + 2


def foreign_database(path: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript("CREATE TABLE customers (name TEXT); INSERT INTO customers VALUES ('Ada');")
    connection.close()


@pytest.mark.parametrize("spoil, name, says", [
    (foreign_database, "app.db", "another program"), (lambda path: Path(path).write_text("My notes.\n" * 50), "notes.txt", "no SQLite file")])
def test_a_file_that_belongs_to_somebody_else_is_refused_and_not_touched(tmp_path, spoil, name, says):
    path = str(tmp_path / name)
    spoil(path)
    before = Path(path).read_bytes()
    for use in (lambda: add(SqliteStore(path), record()), SqliteStore(path).records):
        with pytest.raises(StoreError, match=says) as trouble:
            use()
        assert path in str(trouble.value) and "--store" in str(trouble.value)
    assert Path(path).read_bytes() == before


def test_a_foreign_database_of_version_1_is_another_program_s_too(tmp_path):
    path = str(tmp_path / "app.db")
    foreign_database(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    before = Path(path).read_bytes()
    with pytest.raises(StoreError, match="another program"):
        add(SqliteStore(path), record())
    assert Path(path).read_bytes() == before and os.listdir(tmp_path) == ["app.db"]


def test_what_a_crash_left_in_the_log_is_not_passed_over_in_silence(tmp_path, run_cc):
    """Where nothing can be written beside it, SQLite could only read the file without its log."""
    dying = "import sys, os; sys.path.insert(0, sys.argv[1]); import cc_execute as cc, sqlite3\n" \
            "store = cc.SqliteStore(sys.argv[2]); reader = sqlite3.connect(sys.argv[2]) if os.path.exists(sys.argv[2]) else None\n" \
            "store.add([cc.Entry(cc.Record('Create it', 1.0, 'passed', 1.0))]); reader = sqlite3.connect(sys.argv[2]); reader.execute('BEGIN'); " \
            "reader.execute('SELECT * FROM executions').fetchall(); store.add([cc.Entry(cc.Record('Create it', 1.0, 'passed', 2.0))]); os.kill(os.getpid(), 9)"
    path = tmp_path / "history.sqlite3"
    subprocess.run([sys.executable, "-c", dying, str(ROOT), str(path)], check=False)
    assert os.path.getsize(f"{path}-wal") > 0
    prefix = [*unshare("--mount"), "sh", "-c", f'mount --bind -o ro {tmp_path} {tmp_path} && exec setpriv --reuid 65534 --clear-groups "$@"', "sh"]
    as_root = prefix[:-1] + ["sh"]
    as_root[-2] = as_root[-2].replace("setpriv --reuid 65534 --clear-groups ", "")
    done = run_cc("--stats", "--json", "--store", path, prefix=as_root)
    assert (done.returncode == 3 and "-wal" in done.stderr) or done.json()["successes"] == 2, done.stdout + done.stderr
    assert len(SqliteStore(str(path)).records()) == 2


# ---- What is corrupt is set aside. ----

def half_of_it(path: str) -> None:
    store = SqliteStore(path)
    add(store, *(record(number, spec="word " * 40) for number in range(400)))
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[:8192] + b"\xff" * 8192 + data[16384:len(data) // 2])


CORRUPT = {"a page of rubbish": half_of_it, "a cut-off head": lambda path: Path(path).write_bytes(b"SQLite format 3\0" + b"\0" * 5),
           "nothing but zeros": lambda path: Path(path).write_bytes(bytes(40_000)),
           "rubbish": lambda path: Path(path).write_bytes(random.Random(1).randbytes(20_000))}


@pytest.mark.parametrize("spoil", CORRUPT.values(), ids=CORRUPT)
@pytest.mark.parametrize("use", [SqliteStore.records, lambda store: add(store, record(7))], ids=["read", "write"])
def test_a_corrupt_file_is_set_aside_not_deleted(tmp_path, spoil, use):
    path = tmp_path / "history.sqlite3"
    spoil(str(path))
    before = path.read_bytes()
    with pytest.raises(CorruptStore, match="kept as") as trouble:
        use(SqliteStore(str(path)))
    aside, = (each for each in tmp_path.glob("history.sqlite3.corrupt-*") if not each.name.endswith(("-wal", "-shm")))
    assert str(aside) in str(trouble.value) and aside.read_bytes() == before
    add(SqliteStore(str(path)), record(8))
    assert SqliteStore(str(path)).records() == [record(8)]


def test_looking_sets_nothing_aside(tmp_path, run_cc):
    path = tmp_path / "history.sqlite3"
    CORRUPT["rubbish"](str(path))
    before = path.read_bytes()
    stats, plan = run_cc("--stats", "--store", path), run_cc("-", "--dry-run", "--json", "--store", path, input="Task: x\n")
    assert (stats.returncode, plan.returncode) == (3, 0) and "corrupt" in stats.stderr and any("corrupt" in each for each in plan.json()["warnings"])
    assert path.read_bytes() == before and not list(tmp_path.glob("history.sqlite3?*"))


def test_a_database_of_somebody_else_s_kind_is_left_alone(tmp_path):
    path = tmp_path / "berkeley.db"
    path.write_bytes(b"\0\5\x31\x62" * 4000)
    with pytest.raises(StoreError, match="left alone"):
        add(SqliteStore(str(path)), record())
    assert path.exists() and os.listdir(tmp_path) == ["berkeley.db"]


def test_a_name_that_is_no_utf_8_is_corruption(tmp_path):
    """Python raises another error for it than for other damage."""
    path = tmp_path / "history.sqlite3"
    add(SqliteStore(str(path)), record())
    sqlite3.connect(path).execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"indexkinds_by_time", b"index\xefinds_by_time"))
    history = History(SqliteStore(str(path)), lambda text: None)
    history.remember(Entry(record(2)))
    assert record(2) in SqliteStore(str(path)).records()


def test_two_that_find_it_corrupt_do_not_set_the_new_one_aside(tmp_path):
    path = tmp_path / "history.sqlite3"
    CORRUPT["rubbish"](str(path))
    first, second, found = SqliteStore(str(path)), SqliteStore(str(path)), path.stat().st_ino
    with pytest.raises(CorruptStore):
        add(first, record(1))
    add(first, record(1))
    second._give_up(sqlite3.DatabaseError("found before the first one acted"), found)
    assert SqliteStore(str(path)).records() == [record(1)]


# ---- What another hand stored is passed over. ----

ODD = [{"duration": None}, {"duration": "x"}, {"finished_at": None}, {"finished_at": 1e300}, {"duration": -5.0}, {"cost_usd": "much"}, {"attempts": "many"}, {"prompt": None}, {"timeout": "x"}, {"timeout": ""}, {"longest": ""}]


@pytest.mark.parametrize("changes", ODD, ids=str)
def test_an_odd_record_in_sqlite_is_passed_over(sqlite, changes, run_cc):
    add(sqlite, record(1), record(2))
    (name, value), = changes.items()
    connection = sqlite3.connect(sqlite.path)
    connection.execute(f"UPDATE executions SET {name} = ? WHERE id = 'id 1'", (value,))
    connection.commit()
    connection.close()
    assert [each.id for each in sqlite.records()] == ["id 2"] and cc.estimate_timeout("Create a file", sqlite.alike("Create a file")).samples == 1
    assert run_cc("--stats", "--json", "--store", sqlite.path).json()["successes"] == 1


@pytest.mark.parametrize("text", ["", "[]", "5", "null", "{", "[" * 100_000, "[[]]", '[["CREATE file", null, "passed", 5]]', '[[1,2,3,4,5,6,7,8,9,10,11,12,13]]',
                                  *(json.dumps([list(record(1, **changes)), []]) for changes in ODD)], ids=lambda text: text[:40])
def test_an_odd_record_in_redis_is_passed_over(redis_server, text):
    store = RedisStore(redis_server.url)
    add(store, record(1), record(2))
    client = redis_server.client()
    client.hset("cc_execute:executions", "id 1", text)
    client.hset("cc_execute:versions", mapping={"x": "[]", "5": "[]", '[["a"],["b"]]': "[]"})
    assert [each.id for each in store.records()] == ["id 2"] and len(store.alike("Create a file")) == 1 and set(store.outlines()) == {("", "")}
    add(store, record(1))
    assert len(store.records()) == 2


def test_an_odd_kind_or_outline_is_passed_over(sqlite, run_cc):
    sqlite.add([Entry(record(1, spec="a", version="1"), (), '[[1,"x","h",5,"h"]]'), Entry(record(2, spec="a", version="2"), (), '[[1,2,"h",[[]],"h"]]')])
    connection = sqlite3.connect(sqlite.path)
    connection.execute("INSERT INTO kinds VALUES (NULL, 5)")
    connection.commit()
    connection.close()
    assert len(sqlite.alike("Create a file")) == 2
    assert [row["change"] for row in run_cc("--stats", "--json", "--store", sqlite.path).json()["versions"]] == ["first version", "not known"]


def test_an_older_record_that_comes_later_does_not_make_a_wording_old(store):
    add(store, record(1, prompt=normalise(CONFIG), finished_at=5000.0))
    add(store, record(2, prompt=normalise(CONFIG), finished_at=10.0), record(3, prompt=normalise(REFACTOR), finished_at=100.0))
    kinds = list(redis_kinds(store)) if isinstance(store, RedisStore) else [row[0] for row in sqlite3.connect(store.path).execute(
        "SELECT prompt FROM kinds ORDER BY newest DESC")]
    assert kinds == [normalise(CONFIG), normalise(REFACTOR)]


def redis_kinds(store):
    import redis
    return redis.Redis.from_url(str(store), decode_responses=True).zrevrange("cc_execute:kinds", 0, -1)


def test_both_stores_take_a_changed_record_for_what_it_is_now(tmp_path, redis_server):
    for store in (SqliteStore(str(tmp_path / "h.sqlite3")), RedisStore(redis_server.url)):
        add(store, record(1, status="timeout"), record(2, prompt=normalise(CONFIG)))
        add(store, record(1, status="error"), record(2, prompt=normalise(REFACTOR)))
        assert store.alike("Create a file") == [] and store.alike(CONFIG) == [] and [each.id for each in store.alike(REFACTOR)] == ["id 2"]


def test_of_equally_similar_wordings_the_newest_count(tmp_path, redis_server):
    words = [f"Create the {chr(97 + n // 26)}{chr(97 + n % 26)}zard module" for n in range(160)]
    old = [record(n, prompt=normalise(words[n]), duration=20.0, finished_at=float(n)) for n in range(100)]
    new = [record(n, prompt=normalise(words[n]), duration=900.0, finished_at=1e6 + n) for n in range(100, 160)]
    for store in (SqliteStore(str(tmp_path / "h.sqlite3")), RedisStore(redis_server.url)):
        add(store, *old, *new)
        assert sum(each.duration == 900.0 for each in store.alike("Create the module")) >= 50
        assert cc.estimate_timeout("Create the module", store.alike("Create the module")).seconds > 900


# ---- Redis' keys. ----

def test_the_keys_are_those_that_the_readme_names(redis_server):
    RedisStore(redis_server.url).add([Entry(record(), TWO_ATTEMPTS, "[]")])
    client, readme = redis_server.client(), (ROOT / "README.md").read_text("utf-8")
    kinds = {key.replace(key.split(":")[-1], "HASH") if ":kind:" in key else key: client.type(key) for key in client.keys("*")}
    assert kinds == {"cc_execute:schema": "string", "cc_execute:executions": "hash", "cc_execute:kinds": "zset",
                     "cc_execute:versions": "hash", "cc_execute:kind:HASH": "zset"}
    assert not [key for key in kinds if f"`{key}`" not in readme]
    assert json.loads(client.hget("cc_execute:executions", "id 1")) == [list(record()), [list(each) for each in TWO_ATTEMPTS]]


def test_a_password_opens_it_and_is_not_told(tmp_path):
    for server in running_redis(password="opensesame-77"):
        store = RedisStore(server.url)
        add(store, record())
        assert store.records() == [record()]
        with pytest.raises(StoreError, match="(?i)auth|password"):
            RedisStore(f"redis://127.0.0.1:{server.port}/0").records()
        server.stop()
        with pytest.raises(StoreError) as trouble:
            RedisStore(server.url).records()
        assert "opensesame-77" not in cc.make_mask({})(str(trouble.value))


def test_looking_writes_nothing_into_redis(redis_server, run_cc):
    assert run_cc("--stats", "--json", "--store", redis_server.url).json()["successes"] == 0
    assert run_cc("-", "--dry-run", "--store", redis_server.url, input="Task: x\n").returncode == 0
    assert redis_server.client().keys("*") == []


@pytest.mark.parametrize("url", ["http://localhost/", "redis://", "redis://localhost:port/0", "redis://localhost:99999", "mysql://h/db", "redis:/127.0.0.1/0",
                                 "localhost:6379/0", "redis://localhost/x"])
def test_another_url_is_a_usage_error_that_says_what_is_right(url, run_cc):
    with pytest.raises(UsageError, match="redis://HOST"):
        open_store(url)
    done = run_cc("-", "--store", url, input="Task: x\n")
    assert (done.returncode, done.stdout) == (2, "") and "redis://HOST" in done.stderr


# ---- Trouble: each costs one warning, and the task is done. ----

SPEC = """## Task 1: a
Create a.txt
Success Criteria: a.txt exists

## Task 2: b
Create b.txt
Success Criteria: b.txt exists
"""


def full_disk(tmp_path, request) -> dict:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = f'mount -t tmpfs -o size=16k none {folder} && exec "$@"'
    return {"url": folder / "history.sqlite3", "prefix": [*unshare("--mount"), "sh", "-c", mount, "sh"]}


def read_only(tmp_path, request) -> dict:
    path = tmp_path / "history.sqlite3"
    add(SqliteStore(str(path)), record())
    return {"url": path, "prefix": [*unshare("--mount"), "sh", "-c", f'mount --bind -o ro {tmp_path} {tmp_path} && exec "$@"', "sh"]}


def locked(tmp_path, request) -> dict:
    path = str(tmp_path / "history.sqlite3")
    add(SqliteStore(path), record())
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    request.addfinalizer(holder.close)
    return {"url": path}


def corrupt(tmp_path, request) -> dict:
    CORRUPT["rubbish"](str(tmp_path / "history.sqlite3"))
    return {"url": tmp_path / "history.sqlite3"}


def newer(tmp_path, request) -> dict:
    path = str(tmp_path / "history.sqlite3")
    add(SqliteStore(path), record())
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    return {"url": path}


def a_folder(tmp_path, request) -> dict:
    (tmp_path / "history.sqlite3").mkdir()
    return {"url": tmp_path / "history.sqlite3"}


def nowhere(tmp_path, request) -> dict:
    return {"url": "/proc/nowhere/history.sqlite3"}


def redis_down(tmp_path, request) -> dict:
    server = start_redis()
    server.stop()
    return {"url": server.url}


def redis_that(request, *options: str):
    servers = running_redis(*options)
    server = next(servers)
    request.addfinalizer(lambda: next(servers, None))
    return server


def redis_full(tmp_path, request) -> dict:
    server = redis_that(request)
    add(RedisStore(server.url), record())
    server.client().config_set("maxmemory", "1")
    return {"url": server.url}


def redis_read_only(tmp_path, request) -> dict:
    server = redis_that(request)
    add(RedisStore(server.url), record())
    server.client().replicaof("127.0.0.1", "1")
    return {"url": server.url}


def redis_silent(tmp_path, request) -> dict:
    server = redis_that(request)
    server.process.send_signal(signal.SIGSTOP)
    return {"url": server.url}


def redis_corrupt(tmp_path, request) -> dict:
    server = redis_that(request)
    server.client().set("cc_execute:kinds", "no sorted set")
    return {"url": server.url}


def redis_newer(tmp_path, request) -> dict:
    server = redis_that(request)
    server.client().set("cc_execute:schema", "999")
    return {"url": server.url}


def lock_held(tmp_path, request) -> dict:
    import fcntl
    lock = open(tmp_path / "history.sqlite3.lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    request.addfinalizer(lock.close)
    return {"url": tmp_path / "history.sqlite3"}


def redis_is_something_else(tmp_path, request) -> dict:
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis" / "__init__.py").write_text("")
    return {"url": "redis://127.0.0.1:1/0", "env": {"PYTHONPATH": str(tmp_path)}}


def redis_not_installed(tmp_path, request) -> dict:
    (tmp_path / "redis.py").write_text("raise ImportError('not here')\n")
    return {"url": "redis://127.0.0.1:1/0", "env": {"PYTHONPATH": str(tmp_path)}}


TROUBLES = {full_disk: "full|disk I/O error", read_only: "(?i)read-only", locked: "locked", corrupt: "corrupt", newer: "newer", a_folder: "is a folder",
            nowhere: "No such file", redis_down: "refused", redis_full: "memory", redis_read_only: "read only|READONLY", redis_silent: "imeout|imed out",
            redis_corrupt: "WRONGTYPE|wrong kind", redis_newer: "newer", redis_not_installed: "pip install redis", lock_held: "too long",
            redis_is_something_else: "does not work"}


@pytest.mark.parametrize("make, says", TROUBLES.items(), ids=[make.__name__ for make in TROUBLES])
def test_trouble_costs_one_warning_and_never_the_task(make, says, tmp_path, request, run_cc, stand_in, bridge):
    trouble = make(tmp_path, request)
    agent = stand_in([{"write": {"path": "a.txt", "content": "a"}}], [{"write": {"path": "b.txt", "content": "b"}}])
    done = run_cc("-", "--json", "--store", trouble["url"], input=SPEC, env={**agent.environment, **trouble.get("env", {})}, prefix=trouble.get("prefix", ()))
    assert done.returncode == 0 and done.json()["success"], done.stderr
    told, = [warning for warning in done.json()["warnings"] if "history" in warning]
    assert re.search(says, told) and "\n" not in told, told
    assert done.stderr.count("history") >= 1 and "Traceback" not in done.stderr


def redis_dump(url: str) -> dict:
    import redis
    client = redis.Redis.from_url(url)
    return {key: client.dump(key) for key in client.keys("*")}


@pytest.mark.parametrize("make", [newer, redis_newer])
def test_a_newer_store_is_refused_and_not_touched(make, tmp_path, request):
    url = str(make(tmp_path, request)["url"])

    def content():
        return Path(url).read_bytes() if make is newer else redis_dump(url)

    before = content()
    for use in (lambda store: store.records(), lambda store: add(store, record(2)), lambda store: store.alike("x"), lambda store: store.outlines()):
        with pytest.raises(StoreError, match="newer.*version 999.*knows 2") as trouble:
            use(open_store(url))
        assert url in str(trouble.value)
    assert content() == before


def test_a_store_that_may_only_be_read_still_gives_its_records(tmp_path, request, run_cc, stand_in, bridge):
    trouble = read_only(tmp_path, request)
    done = run_cc("--stats", "--json", "--store", trouble["url"], prefix=trouble["prefix"])
    assert done.returncode == 0 and done.json()["successes"] == 1


@pytest.mark.parametrize("make", [redis_down, newer, nowhere])
def test_stats_of_a_store_that_cannot_be_read_are_an_error(make, tmp_path, request, run_cc):
    url = make(tmp_path, request)["url"]
    done = run_cc("--stats", "--json", "--store", url)
    if make is nowhere:
        assert done.returncode == 0 and done.json()["successes"] == 0   # nothing was ever stored there
    else:
        assert done.returncode == 3 and str(url) in done.stderr and "Traceback" not in done.stderr


# ---- The history of a run: what was owed is stored as soon as that can be done. ----

def test_what_could_not_be_stored_is_stored_with_the_next_one(tmp_path):
    path, warnings, now = tmp_path / "folder" / "history.db", [], [0.0]
    history = History(SqliteStore(str(path)), warnings.append, lambda: now[0])
    (tmp_path / "folder").write_text("in the way")
    history.remember(Entry(record(1)))
    (tmp_path / "folder").unlink()
    history.remember(Entry(record(2)))
    assert len(warnings) == 1 and not path.exists(), "it is left alone for a while"
    now[0] += cc.TROUBLE_S
    history.remember(Entry(record(3)))
    assert SqliteStore(str(path)).records() == [record(1), record(2), record(3)] and len(warnings) == 1


def test_a_store_that_is_silent_is_asked_once_a_minute_and_at_the_end(tmp_path, request):
    url, now = redis_silent(tmp_path, request)["url"], [0.0]
    history, asked = History(RedisStore(url), lambda text: None, lambda: now[0]), []
    history.store.alike = lambda prompt: asked.append(now[0]) or RedisStore.alike(history.store, prompt)
    for _ in range(20):
        assert history.alike(CONFIG) == ()
        now[0] += cc.TROUBLE_S / 10
    assert asked == [0.0, cc.TROUBLE_S]


def test_redis_that_is_started_again_in_the_middle_of_a_run_gets_it_all(tmp_path):
    server, warnings = start_redis(), []
    history = History(RedisStore(server.url), warnings.append)
    history.remember(Entry(record(1)))
    server.stop()
    history.remember(Entry(record(2)))
    command = [shutil.which("redis-server"), "--port", str(server.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    other = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_until(server.answers, "redis-server answers again")
        history.remember(Entry(record(3)))
        history.close()
        assert {each.id for each in RedisStore(server.url).records()} >= {"id 2", "id 3"} and len(warnings) == 1
    finally:
        other.terminate()
        other.wait()


def test_what_is_kept_of_a_prompt_holds_no_secret(tmp_path, run_cc, stand_in, bridge):
    secret = "correcthorsebatterystaple"
    spec = f"Task: Create a.txt. The password is {secret}, the key sk-ant-api03-{secret}\nSuccess Criteria: a.txt contains {secret}\n"
    done = run_cc("-", "--json", "--store", tmp_path / "h.db", input=spec, env=stand_in([{"write": {"path": "a.txt", "content": secret}}]).environment)
    assert done.returncode == 0
    assert not [path for path in tmp_path.glob("h.db*") if secret.encode() in path.read_bytes()]
    assert len(SqliteStore(str(tmp_path / "h.db")).records()) == 1


def test_an_estimate_from_the_store_imports_nothing_heavy(tmp_path):
    add(SqliteStore(str(tmp_path / "h.db")), *(record(number, prompt=CONFIG) for number in range(30)))
    look = "import sys; sys.path.insert(0, sys.argv[1]); import cc_execute as cc; store = cc.open_store(sys.argv[2])\n" \
           f"print(cc.estimate_timeout({CONFIG!r}, store.alike({CONFIG!r})).samples, *sys.modules)"
    count, *modules = subprocess.run([sys.executable, "-c", look, str(ROOT), str(tmp_path / "h.db")], capture_output=True, text=True, check=True).stdout.split()
    assert count == "30"
    assert not {"asyncio", "statistics", "decimal", "fractions", "random", "ssl", "socket", "subprocess", "http", "email", "redis", "argparse", "numpy"} & set(modules)
