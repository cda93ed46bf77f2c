"""The stand-in agent: what it writes, how it ends, what it says to a bad script, and that its stream is the real CLI's."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Mapping, NamedTuple

import pytest

from scripted_api import ScriptedApi, prompts
from stand_in import VERSION
from support import ROOT, marked_processes, missing, wait_until

STAND_IN = [sys.executable, str(ROOT / "tests" / "stand_in.py")]
FLAGS = ["--output-format", "stream-json", "--verbose", "--dangerously-skip-permissions"]
TASK = 'Create a config.py file with DATABASE_URL="sqlite:///test.db".'
RUN_LIMIT_S = 60
# Fields of the real events that the stand-in leaves out: they tell of the account, the machine's speed and things it does not have.
LEFT_OUT = {"analytics_disabled", "product_feedback_disabled", "memory_paths", "fast_mode_state", "ttft_ms", "ttft_stream_ms",
            "time_to_request_ms"}


class Ended(NamedTuple):
    """A finished agent: its exit code, the events of its stream, its stderr."""
    exit_code: int
    events: list
    stderr: str


def run_agent(command: list, *arguments: str, cwd: Path, env: Mapping[str, str] = {}, input: str = "") -> Ended:
    done = subprocess.run([*command, *arguments], cwd=cwd, env={**os.environ, **env}, input=input, capture_output=True,
                          encoding="utf-8", timeout=RUN_LIMIT_S, check=False)
    return Ended(done.returncode, [json.loads(line) for line in done.stdout.split("\n") if line], done.stderr)


def interrupt_agent(command: list, cwd: Path, env: Mapping[str, str], after: str, number: signal.Signals) -> Ended:
    """Runs it with the prompt "x" and sends the signal as soon as a line with the text `after` was seen."""
    agent = subprocess.Popen([*command, "-p", "x", *FLAGS], cwd=cwd, env={**os.environ, **env}, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    with agent:
        lines = []
        for line in agent.stdout:
            lines.append(line)
            if after in line:
                if '"Bash"' in after:
                    wait_until(lambda: (cwd / "begun").exists(), "the Bash command has begun")
                agent.send_signal(number)
        return Ended(agent.wait(RUN_LIMIT_S), [json.loads(line) for line in lines], agent.stderr.read())


def interrupt_cli(command: list, folder: Path, steps: list, after: str, number: signal.Signals, tries: int = 3) -> Ended:
    """The same with the real CLI, until it ends with a result: on a busy machine one that had just begun to answer was seen to end without."""
    for place in (folder / f"real-{count}" for count in range(tries)):
        place.mkdir()
        with ScriptedApi(steps) as api:
            ended = interrupt_agent(command, place, cli_variables(api), after, number)
        if ended.events[-1]["type"] == "result":
            break
    return ended


def kinds(events: list) -> list:
    """What each event is, in a word."""
    def kind(event: dict) -> str:
        block = event.get("message", {}).get("content", [{}])[0]
        return ":".join(filter(None, [event["type"], event.get("subtype"), block.get("type"), block.get("name")]))
    return [kind(event) for event in events]


# ---- The worked example. ----

@pytest.mark.parametrize("arguments, stdin", [
    (["-p", TASK, *FLAGS, "--allowedTools", "Write,Read"], ""),
    (["-p", *FLAGS, "--model", "m", "--max-turns", "3", "--max-budget-usd", "1"], TASK + "\n"),
    ([*FLAGS, "--resume", "abc", "-p", "--", TASK], ""),
    (["-p", 'What is a config.py file with DATABASE_URL="sqlite:///test.db"? Show the complete file content.', *FLAGS], ""),
])
def test_the_worked_example_is_really_written(workspace, arguments, stdin):
    ended = run_agent(STAND_IN, *arguments, cwd=workspace, input=stdin)
    assert (workspace / "config.py").read_text() == 'DATABASE_URL="sqlite:///test.db"\n'
    assert kinds(ended.events) == ["system:init", "assistant:text", "assistant:tool_use:Write", "user:tool_result",
                                   "assistant:text", "result:success"]
    assert ended.exit_code == 0 and not ended.stderr and not ended.events[-1]["is_error"]
    assert {event["session_id"] for event in ended.events} == ({"abc"} if "abc" in arguments else {ended.events[0]["session_id"]})


def test_a_task_that_is_not_understood_changes_nothing(workspace):
    ended = run_agent(STAND_IN, "-p", "Prove the conjecture", *FLAGS, cwd=workspace)
    assert "Create a NAME file with TEXT" in ended.events[-1]["result"]
    assert not list(workspace.iterdir())


# ---- Scripts. ----

def test_each_start_plays_the_next_attempt_and_is_recorded(workspace, stand_in):
    agent = stand_in([{"text": "one"}], [{"text": "two"}])
    runs = [run_agent(STAND_IN, "-p", "go", *FLAGS, cwd=workspace, env=agent.environment, input="more") for _ in range(3)]
    assert [run.events[-1]["result"] for run in runs] == ["one", "two", "two"]
    first, *_, last = agent.starts()
    assert (first["attempt"], last["attempt"]) == (1, 3)
    assert (first["argv"], first["stdin"], first["prompt"]) == (["-p", "go", *FLAGS], "more", "go\nmore")
    assert first["cwd"] == str(workspace)
    assert first["environment"]["CC_TEST_RUN"] == os.environ["CC_TEST_RUN"]
    assert first["umask"] == current_umask()


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_tools_really_work(workspace, stand_in):
    agent = stand_in([{"write": {"path": "d/a.txt", "content": "one\n"}}, {"edit": {"path": "d/a.txt", "old": "one", "new": "two"}},
                      {"read": "d/a.txt"}, {"bash": "cat d/a.txt; echo oops >&2"}, {"bash": "echo before; exit 3"},
                      {"bash": "grep three d/a.txt"}, {"bash": "true"}, {"read": "absent"}])
    ended = run_agent(STAND_IN, "-p", "go", *FLAGS, cwd=workspace, env=agent.environment)
    results = [event["message"]["content"][0] for event in ended.events if event["type"] == "user"]
    said = [(result["content"], result.get("is_error")) for result in results]
    assert said[2:7] == [("1\ttwo\n2\t", None), ("two\noops", False), ("Exit code 3\nbefore", True),
                         ("(Bash completed with no output)", False), ("(Bash completed with no output)", False)]
    assert said[7][1] is True and (workspace / "d" / "a.txt").read_text() == "two\n"
    calls = [event["message"]["content"][0]["id"] for event in ended.events if "tool_use" in kinds([event])[0]]
    assert calls == [result["tool_use_id"] for result in results]
    grep, = (event for event in ended.events if "returnCodeInterpretation" in event.get("tool_use_result", ()))
    assert grep["tool_use_result"]["returnCodeInterpretation"] == "No matches found"


def test_lines_that_are_no_events_come_out_as_they_are(workspace, stand_in):
    agent = stand_in([{"raw": "no json \udcff\u2028"}, {"stderr": "a warning"}, {"event": {"type": "rate_limit_event"}}])
    done = subprocess.run([*STAND_IN, "-p", "x", *FLAGS], cwd=workspace, env={**os.environ, **agent.environment},
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=RUN_LIMIT_S, check=False)
    lines = done.stdout.split(b"\n")
    assert lines[1] == b"no json \xff\xe2\x80\xa8" and done.stderr == b"a warning\n"
    assert json.loads(lines[2])["type"] == "rate_limit_event" and json.loads(lines[2])["session_id"]


@pytest.mark.parametrize("steps, exit_code, last", [
    ([{"exit": 7}], 7, "system:init"),
    ([{"result": {"subtype": "error_max_turns", "errors": ["Reached maximum number of turns (1)"]}}], 1, "result:error_max_turns"),
    ([{"api_error": {"text": "API Error: 529 Overloaded.", "status": 529, "error": "overloaded"}}], 1, "result:success"),
    ([{"api_retry": {"error_status": 401, "error": "authentication_failed"}}], 0, "result:success"),
    ([{"result": {}}, {"exit": 5}], 5, "result:success"),
])
def test_how_a_script_may_end(workspace, stand_in, steps, exit_code, last):
    ended = run_agent(STAND_IN, "-p", "x", *FLAGS, cwd=workspace, env=stand_in(steps).environment)
    assert (ended.exit_code, kinds(ended.events)[-1]) == (exit_code, last)


def test_what_is_spawned_stays_in_a_session_of_its_own(workspace, stand_in):
    agent = stand_in([{"spawn": "echo $$ > pid; exec sleep 600"}])
    ended = run_agent(STAND_IN, "-p", "x", *FLAGS, cwd=workspace, env=agent.environment)
    wait_until(lambda: (workspace / "pid").exists() and (workspace / "pid").read_text().strip(), "the command has told its pid")
    pid = int((workspace / "pid").read_text())
    try:
        assert ended.exit_code == 0 and os.getsid(pid) == pid
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("script, complaint", [
    ("{", "not readable as JSON"),
    ("[]", 'expected is {"attempts"'),
    ('{"attempts": []}', "at least one attempt"),
    ('{"attempts": [[{"text": "a"}], [{"txt": "b"}]]}', "attempt 2, step 1: 'txt' is not known; known are text, write"),
    ('{"attempts": [[{"sleep": "long"}]]}', 'attempt 1, step 1: sleep: "long" should be int or float'),
    ('{"attempts": [[{"write": {"path": "a"}}]]}', "has no content"),
    ('{"attempts": [[{"text": "a", "exit": 1}]]}', "is no object with one key"),
    ('{"attempts": [[{"ignore": "SIGSOON"}]]}', "'SIGSOON' is the name of no signal"),
])
def test_a_bad_script_is_named_and_nothing_is_played(workspace, tmp_path, script, complaint):
    path = tmp_path / "script.json"
    path.write_text(script)
    ended = run_agent(STAND_IN, "-p", "x", *FLAGS, cwd=workspace, env={"STAND_IN_SCRIPT": str(path)})
    assert (ended.exit_code, ended.events) == (2, [])
    assert str(path) in ended.stderr and complaint in ended.stderr and "Traceback" not in ended.stderr


# ---- Signals. ----

IN_BASH = [{"text": "I'll wait."}, {"bash": "touch begun; sleep 600"}]


def test_sigterm_ends_it_at_once_and_leaves_its_command_behind(workspace, stand_in):
    ended = interrupt_agent(STAND_IN, workspace, stand_in(IN_BASH).environment, '"name":"Bash"', signal.SIGTERM)
    mine = marked_processes(f"CC_TEST_RUN={os.environ['CC_TEST_RUN']}")
    left = [process for process in mine if "sleep 600" in process.command]
    for process in left:
        os.kill(process.pid, signal.SIGKILL)
    assert ended.exit_code == 143 and kinds(ended.events)[-1] == "assistant:tool_use:Bash"
    assert left


@pytest.mark.parametrize("steps, after, exit_code, last", [
    (IN_BASH, '"name":"Bash"', 1, "result:error_during_execution"),
    ([{"text": "Well,"}, {"sleep": 60}], '"Well,"', 0, "result:error_during_execution"),
    ([{"sleep": 60}], '"init"', 0, "system:init"),
])
def test_sigint_ends_the_turn(workspace, stand_in, steps, after, exit_code, last):
    ended = interrupt_agent(STAND_IN, workspace, stand_in(steps).environment, after, signal.SIGINT)
    assert (ended.exit_code, kinds(ended.events)[-1]) == (exit_code, last)


def test_an_ignored_signal_changes_nothing(workspace, stand_in):
    agent = stand_in([{"ignore": "SIGTERM"}, {"text": "ready"}, {"sleep": 0.2}, {"text": "still here"}])
    ended = interrupt_agent(STAND_IN, workspace, agent.environment, '"ready"', signal.SIGTERM)
    assert (ended.exit_code, ended.events[-1]["result"]) == (0, "still here")


# ---- Beside the real CLI: the same script gives the same events with the same fields. ----

@pytest.fixture(scope="module")
def imitated_cli(claude) -> list:
    """The real CLI as a command, in the version that the stand-in imitates."""
    version = subprocess.run([claude, "--version"], capture_output=True, text=True, check=True).stdout.split()[0]
    if version != VERSION:
        missing(f"Claude CLI {VERSION}", f"{claude} is {version}")
    return [str(claude)]


def cli_variables(api: ScriptedApi) -> dict:
    return {**api.environment, "IS_SANDBOX": "1", "CLAUDE_CODE_MAX_RETRIES": "1"}


def assert_same_shape(ours: list, theirs: list) -> None:
    """The same kinds in the same order, with the CLI's fields and no others, except for LEFT_OUT."""
    assert kinds(ours) == kinds(theirs)
    for mine, real in zip(ours, theirs):
        assert set(mine) <= set(real) <= set(mine) | LEFT_OUT, kinds([mine])
        if "message" in real:
            assert set(mine["message"]) <= set(real["message"]), kinds([mine])
            assert set(mine["message"]["content"][0]) == set(real["message"]["content"][0]), kinds([mine])
            assert type(mine.get("tool_use_result")) is type(real.get("tool_use_result"))
        if isinstance(real.get("tool_use_result"), dict):
            assert set(mine["tool_use_result"]) == set(real["tool_use_result"]), kinds([mine])


