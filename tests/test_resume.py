"""Runs that are gone on with: after kill -9 at any moment, a signal, a limit, a reboot; what had passed stays, what runs is taken over.

Sections: what is often needed, killed at twenty moments, processes that are taken over, processes that are gone, other ends, what counts,
which run it is, what changed meanwhile.
"""
from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Optional

import pytest

from bridging import Cable, lives, start_bridge
from support import ROOT, heed_signals, marked_processes, own_mark, wait_until

pytestmark = pytest.mark.usefixtures("bridge")

SPEC = "Task: Create a.txt\nTimeout: 60\nSuccess Criteria:\n1) creates a.txt\n"
WRITES = {"write": {"path": "a.txt", "content": "a\n"}}
LIST = "".join(f"## Task {number}: {name}\nCreate {name}.txt\nTimeout: 60\nSuccess Criteria: creates {name}.txt\n\n" for number, name in enumerate("abc", 1))
WRITE = {name: {"write": {"path": f"{name}.txt", "content": name}} for name in "abc"}
AUTHENTICATION = {"api_error": {"text": "Invalid API key · Fix external API key", "status": 401, "error": "authentication_failed"}}


# ---- What is often needed. ----

def limited(after: str) -> dict:
    return {"api_error": {"text": f"API Error: Request rejected (429) · retry after {after}", "status": 429, "error": "rate_limit"}}


class Place(NamedTuple):
    """A folder with a spec, a workspace, homes and a script of its own, in which cc_execute.py is run and killed."""
    folder: Path

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"

    def environment(self) -> dict:
        homes = {name: str(self.folder / name) for name in ("XDG_STATE_HOME", "XDG_DATA_HOME")}
        agent = {"CC_EXECUTE_CLAUDE": f"{sys.executable} {ROOT / 'tests' / 'stand_in.py'}", "STAND_IN_SCRIPT": str(self.folder / "script.json")}
        return {**os.environ, **homes, **agent}

    def begin(self, *options: object, spec: Optional[str] = "spec.md") -> subprocess.Popen:
        command = [sys.executable, str(ROOT / "cc_execute.py"), *([spec] if spec else []), "--json", *map(str, options)]
        return subprocess.Popen(command, cwd=self.folder, env=self.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, preexec_fn=heed_signals)

    def run(self, *options: object, spec: Optional[str] = "spec.md") -> "Done":
        process = self.begin("--cwd", self.workspace, *options, spec=spec) if "--resume" not in options else self.begin(*options, spec=spec)
        stdout, stderr = process.communicate(timeout=120)
        assert "Traceback" not in stderr, stderr
        return Done(process.returncode, stdout, stderr)

    def resume(self, *options: object, spec: Optional[str] = "spec.md") -> "Done":
        return self.run("--resume", *options, spec=spec)

    def kill_when(self, claim, *options: object, number: int = signal.SIGKILL) -> None:
        process = self.begin("--cwd", self.workspace, *options)
        try:
            wait_until(claim, "the moment to end it")
        finally:
            process.send_signal(number)
            process.communicate()

    def starts(self) -> list:
        record = self.folder / "record.jsonl"
        return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []

    def runs(self) -> list:
        return sorted((self.folder / "XDG_STATE_HOME" / "cc_execute" / "runs").glob("*"))

    def transcript(self, name: str = "task-1-attempt-1.jsonl") -> Path:
        return next((path / name for path in self.runs()[-1:]), Path("/nowhere"))

    def says(self, text: str, name: str = "task-1-attempt-1.jsonl") -> bool:
        return self.transcript(name).exists() and text in self.transcript(name).read_text()


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str

    def json(self) -> dict:
        return json.loads(self.stdout)

    def attempts(self, task: int = 0) -> list:
        return self.json()["tasks"][task]["attempts"]

    def statuses(self) -> list:
        return [task["status"] for task in self.json()["tasks"]]


def make_place(folder: Path, spec: str, *attempts: list) -> Place:
    (folder / "workspace").mkdir(parents=True)
    (folder / "spec.md").write_text(spec)
    (folder / "script.json").write_text(json.dumps({"attempts": attempts, "record": "record.jsonl"}))
    return Place(folder)


@pytest.fixture
def place(tmp_path):
    """place(spec, *attempts' steps)"""
    return lambda spec, *attempts: make_place(tmp_path / "place", spec, *attempts)


# ---- Killed at twenty moments: at the end the result equals that of an undisturbed run. ----

MOMENTS = 20
BUSY_SPEC = """# A working life

## Task 1: One
Create a.txt
Success Criteria:
1) creates a.txt
2) `sleep 0.3; cat a.txt` prints one
3) old.txt exists

## Task 2: Two
Create b.txt
Timeout: 30
Success Criteria:
1) creates b.txt
2) Output contains hello
3) It is a good file
Retry Strategy: really do it

## Task 3: Three
Create c.txt
Timeout: 30
Success Criteria: c.txt contains done
"""
BUSY_LIFE = [
    [{"sleep": 0.3}, {"write": {"path": "a.txt", "content": "one\n"}}, {"sleep": 0.3}],
    [{"text": "I did it."}, {"sleep": 0.4}],
    [{"bash": "sleep 0.3; echo hello"}, limited("0.4")],
    [{"sleep": 0.2}, {"write": {"path": "b.txt", "content": "a good file\n"}}, {"text": "It is a good file."}],
    [{"text": "thinking"}, {"sleep": 0.5}, {"write": {"path": "c.txt", "content": "done\n"}}, {"sleep": 0.3}, {"result": {"total_cost_usd": 0.5}}],
]


def busy_place(folder: Path) -> Place:
    place = make_place(folder, BUSY_SPEC, *BUSY_LIFE)
    (place.workspace / "old.txt").write_text("was here")
    return place


def comparable(document: dict, folder: Path) -> dict:
    """The document without what differs from one run to the next: times, names of sessions and folders."""
    text = json.dumps(document).replace(str(folder), "FOLDER")
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "SESSION", text)
    text = re.sub(r"at \d\d:\d\d \w+ \(in \d+ s\)", "SOON", text)
    text = re.sub(r"runs/[^\"/]+", "RUN", text)
    text = re.sub(r'"(duration|started_at)": [^,}]+', r'"\1": "TIME"', text)
    return json.loads(text)


def test_killed_at_twenty_moments_it_ends_like_an_undisturbed_run(tmp_path):
    began = time.monotonic()
    undisturbed = busy_place(tmp_path / "undisturbed")
    done = undisturbed.run()
    whole = time.monotonic() - began
    assert done.returncode == 0 and [len(task["attempts"]) for task in done.json()["tasks"]] == [1, 3, 1]
    expected = comparable(done.json(), undisturbed.folder)

    def kill_and_go_on(moment: int) -> tuple:
        """Again where it was killed between its note that it starts an agent, so as not to start it twice, and the start: then it cannot
        know that none was started, and tells of an attempt more."""
        for trial in range(5):
            end = kill_once(moment, f"moment-{moment}-{trial}")
            _, _, document, starts, _ = end
            if starts >= sum(len(task["attempts"]) for task in document["tasks"]):
                break
        return end

    def kill_once(moment: int, name: str) -> tuple:
        place = busy_place(tmp_path / name)
        process = place.begin("--cwd", place.workspace)
        time.sleep(moment * whole / MOMENTS)   # the moment is the input of this test
        process.kill()
        process.communicate()
        again = place.resume()
        if again.returncode == 2 and "no run" in again.stderr:
            again = place.run()                # it was killed before there was a run
        assert again.stdout, again.stderr
        return moment, again.returncode, comparable(again.json(), place.folder), len(place.starts()), again.json()["cost_usd"]

    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(kill_and_go_on, range(MOMENTS)))
    different = [(moment, status, starts, document) for moment, status, document, starts, _ in ends if (status, starts, document) != (0, 5, expected)]
    assert not different, json.dumps(different, indent=1)[:6000]
    assert {cost for *_, cost in ends} == {0.5}


