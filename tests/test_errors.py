"""Errors: each one says in a line or two what it is about, with its value, what would be right, and what the user is to do next.

Sections: what all have in common, the command line, specs, resumption and replay, the history, the agent, the bridge, warnings,
ws_bridge.py's own command line, every `raise` of the source.
"""
from __future__ import annotations

import ast
import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Sequence

import pytest

import cc_execute as cc
from bridging import bridge_command, start_bridge
from support import ROOT, own_network, unshare

SPEC = "Task: Create a.txt\nTimeout: 60\nSuccess Criteria:\n1) a.txt exists\n"
LIST = "## Task 1: A\nCreate a.txt\n\n## Task 2: B\nCreate b.txt\n"
WORKS = [{"write": {"path": "a.txt", "content": "a"}}, {"text": "Done."}]
SAYS = [{"text": "Done."}]


# ---- What all have in common. ----

INSIDE = re.compile(r"Traceback|\[Errno|\b[A-Z]\w+(?:Error|Exception)\b|object at 0x|\bNone\b|\*\*\*")   # what no user can make sense of
LONGEST_CHARS = 420


class Case(NamedTuple):
    """What is done, and what has to be told of it: words that name the thing and its value, and the next step."""
    id: str
    arguments: str
    words: Sequence[str]
    step: str
    status: int = 2
    env: dict = {}


def cases(*rows: Case) -> Any:
    return pytest.mark.parametrize("case", rows, ids=[row.id for row in rows])


def assert_told(text: str, words: Sequence[str], step: str) -> None:
    missing = [word for word in (*words, step) if word not in text]
    assert not missing, f"{missing} not in: {text}"
    assert not INSIDE.search(text) and len(text) < LONGEST_CHARS and "\n" not in text.strip(), text


def told_line(stderr: str, prefix: str = "cc_execute: ") -> str:
    """The last line of ours: the error stands last."""
    return [line for line in stderr.splitlines() if line.startswith(prefix)][-1]


# ---- The command line: nothing is run, and the JSON says the same. ----