def tool_contents(events: list) -> list:
    blocks = [block for event in events if event["type"] == "user" for block in event["message"]["content"]]
    return [(block.get("content", block.get("text")), block.get("is_error")) for block in blocks]


SAME_RUN = [  # step of the stand-in, step of the API
    ({"text": "I'll do it."}, {"text": "I'll do it.", "tool": "Write", "input": {"file_path": "a.txt", "content": "one\n"}}),
    ({"write": {"path": "a.txt", "content": "one\n"}}, None),
    ({"edit": {"path": "a.txt", "old": "one", "new": "two"}},
     {"tool": "Edit", "input": {"file_path": "a.txt", "old_string": "one", "new_string": "two"}}),
    ({"edit": {"path": "a.txt", "old": "three", "new": "four"}},
     {"tool": "Edit", "input": {"file_path": "a.txt", "old_string": "three", "new_string": "four"}}),
    ({"write": {"path": "a.txt", "content": "three\n"}}, {"tool": "Write", "input": {"file_path": "a.txt", "content": "three\n"}}),
    ({"read": "a.txt"}, {"tool": "Read", "input": {"file_path": "a.txt"}}),
    ({"read": "absent.txt"}, {"tool": "Read", "input": {"file_path": "absent.txt"}}),
    *(({"bash": command}, {"tool": "Bash", "input": {"command": command}}) for command in [
        "cat a.txt; echo oops >&2; echo", "echo before; exit 3", "false", "true", "grep zzz a.txt", "ls a.txt | grep zzz",
        "diff a.txt /dev/null", "kill -9 $$", "test -e nothing", "find nothing 2>/dev/null", "(sleep 0.2; touch late) & echo now"]),
    ({"text": "Done."}, {"text": "Done."}),
]