def test_killed_again_and_again_it_still_gets_there(tmp_path):
    place = busy_place(tmp_path / "often")
    process = place.begin("--cwd", place.workspace)
    for _ in range(12):
        time.sleep(0.45)
        process.kill()
        process.communicate()
        process = place.begin("--resume")
    stdout, stderr = process.communicate()
    if process.returncode == 2:
        stdout = place.run().stdout
    assert json.loads(stdout)["success"], stderr
    assert [len(task["attempts"]) for task in json.loads(stdout)["tasks"]] == [1, 3, 1] and len(place.starts()) == 5


# ---- Processes that still run are taken over. ----

def test_a_process_that_still_runs_is_taken_over_and_nothing_of_its_output_is_lost(place):
    lines = [{"raw": json.dumps({"type": "x", "n": number, "pad": "y" * 300})} for number in range(3000)]
    steps = [step for at in range(0, 3000, 300) for step in (*lines[at:at + 300], {"sleep": 0.15})]
    there = place(SPEC, [*steps, WRITES])
    there.kill_when(lambda: there.says('"n": 299,'))
    done = there.resume()
    assert done.returncode == 0 and len(there.starts()) == 1 and len(done.attempts()) == 1
    told = [json.loads(line) for line in there.transcript().read_text().splitlines()]
    assert [event["n"] for event in told if event["type"] == "x"] == list(range(3000))
    assert [event["type"] for event in told if event["type"] != "x"] == ["system", "assistant", "user", "result"]
    assert done.attempts()[0]["exit_code"] == 0 and done.attempts()[0]["duration"] > 1.4


def test_a_line_that_was_half_told_is_whole_afterwards(place):
    long = "x" * 3_000_000
    there = place(SPEC, [{"raw": "first"}, {"sleep": 0.6}, {"raw": long}, {"sleep": 0.3}, {"raw": "last"}, WRITES])
    there.kill_when(lambda: there.says("first"))
    assert there.resume().returncode == 0
    lines = there.transcript().read_text().split("\n")
    assert [line if len(line) < 100 else len(line) for line in lines if not line.startswith("{")] == ["first", 3_000_000, "last", ""]


def test_a_process_that_has_ended_meanwhile_is_judged(place):
    there = place(SPEC, [{"text": "begun"}, {"sleep": 0.5}, WRITES])
    there.kill_when(lambda: there.says("begun"))
    wait_until(lambda: (there.workspace / "a.txt").exists(), "the agent has ended")
    time.sleep(0.5)
    done = there.resume()
    assert done.returncode == 0 and len(there.starts()) == 1 and done.attempts()[0]["exit_code"] == 0
    assert done.json()["tasks"][0]["files_changed"]["created"] == ["a.txt"]


def test_its_time_limit_goes_on_counting(place):
    there = place(SPEC.replace("60", "2"), [{"text": "begun"}, {"sleep": 60}])
    there.kill_when(lambda: there.says("begun"))
    done = there.resume()
    assert (done.returncode, done.statuses()) == (1, ["timeout"]) and 1.9 < done.attempts()[0]["duration"] < 6


def test_a_criterion_s_command_that_was_running_is_ended_and_run_again(place):
    command = "echo $$ >>pids; test $(wc -l <pids) -gt 1 || sleep 60; test -f a.txt"
    there = place(SPEC + f"2) `{command}`\n", [WRITES])
    there.kill_when(lambda: (there.workspace / "pids").exists())
    first = int((there.workspace / "pids").read_text())
    done = there.resume()
    second = int((there.workspace / "pids").read_text().split()[1])
    assert done.returncode == 0 and second != first and not lives(first) and len(there.starts()) == 1


def test_one_that_the_bridge_had_given_up_is_gone_on_with_in_its_session(place, monkeypatch):
    there = place(SPEC, [{"text": "begun"}, {"bash": "sleep 60"}], [WRITES])
    with start_bridge("--detach-grace", "1.5") as impatient:
        monkeypatch.setenv("CC_EXECUTE_BRIDGE", impatient.url)
        there.kill_when(lambda: there.says("begun"))
        wait_until(lambda: impatient.connect().call("list")["processes"][0]["state"] == "ended", "the bridge has given it up")
        done = there.resume()
    first, second = done.attempts()
    assert done.returncode == 0 and (first["error"]["kind"], second["prompt"]) == ("interrupted", "continue"), done.stderr


def test_a_bridge_that_was_named_is_found_again_without_its_name(place, monkeypatch):
    there = place(SPEC, [{"text": "begun"}, {"sleep": 1}, WRITES])
    monkeypatch.delenv("CC_EXECUTE_BRIDGE")
    with start_bridge() as other:
        there.kill_when(lambda: there.says("begun"), "--bridge", other.url)
        done = there.resume()
    assert done.returncode == 0 and len(there.starts()) == 1, done.stderr


def test_what_is_left_alone_for_a_task_that_has_changed_is_ended_first_and_paid_for(place):
    """Two agents in one folder, and one of them for nothing, would be the worst of all."""
    there = place(SPEC, [{"text": "begun"}, {"sleep": 20}, {"write": {"path": "late.txt", "content": "x"}}, WRITES], [{"text": "No, I did nothing."}])
    there.kill_when(lambda: there.says("begun"), "--budget", "5")
    (there.folder / "spec.md").write_text(SPEC.replace("Create a.txt", "Create a.txt now"))
    done = there.resume()
    assert not agents()
    assert done.returncode == 1 and not (there.workspace / "late.txt").exists() and len(there.starts()) == 1, done.stderr
    assert done.statuses() == ["skipped"] and any("what it cost is not known" in each for each in done.json()["warnings"])


def test_the_same_without_a_budget_goes_on_with_the_new_text(place):
    there = place(SPEC, [{"text": "begun"}, {"sleep": 60}], [WRITES])
    there.kill_when(lambda: there.says("begun"))
    (there.folder / "spec.md").write_text(SPEC.replace("Create a.txt", "Create a.txt now"))
    done = there.resume()
    assert done.returncode == 0 and [start["prompt"] for start in there.starts()] == ["Create a.txt", "Create a.txt now"] and not agents()
    assert "is ended" in done.stderr and len(done.attempts()) == 1


def agents() -> list:
    return [each for each in marked_processes(own_mark()) if "stand_in.py" in each.command]


def test_what_still_runs_comes_before_a_task_that_was_put_in_front_of_it(place):
    there = place(LIST.split("## Task 2")[0], [{"text": "begun"}, {"sleep": 1.5}, WRITE["a"]], [{"bash": "ls"}, {"write": {"path": "new.txt", "content": "n"}}])
    there.kill_when(lambda: there.says("begun"))
    new = "## Task 1: new\nCreate new.txt\nSuccess Criteria: creates new.txt\n\n"
    (there.folder / "spec.md").write_text(new + LIST.split("## Task 2")[0].replace("Task 1", "Task 2"))
    done = there.resume()
    assert done.returncode == 0 and len(there.starts()) == 2, done.stderr
    assert "a.txt" in there.transcript("task-1-again-1-attempt-1.jsonl").read_text() or "a.txt" in there.transcript("task-2-attempt-1.jsonl").read_text()


def test_a_bridge_that_cannot_be_asked_does_not_make_it_forget_what_runs(place, bridge):
    there = place(SPEC, [{"text": "begun"}, {"sleep": 4}, WRITES])
    there.kill_when(lambda: there.says("begun"))
    bridge.process.send_signal(signal.SIGSTOP)
    try:
        first = there.resume()
    finally:
        bridge.process.send_signal(signal.SIGCONT)
    assert first.returncode == 3 and first.attempts()[0]["error"]["kind"] == "bridge"
    assert first.json()["cost_usd"] is None and any("not known" in each for each in first.json()["warnings"])
    second = there.resume()
    assert second.returncode == 0 and len(there.starts()) == 1 and len(second.attempts()) == 1, second.stderr