@cases(
    Case("no spec", "", ["no SPEC was given"], "expected a file, or - for standard input"),
    Case("a spec that is not there", "no.md", ["no.md: No such file", "WORKSPACE"], "expected a file that can be read"),
    Case("a folder without a spec", "/proc/self/fd", ["'/proc/self/fd' holds no spec"], "expected a file, a folder with .md or .txt files that have success criteria"),
    Case("an option that is none", "spec.md --retry 2", ["--retry"], "see --help"),
    Case("an option without its value", "spec.md --model", ["--model"], "see --help"),
    Case("a time that is none", "spec.md --timeout soon", ["--timeout", "'soon'"], "expected seconds above 0, such as 45"),
    Case("a number of retries", "spec.md --retries -1", ["--retries", "'-1'"], "expected a whole number, 0 or more"),
    Case("a number of turns", "spec.md --max-turns 0", ["--max-turns", "'0'"], "expected a whole number above 0"),
    Case("a budget", "spec.md --budget lots", ["--budget", "'lots'"], "expected an amount in USD above 0, such as 2.50"),
    Case("a wait", "spec.md --max-wait x", ["--max-wait", "'x'"], "expected seconds, 0 or more"),
    Case("how many to keep", "spec.md --keep 0", ["--keep", "'0'"], "expected a whole number above 0"),
    Case("a task that is no number", "spec.md --task two", ["--task", "'two'"], "expected a task's number, such as 2"),
    Case("a task that is not in it", "spec.md --task 9", ["spec.md", "--task 9"], "expected one of 1"),
    Case("a choice", "spec.md --permissions all", ["--permissions", "'all'", "skip"], "see --help"),
    Case("a folder to work in", "spec.md --cwd nowhere", ["--cwd 'nowhere' is no folder"], "expected one that exists"),
    Case("a folder to work in that is empty", "spec.md --cwd=", ["--cwd: found ''"], "expected a folder"),
    Case("an output folder that is empty", "spec.md --output=", ["--output: found ''"], "expected a folder"),
    Case("a run to go on with that is empty", "spec.md --resume-from=", ["--resume-from: found ''"], "expected the folder of a run"),
    Case("a transcript that is empty", "spec.md --replay=", ["--replay: found ''"], "expected a transcript"),
    Case("a bridge", "spec.md --bridge http://x", ["--bridge 'http://x'"], "expected something like ws://127.0.0.1:8004"),
    Case("a bridge whose bracket is not closed", "spec.md --bridge ws://[::1:8004", ["--bridge 'ws://[::1:8004'"], "expected something like ws://127.0.0.1:8004"),
    Case("a bridge whose host is no name", "spec.md --bridge ws://a..b:8004", ["--bridge 'ws://a..b:8004'"], "expected something like ws://127.0.0.1:8004"),
    Case("a bridge from its variable", "spec.md", ["CC_EXECUTE_BRIDGE 'http://x'"], "expected something like ws://", env={"CC_EXECUTE_BRIDGE": "http://x"}),
    Case("a store", "spec.md --store x://y", ["--store 'x://y' is no store"], "expected the path of an SQLite file, or redis://"),
    Case("a store from its variable", "spec.md", ["CC_EXECUTE_STORE 'x://y'"], "expected the path of", env={"CC_EXECUTE_STORE": "x://y"}),
    Case("an agent", "spec.md --claude \"'x\"", ["--claude", "No closing quotation"], "expected a command such as 'claude' or a path"),
    Case("an agent from its variable", "spec.md", ["CC_EXECUTE_CLAUDE", "No closing quotation"], "expected a command", env={"CC_EXECUTE_CLAUDE": "'x"}),
    Case("no agent", "spec.md --claude ''", ["--claude is empty"], "expected a command such as 'claude' or a path"),
    Case("an output folder", "spec.md --output spec.md/out", ["spec.md/out", "cannot be made: Not a directory"], "name it with --output DIR"),
    Case("a file for CI in no folder", "spec.md --junit no/x.xml", ["--junit 'no/x.xml'", "there is no folder"], "expected a file in a folder of yours"),
    Case("a report on standard output", "spec.md --report -", ["--report '-'", "that is no file"], "standard output is /dev/stdout"),
    Case("a file for CI that is a folder", "spec.md --junit .", ["--junit '.'", "is a folder"], "expected a file in a folder of yours"),
    Case("two modes", "spec.md --stats --dry-run", ["--stats was given with --dry-run"], "expected one of them"),
    Case("nothing is run", "spec.md --dry-run --junit x.xml", ["--junit", "--dry-run"], "expected one of them"),
    Case("Markdown of what", "spec.md --markdown", ["--markdown was given without --stats"], "expected both"),
)
def test_what_is_wrong_with_the_command_line_is_told_with_what_is_right(case, run_cc, workspace):
    (workspace / "spec.md").write_text(SPEC)
    words = [word.replace("WORKSPACE", str(workspace)) for word in case.words]
    told = run_cc(*shlex.split(case.arguments), env=case.env)
    assert told.returncode == case.status and told.stdout == ""
    assert_told(told_line(told.stderr), words, case.step)
    if "--markdown" not in case.arguments:
        error = run_cc(*shlex.split(case.arguments), "--json", env=case.env).json()["error"]
        assert_told(f"{error['file'] or ''}: {error['found']}; expected {error['expected']}", words, case.step)


def test_what_has_no_expected_value_gives_its_next_step_as_the_json_s(run_cc):
    error = run_cc("spec.md", "--retry", "--json").json()["error"]
    assert (error["found"], error["expected"]) == ("unrecognized arguments: --retry", "see --help")


def test_a_folder_that_is_gone_is_not_taken_for_a_full_disk(run_cc, workspace):
    """The shell stands in a folder that was removed: it is said so, and nothing of standard output."""
    gone = workspace / "gone"
    gone.mkdir()
    done = run_cc("-", "--dry-run", input=SPEC, prefix=["sh", "-c", f'cd {gone} && rmdir {gone} && exec "$@"', "sh"])
    assert done.returncode == 3
    assert_told(told_line(done.stderr), ["the folder in which this was started", "No such file"], "change to another with cd")


def test_standard_output_that_is_full(run_cc):
    done = run_cc("-", "--dry-run", input=SPEC, prefix=["sh", "-c", 'exec "$@" >/dev/full', "sh"])
    assert done.returncode == 1
    assert_told(told_line(done.stderr), ["standard output cannot be written: No space left"], "send it elsewhere")


@pytest.mark.parametrize("options, words, step", [
    ({"cwd": 5}, ["cwd is of the wrong type: 5"], "expected str"), ({"tasks": 1}, ["tasks is of the wrong type: 1"], "expected Tuple[int, ...]"),
    ({"timeout": -1}, ["timeout is -1"], "expected a number from 0.001 up"), ({"speed": 1}, ["'speed'"], "expected some of"),
    ({"cwd": ""}, ["cwd is ''"], "expected a folder, or leave it out"),
    ({"resume_from": ""}, ["resume_from is ''"], "expected the folder of a run, or leave it out")])
