"""The real Claude CLI under cc_execute.py, its API scripted on loopback: what a user sees with an account, without one.

Sections: fixtures, work that is done, what the API answers, prompts.
"""
from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from scripted_api import ScriptedApi, prompts, tool_results, turn
from support import ROOT, marked_processes, own_mark

pytestmark = pytest.mark.usefixtures("bridge")

WORKED_EXAMPLE = ROOT / "tests" / "specs" / "worked_example.txt"
CONFIG = 'DATABASE_URL="sqlite:///test.db"\n'
PROMPT = 'Create a config.py file with DATABASE_URL="sqlite:///test.db".'
WRITES = {"text": "I'll create it.", "tool": "Write", "input": {"file_path": "config.py", "content": CONFIG}}
SAYS_DONE = {"text": "I have created config.py with DATABASE_URL."}


# ---- Fixtures. ----

@pytest.fixture
def run(run_cc, claude, tmp_path):
    """run(api, spec, *options): cc_execute.py with the real CLI, which finds the scripted API; `spec` is a path or the text of one."""
    def start(api: ScriptedApi, spec, *options: str, env: dict = {}, **how):
        if not isinstance(spec, Path):
            (tmp_path / "spec.txt").write_text(spec, encoding="utf-8", newline="")
        variables = {**api.environment, "CC_EXECUTE_CLAUDE": str(claude), "IS_SANDBOX": "1", **env}
        return run_cc(spec if isinstance(spec, Path) else tmp_path / "spec.txt", "--json", *options, env=variables, **how)
    return start


def the_attempts(done) -> list:
    task, = done.json()["tasks"]
    return task["attempts"]


def the_error(done) -> dict:
    return the_attempts(done)[-1]["error"]


def assert_nothing_runs() -> None:
    assert [process for process in marked_processes(own_mark()) if "ws_bridge.py" not in process.command] == []


# ---- Work that is done, or only said to be done. ----

def test_the_worked_example_is_proved(run, workspace):
    with ScriptedApi([WRITES, SAYS_DONE]) as api:
        done = run(api, WORKED_EXAMPLE)
        asked = [prompts(body) for body in api.requests]
    assert done.returncode == 0, done.stdout + done.stderr
    document, (attempt,) = done.json(), the_attempts(done)
    assert (document["success"], document["confidence"], document["tasks"][0]["files_changed"]["created"]) == (True, "proved", ["config.py"])
    assert [(c["text"], c["kind"], c["met"], c["confidence"]) for c in attempt["criteria"]] == [
        ("File config.py exists", "file_exists", True, "proved"), ("Contains DATABASE_URL", "contains", True, "proved")]
    assert (attempt["num_turns"], attempt["exit_code"], attempt["timeout"]) == (2, 0, 45.0) and attempt["cost_usd"] > 0
    assert asked == [[PROMPT], [PROMPT]]
    assert (workspace / "config.py").read_text() == CONFIG
    assert_nothing_runs()


def test_a_claim_is_no_deed_and_the_retry_is_told_what_was_found(run, workspace):
    def answer(request):
        refined = "IMPORTANT:" in prompts(request.body)[0]
        return WRITES if refined and turn(request.body) == 0 else SAYS_DONE

    with ScriptedApi(answer) as api:
        done = run(api, WORKED_EXAMPLE)
        first, second = (body for body in api.requests if turn(body) == 0)
    assert done.returncode == 0, done.stdout + done.stderr
    claimed, worked = the_attempts(done)
    assert [c["met"] for c in claimed["criteria"]] == [False, False] and [c["met"] for c in worked["criteria"]] == [True, True]
    assert prompts(first) == [PROMPT] and prompts(second) == [worked["prompt"]]  # a fresh session: one prompt, no turn before it
    assert worked["prompt"].startswith(PROMPT + "\n\nIMPORTANT: File config.py exists: ")
    assert worked["prompt"].endswith("retry with more specific instructions.") or worked["prompt"].endswith("Retry with more specific instructions.")
    assert claimed["session_id"] != worked["session_id"]


