"""Signals: whatever ends cc_execute.py or its bridge, the agent and all it started go too, and what is known is still told."""
from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from bridging import lives, start_bridge, wrapped
from support import DEADLINE_S, ROOT, heed_signals, marked_processes, own_mark, wait_until

SPEC = "Task: Create config.py\nSuccess Criteria: 1) config.py exists\nRetry Strategy: Try again.\n"
# The agent has a process in a session of its own and, as Claude's Bash tool does, a command in another.
ESCAPED = {"spawn": "echo $$ >escaped.part; mv escaped.part escaped; exec sleep 600"}
WORKS = [{"text": "I am at it."}, ESCAPED, {"bash": "echo $$ >bash.part; mv bash.part bash; sleep 600"}]
STUBBORN = [{"ignore": "SIGINT"}, {"ignore": "SIGTERM"}, *WORKS[:-1], {"write": {"path": "bash", "content": "0\n"}}, {"sleep": 600}]


class Ended(NamedTuple):
    returncode: int
    stdout: str
    stderr: str

    def json(self) -> dict:
        return json.loads(self.stdout)


class Running:
    """cc_execute.py at work on a spec, in a session of its own."""

    def __init__(self, spec: str, workspace: Path, environment: dict, *options: str, python: tuple = (sys.executable,)) -> None:
        (workspace.parent / "spec.txt").write_text(spec)
        command = [*python, str(ROOT / "cc_execute.py"), str(workspace.parent / "spec.txt"), "--json", *options]
        self.process = subprocess.Popen(command, cwd=workspace, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                                        preexec_fn=heed_signals)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> Ended:
        stdout, stderr = self.process.communicate(timeout=2 * DEADLINE_S)
        return Ended(self.process.returncode, stdout, stderr)


def pids_of(workspace: Path) -> list:
    """The agent's own processes, once both of them run."""
    files = [workspace / "escaped", workspace / "bash"]
    wait_until(lambda: all(file.exists() for file in files), "the agent is at work")
    return [int(file.read_text()) for file in files]


def others_than_bridges() -> list:
    return [process for process in marked_processes(own_mark()) if "ws_bridge.py" not in process.command]


def assert_cancelled(ended: Ended, status: int, kind: str = "cancelled") -> None:
    assert ended.returncode == status, ended.stdout + ended.stderr
    task = ended.json()["tasks"][0]
    assert (task["status"], task["success"], ended.json()["success"]) == ("cancelled", False, False)
    assert task["attempts"][-1]["error"]["kind"] == kind and len(task["attempts"]) == 1
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_cancels_the_agent_and_the_document_is_printed(bridge, workspace, stand_in, number, status):
    agent = stand_in(WORKS)
    run = Running(SPEC, workspace, agent.environment)
    pids = pids_of(workspace)
    run.send(number)
    ended = run.end()
    assert_cancelled(ended, status)
    assert not [pid for pid in pids if lives(pid)] and others_than_bridges() == []
    assert len(agent.starts()) == 1  # no retry
    assert "error_during_execution" in Path(ended.json()["tasks"][0]["attempts"][0]["transcript"]).read_text()  # it was asked by SIGINT


def test_the_tasks_after_it_are_skipped_even_with_keep_going(bridge, workspace, stand_in):
    spec = "## Task 1: One\nDo it\n\n## Task 2: Two\nDo that\n"
    run = Running(spec, workspace, stand_in(WORKS).environment, "--keep-going")
    pids_of(workspace)
    run.send(signal.SIGINT)
    ended = run.end()
    assert ended.returncode == 130 and [task["status"] for task in ended.json()["tasks"]] == ["cancelled", "skipped"]


def test_work_that_was_cancelled_is_not_remembered_as_a_failure(bridge, workspace, stand_in, run_cc):
    run = Running(SPEC, workspace, stand_in(WORKS).environment)
    pids_of(workspace)
    run.send(signal.SIGINT)
    assert run.end().returncode == 130
    stats = run_cc("--stats", "--json").json()
    assert (stats["successes"], stats["failures"]) == (0, 0)


