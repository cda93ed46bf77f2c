"""Module: the seed's steps under the seed's names, for programs; what needs no bridge."""
from __future__ import annotations

import ast
import collections
import json
import pickle
import subprocess
import sys

import pytest

import cc_execute
from cc_execute import (build_command, evaluate_criteria, extract_filename, extract_target, parse_claude_response,
                        parse_task_request)
from support import ROOT
from transcripts import bash, failed_bash, init, lines, read, result, says, synthetic, write

EXAMPLE = (ROOT / "tests" / "specs" / "worked_example.txt").read_text("utf-8")


def test_the_seed_s_steps_follow_one_another(workspace):
    task = parse_task_request(EXAMPLE)
    assert (task.timeout, task.criteria) == (45.0, ("File config.py exists", "Contains DATABASE_URL"))
    assert build_command(task)[:3] == ["claude", "-p", 'Create a config.py file with DATABASE_URL="sqlite:///test.db".']
    (workspace / "config.py").write_text('DATABASE_URL="sqlite:///test.db"\n')
    response = parse_claude_response(lines([init(), write(str(workspace / "config.py"), "x"),
                                            result("I wrote it.")]).splitlines())
    assert response["text"] == "I wrote it." and response["tools"][0]["name"] == "Write"
    assert evaluate_criteria(response["text"], task.criteria, str(workspace)) == (True, [])


def test_claims_are_not_believed(workspace):
    told = "I created config.py with DATABASE_URL. File config.py exists and contains DATABASE_URL. No errors."
    assert evaluate_criteria(told, ["File config.py exists", "config.py contains DATABASE_URL"], str(workspace)) == (
        False, ["File config.py exists", "config.py contains DATABASE_URL"])


def test_the_directory_is_the_current_one_unless_named(workspace, monkeypatch):
    (workspace / "a.py").write_text("x")
    assert evaluate_criteria("", ["a.py exists"]) == (False, ["a.py exists"])
    monkeypatch.chdir(workspace)
    assert evaluate_criteria("", ["a.py exists"]) == (True, [])


EVENTS = [
    ("a command's output", ["Output contains 391"], [bash("echo 391", "391\n")], "", True),
    ("what was read is no output", ["Output contains 391"], [bash("true", ""), read("/w/a", "391")], "", False),
    ("a failed command", ["No errors"], [failed_bash("make", "boom")], "all good", False),
    ("a repaired command", ["No errors"], [failed_bash("make", "boom"), bash("make", "ok")], "", True),
    ("only Claude's text", ["Response contains 391"], [], "It is 391.", True),
]


@pytest.mark.parametrize("criteria, events, text, success", [row[1:] for row in EVENTS], ids=[row[0] for row in EVENTS])
def test_the_events_of_a_run_are_evidence(criteria, events, text, success, workspace):
    assert evaluate_criteria(text, criteria, str(workspace), lines(events).splitlines())[0] == success
    flat = [event for group in events for event in group]
    assert evaluate_criteria(text, criteria, str(workspace), flat)[0] == success


def test_criteria_that_need_a_command_are_not_met_and_nothing_is_run(workspace):
    assert evaluate_criteria("", ["`touch ran`"], str(workspace)) == (False, ["`touch ran`"])
    assert not (workspace / "ran").exists()


def test_no_criteria_are_all_met():
    assert evaluate_criteria("", []) == (True, [])


def test_a_response_is_parsed_from_lines_with_noise_and_u2028():
    text = lines([init(), "noise", says("one\u2028two"), synthetic("an error"), bash("make", "ok")])
    response = parse_claude_response(text.split("\n"))
    assert response["text"] == "one\u2028two"
    assert [(tool["name"], tool["input"], tool["output"]) for tool in response["tools"]] == [("Bash", {"command": "make"}, "ok")]
    assert json.loads(json.dumps(response)) == response


@pytest.mark.parametrize("criterion, name", [("File config.py exists", "config.py"),
    ("src/app/main.py contains x", "src/app/main.py"), ("No errors", None),
                                             ('File "my notes.txt" exists', "my notes.txt"), ("a.py and b.py exist", "a.py"),
                                             ("The Makefile has a test target", "Makefile")])
def test_the_file_name_of_a_criterion_is(criterion, name):
    assert extract_filename(criterion) == name


@pytest.mark.parametrize("criterion, target", [("Contains DATABASE_URL", "DATABASE_URL"),
    ("config.py contains `x = 1`", "x = 1"), ("Output contains 'hello world'", "hello world"),
                                               ("File config.py exists", None), ("No errors", None)])
def test_the_target_of_a_criterion_is(criterion, target):
    assert extract_target(criterion) == target


# ---- Importing it. ----