def test_an_option_of_the_module_s_is_named(options, words, step, workspace):
    with pytest.raises(cc.UsageError) as refusal:
        cc.run_spec(SPEC, **options)
    assert all(word in str(refusal.value) for word in (*words, step)), refusal.value


# ---- Specs: file and line, what was found there, and what has to stand there. ----

SPECS = [
    ("nothing", b"", 1, ["an empty file"], "a task, for example 'Task: …' with 'Success Criteria:' below it"),
    ("a task without text", b"Task:\n", 1, ["no task"], "what Claude has to do, as plain text or after 'Task:'"),
    ("a heading without text", b"## Task 1: A\n\n## Task 2: B\nTask: x\n", 1, ["task 1 without text"], "what Claude has to do"),
    ("no criteria", b"Task: x\nSuccess Criteria:\n", 2, ["a label for criteria with nothing behind it"], "a list such as '1. File config.py exists'"),
    ("two tasks", b"Task: x\nTask: y\n", 2, ["a second task in one task"], "a heading such as '## Task 2: …' above each task"),
    ("two times", b"Task: x\nTimeout: 5\nTimeout: 6\n", 3, ["a second timeout"], "one timeout"),
    ("a time", b"Task: x\nTimeout: soon\n", 2, ["timeout 'soon'"], "a time limit such as '60'"),
    ("turns", b"Task: x\nMax Turns: many\n", 2, ["max turns 'many'"], "a whole number above 0, such as '20'"),
    ("a budget", b"Task: x\nBudget: 0\n", 2, ["budget '0'"], "an amount in USD above 0, such as '0.50'"),
    ("a model", b"Task: x\nModel: a b\n", 2, ["model 'a b'"], "a model, such as 'sonnet'"),
    ("no model", b"Task: x\nModel:\n", 2, ["model without a value"], "a model, such as 'sonnet'"),
    ("a tool", b"Task: x\nTools: 1!\n", 2, ["tool '1!'"], "tool names such as 'Write, Bash(git log:*)'"),
    ("a folder", b"Task: x\nDirectory: nowhere\n", 2, ["directory 'nowhere'"], "a folder that exists, relative to"),
    ("another encoding", b"Task: x\nEnd\xe9\n", 2, ["the byte 0xe9, which is not UTF-8"], "UTF-8 text: save the file in that encoding"),
    ("UTF-16", "Task: x\n".encode("utf-16-le"), 1, ["a NUL byte"], "UTF-8 text: save the file in that encoding"),
]


@pytest.mark.parametrize("text, line, words, step", [row[1:] for row in SPECS], ids=[row[0] for row in SPECS])
def test_a_spec_that_cannot_be_read(text, line, words, step, run_cc, workspace):
    (workspace / "spec.md").write_bytes(text)
    done = run_cc("spec.md", "--json")
    error = done.json()["error"]
    assert done.returncode == 2 and (error["file"], error["line"]) == ("spec.md", line)
    assert_told(error["found"], words, words[0])
    assert_told(error["expected"], [], step)
    assert_told(told_line(done.stderr), [f"spec.md:{line}: found", *words], f"; expected {error['expected']}")


def test_standard_input_that_is_closed(run_cc):
    done = run_cc("-", "--dry-run", prefix=["sh", "-c", 'exec "$@" <&-', "sh"])
    assert done.returncode == 2
    assert_told(told_line(done.stderr), ["standard input is closed"], "expected a spec there (- <spec.txt), or the name of a file")


@pytest.mark.parametrize("text, words, step", [
    ("Task: x\n", "has no success criteria", "add 'Success Criteria:'"),
    ("Success Criteria:\n1) a.txt exists\n\n## Task 1: A\nCreate a.txt\nSuccess Criteria:\n- b\n", "belongs to none", "put it into each task that it is for"),
    ("Task: x\nSuccess Criteria:\n1) a.txt exists\n\nSome words that come behind.\n", "text after the criteria is left out", "put it above them"),
    ("Some words.\n\n## Task 1: A\nSome more.\nTask: x\nSuccess Criteria:\n- a.txt exists\n", "is not part of the task", "put it behind 'Task:'"),
    ("Task: x\nSuccess Criteria:\n- a.txt exists\nRetry Strategy: 3 times\n", "goes into the next prompt", "--retries"),
], ids=["no criteria", "before the first task", "behind the criteria", "beside the task", "how often"])
def test_what_is_left_out_of_a_spec_is_told_with_where_it_has_to_stand(text, words, step, run_cc):
    warnings = run_cc("-", "--dry-run", "--json", input=text).json()["warnings"]
    told, = [warning for warning in warnings if words in warning]
    assert re.match(r"line \d+: ", told)
    assert_told(told, [], step)