def test_a_bridge_that_lets_nobody_in_is_not_taken_for_gone(place, monkeypatch, tmp_path):
    """As under cron, where XDG_RUNTIME_DIR is another one."""
    there = place(SPEC, [{"text": "begun"}, {"sleep": 3}, WRITES])
    there.kill_when(lambda: there.says("begun"))
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    usual = os.environ["XDG_RUNTIME_DIR"]
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "elsewhere"))
    first = there.resume()
    assert first.returncode == 3 and "token" in first.attempts()[0]["error"]["message"]
    monkeypatch.setenv("XDG_RUNTIME_DIR", usual)
    second = there.resume()
    assert second.returncode == 0 and len(there.starts()) == 1, second.stderr


def test_one_that_wrote_much_to_stderr_meanwhile_is_not_ended(place):
    flood = [{"stderr": "x" * 100_000} for _ in range(100)]
    there = place(SPEC, [{"text": "begun"}, *flood, {"text": "flooded"}, {"sleep": 1.5}, WRITES])
    there.kill_when(lambda: there.says("flooded"))
    done = there.resume()
    assert done.returncode == 0 and len(there.starts()) == 1 and len(done.attempts()) == 1, done.stderr


def test_where_the_place_was_lost_the_rest_is_taken_and_the_loss_is_told(place):
    there = place(SPEC, [{"text": "begun"}, *[{"raw": json.dumps({"type": "x", "pad": "y" * 100_000})} for _ in range(120)], {"text": "flooded"},
                         {"sleep": 2}, WRITES])
    there.kill_when(lambda: there.says("flooded"))
    Path(f"{there.transcript()}.place").write_text("")
    done = there.resume()
    assert done.returncode == 0 and len(there.starts()) == 1, done.stderr
    assert any("a part of its output is lost" in warning for warning in done.json()["warnings"])


def test_what_a_passed_task_left_running_is_left(place):
    server = {"spawn": "echo $$ >server.pid; exec sleep 61"}
    there = place(LIST.split("## Task 3")[0], [server, WRITE["a"]], [{"text": "begun"}, {"sleep": 1}, WRITE["b"]])
    there.kill_when(lambda: there.says("begun", "task-2-attempt-1.jsonl"))
    pid = int((there.workspace / "server.pid").read_text())
    try:
        done = there.resume()
        assert done.returncode == 0 and lives(pid), done.stderr
    finally:
        os.kill(pid, signal.SIGKILL)
    assert any("still running" in warning for warning in done.json()["warnings"]), "what was told before the kill is told again"


def test_a_result_that_came_in_time_is_not_late_because_it_is_read_later(place):
    there = place(SPEC.replace("60", "3"), [WRITES, {"text": "Done."}, {"result": {}}, {"sleep": 30}])
    there.kill_when(lambda: there.says('"result"'))
    time.sleep(3.2)
    done = there.resume()
    assert (done.returncode, done.statuses()) == (0, ["passed"]), done.stderr


def test_a_pause_of_the_cli_s_own_counts_from_when_it_began(place):
    there = place(SPEC.replace("60", "6"), [{"text": "begun"}, {"api_retry": {"retry_delay_ms": 4000}}, {"sleep": 4}, WRITES])
    there.kill_when(lambda: there.says("api_retry"))
    time.sleep(2.2)
    done = there.resume()
    assert done.returncode == 0 and len(there.starts()) == 1, done.stderr


def test_what_is_gone_on_with_is_told_as_it_ran(place):
    there = place(SPEC, [{"text": "begun"}, {"sleep": 1}, WRITES])
    there.kill_when(lambda: there.says("begun"), "--model", "m-1")
    done = there.resume("--model", "m-2")
    command = done.attempts()[0]["command"]
    assert done.returncode == 0 and command[command.index("--model") + 1] == "m-1" and "is taken over" in done.stderr


def test_a_way_that_broke_for_a_while_does_not_lead_to_two_agents(place, bridge, monkeypatch):
    """As behind a tunnel: cc_execute.py gives up after 15 s, the bridge waits 60 s."""
    there = place(SPEC, [{"text": "begun"}, {"sleep": 22}, WRITES])
    with Cable(bridge.port) as cable:
        monkeypatch.setenv("CC_EXECUTE_BRIDGE", f"ws://127.0.0.1:{cable.port}/?token={bridge.token}")
        process = there.begin("--cwd", there.workspace)
        wait_until(lambda: there.says("begun"), "the agent is at work")
        cable.is_dead = True
        cable.cut()
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 3 and json.loads(stdout)["cost_usd"] is None, stderr
        cable.is_dead = False
        done = there.resume()
    assert done.returncode == 0 and len(there.starts()) == 1 and len(done.attempts()) == 1, done.stderr


def test_a_stranger_on_the_bridge_s_old_port_does_not_block_it(place, bridge, monkeypatch):
    there = place(SPEC, [{"text": "begun"}, {"sleep": 60}], [WRITES])
    there.kill_when(lambda: there.says("begun"))
    bridge.process.kill()
    bridge.process.wait()
    with socket.create_server(("127.0.0.1", bridge.port)), start_bridge() as other:
        monkeypatch.setenv("CC_EXECUTE_BRIDGE", other.url)
        done = there.resume()
    assert done.returncode == 0 and [attempt["prompt"] for attempt in done.attempts()] == ["Create a.txt", "continue"], done.stderr


def test_an_agent_that_had_done_its_part_is_only_judged_after_the_bridge_was_lost(place, bridge, monkeypatch):
    there = place(SPEC + "2) `test -f judging || { touch judging; sleep 60; }`\n", [WRITES])
    process = there.begin("--cwd", there.workspace)
    wait_until(lambda: (there.workspace / "judging").exists(), "its criteria are checked")
    bridge.process.kill()
    bridge.process.wait()
    with start_bridge() as other:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        monkeypatch.setenv("CC_EXECUTE_BRIDGE", other.url)
        done = there.resume()
    assert done.returncode == 0 and len(there.starts()) == 1 and len(done.attempts()) == 1, done.stderr


def test_all_that_an_abandoned_task_had_running_is_ended(place):
    there = place(SPEC + "2) `touch judging; sleep 60; touch late.txt`\n", [WRITES], [{"bash": "pgrep -f 'sleep 60; touch late' >others || true"}, WRITES])
    there.kill_when(lambda: (there.workspace / "judging").exists())
    (there.folder / "spec.md").write_text(SPEC.replace("Create a.txt", "Create a.txt now"))
    there.resume()
    assert not [each for each in marked_processes(own_mark()) if "sleep 60" in each.command]


def test_what_was_never_started_is_started_with_the_options_of_now(place, bridge):
    there = place(SPEC, [WRITES])
    bridge.process.send_signal(signal.SIGSTOP)
    try:
        process = there.begin("--cwd", there.workspace, "--model", "wrong", "--timeout", "50")
        wait_until(lambda: there.runs() and (there.runs()[0] / "task-1-state.json").exists(), "it is about to begin")
        process.kill()
        process.communicate()
    finally:
        bridge.process.send_signal(signal.SIGCONT)
    done = there.resume("--model", "right", "--permissions", "allowed", "--timeout", "40")
    argv, = [start["argv"] for start in there.starts()]
    assert argv[argv.index("--model") + 1] == "right" and "--dangerously-skip-permissions" not in argv and done.attempts()[0]["timeout"] == 40, done.stderr