def test_a_run_is_the_real_clis_event_by_event(imitated_cli, workspace, stand_in, tmp_path):
    (tmp_path / "real").mkdir()
    ours = run_agent(STAND_IN, "-p", "go", *FLAGS, cwd=workspace, env=stand_in([step for step, _ in SAME_RUN]).environment)
    with ScriptedApi([step for _, step in SAME_RUN if step]) as api:
        theirs = run_agent(imitated_cli, "-p", "go", *FLAGS, cwd=tmp_path / "real", env=cli_variables(api))
    assert_same_shape(ours.events, theirs.events)
    real_folder, our_folder = str(tmp_path / "real"), str(workspace)
    real_contents = [(text.replace(real_folder, our_folder), failed) for text, failed in tool_contents(theirs.events)]
    assert tool_contents(ours.events) == real_contents
    for field in ("subtype", "is_error", "num_turns", "result", "stop_reason", "terminal_reason"):
        assert ours.events[-1][field] == theirs.events[-1][field], field
    assert ours.exit_code == theirs.exit_code == 0
    wait_until(lambda: (workspace / "late").exists() and (tmp_path / "real" / "late").exists(), "what was left running has ended")


@pytest.mark.parametrize("ours, theirs, after", [
    (IN_BASH, [{"text": "I'll wait.", "tool": "Bash", "input": {"command": "touch begun; sleep 600"}}], '"name":"Bash"'),
    ([{"text": "Well,"}, {"sleep": 60}], [{"text": "Well,", "stall": 60}], '"Well,"'),
])
def test_sigint_ends_the_turn_as_in_the_real_cli(imitated_cli, workspace, stand_in, tmp_path, ours, theirs, after):
    """The CLI's exit code (0 or 1) depends on the moment, so it is not compared."""
    mine = interrupt_agent(STAND_IN, workspace, stand_in(ours).environment, after, signal.SIGINT)
    real = interrupt_cli(imitated_cli, tmp_path, theirs, after, signal.SIGINT)
    assert_same_shape(mine.events, real.events)
    assert tool_contents(mine.events) == tool_contents(real.events)
    assert mine.events[-1]["terminal_reason"] == real.events[-1]["terminal_reason"]