# ---- Resumption and replay. ----

@cases(
    Case("no run", "spec.md --resume", ["there is no run of spec.md", "runs"], "give the --output that it had, or leave out --resume"),
    Case("no folder", "--resume-from no", ["no/run-state.json: No such file"], "expected the folder of a run, which that names at its end"),
    Case("a damaged state", "--resume-from damaged", ["damaged/run-state.json holds no run's state"], "expected the folder of a run"),
    Case("a newer state", "--resume-from newer", ["newer/run-state.json", "version 99"], "which has to be used"),
    Case("two folders", "spec.md --resume-from a --output b", ["--resume-from was given with --output"], "expected the first alone"),
    Case("no transcript", "spec.md --replay no.jsonl", ["--replay 'no.jsonl': No such file"], "expected a transcript, such as task-1-attempt-1.jsonl"),
    Case("no transcript's lines", "spec.md --replay spec.md", ["--replay 'spec.md' holds no line of stream-json"], "in the folder of a run"),
    Case("which task", "list.md --replay events.jsonl", ["--replay 'events.jsonl'", "2 tasks"], "expected --task N with one of 1, 2"),
    Case("which spec", "spec.md list.md --replay events.jsonl", ["2 specs"], "expected the one that it is of"),
)
def test_what_is_to_be_gone_on_with(case, run_cc, workspace):
    (workspace / "spec.md").write_text(SPEC)
    (workspace / "list.md").write_text(LIST)
    (workspace / "events.jsonl").write_text('{"type": "system", "subtype": "init", "session_id": "s"}\n')
    for name, state in (("damaged", "{"), ("newer", '{"version": 99}')):
        (workspace / name).mkdir()
        (workspace / name / "run-state.json").write_text(state)
    done = run_cc(*shlex.split(case.arguments), "--json")
    assert done.returncode == case.status and set(done.json()) == {"error"}
    assert_told(told_line(done.stderr), case.words, case.step)


def test_a_run_that_is_still_going_on(run_cc, stand_in, bridge, workspace, tmp_path):
    import fcntl
    out = tmp_path / "out"
    out.mkdir()
    with open(out / "run-lock", "w") as lock:
        lock.write("process 1")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run_cc("-", "--output", out, input=SPEC, env=stand_in(WORKS).environment)
    assert done.returncode == 2
    assert_told(told_line(done.stderr), [str(out), "still going on (process 1)"], "wait for it, or use --output DIR")


# ---- The history. ----

def sqlite_of_another(path: Path) -> str:
    import sqlite3
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE customers (name TEXT)")
    return str(path)


def no_sqlite(path: Path) -> str:
    path.write_text("my notes\n" * 50)
    return str(path)


def a_folder(path: Path) -> str:
    path.mkdir()
    return str(path)


STORES = [
    (sqlite_of_another, "is a database of another program", "name another file with --store"), (no_sqlite, "no SQLite file", "name another with --store"),
    (a_folder, "is a folder", "name a file in it with --store"), (lambda path: "/dev/full", "/dev/full", "name another store with --store"),
    (lambda path: "redis://127.0.0.1:1/0", "redis://127.0.0.1:1/0", "name another store with --store")]
STORE_NAMES = ["another program's", "no SQLite file", "a folder", "a device", "Redis is down"]


@pytest.mark.parametrize("make, words, step", STORES, ids=STORE_NAMES)
def test_a_store_that_cannot_be_read(make, words, step, run_cc, tmp_path):
    """For --stats an error; for a plan, as for a run, one warning."""
    store = make(tmp_path / "history.db")
    with own_network() as prefix:
        stats, plan = run_cc("--stats", "--store", store, prefix=prefix), run_cc("-", "--dry-run", "--json", "--store", store, input=LIST, prefix=prefix)
    assert (stats.returncode, plan.returncode) == (3, 0)
    assert_told(told_line(stats.stderr), [words, store], step)
    told, = [warning for warning in plan.json()["warnings"] if "history" in warning]
    assert_told(told, ["the history could not be read", words, store], step)