def test_a_task_that_was_left_out_keeps_its_session(place):
    there = place(LIST, [WRITE["a"]], [{"text": "begun"}, {"sleep": 60}], [WRITE["b"]], [WRITE["c"]])
    there.kill_when(lambda: there.says("begun", "task-2-attempt-1.jsonl"))
    assert there.resume("--task", "1").returncode == 0
    done = there.resume()
    assert (done.returncode, done.statuses()) == (0, ["passed"] * 3) and [start["prompt"] for start in there.starts()][2:] == ["continue", "Create c.txt"], done.stderr


def test_when_what_was_left_cannot_be_ended_nothing_is_begun_and_the_document_says_so(place, bridge):
    there = place(SPEC, [{"text": "begun"}, {"sleep": 20}, WRITES])
    there.kill_when(lambda: there.says("begun"))
    (there.folder / "spec.md").write_text(SPEC.replace("Create a.txt", "Create a.txt now"))
    bridge.process.send_signal(signal.SIGSTOP)
    try:
        done = there.resume()
    finally:
        bridge.process.send_signal(signal.SIGCONT)
    assert (done.returncode, done.statuses()) == (3, ["skipped"]) and any("cannot be ended" in warning for warning in done.json()["warnings"])
    assert len(there.starts()) == 1


# ---- Secrets: what is masked on the disk. ----

def test_a_masked_transcript_proves_nothing_where_a_secret_stood(place, monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "hunter2-very-secret")
    spec = SPEC + "2) Output does not contain hunter2-very-secret\n3) Output contains Bearer abcdef0123456789xyz\n"
    steps = [{"bash": "echo leaked hunter2-very-secret"}, {"bash": "echo Authorization: Bearer abcdef0123456789xyz"}, {"text": "begun"}, {"sleep": 1}, WRITES]
    there = place(spec, steps)
    there.kill_when(lambda: there.says("begun"))
    done = there.resume()
    verdicts = [(row["met"], row["confidence"]) for row in done.attempts()[0]["criteria"]]
    assert done.returncode == 1 and verdicts == [(True, "proved"), (False, "weak"), (True, "weak")], done.stdout


def test_claude_gets_the_secrets_of_a_retry_s_prompt(place, bridge, monkeypatch):
    key = "sk-ant-api03-" + "a1B2" * 10
    there = place(SPEC + f"2) a.txt contains postgres://app:hunter22@db/x\nRetry Strategy: use the key {key}\n", [{"text": "No."}], [{"exit": 1}, {"sleep": 60}], [WRITES])
    assert there.run().returncode == 1
    state = there.runs()[0] / "task-1-state.json"
    task = json.loads(state.read_text())
    assert key not in state.read_text() and "hunter22" not in state.read_text()
    retry = task["attempts"][1]
    task.update(attempts=task["attempts"][:1], status="", launch={"number": 2, "label": "gone", "began_at": time.time(), "prompt": retry["prompt"], "command": retry["command"],
                                                                  "timeout": 60.0, "resume": None, "retry": True, "started": False})
    state.write_text(json.dumps(task))
    there.resume()
    asked = there.starts()[1]["prompt"]
    assert key in asked and "postgres://app:hunter22@db/x" in asked and asked in [start["prompt"] for start in there.starts()[2:]]


def test_claude_gets_the_secret_though_the_environment_has_it_no_more(place, monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "hunter2-very-secret")
    prompt = "Create a.txt for postgres://app:hunter2-very-secret@db/x, Authorization: Bearer hunter2-very-secret"
    there = place(SPEC.replace("Create a.txt", prompt).replace("60", "1"), [{"text": "begun"}, {"sleep": 60}], [WRITES])
    assert there.run().returncode == 1
    assert not [path.name for path in there.runs()[0].iterdir() if "hunter2" in path.read_text()]
    monkeypatch.delenv("DB_PASSWORD")
    assert there.resume("--timeout", "20").returncode == 0 and there.starts()[1]["prompt"] == prompt


def test_a_secret_in_a_file_s_name_is_in_nothing_that_is_kept(place):
    name = "ghp_" + "a1B2" * 9
    there = place(SPEC, [{"write": {"path": f"{name}.txt", "content": "x"}}, AUTHENTICATION], [WRITES])
    (there.workspace / f"old-{name}").write_text("x")
    assert there.run().returncode == 3
    assert not [path.name for path in there.runs()[0].iterdir() if name in path.read_text()]
    assert there.resume().returncode == 0


def test_a_folder_whose_name_is_a_secret_s_value_can_still_be_read(place, monkeypatch):
    monkeypatch.setenv("JIRA_PROJECT_KEY", "PLATFORM")
    there = place(SPEC + "2) Output contains hello\n", [{"bash": "echo hello"}, limited("0.2")], [WRITES])
    out = there.folder / "PLATFORM"
    assert there.run("--max-wait", "0", "--output", out).returncode == 4
    time.sleep(0.3)
    done = there.resume("--output", out)
    assert done.returncode == 0 and done.json()["output_dir"] == str(out) and Path(done.attempts()[0]["transcript"]).exists(), done.stderr


def test_a_folder_that_was_moved_is_gone_on_with(place):
    there = place(SPEC + "2) Output contains hello\n", [{"bash": "echo hello"}, limited("0.2")], [WRITES])
    assert there.run("--max-wait", "0", "--output", there.folder / "one").returncode == 4
    (there.folder / "one").rename(there.folder / "two")
    time.sleep(0.3)
    done = there.begin("--resume-from", there.folder / "two")
    stdout, stderr = done.communicate()
    assert done.returncode == 0 and str(there.folder / "two") in json.loads(stdout)["tasks"][0]["attempts"][0]["transcript"], stderr


# ---- Processes that are gone. ----

def test_after_a_reboot_the_session_is_gone_on_with(place, bridge, monkeypatch):
    there = place(SPEC, [{"text": "begun"}, {"bash": "echo half >half.txt"}, {"sleep": 60}], [WRITES])
    there.kill_when(lambda: (there.workspace / "half.txt").exists() and there.says('"tool_result"'))
    bridge.process.kill()
    bridge.process.wait()
    wait_until(lambda: not [each for each in marked_processes(own_mark()) if "stand_in.py" in each.command], "the agent has ended with its bridge")
    with start_bridge() as other:
        monkeypatch.setenv("CC_EXECUTE_BRIDGE", other.url)
        done = there.resume()
    assert done.returncode == 0 and len(done.attempts()) == 2, done.stderr
    first, second = done.attempts()
    assert (first["error"]["kind"], second["error"]) == ("interrupted", None)
    assert second["prompt"] == "continue" and second["command"][-2:] == ["--resume", first["session_id"]]
    assert first["cost_usd"] is None and any("what it cost is not known" in each for each in done.json()["warnings"])
    assert sorted(done.json()["tasks"][0]["files_changed"]["created"]) == ["a.txt", "half.txt"]


def test_an_agent_that_had_done_its_part_is_judged_by_its_transcript(place, bridge, monkeypatch):
    there = place(SPEC + "2) `touch judging; sleep 3`\n", [{"text": "begun"}, WRITES])
    there.kill_when(lambda: (there.workspace / "judging").exists())
    bridge.process.kill()
    bridge.process.wait()
    with start_bridge() as other:
        monkeypatch.setenv("CC_EXECUTE_BRIDGE", other.url)
        done = there.resume()
    assert done.returncode == 0 and len(there.starts()) == 1 and len(done.attempts()) == 1


def test_what_was_never_started_is_started(place):
    there = place(SPEC, [WRITES])
    assert there.run("--output", there.folder / "out").returncode == 0
    state = there.folder / "out" / "task-1-state.json"
    task = json.loads(state.read_text())
    launch = {"number": 1, "label": "task 1 of run x ffff", "began_at": time.time(), "prompt": "Create a.txt", "command": task["attempts"][0]["command"], "timeout": 60.0, "resume": None, "retry": False, "started": False}
    task.update(attempts=[], status="", launch=launch)
    state.write_text(json.dumps(task))
    (there.workspace / "a.txt").unlink()
    done = there.resume("--output", there.folder / "out")
    assert done.returncode == 0 and [start["prompt"] for start in there.starts()] == ["Create a.txt"] * 2


