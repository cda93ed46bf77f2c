"""Limits of the API and of money, from the outside: what is waited for, what goes on in its session, what it costs, when it ends.

Sections: what is often needed, waiting, resuming, money, background work.
"""
from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from bridging import Cable, lives
from support import ROOT, heed_signals, wait_until

pytestmark = pytest.mark.usefixtures("bridge")

SPEC = "Task: Create a config.py file with DEBUG=1\nTimeout: 60\nSuccess Criteria:\n1) File config.py exists\n"
RETRIED = SPEC + "Retry Strategy: Look twice.\n"
LIST = "".join(f"## Task {number}: {name}\nCreate {name}.txt\nSuccess Criteria: {name}.txt exists\n" for number, name in enumerate("abc", 1))
WRITES = {"write": {"path": "config.py", "content": "DEBUG=1\n"}}


# ---- What is often needed. ----

def limited(after: str = "1", **more) -> dict:
    """The end of a run that a limit ended; it passes after so many seconds."""
    return {"api_error": {"text": f"API Error: Request rejected (429) · retry after {after}", "status": 429, "error": "rate_limit", **more}}


def costs(usd, **more) -> dict:
    return {"result": {"total_cost_usd": usd, **more}}


def tokens(whole: int, own: int) -> dict:
    """A result's token counts: over all models, and of the last run."""
    return {"modelUsage": {"claude-x": {"inputTokens": whole, "outputTokens": whole}}, "usage": {"input_tokens": own, "output_tokens": own}}


@pytest.fixture
def run(run_cc, stand_in):
    """run(spec, *attempts' steps, options=…) -> (the Run, the starts of the agent)."""
    def start(spec: str, *attempts: list, options: tuple = ()):
        agent = stand_in(*attempts)
        done = run_cc("-", "--json", *options, input=spec, env=agent.environment)
        return done, agent.starts()
    return start


def the_attempts(done) -> list:
    task, = done.json()["tasks"]
    return task["attempts"]


def flag(start: dict, name: str):
    argv = start["argv"]
    return argv[argv.index(name) + 1] if name in argv else None


# ---- Waiting. ----

def test_a_limit_that_passes_is_waited_for_and_the_session_goes_on(run):
    done, starts = run(SPEC, [limited()], [WRITES])
    first, second = the_attempts(done)
    assert (done.returncode, done.json()["success"]) == (0, True)
    assert first["error"] == {"kind": "rate_limit", "message": "API Error: Request rejected (429) · retry after 1. It resets "
                              + re.search(r"at .*? \(in 1 s\)\.", first["error"]["message"])[0], "retry_hint": "wait_and_retry", "retry_after": 1.0}
    assert (second["prompt"], second["command"][-2:]) == ("continue", ["--resume", first["session_id"]])
    assert flag(starts[1], "--resume") == first["session_id"] and flag(starts[1], "--allowedTools") == flag(starts[0], "--allowedTools")
    assert 1.0 <= done.json()["duration"] - first["duration"] - second["duration"] < 10


def test_a_limit_uses_up_no_retry(run):
    done, starts = run(RETRIED, [limited()], [{"text": "I did it."}], [{"text": "Really."}, WRITES], options=("--retries", "1"))
    assert done.returncode == 0 and len(the_attempts(done)) == 3
    assert starts[2]["prompt"].startswith("Create a config.py file with DEBUG=1\n\nIMPORTANT: ") and flag(starts[2], "--resume") is None


def test_what_was_done_before_the_limit_counts(run):
    spec = SPEC + "2) Output contains 7 passed\n3) Uses the Bash tool\n"
    done, _ = run(spec, [WRITES, {"bash": "echo 7 passed"}, limited()], [{"text": "Done."}])
    assert done.returncode == 0 and [c["confidence"] for c in the_attempts(done)[1]["criteria"]] == ["proved"] * 3