OPTIONAL = ["asyncio", "websocket", "redis", "sqlite3", "ws_bridge", "argparse", "subprocess"]


def test_importing_it_imports_nothing_that_it_may_not_need():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import cc_execute; print(sorted(set({OPTIONAL!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_client_that_imports_the_bridge_for_its_codec_loads_no_event_loop():
    code = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); import ws_bridge as wb; wb.Codec(wb.Role.CLIENT, 9).send_text('x')\n"
            "print([name for name in ('asyncio', 'ssl', 'ctypes') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def patterns_in(value: object) -> list:
    if isinstance(value, cc_execute.Pattern):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
    return [pattern for part in parts for pattern in patterns_in(part)]


def test_no_pattern_is_compiled_at_the_start_and_all_can_be():
    code = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); import re, cc_execute as cc; seen = [vars(value) for value in vars(cc).values()\n"
            "        if isinstance(value, cc.Pattern)]; print(len(seen) > 50, any('search' in each for each in seen))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
    found = patterns_in(dict(vars(cc_execute)))
    assert len(found) > 150
    for pattern in found:
        assert pattern.search("\0") is None or pattern.made(pattern.search("\0")), pattern.pattern


def test_it_never_uses_asyncio_and_the_bridge_never_uses_it():
    def imported(name: str) -> set:
        nodes = ast.walk(ast.parse((ROOT / name).read_text("utf-8")))
        return {alias.name.split(".")[0] for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))
                for alias in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module or "", None)])}
    assert "asyncio" not in imported("cc_execute.py")
    assert not imported("ws_bridge.py") & {"cc_execute", "redis", "websocket", "websockets"}


def test_importing_it_from_elsewhere_leaves_the_search_path_alone(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); before = list(sys.path); import cc_execute; assert sys.path == before"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


@pytest.mark.parametrize("name", ["run_spec", "parse_task_request", "build_command", "execute_via_websocket",
                                  "parse_claude_response", "evaluate_criteria",
                                  "extract_filename", "extract_target", "estimate_timeout", "WebSocketClient"])
def test_the_names_of_the_design_are_there_and_say_what_comes_back(name):
    assert callable(getattr(cc_execute, name)) and getattr(cc_execute, name).__doc__


def test_a_spec_that_cannot_be_read_is_raised_before_anything_is_run(tmp_path):
    for text in ("", "Task:", "Task: x\nTimeout: soon"):
        with pytest.raises(cc_execute.SpecError):
            cc_execute.run_spec(text, cwd=str(tmp_path))
    with pytest.raises(cc_execute.SpecError):
        cc_execute.run_spec(str(tmp_path / "missing.md"))


# ---- execute_via_websocket: a command over a real bridge. ----

def test_a_command_that_is_not_there_is_told_with_what_to_do(bridge):
    done = cc_execute.execute_via_websocket(["/no/such/claude", "-p", "x"], timeout=5)
    assert (done["success"], done["retry_hint"]) == (False, "fix_command") and "/no/such/claude" in done["error"] and "transcript" not in done["error"]


def test_an_agent_s_command_is_run_under_an_estimated_limit(bridge, stand_in, workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    command = [sys.executable, str(ROOT / "tests" / "stand_in.py"), "-p", "Create a.txt file with X", "--output-format", "stream-json", "--verbose"]
    for timeout in (None, "Redis estimate"):
        done = cc_execute.execute_via_websocket(command, timeout)
        assert (done["success"], done["error"], done["retry_hint"], done["exit_code"]) == (True, None, None, 0)


@pytest.mark.parametrize("timeout", [-1, 0, "abc", float("nan")])
def test_a_time_limit_that_is_none_is_a_usage_error(timeout):
    with pytest.raises(cc_execute.UsageError, match="expected seconds above 0"):
        cc_execute.execute_via_websocket(["true"], timeout)


@pytest.mark.parametrize("error", [
    cc_execute.SpecError("a.md", 2, "timeout 'soon'", "a time limit"), cc_execute.Undecided("exit status 4: a limit", 4), cc_execute.CallError("no", -32000, {"errno": 2}),
    cc_execute.UsageError("no"), cc_execute.NotReady("no bridge")], ids=lambda error: type(error).__name__)
def test_an_error_comes_whole_out_of_another_process(error):
    """One that does not breaks a ProcessPoolExecutor, and what all others of it came to is lost."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is type(error) and str(again) == str(error) and vars(again) == vars(error) and again.exit_status == error.exit_status


@pytest.mark.parametrize("file", ["cc_execute.py", "ws_bridge.py"])
def test_no_name_of_a_file_is_given_to_two_things(file):
    """In one long file the second would take the first one's place unnoticed."""
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    names = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        names += [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    assert [name for name, count in collections.Counter(names).items() if count > 1] == []