# ---- Other ends. ----

@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_after_a_signal_the_session_is_gone_on_with(place, number):
    there = place(LIST, [WRITE["a"]], [{"text": "begun"}, {"bash": "sleep 60"}], [WRITE["b"]], [WRITE["c"]])
    there.kill_when(lambda: there.says("begun", "task-2-attempt-1.jsonl"), number=number)
    done = there.resume()
    assert (done.returncode, done.statuses()) == (0, ["passed"] * 3), done.stderr
    first, second = done.attempts(1)
    assert first["error"]["kind"] == "cancelled" and second["prompt"] == "continue" and "--resume" in second["command"]
    assert [start["prompt"] for start in there.starts()] == ["Create a.txt", "Create b.txt", "continue", "Create c.txt"]


def test_a_signal_while_criteria_are_checked_does_not_cost_the_work(place):
    there = place(SPEC + "2) `echo x >>judging; sleep 2`\n", [WRITES])
    there.kill_when(lambda: (there.workspace / "judging").exists(), number=signal.SIGINT)
    done = there.resume()
    assert done.returncode == 0 and len(there.starts()) == 1 and len(done.attempts()) == 1, done.stderr


def test_a_limit_that_took_too_long_is_gone_on_with_later(place):
    there = place(LIST, [WRITE["a"]], [{"bash": "echo some work"}, limited("2")], [WRITE["b"]], [WRITE["c"]])
    first = there.run("--max-wait", "0.1")
    assert (first.returncode, first.statuses()) == (4, ["passed", "error", "skipped"])
    later = there.resume("--max-wait", "30")
    assert (later.returncode, later.statuses()) == (0, ["passed"] * 3), later.stderr
    assert "waiting for the rate limit" in later.stderr and there.starts()[2]["prompt"] == "continue"
    assert later.json()["warnings"] == [], "what kept it from going on is over"


def test_a_limit_that_is_still_there_is_exit_4_again(place):
    there = place(SPEC, [limited("3600")], [WRITES])
    assert there.run("--max-wait", "0.1").returncode == 4
    time.sleep(1.1)
    later = there.resume()
    assert (later.returncode, len(there.starts())) == (4, 1) and re.search(r"in 59 min", later.json()["warnings"][-1])
    error = later.attempts()[0]["error"]
    assert 3590 < error["retry_after"] < 3599.5 and "(in 59 min" in error["message"] and len(later.json()["warnings"]) == 1


def test_what_was_not_ready_is_tried_again(place):
    there = place(SPEC, [AUTHENTICATION], [WRITES])
    assert there.run().returncode == 3
    done = there.resume()
    assert done.returncode == 0 and [attempt["error"] and attempt["error"]["kind"] for attempt in done.attempts()] == ["authentication", None]


ENDS = {"max_turns": {"result": {"subtype": "error_max_turns", "errors": ["Reached maximum number of turns (1)"]}}, "interrupted": {"exit": 1},
        "unknown": {"api_error": {"text": "Something odd", "status": None, "error": "unknown"}}}


@pytest.mark.parametrize("kind, step", ENDS.items())
def test_what_an_error_ended_is_gone_on_with(place, kind, step):
    there = place(SPEC, [{"text": "begun"}, step], *([[step]] if kind == "interrupted" else []), [WRITES])
    assert there.run().returncode == 1
    done = there.resume()
    assert done.returncode == 0 and done.attempts()[0]["error"]["kind"] == kind and done.attempts()[-1]["prompt"] == "continue", done.stderr


def test_more_money_lets_it_go_on(place):
    costs = {"result": {"subtype": "error_max_budget_usd", "errors": ["Reached maximum budget ($1)"], "total_cost_usd": 1.0}}
    there = place(SPEC, [{"text": "begun"}, costs], [WRITES])
    assert there.run("--budget", "1").returncode == 1
    poor = there.resume()
    assert poor.returncode == 1 and len(there.starts()) == 1 and "is used up" in poor.json()["warnings"][-1]
    assert there.resume("--budget", "2").returncode == 0 and there.starts()[1]["prompt"] == "continue"


def test_five_waits_in_a_row_are_counted_anew(place):
    there = place(SPEC, *[[limited("0.1")]] * 8, [WRITES])
    assert there.run().returncode == 4 and len(there.starts()) == 6
    done = there.resume()
    assert done.returncode == 0 and len(done.attempts()) == 9


# ---- What counts: passes, attempts, money, time. ----

def test_tasks_that_passed_are_not_run_again_and_stand_in_the_document(place):
    there = place(LIST, [WRITE["a"]], [{"text": "begun"}, {"sleep": 60}])
    there.kill_when(lambda: there.says("begun", "task-2-attempt-1.jsonl"), number=signal.SIGINT)
    (there.folder / "script.json").write_text(json.dumps({"attempts": [[WRITE["a"]], [WRITE["a"]], [WRITE["b"]], [WRITE["c"]]], "record": "record.jsonl"}))
    done = there.resume()
    first = done.json()["tasks"][0]
    assert done.returncode == 0 and first["status"] == "passed" and first["attempts"][0]["criteria"][0]["evidence"].startswith("a.txt exists")
    assert "task 1 had passed" in done.stderr and len(there.starts()) == 4
    assert done.json()["started_at"] == json.loads((there.runs()[-1] / "result.json").read_text())["started_at"] and len(there.runs()) == 1


def test_a_run_that_had_passed_is_not_run_again(place):
    there = place(SPEC, [WRITES])
    first = there.run()
    again = there.resume()
    assert again.returncode == 0 and len(there.starts()) == 1
    assert {**again.json(), "duration": 0} == {**first.json(), "duration": 0}


def test_retries_that_were_used_up_stay_used_up_unless_more_are_allowed(place):
    spec = SPEC + "Retry Strategy: look twice\n"
    there = place(spec, *[[{"write": {"path": f"other-{number}.txt", "content": "x"}}] for number in range(3)], [WRITES])
    assert there.run().returncode == 1 and len(there.starts()) == 3
    again = there.resume()
    assert (again.returncode, again.statuses(), len(there.starts())) == (1, ["failed"], 3) and "had ended (failed)" in again.stderr
    more = there.resume("--retries", "3")
    assert (more.returncode, len(more.attempts())) == (0, 4) and "IMPORTANT: creates a.txt" in there.starts()[3]["prompt"]


def test_a_retry_that_was_under_way_is_no_further_retry(place):
    there = place(SPEC + "Retry Strategy: look twice\n", [{"text": "I did it."}], [{"text": "begun"}, {"sleep": 1}, {"write": {"path": "other.txt", "content": "x"}}],
                  [{"text": "and again"}], [WRITES])
    there.kill_when(lambda: there.says("begun", "task-1-attempt-2.jsonl"))
    done = there.resume()
    assert (done.returncode, len(there.starts()), len(done.attempts())) == (1, 3, 3)


def test_what_was_there_before_is_still_known(place):
    there = place("Task: Create a.txt\nSuccess Criteria:\n1) creates old.txt\n2) creates a.txt\n", [{"text": "begun"}, {"sleep": 0.8}, WRITES])
    (there.workspace / "old.txt").write_text("old")
    there.kill_when(lambda: there.says("begun"))
    done = there.resume()
    evidence = [criterion["evidence"] for criterion in done.attempts()[0]["criteria"]]
    assert done.returncode == 1 and "unchanged" in evidence[0] and "created by this run" in evidence[1]
    assert done.json()["tasks"][0]["files_changed"] == {"created": ["a.txt"], "changed": [], "deleted": []}