def test_a_limit_that_does_not_pass_ends_it_after_five_waits(run):
    done, starts = run(SPEC, [limited("0.1")])
    assert (done.returncode, len(starts)) == (4, 6)
    assert "five" in " ".join(done.json()["warnings"]) or "5 times in a row" in " ".join(done.json()["warnings"])


def test_a_limit_that_takes_too_long_ends_it_with_the_time_to_come_back(run):
    done, starts = run(SPEC, [{"api_error": {"text": "You've hit your session limit · resets 3:45pm", "status": 429, "error": "rate_limit"}}],
                       options=("--max-wait", "0.5"))
    error, = [attempt["error"] for attempt in the_attempts(done)]
    assert (done.returncode, len(starts), error["kind"]) == (4, 1, "usage_limit")
    assert "It resets at " in error["message"] and re.search(r"15:45 \w+ \(in ", error["message"])
    moment = time.localtime(time.time() + error["retry_after"])
    assert (moment.tm_hour, moment.tm_min) == (15, 45) or (moment.tm_hour, moment.tm_min) == (15, 44)
    warning, = done.json()["warnings"]
    assert "15:45" in warning and "run this again then" in warning and warning in done.stderr
    assert int(re.search(r"--max-wait (\d+)", warning)[1]) > error["retry_after"]


def test_the_most_to_wait_holds_for_all_waits_together(run):
    done, starts = run(SPEC, [limited("0.6")], options=("--max-wait", "1.5"))
    assert (done.returncode, len(starts)) == (4, 3)


def test_what_names_no_time_is_tried_again_within_what_may_be_waited(run):
    overloaded = {"api_error": {"text": "API Error: 529 Overloaded.", "status": 529, "error": "overloaded"}}
    done, starts = run(SPEC, [overloaded], [WRITES], options=("--max-wait", "0.3"))
    assert (done.returncode, len(starts)) == (0, 2)


def test_a_pause_longer_than_the_time_limit_leaves_is_cut_at_once_and_waited_for(run):
    """The CLI would sit there until the time limit ended it: the limit's fault, not the work's."""
    pausing = [{"api_retry": {"retry_delay_ms": 2000, "error": "rate_limit", "error_status": 429}}, {"sleep": 60}]
    done, starts = run(SPEC, pausing, [WRITES], options=("--timeout", "1"))
    first, second = the_attempts(done)
    assert (done.returncode, first["error"]["kind"], first["error"]["retry_after"], second["prompt"]) == (0, "rate_limit", 2.0, "continue")
    assert first["duration"] < 1


def test_a_pause_that_fits_is_left_to_the_cli(run):
    pausing = {"api_retry": {"retry_delay_ms": 300, "error": "overloaded"}}
    done, starts = run(SPEC, [pausing, {"sleep": 0.3}, WRITES], options=("--timeout", "30"))
    assert (done.returncode, len(starts)) == (0, 1)


def test_the_wait_is_shown_with_its_reason(run):
    done, _ = run(SPEC, [limited()], [WRITES])
    lines = done.stderr.splitlines()
    why = next(at for at, line in enumerate(lines) if "Request rejected (429)" in line)
    assert "waiting for the rate limit: 0:0" in lines[why + 1] and "attempt 2" in done.stderr


def test_ctrl_c_while_waiting_ends_it_at_once(stand_in, workspace):
    agent = stand_in([limited("300")])
    process = subprocess.Popen([sys.executable, str(ROOT / "cc_execute.py"), "-", "--json"], cwd=workspace, env={**os.environ, **agent.environment},
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_signals)
    process.stdin.write(SPEC)
    process.stdin.close()
    process.stdin = None
    seen = []
    wait_until(lambda: seen.append(process.stderr.readline()) or "waiting" in seen[-1], "it waits")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and time.monotonic() - began < 20
    assert '"status": "cancelled"' in stdout and len(agent.starts()) == 1


