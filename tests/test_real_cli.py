"""The real Claude CLI under cc_execute.py, its API scripted on loopback: what a user sees with an account, without one.

Sections: fixtures, work that is done, what the API answers, prompts, a run that is gone on with.
"""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bridging import start_bridge
from scripted_api import Request, ScriptedApi, prompts, tool_results, turn
from support import ROOT, marked_processes, own_mark, wait_until

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
        done = run(api, f"Task: {PROMPT}\n", "--timeout", "6")   # a busy machine needs some of that until the CLI has begun
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


# ---- What passes, and what a second try mends. ----

def in_turn(*answers: dict, then: dict = SAYS_DONE):
    """These answers to the requests one after the other, then always the last."""
    left = list(answers)
    return lambda request: left.pop(0) if left else then


RETRY_ONCE = {"CLAUDE_CODE_MAX_RETRIES": "1"}
CONFIG_SPEC = f"Task: {PROMPT}\nSuccess Criteria: 1) config.py contains DATABASE_URL, 2) Uses the Write tool\n"
SLOW_DOWN = error(429, "rate_limit_error", "slow down", **{"retry-after": "1"})


@pytest.mark.parametrize("answer, kind", [
    (SLOW_DOWN, "rate_limit"), (error(529, "overloaded_error", "Overloaded"), "overloaded"), ({"drop": True}, "network"),
    ({"text": "half of", "drop": "block"}, "network"),
], ids=["429", "529", "hung up", "half a stream"])
def test_what_passes_is_waited_for_and_the_session_goes_on(run, answer, kind):
    """It comes in the middle of the work, and the CLI gives up before it has passed."""
    with ScriptedApi(in_turn(WRITES, answer, answer)) as api:
        done = run(api, CONFIG_SPEC, env=RETRY_ONCE)
        asked = prompts(api.requests[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = the_attempts(done)
    assert (first["error"]["kind"], second["command"][-2:]) == (kind, ["--resume", first["session_id"]])
    assert asked[0].strip() == PROMPT and asked[-1] == "continue" and second["session_id"] == first["session_id"]
    assert [c["confidence"] for c in second["criteria"]] == ["proved", "proved"] and "waiting for the" in done.stderr


def test_what_a_resumed_session_costs_is_counted_once(run):
    usage = {"usage": {"input_tokens": 100_000, "output_tokens": 1000}}
    with ScriptedApi(in_turn({**WRITES, **usage}, SLOW_DOWN, SLOW_DOWN, then={**SAYS_DONE, **usage})) as api:
        done = run(api, CONFIG_SPEC, env=RETRY_ONCE)
    costs = [attempt["cost_usd"] for attempt in the_attempts(done)]
    assert costs[0] == costs[1] > 0 and done.json()["cost_usd"] == pytest.approx(2 * costs[0])


def test_a_limit_that_passes_within_the_cli_s_own_tries_is_left_to_it(run):
    with ScriptedApi(in_turn(SLOW_DOWN, WRITES)) as api:
        done = run(api, CONFIG_SPEC)
    assert done.returncode == 0 and len(the_attempts(done)) == 1


def test_a_pause_longer_than_the_time_limit_leaves_is_cut_and_told(run):
    pause = error(429, "rate_limit_error", "slow down", **{"retry-after": "50"})
    with ScriptedApi(lambda request: pause) as api:
        done = run(api, CONFIG_SPEC, "--timeout", "20", "--max-wait", "5", timeout=60)
        asked = len(api.requests)
    assert (done.returncode, asked, the_error(done)["kind"]) == (4, 1, "rate_limit"), done.stdout + done.stderr
    assert the_error(done)["retry_after"] == 50 and the_attempts(done)[0]["duration"] < 15
    assert_nothing_runs()


def test_a_server_that_is_down_is_the_network_s_fault_and_not_the_time_limit_s(run):
    """The CLI's own ten tries take minutes, longer than the task may."""
    with ScriptedApi([]) as api:
        pass
    done = run(api, CONFIG_SPEC, "--timeout", "8", "--max-wait", "0", timeout=60)
    assert (done.returncode, the_error(done)["kind"], the_error(done)["retry_after"]) == (4, "network", None), done.stdout + done.stderr


def test_half_a_stream_that_the_cli_takes_for_an_answer_proves_nothing(run):
    """Cut between two blocks it calls the run a success."""
    with ScriptedApi(in_turn({"text": "I'll write config.py with DATABASE_URL.", "drop": True}, WRITES)) as api:
        done = run(api, CONFIG_SPEC, "--retries", "1")
    assert (done.returncode, [all(c["met"] for c in attempt["criteria"]) for attempt in the_attempts(done)]) == (0, [False, True])


@pytest.mark.parametrize("answer, told", [
    (error(400, "invalid_request_error", "prompt is too long: 250000 tokens > 200000 maximum"), "too long"),
    ({"text": "and so on, ", "stop_reason": "max_tokens"}, "output token maximum"),
], ids=["prompt too long", "output token limit"])
def test_too_much_is_tried_again_with_less(run, answer, told):
    def reply(request):
        is_shorter = "Keep the answer short" in prompts(request.body)[0]
        return answer if not is_shorter else WRITES if turn(request.body) == 0 else SAYS_DONE

    with ScriptedApi(reply) as api:
        done = run(api, CONFIG_SPEC + "Retry Strategy: again\n", env=RETRY_ONCE)
    first, second = the_attempts(done)
    assert (done.returncode, first["error"]["kind"], first["error"]["retry_hint"]) == (0, "token_limit", "shorter_response")
    assert told in first["error"]["message"].lower() and first["session_id"] != second["session_id"]


def test_a_cli_that_is_killed_is_resumed_once(run):
    killed = {"text": "I kill myself.", "tool": "Bash", "input": {"command": "sleep 2; kill -9 $PPID"}}  # by then it has written its session down
    with ScriptedApi(in_turn(killed, WRITES)) as api:
        done = run(api, CONFIG_SPEC)
        asked = prompts(api.requests[-1])
    first, second = the_attempts(done)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (first["error"]["kind"], first["cost_usd"], second["prompt"], asked[-1]) == ("interrupted", None, "continue", "continue")
    assert any("not known" in warning for warning in done.json()["warnings"])
    assert_nothing_runs()


def test_a_command_that_fails_and_is_repaired_is_no_error(run):
    test = {"tool": "Bash", "input": {"command": "python3 check.py"}}
    with ScriptedApi(in_turn(test, {"tool": "Write", "input": {"file_path": "check.py", "content": "print('all good')\n"}}, test)) as api:
        done = run(api, "Task: Make check.py run\nSuccess Criteria: 1) No errors, 2) Output contains \"all good\", 3) Command exits with code 0\n")
        failed = tool_results(api.requests[1])[0]
    assert failed["is_error"] and done.returncode == 0, done.stdout + done.stderr
    assert [c["confidence"] for c in the_attempts(done)[0]["criteria"]] == ["proved"] * 3


LEAVES = {"tool": "Bash", "input": {"command": "sleep 60", "run_in_background": True}}


def test_a_command_in_the_background_is_told_of_and_ends_with_its_session(run):
    """Where the user's environment allows them: the CLI ends what is left a few seconds after its result."""
    with ScriptedApi(in_turn(LEAVES)) as api:
        done = run(api, "Task: Run the tests\nSuccess Criteria: report.txt exists\nRetry Strategy: again\n", env={"CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "0"})
        asked = [prompts(body)[0] for body in api.requests if turn(body) == 0]
    assert any("sleep 60" in warning and "background" in warning for warning in done.json()["warnings"])
    assert done.returncode == 1 and "`sleep 60` was still running" in asked[1]
    assert_nothing_runs()


def test_the_environment_keeps_commands_out_of_the_background(run):
    with ScriptedApi(in_turn(LEAVES)) as api:
        done = run(api, "Task: Run the tests\n")
        refused = tool_results(api.requests[1])[0]
    assert refused["is_error"] and "run_in_background" in refused["content"]
    assert [warning for warning in done.json()["warnings"] if "background" in warning] == []


# ---- Money. ----

DEAR = {"usage": {"input_tokens": 100_000, "output_tokens": 1000}}   # half a dollar and more


def test_a_budget_ends_the_run_that_exceeds_it_and_starts_no_other(run):
    with ScriptedApi(lambda request: {**WRITES, **DEAR}) as api:
        done = run(api, CONFIG_SPEC + "Retry Strategy: again\n", "--budget", "0.4")
    attempt, = the_attempts(done)
    assert (done.returncode, attempt["error"]["kind"]) == (1, "budget") and "--budget" in attempt["error"]["message"]
    assert done.json()["cost_usd"] == attempt["cost_usd"] > 0.4 and attempt["command"][attempt["command"].index("--max-budget-usd") + 1] == "0.4"


def test_a_resumed_run_that_exceeds_what_is_left_is_paid_in_full(run):
    """Its result has no usage, so that only its messages tell that it does not count again what came before."""
    dear = {**WRITES, **DEAR}
    with ScriptedApi(in_turn(dear, SLOW_DOWN, SLOW_DOWN, then=dear)) as api:
        done = run(api, CONFIG_SPEC, "--budget", "0.9", env=RETRY_ONCE)
    first, second = the_attempts(done)
    assert (first["error"]["kind"], second["error"]["kind"]) == ("rate_limit", "budget")
    assert first["cost_usd"] == second["cost_usd"] > 0.5 and done.json()["cost_usd"] == pytest.approx(2 * first["cost_usd"])


def test_a_resumed_run_with_a_subagent_is_paid_in_full(run):
    """What a subagent used is in the total, but not among the messages."""
    def answer(request):
        said = prompts(request.body)
        if said[0].startswith("look around"):
            return {"text": "Nothing here.", "usage": {"input_tokens": 300_000, "output_tokens": 3000}}
        if "continue" not in said[-1:] and turn(request.body) == 0:
            return {**WRITES, **DEAR}
        if "continue" not in said:
            return SLOW_DOWN
        is_first = not any(result["tool_use_id"].startswith("toolu") and "Nothing here" in str(result) for result in tool_results(request.body))
        agent = {"tool": "Agent", "input": {"description": "look", "prompt": "look around", "subagent_type": "general-purpose"}}
        return {**(agent if is_first else SAYS_DONE), **DEAR}

    with ScriptedApi(answer) as api:
        done = run(api, CONFIG_SPEC, env=RETRY_ONCE)
        thousands = sum(answer(Request(0, body, {})).get("usage", {}).get("output_tokens", 0) for body in api.requests)
    first = the_attempts(done)[0]["cost_usd"]
    assert done.returncode == 0 and thousands == 6000, done.stdout + done.stderr
    assert done.json()["cost_usd"] == pytest.approx(6 * first)


def test_what_is_left_of_a_budget_goes_along_and_nothing_starts_when_it_is_used_up(run):
    with ScriptedApi(lambda request: {**SAYS_DONE, **DEAR}) as api:
        done = run(api, THREE, "--budget", "1", "--keep-going")
        asked = len(api.requests)
    tasks = done.json()["tasks"]
    first, second = (task["attempts"][0] for task in tasks[:2])
    left = second["command"][second["command"].index("--max-budget-usd") + 1]
    assert float(left) == pytest.approx(1 - first["cost_usd"], abs=1e-5) and asked == 2 and done.returncode == 1
    assert ([task["status"] for task in tasks], second["error"]["kind"]) == (["failed", "error", "skipped"], "budget")


# ---- Lists: each task has a fresh Claude. ----

THREE = "".join(f"## Task {number}: {name}\nCreate {name}.txt with {name}.\nSuccess Criteria: {name}.txt exists\n\n" for number, name in enumerate("abc", 1))


@pytest.mark.parametrize("options, statuses", [([], ["passed", "failed", "skipped"]), (["--keep-going"], ["passed", "failed", "passed"])])
def test_a_list_whose_middle_task_fails(run, options, statuses):
    def answer(request):
        name = prompts(request.body)[0].split()[1]
        is_work = turn(request.body) == 0 and name != "b.txt"
        return {"tool": "Write", "input": {"file_path": name, "content": name}} if is_work else SAYS_DONE

    with ScriptedApi(answer) as api:
        done = run(api, THREE, *options)
        fresh = [prompts(body) for body in api.requests if turn(body) == 0]
    assert ([task["status"] for task in done.json()["tasks"]], done.returncode) == (statuses, 1)
    assert fresh == [[f"Create {name}.txt with {name}."] for name, status in zip("abc", statuses) if status != "skipped"]
    sessions = {task["attempts"][0]["session_id"] for task in done.json()["tasks"] if task["attempts"]}
    assert len(sessions) == len(fresh)


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


# ---- A run that is gone on with. ----

WAITS = {"text": "First a look.", "tool": "Bash", "input": {"command": "touch begun; sleep 3; echo looked"}}


def kill_when_begun(claude, workspace: Path, api: ScriptedApi, spec: Path) -> None:
    """Ends cc_execute.py with SIGKILL while the real CLI waits for its command."""
    variables = {**os.environ, **api.environment, "CC_EXECUTE_CLAUDE": str(claude), "IS_SANDBOX": "1"}
    process = subprocess.Popen([sys.executable, str(ROOT / "cc_execute.py"), str(spec), "--json"], cwd=workspace, env=variables, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: (workspace / "begun").exists(), "the real CLI is at work")
    process.kill()
    process.wait()


def test_a_cli_that_still_runs_after_a_crash_is_taken_over(run, claude, workspace):
    with ScriptedApi([WAITS, WRITES, SAYS_DONE]) as api:
        kill_when_begun(claude, workspace, api, WORKED_EXAMPLE)
        done = run(api, WORKED_EXAMPLE, "--resume")
        assert len(api.requests) == 3
    attempt, = the_attempts(done)
    assert done.returncode == 0 and (attempt["num_turns"], attempt["exit_code"]) == (3, 0) and attempt["cost_usd"] > 0, done.stderr
    assert [json.loads(line)["type"] for line in Path(attempt["transcript"]).read_text().splitlines()].count("result") == 1
    assert_nothing_runs()


def has_kept_its_answer() -> bool:
    """Whether the CLI has written down what Claude said: it does so a moment after it has begun to act on it, and a session that has
    nothing of it can't be resumed."""
    return any('"tool_use"' in path.read_text() for path in (Path(os.environ["HOME"]) / ".claude" / "projects").glob("*/*.jsonl"))


def test_after_a_reboot_the_real_session_is_gone_on_with(run, claude, workspace, bridge, monkeypatch):
    with ScriptedApi([WAITS, WRITES, SAYS_DONE]) as api:
        kill_when_begun(claude, workspace, api, WORKED_EXAMPLE)
        wait_until(has_kept_its_answer, "the real CLI has kept its session")
        bridge.process.kill()
        bridge.process.wait()
        with start_bridge() as other:
            monkeypatch.setenv("CC_EXECUTE_BRIDGE", other.url)
            done = run(api, WORKED_EXAMPLE, "--resume")
            assert_nothing_runs()
        resumed = prompts(api.requests[1])
    first, second = the_attempts(done)
    assert done.returncode == 0 and (first["error"]["kind"], first["cost_usd"]) == ("interrupted", None), done.stderr
    assert resumed[0] == PROMPT and resumed[-1] == "continue" and second["session_id"] == first["session_id"]
    assert done.json()["tasks"][0]["files_changed"]["created"] == ["begun", "config.py"]


def test_a_session_limit_is_gone_on_with_after_exit_4(run, workspace):
    limited = {"status": 429, "type": "rate_limit_error", "message": "This request would exceed your account's rate limit. Please try again later.",
               "headers": {"retry-after": "1"}}
    with ScriptedApi([{"tool": "Bash", "input": {"command": "touch begun"}}, limited, limited, WRITES, SAYS_DONE]) as api:
        first = run(api, WORKED_EXAMPLE, "--max-wait", "0", env={"CLAUDE_CODE_MAX_RETRIES": "1"})
        done = run(api, WORKED_EXAMPLE, "--resume", "--max-wait", "60")
        asked = prompts(api.requests[-1])
    assert (first.returncode, done.returncode) == (4, 0), first.stdout + done.stderr
    assert [attempt["error"] and attempt["error"]["kind"] for attempt in the_attempts(done)] == ["rate_limit", None]
    assert asked[0] == PROMPT and asked[-1] == "continue"