def test_money_that_was_spent_counts(place):
    costs = {"result": {"total_cost_usd": 0.75}}
    there = place(LIST, [WRITE["a"], costs], [AUTHENTICATION], [WRITE["b"], costs], [WRITE["c"], costs])
    assert there.run("--budget", "1").returncode == 3
    done = there.resume()
    assert (done.returncode, done.statuses()) == (1, ["passed", "passed", "skipped"]) and done.json()["cost_usd"] == 1.5
    budgets = [start["argv"][start["argv"].index("--max-budget-usd") + 1] for start in there.starts()]
    assert budgets == ["1", "0.25", "0.25"] and "is used up ($1.5000)" in done.json()["warnings"][-1]


def test_one_that_failed_before_and_passed_just_before_a_crash_is_remembered_as_passed(place):
    there = place(SPEC, [AUTHENTICATION], [WRITES])
    assert there.run().returncode == 3 and there.resume().returncode == 0
    state = there.runs()[0] / "task-1-state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "status": ""}))   # as it is between the attempt's end and the task's
    (there.folder / "XDG_DATA_HOME" / "cc_execute" / "history.sqlite3").unlink()
    done = there.resume()
    assert done.returncode == 0 and done.json()["tasks"][0]["files_changed"]["created"] == ["a.txt"] and len(there.starts()) == 2
    assert json.loads(there.begin("--stats", spec=None).communicate()[0])["successes"] == 1


def test_each_task_is_remembered_once(place):
    there = place(LIST, [WRITE["a"]], [AUTHENTICATION], [WRITE["b"]], [{"text": "No."}])
    assert there.run().returncode == 3
    assert there.resume().returncode == 1
    assert there.resume("--retries", "1").returncode == 1
    stats = json.loads(there.begin("--stats", spec=None).communicate()[0])
    assert (stats["successes"], stats["failures"], stats["versions"][0]["runs"]) == (2, 1, 1)


JUDGED = {"result": {"structured_output": {"verdicts": [{"number": 1, "met": True, "reason": "I looked."}]}, "total_cost_usd": 0.7}}


@pytest.mark.parametrize("number, is_known", [(signal.SIGKILL, False), (signal.SIGINT, True)])
def test_what_a_judge_cost_that_was_cut_off_counts_and_is_not_known_unless_it_says_so(place, number, is_known):
    there = place("Task: Create a.txt\nTimeout: 60\nSuccess Criteria: It is beautiful\n", [WRITES, {"result": {"total_cost_usd": 0.1}}],
                  [{"text": "begun"}, {"sleep": 30}], [JUDGED])
    there.kill_when(lambda: there.says("begun", "task-1-attempt-1-judge.jsonl"), "--judge", number=number)
    done = there.resume()
    assert done.returncode == 0 and len(there.starts()) == 3, done.stderr
    assert any("what it cost is not known" in warning for warning in done.json()["warnings"]) != is_known, done.stdout + done.stderr


def test_a_task_that_moved_is_remembered_once(place):
    there = place(SPEC.replace("Task:", "## Task 1: a\n\nTask:"), [{"write": {"path": "other.txt", "content": "x"}}], [{"write": {"path": "new.txt", "content": "n"}}], [WRITES])
    assert there.run().returncode == 1
    new = "## Task 1: new\nCreate new.txt\nSuccess Criteria: creates new.txt\n\n"
    (there.folder / "spec.md").write_text(new + SPEC.replace("Task:", "## Task 2: a\n\nTask:"))
    assert there.resume("--retries", "1").returncode == 0
    stats = json.loads(there.begin("--stats", spec=None).communicate()[0])
    assert (stats["successes"], stats["failures"]) == (2, 0)


def test_the_time_of_all_parts_counts(place):
    there = place(SPEC, [{"text": "begun"}, {"sleep": 1.2}, WRITES])
    there.kill_when(lambda: there.says("begun"))
    before = json.loads((there.runs()[0] / "task-1-state.json").read_text())["elapsed"]
    done = there.resume()
    assert done.json()["duration"] > before
    assert 1.1 < done.attempts()[0]["duration"] < done.json()["duration"] + 1.5 and done.json()["duration"] < 60


# ---- Which run it is, and with which options. ----

def test_options_are_those_that_the_run_began_with(place):
    there = place(LIST, [WRITE["a"]], [AUTHENTICATION], [WRITE["b"]], [WRITE["c"]])
    assert there.run("--model", "m-1", "--task", "1", "--task", "2", "--timeout", "33").returncode == 3
    done = there.resume()
    assert done.returncode == 0 and [task["number"] for task in done.json()["tasks"]] == [1, 2]
    assert [start["argv"][start["argv"].index("--model") + 1] for start in there.starts()] == ["m-1"] * 3 and done.attempts(1)[1]["timeout"] == 33
    more = there.resume("--task", "3", "--model", "m-2")
    assert more.returncode == 0 and there.starts()[3]["argv"][there.starts()[3]["argv"].index("--model") + 1] == "m-2"


def test_options_that_were_given_later_are_kept_too(place):
    there = place(SPEC, [AUTHENTICATION], [AUTHENTICATION], [WRITES])
    assert there.run("--store", "h.db").returncode == 3
    assert there.resume("--budget", "0.5").returncode == 3
    assert there.resume().returncode == 0
    assert [start["argv"][start["argv"].index("--max-budget-usd") + 1] for start in there.starts()[1:]] == ["0.5", "0.5"]
    state = json.loads((there.runs()[0] / "run-state.json").read_text())
    assert state["options"]["store"] == str(there.folder / "h.db") and state["options"]["budget"] == 0.5


def test_a_run_that_was_killed_before_it_began_is_not_taken_for_an_older_one(place):
    there = place(SPEC, [WRITES], [WRITES])
    assert there.run().returncode == 0
    (there.workspace / "a.txt").unlink()
    killed = there.runs()[0].parent / ("9999" + there.runs()[0].name[4:])
    killed.mkdir()
    (killed / "run-lock").touch()
    done = there.resume()
    assert done.returncode == 2 and "no run of spec.md" in done.stderr and len(there.starts()) == 1


def test_a_new_run_in_the_same_output_folder_has_nothing_of_the_old_one(place):
    there = place(SPEC, [WRITES], [{"text": "No."}])
    out = there.folder / "out"
    assert there.run("--output", out).returncode == 0
    (there.workspace / "a.txt").unlink()
    assert there.run("--output", out).returncode == 1
    again = there.resume("--output", out)
    assert again.returncode == 1 and len(again.json()["tasks"]) == 1 and len(again.attempts()) == 1