@pytest.mark.parametrize("option", [("--max-wait", "-1"), ("--max-wait", "soon"), ("--budget", "0"), ("--budget", "-2"), ("--budget", "much")])
def test_a_wrong_amount_is_exit_2_and_nothing_runs(run, option):
    done, starts = run(SPEC, [WRITES], options=option)
    assert (done.returncode, starts) == (2, []) and option[1] in done.stderr and option[0] in done.stderr


# ---- Resuming. ----

def test_a_run_without_a_result_is_resumed_once(run):
    done, starts = run(SPEC, [{"bash": "echo begun"}, {"exit": 1}], [WRITES])
    assert done.returncode == 0 and [attempt["prompt"] for attempt in the_attempts(done)][1] == "continue"
    assert flag(starts[1], "--resume") == the_attempts(done)[0]["session_id"]
    done, starts = run(SPEC, [{"exit": 1}])
    assert (done.returncode, len(starts), the_attempts(done)[-1]["error"]["kind"]) == (1, 2, "interrupted")


GONE = "No conversation found with session ID: x"


@pytest.mark.parametrize("gone", [[{"result": {"subtype": "error_during_execution", "num_turns": 0, "errors": [GONE]}}], [{"stderr": GONE}, {"exit": 1}]],
                         ids=["result", "stderr"])
def test_a_session_that_is_gone_is_begun_anew(run, gone):
    done, starts = run(SPEC, [{"exit": 1}], gone, [WRITES])
    assert done.returncode == 0 and [start["prompt"] for start in starts] == [starts[0]["prompt"], "continue", starts[0]["prompt"]]
    assert flag(starts[2], "--resume") is None


def test_a_cli_that_hangs_after_its_result_is_ended_and_the_result_counts(run):
    done, starts = run(SPEC, [WRITES, {"result": {"total_cost_usd": 0.5}}, {"sleep": 300}])
    attempt, = the_attempts(done)
    assert (done.returncode, attempt["error"], attempt["cost_usd"]) == (0, None, 0.5) and 10 <= attempt["duration"] < 30


def test_a_call_that_was_cut_off_by_a_crash_proves_nothing(run):
    """The agent dies while its command runs; what it does after the resume is something else."""
    spec = "Task: Make main.py run\nSuccess Criteria: 1) No errors, 2) Command exits with code 0\n"
    dies = [{"event": {"type": "assistant", "message": {"model": "x", "content": [{"type": "tool_use", "id": "t1", "name": "Bash",
             "input": {"command": "python3 main.py"}}]}}}, {"exit": 137}]
    done, _ = run(spec, dies, [{"bash": "echo hi"}])
    assert (done.returncode, the_attempts(done)[1]["criteria"][0]["met"]) == (1, False)


def use(name: str, given: dict) -> dict:
    """A tool call whose result never comes."""
    block = {"type": "tool_use", "id": "t1", "name": name, "input": given}
    return {"event": {"type": "assistant", "message": {"model": "x", "content": [block]}}}


def test_a_call_whose_result_never_came_proves_nothing(run):
    """Its line may be broken: the CLI writes other events into it at times."""
    spec = "Task: Test it\nSuccess Criteria: 1) No errors, 2) Command exits with code 0, 3) Output does not contain FAILED\n"
    done, _ = run(spec, [{"bash": "true"}, use("Bash", {"command": "pytest -q"}), {"text": "Done."}])
    assert done.returncode == 1 and [c["met"] for c in the_attempts(done)[0]["criteria"]] == [False] * 3


def test_a_tool_that_was_cut_off_was_not_used(run):
    done, _ = run("Task: Write it\nSuccess Criteria: Uses the Write tool\n", [use("Write", {"file_path": "a"}), {"exit": 137}], [{"text": "Done."}])
    assert done.returncode == 1


def test_a_look_around_that_was_cut_off_is_no_error(run):
    done, _ = run(SPEC + "2) No errors\n", [use("Bash", {"command": "grep -r TODO ."}), {"exit": 137}], [WRITES, {"bash": "ls"}])
    assert done.returncode == 0, done.stdout