def test_a_command_of_a_criterion_is_run_after_the_real_work(run):
    spec = f"Task: {PROMPT}\nSuccess Criteria:\n1) `python3 -c 'import config; print(config.DATABASE_URL)'` → sqlite:///test.db\n2) No errors\n"
    with ScriptedApi([WRITES, {"tool": "Bash", "input": {"command": "cat config.py"}}, SAYS_DONE]) as api:
        done = run(api, spec)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [c["confidence"] for c in the_attempts(done)[0]["criteria"]] == ["proved"] * 2


def test_only_the_listed_tools_are_allowed_when_nothing_is_skipped(run, workspace):
    with ScriptedApi([{"tool": "Bash", "input": {"command": "touch made.txt"}}, WRITES, SAYS_DONE]) as api:
        done = run(api, f"Task: {PROMPT}\nTools: Write\nSuccess Criteria: 1) made.txt exists\n", "--permissions", "allowed", env={"IS_SANDBOX": None})
        refused = tool_results(api.requests[1])[0]
    assert the_error(done), done.stdout + str(refused)
    assert (the_error(done)["kind"], the_error(done)["retry_hint"], done.returncode) == ("permission", "allow_tool", 1), done.stdout + str(refused)
    assert refused["is_error"] and not (workspace / "made.txt").exists() and (workspace / "config.py").exists()


def test_a_limit_of_turns_is_told(run):
    with ScriptedApi([WRITES, SAYS_DONE]) as api:
        done = run(api, f"Task: {PROMPT}\nSuccess Criteria: 1) config.py exists\n", "--max-turns", "1", "--retries", "0")
    assert (done.returncode, the_error(done)["kind"]) == (1, "max_turns")
    assert the_attempts(done)[0]["criteria"][0]["met"]


def test_an_answer_too_late_for_the_limit(run, workspace):
    with ScriptedApi([{"text": "Let me think.", "tool": "Bash", "input": {"command": "touch begun; sleep 600"}}]) as api:
        done = run(api, f"Task: {PROMPT}\n", "--timeout", "4")
    task, = done.json()["tasks"]
    assert (done.returncode, task["status"], the_error(done)["kind"]) == (1, "timeout", "timeout")
    assert (workspace / "begun").exists() and task["text"] == "Let me think."
    assert_nothing_runs()


def test_an_api_that_never_answers_is_cut_at_the_limit(run):
    with ScriptedApi([{"text": "too late", "sleep": 600}]) as api:
        done = run(api, f"Task: {PROMPT}\n", "--timeout", "3")
        asked = len(api.requests)
    assert (done.returncode, the_error(done)["retry_hint"], asked) == (1, "increase_timeout", 1)
    assert_nothing_runs()


# ---- What the API answers, and what the CLI makes of it. ----

def error(status: int, kind: str, message: str, **headers: str) -> dict:
    return {"status": status, "type": kind, "message": message, "headers": headers}


def test_a_login_that_is_refused_ends_at_once_with_the_next_step(run):
    """Left alone, the CLI tries for minutes."""
    refusal = error(401, "authentication_error", "invalid x-api-key")
    with ScriptedApi(lambda request: refusal) as api:
        done = run(api, WORKED_EXAMPLE, timeout=60)
    assert done.returncode == 3, done.stdout + done.stderr
    assert (the_error(done)["kind"], the_error(done)["retry_hint"], len(the_attempts(done))) == ("authentication", "log_in", 1)
    assert "log in" in the_error(done)["message"].lower() or "login" in the_error(done)["message"].lower()
    assert_nothing_runs()