def test_the_pass_of_another_clone_is_not_this_one_s(place, tmp_path):
    """Where one stands when it is resumed, a run must have begun, or worked."""
    there = place(SPEC, [WRITES])
    assert there.run().returncode == 0
    (tmp_path / "elsewhere").mkdir()
    command = [sys.executable, str(ROOT / "cc_execute.py"), str(there.folder / "spec.md"), "--resume"]
    done = subprocess.run(command, cwd=tmp_path / "elsewhere", env=there.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2 and f"works in {there.workspace}: give --cwd" in done.stderr
    here = subprocess.run([*command, "--cwd", str(there.workspace)], cwd=tmp_path / "elsewhere", env=there.environment(), capture_output=True, text=True, check=False)
    assert here.returncode == 0, here.stderr


def test_another_spec_does_not_go_on_in_this_one_s_folder(place, tmp_path):
    there = place(SPEC, [AUTHENTICATION], [WRITES])
    assert there.run("--output", there.folder / "out").returncode == 3
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "spec.md").write_text("Task: Delete everything here\n")
    command = [sys.executable, str(ROOT / "cc_execute.py"), "--resume-from", str(there.folder / "out")]
    for more, status in ((["spec.md"], 2), ([], 0)):
        done = subprocess.run([*command, *more], cwd=tmp_path / "elsewhere", env=there.environment(), capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
    assert [start["prompt"] for start in there.starts()] == ["Create a.txt", "continue"]


def test_of_two_tasks_with_one_text_each_has_its_own_state(place):
    spec = "".join(f"## Task {number}: x\nCreate a.txt\nSuccess Criteria: a.txt exists\n\n" for number in (1, 2))
    there = place(spec, [WRITES], [{"text": "No."}])
    assert there.run("--task", "1").returncode == 0
    (there.workspace / "a.txt").unlink()
    done = there.resume("--task", "2")
    assert done.returncode == 1 and len(there.starts()) == 2 and done.json()["tasks"][0]["number"] == 2


def test_a_finished_run_of_one_task_does_not_hide_the_one_that_was_interrupted(place):
    there = place(LIST, [WRITE["a"]], [{"text": "begun"}, {"sleep": 60}], [{"bash": "date +%N >a.txt"}], [WRITE["b"]], [WRITE["c"]])
    there.kill_when(lambda: there.says("begun", "task-2-attempt-1.jsonl"), number=signal.SIGINT)
    assert there.run("--task", "1").returncode == 0
    done = there.resume()
    assert (done.returncode, done.statuses()) == (0, ["passed"] * 3), done.stderr


def test_it_works_where_the_run_worked(place, tmp_path):
    there = place(SPEC, [AUTHENTICATION], [WRITES])
    assert there.run().returncode == 3
    assert there.resume().returncode == 0 and (there.workspace / "a.txt").exists()
    elsewhere = there.resume("--cwd", tmp_path)
    assert elsewhere.returncode == 2 and "no run" in elsewhere.stderr
    elsewhere = there.resume("--cwd", tmp_path, "--resume-from", there.runs()[0])
    assert elsewhere.returncode == 2 and f"expected {there.workspace}" in elsewhere.stderr


def test_a_folder_may_be_named_by_a_link(place):
    there = place(SPEC, [AUTHENTICATION], [AUTHENTICATION], [AUTHENTICATION], [WRITES])
    (there.folder / "link").symlink_to(there.workspace)
    assert there.run("--cwd", "link").returncode == 3
    for cwd in ("workspace", "link"):
        assert there.resume("--cwd", cwd).returncode == 3
    process = subprocess.run([sys.executable, str(ROOT / "cc_execute.py"), "../spec.md", "--resume"], cwd=there.workspace, env=there.environment(), capture_output=True,
                             text=True, check=False)
    assert process.returncode == 0, process.stderr


def test_going_on_with_one_task_does_not_make_it_a_run_of_one_task(place):
    there = place(LIST, [WRITE["a"]], [{"text": "No."}], [WRITE["b"]], [WRITE["c"]])
    assert there.run().returncode == 1
    assert there.resume("--task", "2", "--retries", "1").returncode == 0
    done = there.resume()
    assert (done.returncode, done.statuses()) == (0, ["passed"] * 3), done.stderr


def test_an_option_that_held_a_secret_has_to_be_given_again(place):
    there = place(SPEC, [AUTHENTICATION], [WRITES])
    store = "redis://:opensesame@127.0.0.1:1/0"
    assert there.run("--store", store).returncode == 3
    assert "opensesame" not in (there.runs()[0] / "run-state.json").read_text()
    refused = there.resume()
    assert refused.returncode == 2 and "--store held a secret" in refused.stderr and json.loads(refused.stdout)["error"]
    assert there.resume("--store", there.folder / "other.db").returncode == 0


def test_without_a_run_it_is_a_usage_error_that_says_so(place):
    there = place(SPEC, [WRITES])
    done = there.resume()
    assert done.returncode == 2 and "there is no run of spec.md to go on with" in done.stderr and there.starts() == []
    assert json.loads(done.stdout)["error"]["expected"] == "one: give the --output that it had, or leave out --resume"


def test_the_last_run_of_this_spec_and_no_other_is_gone_on_with(place):
    there = place(SPEC, [AUTHENTICATION], [WRITES], [AUTHENTICATION], [WRITES])
    (there.folder / "other.md").write_text(SPEC)
    assert there.run().returncode == 3
    assert there.run(spec="other.md").returncode == 0
    assert there.run("--keep-going").returncode == 3
    first, _, third = there.runs()
    assert there.resume().json()["output_dir"] == str(third)
    assert json.loads((first / "task-1-state.json").read_text())["status"] == "error"


@pytest.mark.parametrize("form", [("--resume-from", "DIR"), ("--resume", "DIR"), ("--resume-from", "DIR", "spec.md"), ("--resume", "DIR", "spec.md"),
                                  ("--resume", "spec.md", "--output", "DIR")], ids=" ".join)
def test_a_folder_names_the_run(place, form):
    there = place(SPEC, [AUTHENTICATION], [WRITES])
    out = there.folder / "out"
    assert there.run("--output", out).returncode == 3 and there.runs() == []
    process = there.begin(*(str(out) if word == "DIR" else word for word in form), spec=None)
    stdout, stderr = process.communicate()
    assert process.returncode == 0 and json.loads(stdout)["output_dir"] == str(out), stderr


def change_json(path: Path, changes: dict) -> None:
    """Some fields of a state become others; those of an attempt, in the attempt that is there."""
    plain = json.loads(path.read_text())
    for name, value in changes.items():
        is_attempt = name == "attempts" and isinstance(value, list) and value and value[0]
        plain[name] = [{**plain["attempts"][0], **value[0]}] if is_attempt else value
    path.write_text(json.dumps(plain))


@pytest.mark.parametrize("spoil, says", [
    (lambda folder: shutil.rmtree(folder), "No such file"), (lambda folder: (folder / "run-state.json").write_text("{"), "holds no run's state"),
    (lambda folder: (folder / "run-state.json").write_text("[]"), "holds no run's state"), (lambda folder: (folder / "run-state.json").write_text('{"version": 1}'), "holds no run's state"),
    (lambda folder: (folder / "task-1-state.json").write_text("{"), "task-1-state.json holds no run's state"),
    (lambda folder: (folder / "task-1-state.json").write_text("{}"), "task-1-state.json holds no run's state"),
    *[(lambda folder, changes=changes: change_json(folder / "run-state.json", changes), "holds no run's state") for changes in (
        {"elapsed": "x"}, {"elapsed": None}, {"options": None}, {"options": []}, {"options": {"cwd": 5}}, {"withheld": None}, {"warnings": None}, {"bridge": 5},
        {"started_at": "x"}, {"started_at": 1e20}, {"run": ""}, {"run": "../x"})],
    *[(lambda folder, changes=changes: change_json(folder / "task-1-state.json", changes), "holds no run's state") for changes in (
        {"attempts": None}, {"attempts": [None]}, {"attempts": [{}]}, {"differing": None}, {"differing": {"a": [1]}}, {"stem": "../../etc/x"}, {"place": "x"}, {"status": 1})],
    *[(lambda folder, changes=changes: change_json(folder / "task-1-state.json", {"attempts": [changes]}), "holds no run's state") for changes in (
        {"prompt": None}, {"command": None}, {"timeout": "x"}, {"duration": None}, {"transcript": None}, {"verdicts": [None]}, {"session_id": 5}, {"cost_usd": "x"})],
    (lambda folder: (folder / "run-state.json").write_text("[" * 100_000), "holds no run's state"),
    (lambda folder: (folder / "run-state.json").write_text('{"version": 99}'), "newer cc_execute"), (lambda folder: (folder / "run-state.json").write_bytes(b"\xff\xfe"), "holds no run's state")])
def test_a_state_that_cannot_be_read_is_a_usage_error(place, spoil, says):
    there = place(SPEC, [AUTHENTICATION], [WRITES])
    there.run("--output", there.folder / "out")
    spoil(there.folder / "out")
    process = there.begin("--resume-from", there.folder / "out")
    _, stderr = process.communicate()
    assert process.returncode == 2 and says in stderr and "Traceback" not in stderr and len(there.starts()) == 1


def test_a_run_that_is_still_going_on_is_left_alone(place):
    there = place(SPEC, [{"text": "begun"}, {"bash": "until [ -e go ]; do sleep 0.05; done"}, WRITES])
    process = there.begin("--cwd", there.workspace)
    wait_until(lambda: there.says("begun"), "it runs")
    second = there.resume()
    (there.workspace / "go").touch()
    stdout, _ = process.communicate()
    assert second.returncode == 2 and f"process {process.pid}" in second.stderr and "still going on" in second.stderr
    assert process.returncode == 0 and json.loads(stdout)["success"] and len(there.starts()) == 1


def test_several_specs_go_on_where_the_command_was(place):
    there = place(SPEC, [WRITES], [AUTHENTICATION], [{"write": {"path": "b.txt", "content": "b"}}], [{"write": {"path": "c.txt", "content": "c"}}])
    for name in "bc":
        (there.folder / f"{name}.md").write_text(SPEC.replace("a.txt", f"{name}.txt"))
    first = there.run("b.md", "c.md")
    assert first.returncode == 3 and len(there.runs()) == 2
    done = there.resume("b.md", "c.md")
    assert done.returncode == 0 and [document["success"] for document in done.json()["specs"]] == [True] * 3 and len(there.starts()) == 4
    assert len(there.runs()) == 3


def run_of_three(place) -> "Place":
    """spec.md passed, b.md failed to log in, c.md was not begun; the script goes on with a.txt, b.txt and c.txt in that order."""
    there = place(SPEC, [WRITE["a"]], [AUTHENTICATION], [WRITE["a"]], [WRITE["b"]], [WRITE["c"]])
    for name in "bc":
        (there.folder / f"{name}.md").write_text(SPEC.replace("a.txt", f"{name}.txt"))
    assert there.run("b.md", "c.md").returncode == 3 and len(there.starts()) == 2
    return there


def test_the_first_spec_that_was_run_alone_meanwhile_does_not_have_the_others_done_anew(place):
    there = run_of_three(place)
    (there.workspace / "a.txt").unlink()
    assert there.run().returncode == 0
    done = there.resume("b.md", "c.md")
    assert done.returncode == 0 and len(there.starts()) == 5, done.stderr
    assert [len(document["tasks"][0]["attempts"]) for document in done.json()["specs"]] == [1, 2, 1]


def test_a_new_spec_before_those_that_were_begun_is_begun_and_they_go_on(place):
    there = run_of_three(place)
    (there.folder / "0.md").write_text("Task: Create a.txt again\nTimeout: 60\nSuccess Criteria:\n1) a.txt exists\n")
    done = there.resume("spec.md", "b.md", "c.md", spec="0.md")
    assert done.returncode == 0 and [start["prompt"] for start in there.starts()][2:] == ["Create a.txt again", "continue", "Create c.txt"], done.stderr


def test_specs_none_of_which_was_run_are_nothing_to_go_on_with(place):
    there = place(SPEC, [WRITES])
    (there.folder / "b.md").write_text(SPEC)
    done = there.resume("b.md")
    assert done.returncode == 2 and "there is no run of spec.md to go on with here" in done.stderr and there.starts() == []


def test_a_spec_that_had_not_begun_is_not_taken_for_its_last_run(place):
    there = place(SPEC, [{"write": {"path": "b.txt", "content": "b"}}], [AUTHENTICATION], [WRITES], [{"write": {"path": "b.txt", "content": "b"}}])
    (there.folder / "b.md").write_text(SPEC.replace("a.txt", "b.txt"))
    assert there.run(spec="b.md").returncode == 0
    (there.workspace / "b.txt").unlink()
    assert there.run("b.md").returncode == 3
    done = there.resume("b.md")
    assert done.returncode == 0 and len(there.starts()) == 4, "b.md's run of another command does not count"


# ---- What changed meanwhile. ----

def test_a_task_whose_text_changed_is_run_anew_and_only_that_one(place):
    there = place(LIST, [WRITE["a"]], [{"text": "No."}], [WRITE["b"]], [WRITE["c"]])
    assert there.run().returncode == 1
    (there.folder / "spec.md").write_text(LIST.replace("Create b.txt\n", "Create b.txt, really\n"))
    done = there.resume()
    assert (done.returncode, done.statuses()) == (0, ["passed"] * 3) and [len(task["attempts"]) for task in done.json()["tasks"]] == [1, 1, 1]
    assert [start["prompt"] for start in there.starts()] == ["Create a.txt", "Create b.txt", "Create b.txt, really", "Create c.txt"]
    names = {path.name for path in there.runs()[0].iterdir()}
    assert {"task-2-attempt-1.jsonl", "task-2-again-1-attempt-1.jsonl"} <= names


HOW = [lambda text: text.replace("Timeout: 60", "Timeout: 90"), lambda text: text + "Tools: Write\n", lambda text: text + "Retry Strategy: again\n",
       lambda text: text + "Budget: 3\n", lambda text: "Timeout: 5 minutes\n" + text.replace("Timeout: 60\n", "")]


@pytest.mark.parametrize("change", [lambda text: text.replace("creates a.txt", "a.txt exists"), lambda text: text.replace("Create a", "Make a")])
def test_what_is_to_be_done_or_proved_may_not_have_changed(place, change):
    there = place(SPEC, [WRITES], [WRITES])
    assert there.run().returncode == 0
    (there.folder / "spec.md").write_text(change(SPEC))
    there.resume()
    assert len(there.starts()) == 2


@pytest.mark.parametrize("change", HOW)
def test_how_it_is_to_be_done_matters_only_as_long_as_it_has_not_passed(place, change):
    there = place(SPEC, [WRITES], [WRITES])
    assert there.run().returncode == 0
    (there.folder / "spec.md").write_text(change(SPEC))
    assert there.resume().returncode == 0 and len(there.starts()) == 1


@pytest.mark.parametrize("change", HOW)
def test_a_task_that_failed_is_begun_anew_with_another_time_limit_or_tools(place, change):
    there = place(SPEC, [{"text": "No."}], [WRITES])
    assert there.run().returncode == 1
    (there.folder / "spec.md").write_text(change(SPEC))
    done = there.resume()
    assert done.returncode == 0 and len(done.attempts()) == 1 and len(there.starts()) == 2


@pytest.mark.parametrize("change", [lambda text: text + "\n\n", lambda text: "# Notes\nFor Ada.\n\n" + text, lambda text: text.replace("1) ", "- ")])
def test_layout_and_notes_are_none(place, change):
    there = place(SPEC, [WRITES], [WRITES])
    assert there.run().returncode == 0
    (there.folder / "spec.md").write_text(change(SPEC))
    assert there.resume().returncode == 0 and len(there.starts()) == 1


def test_a_task_that_moved_keeps_what_it_had(place):
    there = place(LIST, [WRITE["a"]], [WRITE["b"]], [AUTHENTICATION], [{"write": {"path": "new.txt", "content": "n"}}], [WRITE["c"]])
    assert there.run().returncode == 3
    parts = LIST.split("## Task ")
    new = "0: new\nCreate new.txt\nTimeout: 60\nSuccess Criteria: creates new.txt\n\n"
    (there.folder / "spec.md").write_text("## Task ".join([parts[0], new, *parts[1:]]))
    done = there.resume()
    assert done.returncode == 0 and [start["prompt"] for start in there.starts()][3:] == ["Create new.txt", "continue"], done.stderr


def test_a_weak_pass_is_none_for_a_strict_resumption(place):
    there = place("Task: Create a.txt\nTimeout: 60\nSuccess Criteria: It is a good file\n", [{"write": {"path": "a.txt", "content": "a good file"}}])
    assert there.run().returncode == 0
    done = there.resume("--strict")
    assert done.returncode == 1 and done.attempts()[0]["criteria"][0]["evidence"].startswith("only weakly met") and len(there.starts()) == 1