def test_an_answer_before_the_limit_counts(run):
    done, _ = run("Task: Which licence?\nSuccess Criteria: Response mentions MIT\n", [{"text": "It is the MIT licence."}, limited("0.1")], [{"text": "Done."}])
    assert done.returncode == 0


def test_half_a_character_in_an_output_is_no_traceback(run):
    returned = {"type": "tool_result", "tool_use_id": "t1", "content": "Exit code 1\nboom \ud83d", "is_error": True}
    broken = {"raw": json.dumps({"type": "user", "message": {"role": "user", "content": [returned]}})}
    done, starts = run("Task: Run it\nSuccess Criteria: No errors\n", [use("Bash", {"command": "python3 x.py"}), broken], options=("--retries", "1"))
    assert (done.returncode, len(starts)) == (1, 2) and "boom" in starts[1]["prompt"]


def test_a_further_turn_after_the_result_is_no_hanging(run):
    """As when background work ends: Claude is told and goes on. Only silence for ten seconds is hanging."""
    done, starts = run(SPEC, [{"result": {}}, {"text": "It has ended, I go on."}, {"sleep": 11}, WRITES, {"result": {}}])
    assert (done.returncode, len(starts)) == (0, 1)


def test_a_connection_that_breaks_is_taken_up_again_without_the_task_noticing(bridge, run_cc, stand_in, tmp_path):
    """Twice: in the midst of the agent's work, and while nobody listens for a second."""
    agent = stand_in([{"text": "Begun."}, {"bash": f"touch {tmp_path}/begun; for n in 1 2 3 4 5 6 7 8; do sleep 0.3; echo $n; done"}, WRITES,
                      {"text": "All of it is done."}])
    with Cable(bridge.port) as cable:
        def trouble() -> None:
            wait_until((tmp_path / "begun").exists, "the agent works")
            cable.cut()
            cable.is_dead = True
            time.sleep(1)
            cable.is_dead = False

        cutting = threading.Thread(target=trouble)
        cutting.start()
        done = run_cc("-", "--json", "--bridge", f"ws://127.0.0.1:{cable.port}/?token={bridge.token}", input=SPEC + "2) Output contains 8\n", env=agent.environment)
        cutting.join()
        connections = cable.taken
    attempt, = the_attempts(done)
    assert (done.returncode, attempt["error"], done.json()["tasks"][0]["text"], len(agent.starts())) == (0, None, "All of it is done.", 1)
    assert connections > 2 and [c["confidence"] for c in attempt["criteria"]] == ["proved"] * 2


def test_a_bridge_that_is_killed_leaves_no_command_of_the_agent_s(bridge, run_cc, stand_in, tmp_path, monkeypatch):
    """The agent ends with its bridge; its command, in a session of its own, is ended by the next bridge, which is started for that."""
    agent = stand_in([{"bash": f"echo $$ >{tmp_path}/pid; sleep 300"}])

    def kill() -> None:
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"), "the command runs")
        bridge.process.kill()
        bridge.process.wait()

    killing = threading.Thread(target=kill)
    killing.start()
    done = run_cc("-", "--json", input=SPEC, env=agent.environment)
    killing.join()
    error = the_attempts(done)[-1]["error"]
    assert (done.returncode, error["kind"]) == (3, "bridge") and "taking it up again" in done.stderr and "Run this again" in error["message"]
    assert the_attempts(done)[-1]["duration"] > 1
    wait_until(lambda: not lives(int((tmp_path / "pid").read_text())), "the command has ended")


# ---- Money. ----

def test_cost_adds_up_over_attempts_and_tasks(run):
    done, _ = run(RETRIED, [{"text": "Done."}, costs(0.25)], [WRITES, costs(0.5)])
    assert ([attempt["cost_usd"] for attempt in the_attempts(done)], done.json()["cost_usd"]) == ([0.25, 0.5], 0.75)