def test_the_error_of_a_store_as_json_has_its_step(run_cc, tmp_path):
    error = run_cc("--stats", "--json", "--store", sqlite_of_another(tmp_path / "a.db")).json()["error"]
    assert error["found"].endswith("is a database of another program") and error["expected"] == "name another file with --store"


def test_redis_that_is_not_installed(run_cc, tmp_path):
    (tmp_path / "redis.py").write_text("raise ImportError('not here')\n")
    done = run_cc("--stats", "--store", "redis://127.0.0.1:1/0", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 3
    assert_told(told_line(done.stderr), ["needs the redis package"], "pip install redis")


# ---- The agent: what went wrong with it, and what is to be done. ----

def failing(text: str, status: int, error: str) -> list:
    return [{"api_error": {"text": text, "status": status, "error": error}}]


AGENTS = [
    ("not logged in", failing("Not logged in · Please run /login", 401, "authentication_failed"), 3, "authentication", "Not logged in", "Log in with `claude`"),
    ("no credit", failing("Credit balance is too low", 402, "billing_error"), 3, "billing", "Credit balance", "Add credit"),
    ("a model that is none", failing("There's an issue with the selected model (x).", 404, "model_not_found"), 3, "invalid_request", "model (x)",
     "Correct what is named there"),
    ("a prompt that is too long", failing("Prompt is too long", 413, "invalid_request"), 1, "token_limit", "too long", "Split the task"),
    ("no connection", failing("API Error: Connection error.", 0, "unknown"), 4, "network", "Connection error", "look at the connection"),
    ("turns", [{"result": {"subtype": "error_max_turns", "is_error": True, "result": ""}}], 1, "max_turns", "turns", "--max-turns"),
    ("budget", [{"result": {"subtype": "error_max_budget_usd", "is_error": True, "result": ""}}], 1, "budget", "budget", "--budget"),
    ("no result", [{"text": "I begin."}, {"exit": 1}], 1, "interrupted", "exit code 1", "run this again, with --resume"),
    ("an error of its own", [{"result": {"subtype": "error_during_execution", "is_error": True, "result": "something odd"}}], 1, "unknown", "something odd", "Look into the transcript"),
    ("its time limit", [{"sleep": 30}], 1, "timeout", "its time limit after", "--timeout"),
]


@pytest.mark.parametrize("steps, status, kind, words, step", [row[1:] for row in AGENTS], ids=[row[0] for row in AGENTS])
def test_what_went_wrong_with_the_agent(steps, status, kind, words, step, run_cc, stand_in, bridge):
    done = run_cc("-", "--json", "--max-wait", 0, "--timeout", 2, "--retries", 0, input=SPEC, env=stand_in(steps).environment)
    error = done.json()["tasks"][0]["attempts"][-1]["error"]
    assert (done.returncode, error["kind"]) == (status, kind), error
    assert_told(error["message"], [words], step)
    assert error["message"] in done.stderr or kind in done.stdout


@cases(
    Case("a command that is not there", "no-such-agent", ["'no-such-agent' was not found on PATH"], "name it with --claude CMD", 3),
    Case("a path that is not there", "./no/agent", ["/no/agent' is not there"], "Install it (npm install -g @anthropic-ai/claude-code)", 3),
)
def test_no_agent(case, run_cc, bridge):
    done = run_cc("-", "--json", "--claude", case.arguments, input=SPEC)
    assert done.returncode == case.status
    assert_told(done.json()["tasks"][0]["attempts"][0]["error"]["message"], case.words, case.step)


@pytest.mark.parametrize("status, step", [(529, "run this again later, with --resume"), (429, "run this again later, with --resume")])
def test_a_limit_that_takes_too_long_says_when_to_come_back(status, step, run_cc, stand_in, bridge):
    agent = stand_in(failing(f"API Error: {status}", status, "overloaded" if status == 529 else "rate_limit"))
    done = run_cc("-", "--json", "--max-wait", 0, input=SPEC, env=agent.environment)
    assert done.returncode == 4
    told, = [warning for warning in done.json()["warnings"] if "was not tried again" in warning]
    assert_told(told, ["task 1", "--max-wait"], step)


# ---- The bridge that was named. ----

@contextlib.contextmanager
def stranger(kind: str, folder: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [sys.executable, str(ROOT / "tests" / "stranger.py"), kind, str(port), str(folder / "sent")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        try:
            assert program.stdout.readline()
            yield f"ws://127.0.0.1:{port}/"
        finally:
            program.terminate()


def first_error(done: Any) -> str:
    error = done.json()["tasks"][0]["attempts"][0]["error"]
    assert (done.returncode, error["kind"]) == (3, "bridge"), done.stderr
    return error["message"]


@pytest.mark.parametrize("hidden", [False, True], ids=["websocket-client", "built in"])
@pytest.mark.parametrize("kind, words", [("http", "does not seem to be a bridge"), ("garbage", "it wants another token (CC_BRIDGE_TOKEN)")])
def test_a_server_that_is_no_bridge(kind, words, hidden, run_cc, stand_in, tmp_path):
    (tmp_path / "websocket.py").write_text("raise ImportError\n")
    env = {**stand_in(WORKS).environment, **({"PYTHONPATH": str(tmp_path)} if hidden else {})}
    with stranger(kind, tmp_path) as url:
        done = run_cc("-", "--json", "--bridge", url, input=SPEC, env=env)
    told = first_error(done)
    assert url in told and "correct --bridge, or leave it out" in told and (words in told or "is no bridge" in told), told


def test_a_bridge_that_is_full_is_not_taken_for_a_stranger(run_cc, stand_in):
    with start_bridge("--max-connections", "1") as bridge, bridge.connect():
        done = run_cc("-", "--json", "--bridge", bridge.url, input=SPEC, env=stand_in(WORKS).environment)
    told = first_error(done)
    assert "HTTP 503): it has as many connections as it takes (its --max-connections), or is ending; try again" in told and "seem" not in told, told


def test_a_bridge_that_wants_another_token(run_cc, stand_in, tmp_path):
    """The example in the message is not taken for a secret of the user's."""
    with start_bridge(env={"CC_BRIDGE_TOKEN": "another-token-of-somebody"}) as other:
        done = run_cc("-", "--json", "--bridge", other.url, input=SPEC, env={**stand_in(WORKS).environment, "CC_BRIDGE_TOKEN": "mine-is-this-one"})
    assert_told(first_error(done), [other.url, "does not know a token of yours", "/?token= and that), or end it with /?token= if"], "set CC_BRIDGE_TOKEN")


def test_a_bridge_that_is_nowhere(run_cc, stand_in):
    done = run_cc("-", "--json", "--bridge", "wss://127.0.0.1:9/", input=SPEC, env=stand_in(WORKS).environment)
    assert_told(first_error(done), ["nothing listens at wss://127.0.0.1:9/"], "start ws_bridge.py there, or leave out --bridge")


def test_a_host_that_is_none(run_cc, stand_in):
    with own_network() as prefix:
        done = run_cc("-", "--json", "--bridge", "ws://nowhere.invalid/", input=SPEC, env=stand_in(WORKS).environment, prefix=prefix)
    assert_told(first_error(done), ["ws://nowhere.invalid:8004/ cannot be reached"], "correct --bridge, or leave it out")


def test_a_runtime_folder_that_others_can_reach(run_cc, stand_in):
    folder = Path(os.environ["XDG_RUNTIME_DIR"]) / "cc_execute"
    folder.mkdir(mode=0o755)
    done = run_cc("-", "--json", input=SPEC, env=stand_in(WORKS).environment)
    assert_told(first_error(done), [str(folder), "mode 0755"], "it must be a folder of yours with mode 0700")


def read_only_runtime() -> list:
    """The words before a command that make the runtime folder one that nothing can be written to."""
    folder = os.environ["XDG_RUNTIME_DIR"]
    Path(folder, "cc_execute").mkdir(mode=0o700)
    return [*unshare("--mount"), "sh", "-c", f'mount --bind -o ro {folder} {folder} && exec "$@"', "sh"]


def test_a_runtime_folder_that_cannot_be_written_to(run_cc, stand_in):
    done = run_cc("-", "--json", input=SPEC, env=stand_in(WORKS).environment, prefix=read_only_runtime())
    assert_told(first_error(done), ["no bridge could be reached or started", "start.lock: Read-only file system"], "mend that first")


def test_a_started_bridge_s_own_words_are_passed_on(run_cc, stand_in):
    (Path(os.environ["XDG_RUNTIME_DIR"]) / "cc_execute").mkdir(mode=0o700)
    (Path(os.environ["XDG_RUNTIME_DIR"]) / "cc_execute" / "bridge.log").mkdir()
    with own_network() as prefix:
        done = run_cc("-", "--json", input=SPEC, env=stand_in(WORKS).environment, prefix=prefix)
    assert_told(first_error(done), ["the bridge did not start", "bridge.log can't be written: Is a directory"], "name another file")


def test_a_bridge_that_does_not_allow_the_agent(run_cc, stand_in):
    with start_bridge("--allow", "echo") as strict:
        done = run_cc("-", "--json", "--bridge", strict.url, input=SPEC, env=stand_in(WORKS).environment)
    told = done.json()["tasks"][0]["attempts"][0]["error"]["message"]
    assert_told(told, ["is not an allowed command: echo"], "with --allow for it too, or leave out --bridge")


def test_a_bridge_that_is_full(run_cc, stand_in):
    with start_bridge("--max-processes", "1") as small, small.connect() as client:
        client.call("execute", command=["sleep", "60"])
        done = run_cc("-", "--json", "--bridge", small.url, input=SPEC, env=stand_in(WORKS).environment)
    told = done.json()["tasks"][0]["attempts"][0]["error"]["message"]
    assert_told(told, ["1 processes are running (--max-processes)"], "Run this again later, or leave out --bridge")


def test_the_two_files_belong_together(run_cc, tmp_path, workspace):
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "cc_execute.py").write_bytes((ROOT / "cc_execute.py").read_bytes())
    done = subprocess.run([sys.executable, alone / "cc_execute.py", "-"], input=SPEC, capture_output=True, text=True, cwd=workspace)
    told = done.stdout + done.stderr
    assert done.returncode == 3 and "Traceback" not in told
    assert f"ws_bridge.py is not beside cc_execute.py in {alone}; put it there" in told


# ---- Warnings of a run. ----

def test_what_still_runs_can_be_ended(run_cc, stand_in, bridge):
    done = run_cc("-", "--json", input=SPEC, env=stand_in([{"spawn": "sleep 300"}, *WORKS]).environment)
    told, = [warning for warning in done.json()["warnings"] if "still running" in warning]
    assert_told(told, ["task 1: 1 process still running"], "kill ")
    os.kill(int(told.rpartition(" ")[2]), 9)


def test_a_budget_that_is_used_up(run_cc, stand_in, bridge):
    agent = stand_in([*SAYS, {"result": {"total_cost_usd": 1.0}}])
    done = run_cc("-", "--json", "--budget", 0.5, "--keep-going", input=LIST, env=agent.environment)
    told, = [warning for warning in done.json()["warnings"] if "is used up" in warning]
    assert_told(told, ["task 2", "the budget of $0.5 for the whole spec is used up"], "allow more with --budget")


def test_a_file_for_ci_that_could_not_be_written(run_cc, stand_in, bridge):
    done = run_cc("-", "--json", "--junit", "/dev/full", input=SPEC, env=stand_in(WORKS).environment)
    assert done.returncode == 0
    assert_told(done.json()["warnings"][-1], ["--junit '/dev/full'", "No space left"], "give the same command with --resume and another file")


# ---- ws_bridge.py's own command line. ----

BRIDGES = [
    ("no option", "--nonsense", 2, ["--nonsense"], "see --help"),
    ("a port that is none", "--port x", 2, ["--port", "port (0 to 65535)", "'x'"], "see --help"),
    ("a time that is none", "--grace -1", 2, ["--grace", "'-1'", "0 to"], "see --help"),
    ("a port that is taken", "--port TAKEN", 3, ["port TAKEN on 127.0.0.1 is taken"], "name another with --port, where 0 takes a free one"),
    ("another machine's address", "--port 0 --host 192.0.2.1 --expose --allow-host x", 3, ["192.0.2.1", "can't be used"], "--port and --host"),
    ("a log file", "--log-file no/log", 3, ["--log-file no/log can't be written: No such file"], "name another file, or leave it out"),
    ("a token file that cannot be written", "--port 0 --token-file no/token", 3, ["no/token can't be written"], "name another with --token-file"),
    ("a token file that others can read", "--port 0 --token-file open", 3, ["the token file open", "others can reach it"], "chmod 600"),
    ("too many connections", "--port 0 --max-connections 1000000", 3, ["--max-connections 1000000"], "lower that, or raise ulimit -n"),
    ("an address that others reach", "--host 0.0.0.0", 2, ["--host '0.0.0.0'"], "use 127.0.0.1, or add --expose"),
    ("a host with a port", "--allow-host box:80", 2, ["--allow-host 'box:80'"], "a host's name without port is wanted"),
    ("a token and none", "--no-token --token-file f", 2, ["--no-token and --token-file"], "leave out one"),
    ("to whom", "--expose", 2, ["--expose"], "needs --allow-host NAME"),
]


@pytest.mark.parametrize("arguments, status, words, step", [row[1:] for row in BRIDGES], ids=[row[0] for row in BRIDGES])
def test_a_bridge_that_does_not_start_says_why(arguments, status, words, step, workspace):
    (workspace / "open").write_text("secret\n")
    (workspace / "open").chmod(0o644)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        arguments, *words = [text.replace("TAKEN", str(taken.getsockname()[1])) for text in (arguments, *words)]
        done = subprocess.run(bridge_command(*shlex.split(arguments)), capture_output=True, text=True, cwd=workspace, timeout=30)
    assert done.returncode == status and done.stdout == ""
    assert_told(done.stderr.splitlines()[-1], words, step)
    assert len(done.stderr.splitlines()) == {2: 2, 3: 1}[status]


def test_a_bridge_s_runtime_folder_that_cannot_be_written_to():
    done = subprocess.run([*read_only_runtime(), *bridge_command("--port", "0")], capture_output=True, text=True, timeout=30)
    assert done.returncode == 3
    assert_told(done.stderr, ["ws_bridge: ", "Read-only file system", "/cc_execute/"], "mend that first")


def test_a_bridge_s_runtime_folder_that_cannot_be_made(workspace):
    (workspace / "file").write_text("")
    done = subprocess.run(bridge_command("--port", "0"), capture_output=True, text=True, env={**os.environ, "XDG_RUNTIME_DIR": str(workspace / "file")})
    assert done.returncode == 3
    assert_told(done.stderr, [f"{workspace}/file/cc_execute can't be made: Not a directory"], "set XDG_RUNTIME_DIR to a folder of yours")


def test_a_token_that_cannot_be_sent():
    done = subprocess.run(bridge_command("--port", "0"), capture_output=True, text=True, timeout=30, env={**os.environ, "CC_BRIDGE_TOKEN": "a b"})
    assert done.returncode == 3
    assert_told(done.stderr, ["the token in CC_BRIDGE_TOKEN"], "must be printable ASCII without spaces: 20 random letters and digits, say")


# ---- Every `raise` of the source. ----

# NoBridge and HungUp get theirs from connect_named, StoreError has one of its own: all three are tried out above.
RAISED = ("UsageError", "SpecError", "NotReady", "kind")
STEP = re.compile(r"; expected |(?<![\w-])--[a-z]|\b(?:set|put|start|use|name|change|mend|install|wait|see|try) (?!up\b)[\w.{-]|look into ")


def words_of(node: ast.AST) -> str:
    """The text of a message: what is filled in counts only where it is a constant of the module's."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(words_of, node.values))
    if isinstance(node, ast.FormattedValue):
        return words_of(node.value)
    if isinstance(node, ast.BoolOp):    # the last one, where there is nothing else to say
        return words_of(node.values[-1])
    if isinstance(node, ast.BinOp):
        return words_of(node.left) + words_of(node.right)
    if isinstance(node, ast.IfExp):     # the poorer one counts
        return min(words_of(node.body), words_of(node.orelse), key=lambda text: bool(STEP.search(text)))
    if isinstance(node, ast.Name) and isinstance(getattr(cc, node.id, None), str):
        return getattr(cc, node.id)
    return "{}"


def without_step(source: str) -> Iterator[str]:
    """The raises whose message names no next step."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name) and node.exc.func.id in RAISED):
            continue
        name, arguments = node.exc.func.id, node.exc.args
        if name == "SpecError":         # its message is made of four parts, of which the last is what is expected
            good = len(arguments) == 4 and words_of(arguments[3]).strip()
        else:
            good = STEP.search(re.sub(r"^--[\w{}-]+", "", words_of(arguments[0])))   # the option that is spoken of is no step
        if not good:
            yield f"line {node.lineno}: {ast.unparse(node)}" if hasattr(ast, "unparse") else f"line {node.lineno}"


SOURCE = (ROOT / "cc_execute.py").read_text("utf-8")


def test_every_error_of_the_source_names_a_next_step():
    assert list(without_step(SOURCE)) == []


@pytest.mark.parametrize("good, bad", [
    ("is no folder; expected one that exists", "is no folder"), ("; change to another with cd", ""), ("; start ws_bridge.py there, or leave out --bridge.", "."),
    (', "a spec there (- <spec.txt), or the name of a file")', ', "")'), ("; {OTHER_ADDRESS}.", ".")])
def test_one_that_names_none_is_found(good, bad):
    assert SOURCE.count(good) in (1, 2)
    assert len(list(without_step(SOURCE.replace(good, bad)))) == SOURCE.count(good)