def test_a_failed_request_looks_as_in_the_real_cli(imitated_cli, workspace, stand_in):
    retry = {"error_status": 529, "error": "overloaded"}
    with ScriptedApi([{"status": 529, "type": "overloaded_error", "message": "Overloaded"}] * 2) as api:
        theirs = run_agent(imitated_cli, "-p", "go", *FLAGS, cwd=workspace, env=cli_variables(api))
    text = theirs.events[-1]["result"]
    agent = stand_in([{"api_retry": retry}, {"api_error": {"text": text, "status": 529, "error": theirs.events[-2]["error"]}}])
    ours = run_agent(STAND_IN, "-p", "go", *FLAGS, cwd=workspace, env=agent.environment)
    assert_same_shape(ours.events, theirs.events)
    for field in ("is_error", "api_error_status", "result", "num_turns", "stop_reason", "terminal_reason"):
        assert ours.events[-1][field] == theirs.events[-1][field], field
    assert (ours.exit_code, theirs.exit_code) == (1, 1)


@pytest.mark.parametrize("arguments", [
    ["-p", "x", *FLAGS, "--x"],
    ["-p", "x", "--output-format", "stream-json"],
    ["-p", *FLAGS],
    ["-p", *FLAGS, "--allowedTools", "Write,Read", "the prompt, swallowed"],
])
def test_wrong_usage_is_answered_in_the_clis_words(imitated_cli, workspace, arguments):
    ours = run_agent(STAND_IN, *arguments, cwd=workspace)
    with ScriptedApi([]) as api:
        theirs = run_agent(imitated_cli, *arguments, cwd=workspace, env=cli_variables(api))
    assert ours == theirs and ours.exit_code == 1 and not api.requests


def test_a_prompt_and_standard_input_are_put_together_as_in_the_cli(imitated_cli, workspace, stand_in):
    agent = stand_in([{"text": "ok"}])
    run_agent(STAND_IN, "-p", "the prompt", *FLAGS, cwd=workspace, env=agent.environment, input="and the rest\n")
    with ScriptedApi([{"text": "ok"}]) as api:
        run_agent(imitated_cli, "-p", "the prompt", *FLAGS, cwd=workspace, env=cli_variables(api), input="and the rest\n")
    assert [agent.starts()[0]["prompt"]] == prompts(api.requests[0])