def test_a_resumed_session_is_not_counted_twice(run):
    """As it is documented: the result of a resumed session counts its earlier turns again."""
    done, _ = run(SPEC, [{"bash": "true"}, limited("0.1"), costs(0.25, is_error=True, api_error_status=429, result="retry after 0.1")], [WRITES, costs(0.375)])
    assert ([attempt["cost_usd"] for attempt in the_attempts(done)], done.json()["cost_usd"]) == ([0.25, 0.125], 0.375)


@pytest.mark.parametrize("first, second, paid", [
    (costs(0.25, **tokens(100, 100)), costs(0.5, **tokens(300, 200)), [0.25, 0.25]),
    (costs(0.25, **tokens(100, 100)), costs(0.5, **tokens(200, 200)), [0.25, 0.5]),
    (costs(0.5), costs(0.25), [0.5, 0.25]),
], ids=["counted again", "not counted again: its tokens are those of the last run", "less than before"])
def test_token_counts_tell_whether_a_resumed_session_counts_again(run, first, second, paid):
    """2.1.197 does not count them again, whatever is documented."""
    first["result"].update(is_error=True, api_error_status=429, result="API Error: 429, retry after 0.1")
    done, _ = run(SPEC, [first], [WRITES, second])
    assert ([attempt["cost_usd"] for attempt in the_attempts(done)], done.json()["cost_usd"]) == (paid, sum(paid))


def told_limit(usd, **more) -> dict:
    return costs(usd, is_error=True, api_error_status=429, result="API Error: 429, retry after 0.1", **more)


def test_each_part_of_a_session_that_is_not_counted_again_is_paid(run):
    """Two limits in a row, the second before a word; as 2.1.197 tells of them."""
    done, _ = run(SPEC, [told_limit(0.25, **tokens(100, 100))], [told_limit(0, modelUsage={})], [WRITES, costs(0.5, **tokens(200, 200))])
    assert ([attempt["cost_usd"] for attempt in the_attempts(done)], done.json()["cost_usd"]) == ([0.25, 0, 0.5], 0.75)
    done, _ = run(SPEC, [told_limit(0.25, **tokens(100, 100))], [{"bash": "true"}, {"exit": 1}], [WRITES, costs(0.5, **tokens(200, 200))])
    assert ([attempt["cost_usd"] for attempt in the_attempts(done)], done.json()["cost_usd"]) == ([0.25, None, 0.5], 0.75)


def test_a_run_that_was_killed_in_a_further_turn_has_an_unknown_cost(run):
    done, starts = run(SPEC, [costs(0.25), {"text": "I go on."}, {"exit": 1}], [WRITES], options=("--budget", "0.5"))
    assert ([attempt["cost_usd"] for attempt in the_attempts(done)], len(starts)) == ([None, 0], 2) or len(starts) == 1
    assert any("not known" in warning for warning in done.json()["warnings"])


def test_what_the_api_never_answered_has_cost_nothing(run):
    """Cut by us in the CLI's own pause, before any answer; the budget is all there."""
    pausing = [{"api_retry": {"retry_delay_ms": 2000, "error": "rate_limit", "error_status": 429}}, {"sleep": 60}]
    done, starts = run(SPEC, pausing, [WRITES], options=("--timeout", "1", "--budget", "1"))
    assert (done.returncode, [flag(start, "--max-budget-usd") for start in starts]) == (0, ["1", "1"])
    assert not any("not known" in warning for warning in done.json()["warnings"])


def test_what_the_api_was_being_asked_at_the_end_may_have_cost_something(run):
    """The pause was over, and the answer on its way."""
    asking = [{"api_retry": {"retry_delay_ms": 100}}, {"sleep": 60}]
    done, starts = run(RETRIED, asking, [WRITES], options=("--timeout", "1", "--budget", "1"))
    assert len(starts) == 1 and any("not known" in warning for warning in done.json()["warnings"])


