"""cc_execute.py from the outside: real processes, a real bridge, the stand-in in Claude's place.

Sections: what is often needed, documents, exit status, several tasks and specs, options, the agent as it is started, attempts and
retries, processes that outlive the agent, criterion commands, transcripts, history.
"""
from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import cc_execute as cc
from bridging import lives
from support import ROOT, marked_processes, own_mark, wait_until

pytestmark = pytest.mark.usefixtures("bridge")

SPEC = 'Task: Create a config.py file with DEBUG=1\nTimeout: 60\nSuccess Criteria:\n1) File config.py exists\n2) Contains DEBUG\n'
RETRIED = SPEC + "Retry Strategy: Retry with more specific instructions.\n"
WRITES = [{"write": {"path": "config.py", "content": "DEBUG=1\n"}}, {"text": "Created config.py."}]
CLAIMS = [{"text": "I have created config.py with DEBUG=1."}]
STAND_IN = [sys.executable, str(ROOT / "tests" / "stand_in.py")]

DOCUMENT = {"schema", "spec", "success", "confidence", "started_at", "duration", "cost_usd", "output_dir", "warnings", "tasks"}
TASK = {"number", "title", "status", "success", "confidence", "text", "files_changed", "attempts"}
ATTEMPT = {"number", "prompt", "command", "timeout", "exit_code", "duration", "session_id", "cost_usd", "num_turns", "usage", "error",
           "transcript", "criteria"}
CRITERION = {"text", "kind", "met", "confidence", "evidence"}
ERROR = {"kind", "message", "retry_hint", "retry_after"}
PLAN = {"schema", "spec", "warnings", "tasks"}
PLANNED_TASK = {"number", "title", "line", "prompt", "timeout", "timeout_source", "timeout_basis", "criteria", "retry_strategy", "tools",
                "command", "cwd"}


# ---- What is often needed. ----

def the_task(run) -> dict:
    task, = run.json()["tasks"]
    return task


def attempts(run) -> list:
    return the_task(run)["attempts"]


def the_error(run) -> dict:
    return attempts(run)[-1]["error"]


def statuses(document: dict) -> list:
    return [task["status"] for task in document["tasks"]]