@pytest.mark.parametrize("answer, kind, hint, status", [
    (error(404, "not_found_error", "model: no-such-model"), "invalid_request", "fix_command", 3),
    (error(400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API"), "billing", "add_credit", 3),
    (error(400, "invalid_request_error", "prompt is too long: 250000 tokens > 200000 maximum"), "token_limit", "shorter_response", 1),
    (error(529, "overloaded_error", "Overloaded"), "overloaded", "wait_and_retry", 4),
    (error(500, "api_error", "Internal server error"), "overloaded", "wait_and_retry", 4),
    (error(429, "rate_limit_error", "slow down", **{"retry-after": "1"}), "rate_limit", "wait_and_retry", 4),
    ({"drop": True}, "network", "wait_and_retry", 4),
], ids=["unknown model", "credit", "too long", "529", "500", "429", "dropped"])
def test_errors_of_the_api_are_told_apart(run, answer, kind, hint, status):
    with ScriptedApi(lambda request: answer) as api:
        done = run(api, f"Task: {PROMPT}\n", "--retries", "0", "--max-wait", "0", env={"CLAUDE_CODE_MAX_RETRIES": "1"})
    assert ((the_error(done) or {}).get("kind"), (the_error(done) or {}).get("retry_hint"), done.returncode) == (kind, hint, status), done.stdout


def test_an_api_that_is_not_there_is_a_network_error(run):
    with ScriptedApi([]) as api:
        pass
    done = run(api, f"Task: {PROMPT}\n", "--max-wait", "0", env={"CLAUDE_CODE_MAX_RETRIES": "1"})
    assert (the_error(done)["kind"], done.returncode) == ("network", 4)


def test_without_an_account_the_next_step_is_to_log_in(run):
    with ScriptedApi([]) as api:
        done = run(api, WORKED_EXAMPLE, env={"ANTHROPIC_API_KEY": None})
        asked = api.requests
    assert (done.returncode, asked) == (3, [])
    assert (the_error(done)["kind"], the_error(done)["retry_hint"], len(the_attempts(done))) == ("authentication", "log_in", 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="the CLI refuses only root")
def test_as_root_the_next_step_is_another_user_or_a_sandbox(run):
    with ScriptedApi([]) as api:
        done = run(api, WORKED_EXAMPLE, env={"IS_SANDBOX": None})
        asked = api.requests
    assert (done.returncode, asked) == (3, [])
    assert (the_error(done)["kind"], len(the_attempts(done))) == ("permission", 1)
    assert "root" in the_error(done)["message"] and "IS_SANDBOX" in the_error(done)["message"] + done.stderr


def test_a_flag_that_the_cli_does_not_know_is_named(run, claude):
    with ScriptedApi([]) as api:
        done = run(api, WORKED_EXAMPLE, "--claude", f"{claude} --no-such-flag")
    assert (done.returncode, the_error(done)["kind"]) == (3, "invalid_request") and "--no-such-flag" in the_error(done)["message"]


def test_a_claude_session_around_it_does_not_matter(run):
    """As when Claude itself calls cc_execute.py: the CLI would refuse to run in the session of another one."""
    with ScriptedApi([WRITES, SAYS_DONE]) as api:
        done = run(api, WORKED_EXAMPLE, env={"CLAUDECODE": "1", "CLAUDE_CODE_ENTRYPOINT": "cli"})
    assert done.returncode == 0, done.stdout + done.stderr


# ---- Prompts: what the spec says is what the API is asked. ----

@pytest.mark.parametrize("prompt", [
    'Say "hello" and \'bye\' to `whoami` in $HOME; echo $(date) \\n | tee > x & !! %PATH% #\n\nthen\n    indented\tand žluťoučký 🐎',
    "--version is what you should explain",
    "-p",
    "/init the repo with nothing",
    "/no-such-command",
    "# A note to remember",
    "!ls",
    "@config.py is not there yet",
    "word " * 60_000 + "end",
], ids=["quotes", "flag", "short flag", "command", "unknown command", "hash", "bang", "mention", "300 KB"])
def test_a_prompt_arrives_in_the_request(run, prompt):
    with ScriptedApi([{"text": "Understood."}]) as api:
        done = run(api, f"Task: {prompt}\n")
        asked = [prompts(body) for body in api.requests]
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert [[text.strip() for text in texts] for texts in asked] == [[prompt]]
    assert the_attempts(done)[0]["prompt"] == prompt


def test_a_folder_with_spaces_and_quotes_is_worked_in(run, workspace):
    folder = workspace / "it's \"my\" $HOME folder"
    folder.mkdir()
    with ScriptedApi([WRITES, SAYS_DONE]) as api:
        done = run(api, WORKED_EXAMPLE, "--cwd", str(folder))
    assert done.returncode == 0 and (folder / "config.py").read_text() == CONFIG


def test_the_real_cli_is_found_on_the_path(run, claude, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "claude").symlink_to(shutil.which(str(claude)))
    path = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "CC_EXECUTE_CLAUDE": None}
    with ScriptedApi([WRITES, SAYS_DONE]) as api:
        done = run(api, WORKED_EXAMPLE, env=path)
    assert done.returncode == 0 and the_attempts(done)[0]["command"][0] == "claude"