def test_an_agent_that_ignores_signals_is_killed_after_the_grace(workspace, stand_in, monkeypatch):
    with start_bridge("--grace", "0.5") as bridge:
        monkeypatch.setenv("CC_EXECUTE_BRIDGE", bridge.url)
        run = Running(SPEC, workspace, stand_in(STUBBORN).environment)
        pids_of(workspace)
        run.send(signal.SIGINT)
        assert_cancelled(run.end(), 130)
        assert others_than_bridges() == []


def test_a_second_ctrl_c_kills_at_once(workspace, stand_in, monkeypatch):
    """With a grace of ten minutes only the second one can end it."""
    with start_bridge("--grace", "600") as bridge:
        monkeypatch.setenv("CC_EXECUTE_BRIDGE", bridge.url)
        run = Running(SPEC, workspace, stand_in(STUBBORN).environment)
        pids_of(workspace)
        run.send(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            run.process.wait(1)
        run.send(signal.SIGINT)
        assert_cancelled(run.end(), 130)
        assert others_than_bridges() == []


def test_a_signal_during_a_criterion_command_ends_that_and_starts_no_retry(bridge, workspace, stand_in):
    spec = ("Task: Create config.py\nSuccess Criteria: 1) `touch escaped; echo $$ >bash.part; mv bash.part bash; sleep 600`\n"
            "Retry Strategy: try harder\n")
    agent = stand_in([{"text": "Done."}])
    run = Running(spec, workspace, agent.environment)
    wait_until(lambda: (workspace / "bash").exists(), "the command runs")
    run.send(signal.SIGINT)
    assert_cancelled(run.end(), 130)
    assert len(agent.starts()) == 1
    assert others_than_bridges() == []


def test_a_signal_while_a_silent_bridge_is_waited_for_ends_the_run(workspace, stand_in):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        agent = stand_in(WORKS)
        run = Running(SPEC, workspace, agent.environment, "--bridge", f"ws://127.0.0.1:{silent.getsockname()[1]}")
        silent.settimeout(DEADLINE_S)
        silent.accept()[0].close()
        run.send(signal.SIGINT)
        ended = run.end()
    assert ended.returncode == 130 and agent.starts() == [], ended.stdout + ended.stderr


def test_a_client_that_is_killed_leaves_its_agent_to_the_bridge_which_ends_it(workspace, stand_in, monkeypatch):
    with start_bridge("--detach-grace", "0.5") as bridge:
        monkeypatch.setenv("CC_EXECUTE_BRIDGE", bridge.url)
        run = Running(SPEC, workspace, stand_in(WORKS).environment)
        pids_of(workspace)
        run.send(signal.SIGKILL)
        run.end()
        wait_until(lambda: others_than_bridges() == [], "the agent has ended with its client")


CLIENTS = pytest.mark.parametrize("python", [(sys.executable, "-S"), (sys.executable,)], ids=["built-in client", "websocket-client"])


@CLIENTS
def test_a_bridge_that_is_killed_in_the_middle_is_exit_3_and_leaves_no_process(workspace, stand_in, monkeypatch, python):
    """The agent itself goes at once; what had a session of its own is swept by the next bridge."""
    with start_bridge() as bridge:
        monkeypatch.setenv("CC_EXECUTE_BRIDGE", bridge.url)
        run = Running(SPEC, workspace, stand_in(WORKS).environment, python=python)
        pids_of(workspace)
        bridge.process.kill()
        ended = run.end()
    assert ended.returncode == 3, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    error = ended.json()["tasks"][0]["attempts"][-1]["error"]
    assert error["kind"] == "bridge" and error["message"]
    wait_until(lambda: not [process for process in others_than_bridges() if "stand_in" in process.command], "the agent has ended")
    with start_bridge():
        wait_until(lambda: others_than_bridges() == [], "what was left has been swept")


@CLIENTS
def test_a_bridge_that_is_killed_during_a_criterion_command_is_exit_3_with_the_document(workspace, stand_in, monkeypatch, python):
    spec = "Task: Create a.txt\nSuccess Criteria: 1) `touch escaped; echo $$ >bash.part; mv bash.part bash; exec sleep 600`\n"
    with start_bridge() as bridge:
        monkeypatch.setenv("CC_EXECUTE_BRIDGE", bridge.url)
        run = Running(spec, workspace, stand_in([{"text": "Done."}]).environment, python=python)
        wait_until(lambda: (workspace / "bash").exists(), "the command runs")
        bridge.process.kill()
        ended = run.end()
    assert ended.returncode == 3 and "Traceback" not in ended.stderr, ended.stderr
    attempt = ended.json()["tasks"][0]["attempts"][0]
    assert attempt["error"]["kind"] == "bridge" and not attempt["criteria"][0]["met"]
    wait_until(lambda: others_than_bridges() == [], "the command has ended with its bridge")


# The bridge, killed when the criterion's command runs already, and before the kernel was told whom to end with it.
KILLED_AT_ONCE = """import fcntl, time
real, leashed = fcntl.fcntl, []
def dies(descriptor, operation, *value):
    if operation == fcntl.F_SETOWN:
        leashed.extend(value)
        while len(leashed) == 2 and not os.path.exists(f"/proc/{-leashed[1]}/cwd/bash"):  # the agent was the first
            time.sleep(0.01)
        if len(leashed) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    return real(descriptor, operation, *value)
fcntl.fcntl = dies"""


def test_a_command_that_had_just_begun_when_its_bridge_was_killed_is_ended_too(workspace, stand_in, monkeypatch, tmp_path):
    spec = "Task: Create a.txt\nSuccess Criteria: 1) `touch escaped; echo $$ >bash.part; mv bash.part bash; exec sleep 600`\n"
    with start_bridge(script=wrapped(tmp_path, KILLED_AT_ONCE)) as bridge:
        monkeypatch.setenv("CC_EXECUTE_BRIDGE", bridge.url)
        run = Running(spec, workspace, stand_in([{"text": "Done."}]).environment)
        ended = run.end()
    assert ended.returncode == 3 and ended.json()["tasks"][0]["attempts"][0]["error"]["kind"] == "bridge", ended.stderr
    wait_until(lambda: others_than_bridges() == [], "the command is ended")


@CLIENTS
def test_a_bridge_that_is_ended_in_the_middle_ends_the_agent_and_the_run_does_not_pass(workspace, stand_in, monkeypatch, python):
    """Its last word may still be heard or not: cancelled by somebody else, or the bridge lost."""
    with start_bridge() as bridge:
        monkeypatch.setenv("CC_EXECUTE_BRIDGE", bridge.url)
        run = Running(SPEC, workspace, stand_in(WORKS).environment, python=python)
        pids_of(workspace)
        bridge.stop()
        ended = run.end()
    assert ended.stdout, ended.stderr
    assert ended.json()["tasks"][0]["attempts"][-1]["error"]["kind"] == {1: "cancelled", 3: "bridge"}[ended.returncode]
    assert "Traceback" not in ended.stderr and others_than_bridges() == []


def test_a_reader_of_stdout_that_is_gone_is_no_traceback(bridge, workspace, stand_in):
    run = Running(SPEC, workspace, stand_in([{"write": {"path": "config.py", "content": "x"}}]).environment)
    run.process.stdout.close()
    run.process.stdout = None
    ended = run.process.communicate(timeout=DEADLINE_S)
    assert "Traceback" not in ended[1] and "Exception" not in ended[1]
    assert run.process.returncode not in (0, 1)