def mode(path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def read_pid(path: Path) -> int:
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"), f"{path.name} has been written")
    return int(path.read_text())


def assert_gone(pid: int) -> None:
    wait_until(lambda: not lives(pid), f"process {pid} has ended")


@pytest.fixture
def run(run_cc, stand_in):
    """run(spec text, *options, agent=…): a run with --json; the spec comes by standard input."""
    def start(spec: str, *args: object, agent=None, env: dict = {}, **how):
        return run_cc("-", "--json", *args, input=spec, env={**(agent or stand_in(WRITES)).environment, **env}, **how)
    return start


# ---- Documents: the fields that are promised and no others. ----

def test_the_document_of_a_run_has_the_promised_fields(run, workspace):
    (workspace / "old.txt").write_text("old")
    (workspace / "away.txt").write_text("away")
    done = run(SPEC, agent=None)
    document = done.json()
    task = the_task(done)
    attempt, = task["attempts"]
    assert (set(document), set(task), set(attempt)) == (DOCUMENT, TASK, ATTEMPT)
    assert [set(criterion) for criterion in attempt["criteria"]] == [CRITERION] * 2
    assert (document["schema"], document["success"], document["confidence"], document["warnings"]) == (1, True, "proved", [])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", document["started_at"])
    assert 0 < attempt["duration"] <= document["duration"] < 60
    assert (task["number"], task["status"], task["success"], task["confidence"], task["text"]) == (1, "passed", True, "proved", "Created config.py.")
    assert task["files_changed"] == {"created": ["config.py"], "changed": [], "deleted": []}
    assert (attempt["number"], attempt["timeout"], attempt["exit_code"], attempt["error"]) == (1, 60.0, 0, None)
    assert (attempt["num_turns"], attempt["cost_usd"], attempt["usage"]["input_tokens"]) == (2, 0.0, 10)
    assert attempt["prompt"] == "Create a config.py file with DEBUG=1"
    assert [c["text"] for c in attempt["criteria"]] == ["File config.py exists", "Contains DEBUG"]
    assert [c["kind"] for c in attempt["criteria"]] == ["file_exists", "contains"]
    assert "config.py exists" in attempt["criteria"][0]["evidence"]
    assert Path(attempt["transcript"]).parent == Path(document["output_dir"])


def test_files_that_changed_and_went_are_told(run, stand_in, workspace):
    (workspace / "old.txt").write_text("old")
    (workspace / "away.txt").write_text("away")
    done = run("Task: Tidy up", agent=stand_in([{"bash": "rm away.txt; mkdir d; echo new >d/new.txt"}, {"edit": {"path": "old.txt", "old": "old", "new": "changed"}}]))
    assert the_task(done)["files_changed"] == {"created": ["d/new.txt"], "changed": ["old.txt"], "deleted": ["away.txt"]}


def test_stdout_holds_the_document_and_nothing_else(run):
    done = run(RETRIED, agent=None)
    assert json.loads(done.stdout) == done.json() and done.stdout.endswith("}\n")
    assert done.stderr and "Traceback" not in done.stderr


def test_the_result_is_kept_beside_the_transcripts(run):
    document = run(SPEC).json()
    assert document in [json.loads(path.read_text()) for path in Path(document["output_dir"]).glob("*.json")]


def test_a_dry_run_has_the_promised_fields_and_runs_nothing(run, stand_in, workspace):
    agent = stand_in(WRITES)
    done = run(SPEC + "Retry Strategy: Try again.\n", "--dry-run", agent=agent, env={"CC_EXECUTE_BRIDGE": "ws://127.0.0.1:1"})
    plan = done.json()
    task = the_task(done)
    assert done.returncode == 0 and set(plan) == PLAN and PLANNED_TASK <= set(task) and set(task) <= PLANNED_TASK
    assert (plan["schema"], task["line"], task["number"], task["timeout"], task["timeout_source"]) == (1, 1, 1, 60.0, "spec")
    assert task["criteria"][0]["text"] == "File config.py exists" and task["criteria"][0]["kind"] == "file_exists"
    assert (task["retry_strategy"], task["cwd"], task["tools"]) == ("Try again.", str(workspace), ["Write", "Read"])
    words = shlex.split(agent.environment["CC_EXECUTE_CLAUDE"])
    assert task["command"] == [*words, "-p", task["prompt"], "--output-format", "stream-json", "--verbose", "--allowedTools", "Write,Read",
                               "--dangerously-skip-permissions"]
    assert agent.starts() == [] and list(workspace.iterdir()) == []


def test_a_dry_run_needs_neither_agent_nor_bridge(run_cc):
    done = run_cc("-", "--dry-run", input=SPEC, env={"CC_EXECUTE_BRIDGE": "ws://127.0.0.1:1", "PATH": "/nowhere"})
    assert done.returncode == 0 and "config.py" in done.stdout


PLANNED = """About this file.

## Task 4: Settings
- Task: Create a very long file {words} \x1b[31m
- Timeout: 90
- Tools: Write
- Owner: Ada
- Success Criteria:
  1. a.py exists
  2. `make check`
  3. it is nice
- Retry Strategy: be exact
"""


def test_a_dry_run_shows_the_reading_with_its_lines(run_cc):
    done = run_cc("-", "--dry-run", "--retries", "1", input=PLANNED.format(words="words " * 200))
    page = done.stdout
    for words in ("-: 1 task, 3 warnings below; nothing is run", "Task 4: Settings (line 3)", "90 s (line 5)", "up to 1: be exact (line 12)",
                  "Write (line 6)", "1. a.py exists (line 9)", "file_exists: 'a.py' must exist", "command: run 'make check', exit code 0",
                  "will be run make check", "in no task: line 1\n", "warning: line 6: ", "warning: line 7: the label 'Owner'",
                  "warning: line 11: 'it is nice'", " … "):
        assert words in page, page
    assert "\x1b" not in page and max(map(len, page.split("\n"))) < 500
    assert [int(line) for line in re.findall(r"^warning: line (\d+)", page, re.M)] == [6, 7, 11]


def test_a_question_is_asked_in_the_form_of_the_worked_example(run, stand_in):
    agent = stand_in(WRITES)
    document = run("Task: Create a config.py with X.", "--question", agent=agent).json()
    question = "What is a config.py with X? Show the complete file content."
    assert document["tasks"][0]["attempts"][0]["prompt"] == question and agent.starts()[0]["argv"][1] == question


@pytest.mark.parametrize("spec, found", [("", "empty"), ("Task:\n", "task"), ("Task: x\nTimeout: soon\n", "soon"), ("Task: x\nSuccess Criteria:\n", "criteria")])
def test_the_document_of_a_bad_spec_has_the_promised_fields(run, stand_in, spec, found):
    agent = stand_in(WRITES)
    done = run(spec, agent=agent)
    assert done.returncode == 2
    error, = done.json().values()
    assert set(done.json()) == {"error"} and set(error) == {"file", "line", "found", "expected"}
    assert error["file"] == "-" and found in error["found"] and error["expected"]
    assert agent.starts() == []


def test_verdicts_and_summary_go_to_stdout_and_progress_to_stderr(run_cc, stand_in):
    done = run_cc("-", input=SPEC, env=stand_in(WRITES).environment)
    for words in ("File config.py exists", "2 proved", "passed"):
        assert words in done.stdout and words not in done.stderr
    assert "60 s" in done.stderr and "\x1b" not in done.stdout + done.stderr and "\r" not in done.stderr


# ---- Exit status. ----

@pytest.mark.parametrize("steps, options, status, ending, kind", [
    (WRITES, [], 0, "passed", None),
    (CLAIMS, [], 1, "failed", None),
    ([{"sleep": 60}], ["--timeout", "0.5"], 1, "timeout", "timeout"),
    ([*WRITES, {"result": {"subtype": "error_max_turns", "errors": ["Reached maximum number of turns (1)"]}}], [], 1, "error", "max_turns"),
    ([*WRITES, {"exit": 1}], ["--retries", "0"], 1, "error", "interrupted"),
    ([{"api_error": {"text": "Not logged in · Please run /login", "error": "authentication_failed"}}], [], 3, "error", "authentication"),
    ([{"api_error": {"text": "Credit balance is too low", "status": 400, "error": "billing_error"}}], [], 3, "error", "billing"),
    ([{"api_error": {"text": "API Error: 529 Overloaded.", "status": 529, "error": "overloaded"}}], ["--max-wait", "0"], 4, "error", "overloaded"),
])
def test_exit_status(run, stand_in, steps, options, status, ending, kind):
    done = run(SPEC, *options, agent=stand_in(steps))
    assert (done.returncode, the_task(done)["status"]) == (status, ending), done.stdout + done.stderr
    error = the_error(done)
    assert (error and error["kind"]) == kind and (error is None or set(error) == ERROR)
    assert the_task(done)["success"] is done.json()["success"] is (status == 0)


@pytest.mark.parametrize("arguments, named", [
    (["no-such-file.txt"], "no-such-file.txt"), ([], "SPEC"), (["-", "--no-such-option"], "--no-such-option"), (["-", "--timeout", "soon"], "soon"),
    (["-", "--timeout", "-1"], "-1"), (["-", "--retries", "-1"], "-1"), (["-", "--task", "7"], "7"), (["-", "--cwd", "no-such-folder"], "no-such-folder"),
    (["-", "--permissions", "all"], "all"), (["-", "--claude", "'"], "--claude"), (["-", "--output", "/dev/null/x"], "/dev/null/x"),
    (["-", "--tim", "5"], "--tim"),
])
def test_wrong_usage_is_exit_2_and_named(run_cc, stand_in, arguments, named):
    agent = stand_in(WRITES)
    done = run_cc(*arguments, "--json", input=SPEC, env=agent.environment)
    assert done.returncode == 2, done.stdout + done.stderr
    assert set(done.json()) == {"error"} and named in done.stderr and "Traceback" not in done.stderr
    assert agent.starts() == []


@pytest.mark.parametrize("command", ["no-such-claude", "/no/such/claude", "./not-executable", "."])
def test_an_agent_that_is_not_there_is_exit_3_with_the_next_step(run_cc, workspace, command):
    (workspace / "not-executable").write_text("")
    done = run_cc("-", "--json", "--claude", command, input=SPEC)
    assert done.returncode == 3, done.stdout + done.stderr
    error = the_error(done)
    assert (error["kind"], error["retry_hint"]) == ("not_found", "fix_command") and os.path.basename(command) in error["message"]


@pytest.mark.parametrize("option, starts", [("--version", "cc_execute 1."), ("--help", "usage: cc_execute.py")])
def test_version_and_help(run_cc, option, starts):
    done = run_cc(option)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith(starts)


def test_help_names_every_option_there_is_and_no_other(run_cc):
    named = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", cc.HELP))
    taken = {name for action in cc.make_parser()._actions for name in action.option_strings} - {"-h"}
    assert named - {"-d"} == taken and run_cc("--help").stdout == cc.HELP + "\n"


def test_help_fits_two_screens():
    lines = cc.HELP.split("\n")
    assert len(lines) <= 48 and max(map(len, lines)) < 80


def test_every_example_of_the_help_runs(run_cc, stand_in, workspace, tmp_path):
    examples = [re.split(r" {3,}", line.strip())[0] for line in cc.HELP.partition("Examples:\n")[2].partition("\n\n")[0].split("\n")]
    (workspace / "spec.txt").write_text(SPEC)
    (workspace / "plan.md").write_text(f"## Task 1: One\n{SPEC}\n## Task 2: Two\n{SPEC}")
    assert len(examples) >= 5
    for example in examples:
        command = example.replace("cc_execute.py", shlex.join([sys.executable, str(ROOT / "cc_execute.py")]), 1)
        done = subprocess.run(["sh", "-c", command], cwd=workspace, env={**os.environ, **stand_in(WRITES).environment}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (example, done.stderr)
    assert json.loads((workspace / "result.json").read_text())["success"]


def test_without_a_spec_five_lines_say_what_to_do_and_work(run_cc, stand_in, workspace):
    done = run_cc()
    lines = done.stderr.rstrip("\n").split("\n")
    assert done.returncode == 2 and len(lines) == 5 and done.stdout == ""
    for line in lines[2:]:
        command = line.replace("python3 cc_execute.py", shlex.join([sys.executable, str(ROOT / "cc_execute.py")]))
        ran = subprocess.run(["sh", "-c", command], cwd=workspace, env={**os.environ, **stand_in(WRITES).environment}, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, (line, ran.stderr)
    assert "1 of 1 task passed" in ran.stdout
    asked = run_cc("--json")
    assert asked.json() == {"error": {"file": None, "line": None, "found": "no SPEC was given", "expected": "a file, or - for standard input"}}


@pytest.mark.parametrize("option", ["--help", "--dry-run", "--json"])
def test_a_reader_that_hangs_up_is_no_traceback(stand_in, workspace, tmp_path, option):
    (tmp_path / "spec.txt").write_text(SPEC)
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, str(ROOT / "cc_execute.py"), str(tmp_path / "spec.txt"), option]
    done = subprocess.run(command, cwd=workspace, env={**os.environ, **stand_in(WRITES).environment}, stdin=subprocess.DEVNULL, stdout=writing,
                          stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert done.returncode in ((0, 128 + signal.SIGPIPE) if option == "--help" else (128 + signal.SIGPIPE,))


# ---- Several tasks, several specs. ----

LIST = "".join(f"## Task {n}: Step {n}\nCreate {name} with hello\nSuccess Criteria: 1) {name} exists\n\n" for n, name in ((3, "a.txt"), (5, "b.txt"), (8, "c.txt")))


def writes(name: str) -> list:
    return [{"write": {"path": name, "content": "hello\n"}}]


def test_a_list_is_run_in_order(run, stand_in):
    agent = stand_in(writes("a.txt"), writes("b.txt"), writes("c.txt"))
    document = run(LIST, agent=agent).json()
    assert statuses(document) == ["passed"] * 3 and document["success"]
    assert [(task["number"], task["title"]) for task in document["tasks"]] == [(3, "Step 3"), (5, "Step 5"), (8, "Step 8")]
    assert [start["prompt"] for start in agent.starts()] == [f"Create {name} with hello" for name in ("a.txt", "b.txt", "c.txt")]


@pytest.mark.parametrize("options, ending, exit_code", [
    ([], ["passed", "failed", "skipped"], 1),
    (["--keep-going"], ["passed", "failed", "passed"], 1),
    (["--task", "5"], ["failed"], 1),
    (["--task", "3"], ["passed"], 0),
    (["--task", "8", "--task", "3"], ["passed", "failed"], 1),  # in the order of the list: task 8 is given task 5's steps
])
def test_where_a_list_stops(run, stand_in, options, ending, exit_code):
    done = run(LIST, *options, agent=stand_in(writes("a.txt" if options != ["--task", "5"] else "x.txt"), writes("x.txt"), writes("c.txt")))
    assert (statuses(done.json()), done.returncode) == (ending, exit_code)
    assert [task["attempts"] for task in done.json()["tasks"] if task["status"] == "skipped"] == [[]] * ending.count("skipped")


@pytest.mark.parametrize("error, status", [({"text": "Not logged in · Please run /login"}, 3), ({"text": "API Error: 529 Overloaded.", "status": 529, "error": "overloaded"}, 4)])
def test_what_will_fail_again_stops_the_list_even_with_keep_going(run, stand_in, error, status):
    done = run(LIST, "--keep-going", "--max-wait", "0", agent=stand_in([{"api_error": error}]))
    assert (statuses(done.json()), done.returncode) == (["error", "skipped", "skipped"], status)


def test_several_specs_make_one_document(run_cc, stand_in, tmp_path):
    for name in ("one.txt", "two.md"):
        (tmp_path / name).write_text(SPEC)
    done = run_cc(tmp_path / "one.txt", tmp_path / "two.md", "--json", env=stand_in(WRITES).environment)
    document = done.json()
    assert done.returncode == 0 and set(document) == {"schema", "success", "specs"} and document["success"] is True
    assert [set(spec) for spec in document["specs"]] == [DOCUMENT] * 2
    assert [spec["spec"] for spec in document["specs"]] == [str(tmp_path / "one.txt"), str(tmp_path / "two.md")]
    assert len({spec["output_dir"] for spec in document["specs"]}) == 2


def test_a_bad_spec_among_several_keeps_all_from_running(run_cc, stand_in, tmp_path):
    (tmp_path / "good.txt").write_text(SPEC)
    (tmp_path / "bad.txt").write_text("Task: x\nTimeout: never\n")
    agent = stand_in(WRITES)
    done = run_cc(tmp_path / "good.txt", tmp_path / "bad.txt", "--json", env=agent.environment)
    assert (done.returncode, agent.starts()) == (2, [])
    assert (done.json()["error"]["file"], done.json()["error"]["line"]) == (str(tmp_path / "bad.txt"), 2)


# ---- Options. ----

@pytest.mark.parametrize("options, words, absent", [
    ([], ["--allowedTools", "Write,Read", "--dangerously-skip-permissions"], ["--model", "--max-turns"]),
    (["--model", "haiku"], ["--model", "haiku"], []),
    (["--max-turns", "7"], ["--max-turns", "7"], []),
    (["--permissions", "allowed"], ["--allowedTools", "Write,Read"], ["--dangerously-skip-permissions"]),
])
def test_options_reach_the_agent(run, stand_in, options, words, absent):
    agent = stand_in(WRITES)
    done = run(SPEC, *options, agent=agent)
    argv = agent.starts()[0]["argv"]
    assert done.returncode == 0 and argv == attempts(done)[0]["command"][-len(argv):]
    assert " ".join(words) in " ".join(argv) and not set(absent) & set(argv)


def test_options_win_over_the_spec(run, stand_in):
    agent = stand_in(WRITES)
    done = run(SPEC + "Model: opus\nMax Turns: 3\n", "--model", "haiku", "--max-turns", "4", "--timeout", "33", agent=agent)
    argv = agent.starts()[0]["argv"]
    assert (argv[argv.index("--model") + 1], argv[argv.index("--max-turns") + 1], attempts(done)[0]["timeout"]) == ("haiku", "4", 33.0)


def test_the_directory_is_where_the_agent_works(run, stand_in, workspace):
    (workspace / "sub" / "deep").mkdir(parents=True)
    agent = stand_in(WRITES)
    done = run(SPEC + "Directory: deep\n", "--cwd", "sub", agent=agent)
    assert done.returncode == 0 and agent.starts()[0]["cwd"] == str(workspace / "sub" / "deep")
    assert (workspace / "sub" / "deep" / "config.py").exists()


def wrapper(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {shlex.join(STAND_IN)} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("how", ["--claude", "CC_EXECUTE_CLAUDE"])
def test_an_agent_whose_path_holds_spaces(run, stand_in, tmp_path, how):
    agent = stand_in(WRITES)
    path = str(wrapper(tmp_path / "my agents" / "the claude's one"))
    done = run(SPEC, *(["--claude", path] if how == "--claude" else []), agent=agent, env={"CC_EXECUTE_CLAUDE": path if how != "--claude" else "no"})
    assert done.returncode == 0 and attempts(done)[0]["command"][0] == path


def test_an_agent_of_several_words(run, stand_in):
    agent = stand_in(WRITES)
    done = run(SPEC, "--claude", shlex.join([*STAND_IN, "--mcp-config", "my file.json"]), agent=agent)
    assert done.returncode == 0 and agent.starts()[0]["argv"][:2] == ["--mcp-config", "my file.json"]


def test_an_agent_on_the_path_of_the_caller(run, stand_in, tmp_path):
    wrapper(tmp_path / "bin" / "claude")
    path = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "CC_EXECUTE_CLAUDE": None}
    assert run(SPEC, agent=stand_in(WRITES), env=path).returncode == 0


def test_a_relative_agent_is_found_from_where_cc_execute_was_started(run, stand_in, workspace):
    wrapper(workspace / "tools" / "agent")
    (workspace / "elsewhere").mkdir()
    done = run(SPEC, "--claude", "tools/agent", "--cwd", "elsewhere", agent=stand_in(WRITES))
    assert done.returncode == 0, done.stdout


def test_output_goes_where_it_is_wanted_and_the_workspace_stays_clean(run, workspace, tmp_path):
    done = run(SPEC, "--output", tmp_path / "kept" / "here")
    assert done.json()["output_dir"] == str(tmp_path / "kept" / "here")
    assert Path(attempts(done)[0]["transcript"]).parent == tmp_path / "kept" / "here"
    assert [path.name for path in workspace.iterdir()] == ["config.py"]


def test_output_within_the_workspace_is_no_work_of_the_agent(run, workspace):
    done = run(SPEC, "--output", "kept")
    assert the_task(done)["files_changed"]["created"] == ["config.py"]


def test_strict_takes_no_weak_verdict(run, stand_in):
    spec = "Task: Say something wise\nSuccess Criteria: 1) It is wise and deep\n"
    agent = stand_in([{"text": "It is wise and deep."}])
    relaxed, strict = run(spec, agent=agent), run(spec, "--strict", agent=agent)
    assert (relaxed.returncode, relaxed.json()["confidence"]) == (0, "weak")
    assert (strict.returncode, the_task(strict)["status"]) == (1, "failed")


def test_a_task_without_criteria_passes_with_a_warning_and_fails_when_strict(run):
    relaxed, strict = run("Task: Say hello"), run("Task: Say hello", "--strict")
    assert (relaxed.returncode, strict.returncode) == (0, 1)
    assert any("checked" in warning for warning in relaxed.json()["warnings"]) and "checked" in relaxed.stderr


# ---- The agent as it is started: nothing on the way changes a byte. ----

AWKWARD = 'Say "hello" and \'bye\' to `whoami` in $HOME,\n\n  $(date) \\ back\\slash; rm -rf * & | > < ! # % \t tab — žluťoučký 🐎 \u2028 end'


def test_the_prompt_arrives_as_it_was_written(run, stand_in):
    agent = stand_in([{"text": "ok"}])
    done = run(f"Task: {AWKWARD}", agent=agent)
    start, = agent.starts()
    assert done.returncode == 0
    assert start["argv"][:2] == ["-p", attempts(done)[0]["prompt"]] and start["stdin"] == ""
    for piece in ('"hello"', "'bye'", "`whoami`", "$HOME,\n", "$(date) \\ back\\slash; rm -rf * & | > < ! # % \t tab", "žluťoučký 🐎", "\u2028 end"):
        assert piece in start["prompt"]


@pytest.mark.parametrize("prompt", ["-v is a flag; explain it", "--help me", "/init the repo", "x" * 300_000, "é" * 100_000], ids=lambda prompt: prompt[:8])
def test_a_prompt_that_is_no_argument_goes_in_by_standard_input(run, stand_in, prompt):
    agent = stand_in([{"text": "ok"}])
    done = run(f"Task: {prompt}", agent=agent)
    start, = agent.starts()
    assert done.returncode == 0 and attempts(done)[0]["prompt"] == prompt
    assert start["stdin"].strip("\n") == prompt  # a line break before it keeps the CLI from taking it for a command of its own
    assert prompt not in start["argv"] and start["argv"][0] == "-p"


def test_a_prompt_of_one_megabyte_arrives_whole(run, stand_in):
    agent = stand_in([{"text": "ok"}])
    prompt = "word " * 200_000 + "end"
    assert run(f"Task: {prompt}", agent=agent).returncode == 0
    assert agent.starts()[0]["stdin"].rstrip("\n") == prompt


def test_the_agent_has_the_callers_environment_directory_and_umask(run, stand_in, workspace):
    agent = stand_in([{"text": "ok"}])
    mine = {"ODD": "a=b\nc", "EMPTY": "", "CZECH": "žluťoučký 🐎", "ANTHROPIC_API_KEY": "key"}
    nested = dict.fromkeys(cc.NESTED_SESSION, "1")
    done = run("Task: Say hello", agent=agent, env={**mine, **nested, "CC_BRIDGE_TOKEN": "token"}, prefix=["sh", "-c", 'umask 027; exec "$@"', "sh"])
    start, = agent.starts()
    got = start["environment"]
    assert done.returncode == 0 and (start["cwd"], start["umask"]) == (str(workspace), 0o027)
    assert {name: got[name] for name in mine} == mine
    assert not {*nested, "CC_BRIDGE_TOKEN"} & set(got)
    assert (got["CLAUDE_CODE_DISABLE_BACKGROUND_TASKS"], got["HOME"]) == ("1", os.environ["HOME"])


def test_a_variable_that_is_no_utf_8_reaches_the_agent_as_it_is(run, stand_in):
    agent, value = stand_in([{"text": "ok"}]), os.fsdecode(b"caf\xe9 \xff")
    done = run("Task: Say hello", agent=agent, env={"BYTES": value})
    assert done.returncode == 0, done.stdout
    assert agent.starts()[0]["environment"]["BYTES"] == value


def test_bash_may_take_as_long_as_the_task_unless_the_user_said_otherwise(run, stand_in):
    agent = stand_in([{"text": "ok"}])
    run("Task: Say hello\nTimeout: 900", agent=agent)
    run("Task: Say hello\nTimeout: 900", agent=agent, env={"BASH_MAX_TIMEOUT_MS": "5", "BASH_DEFAULT_TIMEOUT_MS": "6", "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "0"})
    names = ("BASH_MAX_TIMEOUT_MS", "BASH_DEFAULT_TIMEOUT_MS", "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS")
    ours, users = ([start["environment"][name] for name in names] for start in agent.starts())
    assert (ours, users) == (["900000", "900000", "1"], ["5", "6", "0"])


# ---- Attempts and retries. ----

def test_a_retry_is_a_fresh_session_with_a_prompt_refined_by_what_failed(run, stand_in):
    agent = stand_in(CLAIMS, WRITES)
    done = run(RETRIED, agent=agent)
    first, second = attempts(done)
    prompt = "Create a config.py file with DEBUG=1"
    assert (done.returncode, first["prompt"]) == (0, prompt)
    assert second["prompt"].startswith(prompt + "\n\nIMPORTANT: File config.py exists: ")
    assert second["prompt"].endswith("Retry with more specific instructions.")
    assert [start["prompt"] for start in agent.starts()] == [first["prompt"], second["prompt"]]
    assert first["session_id"] != second["session_id"] and "--resume" not in second["command"]
    assert [[c["met"] for c in attempt["criteria"]] for attempt in (first, second)] == [[False, False], [True, True]]


@pytest.mark.parametrize("spec, options, starts", [
    (SPEC, [], 1), (RETRIED, [], 3), (RETRIED, ["--retries", "0"], 1), (RETRIED, ["--retries", "1"], 2), (SPEC, ["--retries", "3"], 4),
])
def test_how_often_it_is_tried(run, stand_in, spec, options, starts):
    """Each attempt changes something, else it would end early."""
    agent = stand_in(*[[{"write": {"path": f"try{n}", "content": "x"}}] for n in range(6)])
    done = run(spec, *options, agent=agent)
    assert (done.returncode, len(attempts(done)), len(agent.starts())) == (1, starts, starts)


def test_two_attempts_that_fail_alike_with_nothing_changed_end_the_task(run, stand_in):
    agent = stand_in(CLAIMS)
    assert len(attempts(run(SPEC, "--retries", "5", agent=agent))) == 2


def test_a_time_limit_is_raised_by_half_once(run, stand_in):
    agent = stand_in([{"sleep": 60}])
    done = run(SPEC.replace("Timeout: 60", "Timeout: 0.4s"), "--retries", "3", agent=agent)
    first, second = attempts(done)
    assert (first["timeout"], second["timeout"]) == (0.4, pytest.approx(0.6)) and done.returncode == 1
    assert (the_task(done)["status"], first["error"]["kind"], first["error"]["retry_hint"]) == ("timeout", "timeout", "increase_timeout")


def test_a_limit_from_the_command_line_is_never_exceeded(run, stand_in):
    done = run(RETRIED, "--timeout", "0.4", agent=stand_in([{"sleep": 60}]))
    assert {attempt["timeout"] for attempt in attempts(done)} == {0.4} and done.returncode == 1


def test_work_that_was_done_before_the_time_limit_does_not_pass(run, stand_in):
    """The criteria are judged all the same, so that one can see how far it came."""
    done = run(SPEC, "--timeout", "1", agent=stand_in([*WRITES, {"sleep": 60}]))
    assert (done.returncode, the_task(done)["status"]) == (1, "timeout")
    assert [c["met"] for c in attempts(done)[0]["criteria"]] == [True, True]


def test_an_answer_without_end_is_cut_at_the_limit_with_all_it_started(run, stand_in, workspace):
    agent = stand_in([{"bash": "echo $$ >pid; sleep 600"}])
    done = run(SPEC, "--timeout", "1", agent=agent)
    assert the_task(done)["status"] == "timeout"
    assert_gone(read_pid(workspace / "pid"))


def test_a_login_that_will_never_be_let_in_is_cut_at_once(run, stand_in):
    """The CLI alone would go on for minutes."""
    agent = stand_in([{"api_retry": {"error": "authentication_failed", "error_status": 401}}, {"sleep": 600}])
    done = run(SPEC, agent=agent)
    error = the_error(done)
    assert (done.returncode, error["kind"], error["retry_hint"]) == (3, "authentication", "log_in")
    assert attempts(done)[0]["duration"] < 60 and len(agent.starts()) == 1


def test_an_overload_that_may_pass_is_left_to_the_cli(run, stand_in):
    done = run(SPEC, agent=stand_in([{"api_retry": {}}, {"sleep": 0.3}, *WRITES]))
    assert done.returncode == 0


def test_a_cli_that_hangs_after_its_result_is_ended_and_that_is_no_failure(run, stand_in):
    done = run(SPEC, agent=stand_in([*WRITES, {"result": {}}, {"sleep": 600}]))
    assert done.returncode == 0 and 10 <= attempts(done)[0]["duration"] < 50
    assert the_error(done) is None


@pytest.mark.parametrize("steps, passes", [
    ([*WRITES, {"result": {}}, {"exit": 5}], True),                                 # the exit code decides nothing
    ([*WRITES, {"text": "Error: Not logged in. Rate limit exceeded. 529"}], True),   # nor do words
    ([*WRITES, {"raw": "[SandboxDebug] no JSON"}, {"raw": '{"type": "news"}'}, {"raw": ""}, {"raw": "\udcff"}], True),
    ([*WRITES, {"stderr": "Error: something loud"}], True),
    ([*WRITES, {"result": {"is_error": True}}, {"exit": 0}], False),
    ([*WRITES, {"exit": 0}], False),                                                # no result
], ids=["exit code", "words", "noise", "stderr", "error with exit 0", "no result"])
def test_only_the_result_says_whether_the_agent_has_done_its_part(run, stand_in, steps, passes):
    done = run(SPEC, "--retries", "0", agent=stand_in(steps))
    assert (done.returncode == 0) == passes, done.stdout
    assert the_task(done)["success"] == passes


# ---- Processes that outlive the agent. ----

SERVER = {"spawn": "echo $$ >pid.part; mv pid.part pid; exec sleep 600"}


@pytest.mark.parametrize("step", [SERVER, {"spawn": {"command": SERVER["spawn"], "hold_output": True}}], ids=["silent", "holding the output"])
def test_what_a_failed_attempt_left_running_is_ended(run, stand_in, workspace, step):
    done = run(SPEC, agent=stand_in([step, {"bash": "while [ ! -e pid ]; do sleep 0.02; done"}, *CLAIMS]))
    assert done.returncode == 1
    assert_gone(read_pid(workspace / "pid"))


def test_what_a_passed_task_left_running_is_told_and_left(run, stand_in, workspace):
    done = run(SPEC, agent=stand_in([SERVER, {"bash": "while [ ! -e pid ]; do sleep 0.02; done"}, *WRITES]))
    pid = read_pid(workspace / "pid")
    alive = lives(pid)
    if alive:
        os.kill(pid, signal.SIGKILL)
    assert done.returncode == 0 and alive
    told = [warning for warning in done.json()["warnings"] if str(pid) in warning]
    assert len(told) == 1 and str(pid) in done.stderr


def test_what_an_agent_without_result_left_running_is_ended(run, stand_in, workspace):
    done = run(SPEC, "--retries", "0", agent=stand_in([SERVER, {"bash": "while [ ! -e pid ]; do sleep 0.02; done"}, *WRITES, {"exit": 1}]))
    assert done.returncode == 1
    assert_gone(read_pid(workspace / "pid"))


# ---- Criterion commands: run for the purpose, in the right place, and nothing of them stays. ----

def test_a_criterion_command_is_run_in_the_tasks_directory(run, stand_in, workspace):
    (workspace / "sub").mkdir()
    spec = "Task: Create made.txt\nDirectory: sub\nSuccess Criteria:\n1) `cat made.txt` → hello\n2) `test -e made.txt`\n3) `test \"$MINE\" = \"a b\"`\n"
    agent = stand_in([{"write": {"path": "made.txt", "content": "hello\n"}}])
    done = run(spec, agent=agent, env={"MINE": "a b"})
    assert [(c["kind"], c["met"], c["confidence"]) for c in attempts(done)[0]["criteria"]] == [("command", True, "proved")] * 3, done.stdout


def test_a_criterion_command_that_fails_is_told_with_what_it_said(run, stand_in):
    spec = "Task: Create a.txt\nSuccess Criteria:\n1) `echo some reason >&2; exit 4`\n"
    done = run(spec, agent=stand_in(writes("a.txt")))
    criterion, = attempts(done)[0]["criteria"]
    assert done.returncode == 1 and not criterion["met"] and "4" in criterion["evidence"]
    assert "some reason" in criterion["evidence"]


def test_a_criterion_command_is_ended_at_the_tasks_limit(run, stand_in, workspace):
    spec = "Task: Create a.txt\nTimeout: 2\nSuccess Criteria:\n1) `echo $$ >pid; sleep 600`\n"
    done = run(spec, agent=stand_in(writes("a.txt")))
    assert done.returncode == 1 and not attempts(done)[0]["criteria"][0]["met"]
    assert_gone(read_pid(workspace / "pid"))


def test_what_a_criterion_command_leaves_running_is_ended(run, stand_in, workspace):
    spec = "Task: Create a.txt\nSuccess Criteria:\n1) `setsid sleep 600 >/dev/null & echo $! >pid`\n"
    done = run(spec, agent=stand_in(writes("a.txt")))
    assert done.returncode == 0, done.stdout
    assert_gone(read_pid(workspace / "pid"))


def test_a_criterion_command_is_not_run_after_an_error_of_the_agent(run, stand_in, workspace):
    spec = "Task: Create a.txt\nSuccess Criteria:\n1) `touch was-run`\n"
    done = run(spec, "--retries", "0", agent=stand_in([*writes("a.txt"), {"exit": 1}]))
    assert done.returncode == 1 and not (workspace / "was-run").exists()
    assert not attempts(done)[0]["criteria"][0]["met"]


def test_a_criterion_command_reads_nothing_of_ours(run, stand_in):
    spec = "Task: Create a.txt\nSuccess Criteria:\n1) `cat` → nothing\n2) `test -z \"$(cat)\"`\n"
    done = run(spec, agent=stand_in(writes("a.txt")))
    assert [c["met"] for c in attempts(done)[0]["criteria"]] == [False, True]


# ---- Transcripts: everything the agent said, for its user only. ----

def test_a_transcript_is_whole_and_private(run, stand_in):
    long = "ž" * 3_000_000
    agent = stand_in([{"raw": long}, {"raw": "a\u2028b \udcff\udce9"}, {"text": "one"}, *WRITES])
    done = run(SPEC, agent=agent, prefix=["sh", "-c", 'umask 0; exec "$@"', "sh"])
    transcript = Path(attempts(done)[0]["transcript"])
    lines = transcript.read_text("utf-8").split("\n")
    assert done.returncode == 0 and lines[1] == long and lines[2] == "a\u2028b \ufffd\ufffd" and lines[-1] == ""
    kinds = [json.loads(line)["type"] for line in (lines[0], *lines[3:-1])]
    assert kinds == ["system", "assistant", "assistant", "user", "assistant", "result"]
    folder = transcript.parent
    assert {path.name: mode(path) for path in (folder, *folder.iterdir())} == {folder.name: 0o700, **{path.name: 0o600 for path in folder.iterdir()}}


def test_no_agent_is_started_whose_transcript_cannot_be_written(run, stand_in, tmp_path):
    (tmp_path / "kept" / "task-1-attempt-1.jsonl").mkdir(parents=True)
    agent = stand_in(writes("a.txt"))
    done = run("Task: Create a.txt\n", "--output", tmp_path / "kept", agent=agent)
    assert done.returncode == 1 and agent.starts() == []
    assert "task-1-attempt-1.jsonl" in attempts(done)[0]["error"]["message"]


def test_each_attempt_has_a_transcript_of_its_own(run, stand_in):
    done = run(RETRIED, agent=stand_in(CLAIMS, WRITES))
    texts = [Path(attempt["transcript"]).read_text() for attempt in attempts(done)]
    assert "I have created" in texts[0] and "I have created" not in texts[1] and '"Write"' in texts[1]


def test_a_transcript_of_a_run_that_was_cut_holds_what_came(run, stand_in):
    done = run(SPEC, "--timeout", "1", agent=stand_in([{"text": "before"}, {"sleep": 60}]))
    assert "before" in Path(attempts(done)[0]["transcript"]).read_text()


# ---- History: every run is remembered; a store that is broken costs a warning. ----

def test_runs_are_counted(run_cc, run, stand_in):
    for agent in (stand_in(WRITES), stand_in(CLAIMS), stand_in([{"bash": "rm config.py"}])):
        run(SPEC, agent=agent)
    stats = run_cc("--stats", "--json").json()
    assert (stats["successes"], stats["failures"]) == (2, 1)
    assert "2" in run_cc("--stats").stdout
    store = next(Path(os.environ["XDG_DATA_HOME"]).rglob("*.sqlite3"))
    assert mode(store) == 0o600 and mode(store.parent) == 0o700


def test_the_store_that_is_named_is_the_one(run_cc, run, tmp_path):
    run(SPEC, "--store", tmp_path / "mine.db")
    run(SPEC, env={"CC_EXECUTE_STORE": str(tmp_path / "mine.db")})
    assert run_cc("--stats", "--json", "--store", tmp_path / "mine.db").json()["successes"] == 2
    assert not list(Path(os.environ["HOME"]).rglob("*.sqlite3")) and not Path(os.environ["XDG_DATA_HOME"]).exists()


def test_a_time_limit_comes_from_what_was_remembered(run, run_cc, stand_in):
    spec = SPEC.replace("Timeout: 60\n", "")
    for _ in range(5):
        run(spec, agent=stand_in([{"bash": "rm -f config.py"}, *WRITES]))
    task, = run_cc("-", "--dry-run", "--json", input=spec).json()["tasks"]
    assert task["timeout_source"] == "history" and "5" in task["timeout_basis"] and task["timeout"] >= 60


def newer_store(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 9999")
    connection.close()


@pytest.mark.parametrize("spoil", [lambda path: path.write_text("no database at all, but long enough to be looked at\n" * 99), lambda path: path.mkdir(), newer_store,
                                   lambda path: path.symlink_to("/no/such/folder/file")], ids=["garbage", "folder", "newer", "nowhere"])
def test_a_broken_store_costs_a_warning_and_never_the_task(run, tmp_path, spoil):
    spoil(tmp_path / "store")
    done = run(SPEC, "--store", tmp_path / "store")
    assert done.returncode == 0 and "Traceback" not in done.stderr
    said = [warning for warning in done.json()["warnings"] if "history" in warning]
    assert said and str(tmp_path / "store") in " ".join(said)


def test_nothing_is_left_running(run):
    """What every test above relies on: after a run only the bridge is there."""
    run(SPEC)
    assert [process for process in marked_processes(own_mark()) if "ws_bridge.py" not in process.command] == []