def test_the_budget_that_is_used_up_is_the_one_that_is_named(run):
    spec = f"## Task 1: a\n{SPEC}## Task 2: b\n{RETRIED.replace('config', 'other')}Budget: 0.5\n"
    done, _ = run(spec, [WRITES, {"exit": 1}], [WRITES, costs(0.1)], [costs(0.6)])
    warning = next(warning for warning in done.json()["warnings"] if "not tried again" in warning)
    assert "task 2" in warning and "the budget of $0.5 of the task is used up ($0.6000)" in warning


def test_no_money_to_go_on_after_a_limit_is_no_limit_that_takes_too_long(run):
    done, starts = run(SPEC, [told_limit(1.0)], options=("--budget", "1"))
    assert (done.returncode, len(starts)) == (1, 1)


def test_what_a_killed_run_cost_is_not_known_and_said_to_be(run):
    done, _ = run(SPEC, [{"exit": 1}], [WRITES, costs(0.5)])
    assert ([attempt["cost_usd"] for attempt in the_attempts(done)], done.json()["cost_usd"]) == ([None, 0.5], 0.5)
    assert any("attempt 1" in warning and "not known" in warning for warning in done.json()["warnings"])


def test_an_unknown_cost_is_said_on_the_terminal(run_cc, stand_in):
    done = run_cc("-", input=SPEC, env=stand_in([{"exit": 1}], [WRITES, costs(0.5)]).environment)
    assert done.stdout.count("$0.5000 and a cost that is not known") == 2


def test_an_agent_that_never_began_has_cost_nothing(run_cc):
    done = run_cc("-", "--json", "--budget", "1", "--claude", "no-such-agent", input=SPEC)
    assert done.json()["cost_usd"] is None and not any("not known" in warning for warning in done.json()["warnings"])


def test_a_budget_holds_for_the_whole_spec(run):
    steps = [[{"write": {"path": f"{name}.txt", "content": name}}, costs(usd)] for name, usd in zip("abc", (0.25, 0.5, 0.25))]
    done, starts = run(LIST, *steps, options=("--budget", "1"))
    assert [flag(start, "--max-budget-usd") for start in starts] == ["1", "0.75", "0.25"] and done.returncode == 0
    done, starts = run(LIST, *steps, options=("--budget", "0.75", "--keep-going"))
    assert [flag(start, "--max-budget-usd") for start in starts] == ["0.75", "0.5"]
    assert ([task["status"] for task in done.json()["tasks"]], done.json()["success"], done.returncode) == (["passed", "passed", "skipped"], False, 1)
    assert any("task 3 was not started" in warning and "$0.75" in warning for warning in done.json()["warnings"])


def test_a_budget_that_is_used_up_ends_the_retries(run):
    done, starts = run(RETRIED, [{"text": "Done."}, costs(0.4)], [{"write": {"path": "conf.py", "content": ""}}, costs(0.7)], options=("--budget", "1"))
    assert [flag(start, "--max-budget-usd") for start in starts] == ["1", "0.6"] and done.returncode == 1
    assert any("not tried again: the budget of $1" in warning for warning in done.json()["warnings"])


def test_the_budget_of_a_task_holds_for_all_its_attempts(run):
    done, starts = run(RETRIED + "Budget: $0.50\n", [{"text": "Done."}, costs(0.2)], [WRITES], options=("--budget", "10"))
    assert [flag(start, "--max-budget-usd") for start in starts] == ["0.5", "0.3"] and done.returncode == 0


def test_on_the_terminal_what_was_skipped_says_why(run_cc, stand_in):
    agent = stand_in([{"write": {"path": "a.txt", "content": "a"}}, costs(1.0)])
    done = run_cc("-", "--budget", "1", "--keep-going", input=LIST, env=agent.environment)
    assert "Task 2: b\n  skipped: the budget of $1 for the whole spec is used up ($1.0000); allow more with --budget\n" in done.stdout and "1 of 3 tasks passed, 2 skipped" in done.stdout


def test_a_resumed_run_that_ends_at_its_budget_is_paid(run):
    """Its result tells no usage of its own; the messages do (seen with 2.1.197)."""
    def message(tokens: int) -> dict:
        return {"event": {"type": "assistant", "message": {"id": f"m{tokens}", "model": "x", "content": [], "usage": {"input_tokens": tokens}}}}

    used = {"claude-x": {"inputTokens": 600_000}}
    over = costs(3.0, subtype="error_max_budget_usd", modelUsage=used, usage={"input_tokens": 0})
    done, starts = run(SPEC, [message(600_000), told_limit(3.0, modelUsage=used)], [message(600_000), over], options=("--budget", "5"))
    assert ([attempt["cost_usd"] for attempt in the_attempts(done)], done.json()["cost_usd"], done.returncode) == ([3, 3], 6, 1)


def test_an_unknown_cost_may_have_used_the_budget_up(run):
    done, starts = run(SPEC, [{"bash": "true"}, {"exit": 1}], [WRITES], options=("--budget", "1"))
    assert (done.returncode, len(starts)) == (1, 1)
    assert any("not tried again" in warning and "not known" in warning for warning in done.json()["warnings"])


def test_what_the_cli_ends_for_its_budget_is_told(run):
    done, starts = run(RETRIED, [costs(1.25, subtype="error_max_budget_usd", errors=["Reached maximum budget ($1)"])], options=("--budget", "1"))
    error = the_attempts(done)[0]["error"]
    assert (done.returncode, len(starts), error["kind"]) == (1, 1, "budget") and "--budget" in error["message"]


def test_the_judge_is_paid_from_the_same_budget(run):
    answer = {"result": {"structured_output": {"verdicts": [{"number": 1, "met": True, "reason": "it is"}]}, "total_cost_usd": 0.125}}
    spec = "Task: Create a config.py file\nSuccess Criteria: It is lovely to read\n"
    done, starts = run(spec, [WRITES, costs(0.25)], [answer], options=("--judge", "--budget", "1"))
    assert (flag(starts[1], "--max-budget-usd"), done.json()["cost_usd"]) == ("0.75", 0.375)
    done, starts = run(spec, [WRITES, costs(1.0)], [answer], options=("--judge", "--budget", "1"))
    assert len(starts) == 1 and "budget is used up" in the_attempts(done)[0]["criteria"][0]["evidence"]


def test_a_dry_run_shows_the_budget(run_cc):
    done = run_cc("-", "--dry-run", "--budget", "2.5", input=SPEC + "Budget: 3\n")
    assert re.search(r"budget +\$2\.5 \(--budget\)", done.stdout) and "--max-budget-usd 2.5" in done.stdout


# ---- Background work. ----

def backgrounded(command: str) -> list:
    returned = {"stdout": "", "stderr": "", "interrupted": False, "backgroundTaskId": "b1"}
    return [{"tool": {"name": "Bash", "input": {"command": command}, "content": "Command running in background with ID: b1.", "tool_use_result": returned}}]


def test_work_left_in_the_background_is_told_and_goes_into_the_retry(run):
    done, starts = run(RETRIED, [*backgrounded("npm test"), {"text": "All is tested."}], [WRITES])
    assert done.returncode == 0 and any("npm test" in warning and "background" in warning for warning in done.json()["warnings"])
    assert "`npm test` was still running in the background when the turn ended" in starts[1]["prompt"] and "foreground" in starts[1]["prompt"]


def test_tests_that_were_left_in_the_background_have_not_passed(run):
    done, _ = run("Task: Run the tests\nSuccess Criteria: All tests pass\n", [*backgrounded("pytest -q"), {"text": "All tests pass."}])
    assert (done.returncode, done.json()["tasks"][0]["status"]) == (1, "failed")
