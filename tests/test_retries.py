"""Retries: what follows an attempt that did not pass, and the prompt that is refined by exactly what failed."""
from __future__ import annotations

from typing import NamedTuple, Optional

import pytest

from cc_execute import (AgentError, Attempt, CommandOutput, CommandResult, Evidence, Next, Stop, Task, ToolCall, Verdict, judge, parse_task_request,
                        plan_retry, read_criteria, refined_prompt, refinement, telling_end)

TASK = Task(1, None, 1, "Create config.py with X.", ("File config.py exists", "Contains X"), 60.0, "be more specific")


def unmet(text: str = "File config.py exists", evidence: str = "config.py does not exist",
          finding: str = "it was not there") -> Verdict:
    return Verdict(read_criteria([text])[0], False, "proved", evidence, finding)


def attempt(number: int = 1, error: Optional[str] = None, timeout: float = 60.0, verdicts: tuple = (unmet(),),
            session: Optional[str] = "s", changed: bool = True, prompt: str = TASK.prompt, after: Optional[float] = None) -> Attempt:
    told = AgentError(error, f"{error} happened", retry_after=after) if error else None
    return Attempt(number, prompt, (), timeout, 0, 1.0, session, None, None, None, told, "", verdicts, changed_something=changed, retry=number > 1)


def limit(number: int = 1, kind: str = "rate_limit", after: Optional[float] = None, **more) -> Attempt:
    return attempt(number, error=kind, after=after, verdicts=(), **more)._replace(retry=False)


def resumed(number: int, error: Optional[str] = None, num_turns: Optional[int] = 2) -> Attempt:
    gone = AgentError("interrupted", "No conversation found with session ID: s") if num_turns == 0 else None
    told = attempt(number, error=error, prompt="continue")
    return told._replace(resumed=True, retry=False, num_turns=num_turns, error=gone or told.error)


# ---- The refined prompt. ----

def test_the_refined_prompt_is_the_design_s_example_word_for_word(workspace):
    task = parse_task_request("Use your cc_execute.md to execute the task: Create config.py with X.\n"
                              "Evaluate the response based on: 1) File config.py exists\n"
                              "If the task fails, retry with more specific instructions.")
    verdicts = judge(read_criteria(task.criteria), Evidence(str(workspace)))
    step = plan_retry(task, [attempt(verdicts=verdicts)], 2, None)
    assert step == Next("Create config.py with X.\n\nIMPORTANT: File config.py exists: it was not there; actually create the "
                        "file. Retry with more specific instructions.", 60.0)


def test_only_what_failed_is_spoken_of(workspace):
    (workspace / "config.py").write_text("Y = 1\n")
    verdicts = judge(read_criteria(["File config.py exists", "Contains X", "config.py contains Y", "No errors"]),
                     Evidence(str(workspace)))
    advice = refinement(verdicts)
    assert advice.startswith("Contains X: ") and "config.py" in advice
    assert "File config.py exists" not in advice and "No errors" not in advice


def test_there_is_one_sentence_for_each_failed_criterion(workspace):
    criteria = ["File a.py exists", "b.py contains X", "Output contains OK", "`false`", "It is beautiful"]
    evidence = Evidence(str(workspace), text="nothing", run=lambda command: CommandResult(1, ""))
    advice = refinement(judge(read_criteria(criteria), evidence))
    starts = [advice.index(f"{text}: ") for text in criteria]
    assert starts == sorted(starts) and all("; " in advice[start:] for start in starts) and "\n" not in advice


STRATEGIES = [(None, ""), ("", ""), ("be exact", " Be exact."), ("Be exact.", " Be exact."), ("why not?", " Why not?"),
              ("  two\nlines ", " Two\nlines."),
              ("Retry if the task fails.", " Retry if the task fails.")]


@pytest.mark.parametrize("strategy, end", STRATEGIES, ids=[repr(row[0]) for row in STRATEGIES])
def test_the_strategy_of_the_spec_stands_at_the_end(strategy, end):
    assert refined_prompt(TASK._replace(retry_strategy=strategy),
                          "Do it.") == f"Create config.py with X.\n\nIMPORTANT: Do it.{end}"


def test_the_second_retry_refines_the_original_and_not_the_first_retry_s_prompt():
    first = plan_retry(TASK, [attempt()], 2, None)
    second = plan_retry(TASK, [attempt(), attempt(2, verdicts=(unmet("Contains X", "no", "no"),), prompt=first.prompt)], 2, None)
    assert second.prompt.count("IMPORTANT") == 1
    assert second.prompt.startswith("Create config.py with X.\n\nIMPORTANT: Contains X: ")


def test_what_was_found_is_kept_short():
    step = plan_retry(TASK, [attempt(verdicts=(unmet(evidence="x" * 10_000, finding=""),))], 2, None)
    assert len(step.prompt) < 1000


# ---- What follows which error. ----

class Row(NamedTuple):
    reason: str
    attempts: list
    goes_on: bool
    retries: int = 2
    longest: Optional[float] = None


ROWS = [
    Row("criteria failed, a retry is left", [attempt()], True),
    Row("criteria failed, the last retry is left", [attempt(), attempt(2, verdicts=(unmet("Contains X"),))], True),
    Row("criteria failed, no retry is left", [attempt(), attempt(2), attempt(3)], False),
    Row("criteria failed, none is allowed", [attempt()], False, 0),
    Row("failed twice in the same way, nothing was changed", [attempt(), attempt(2, changed=False)], False),
    Row("failed twice in the same way, but something was changed", [attempt(), attempt(2)], True),
    Row("failed twice in other ways, nothing was changed",
        [attempt(), attempt(2, verdicts=(unmet("Contains X", "y", "y"),), changed=False)], True),
    Row("not logged in", [attempt(error="authentication")], False),
    Row("no credit", [attempt(error="billing")], False),
    Row("unknown model", [attempt(error="invalid_request")], False),
    Row("no command", [attempt(error="not_found")], False),
    Row("refused as root", [attempt(error="permission", session=None)], False),
    Row("no bridge", [attempt(error="bridge")], False),
    Row("cancelled", [attempt(error="cancelled")], False),
    Row("budget used up", [attempt(error="budget")], False),
    Row("a time limit, once", [attempt(error="timeout")], True),
    Row("a time limit, twice", [attempt(error="timeout"), attempt(2, error="timeout", timeout=90.0)], False),
    Row("a time limit, with no retry", [attempt(error="timeout")], False, 0),
    Row("a time limit that must not be exceeded", [attempt(error="timeout")], False, 2, 60.0),
    Row("a time limit that may be exceeded a little", [attempt(error="timeout")], True, 2, 70.0),
    Row("too long an answer", [attempt(error="token_limit")], True),
    Row("too long an answer, no retry", [attempt(error="token_limit")], False, 0),
    Row("interrupted, once", [attempt(error="interrupted")], True),
    Row("interrupted, once, without any retry: it is resumed", [attempt(error="interrupted")], True, 0),
    Row("stalled, once, without any retry: it is resumed", [attempt(error="stalled")], True, 0),
    Row("stalled after an interruption", [attempt(error="interrupted"), resumed(2, "stalled")], False, 0),
    Row("an unknown error", [attempt(error="unknown")], True),
    Row("a refusal", [attempt(error="refusal")], True),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.reason)
def test_whether_it_is_tried_again(row):
    step = plan_retry(TASK, row.attempts, row.retries, row.longest)
    assert isinstance(step, Next if row.goes_on else Stop), step


def test_giving_up_early_is_explained():
    step = plan_retry(TASK, [attempt(), attempt(2, changed=False)], 2, None)
    assert isinstance(step, Stop) and "same way" in step.reason


@pytest.mark.parametrize("longest, timeout", [(None, 90.0), (70.0, 70.0), (500.0, 90.0)])
def test_after_a_time_limit_it_gets_half_as_long_again_but_no_more_than_the_option_allows(longest, timeout):
    assert plan_retry(TASK, [attempt(error="timeout")], 2, longest).timeout == timeout


def test_after_a_time_limit_it_gets_longer_only_once():
    steps = [attempt(error="timeout"), attempt(2, timeout=90.0)]
    assert plan_retry(TASK, steps, 5, None).timeout == 90.0
    assert isinstance(plan_retry(TASK, steps + [attempt(3, error="timeout", timeout=90.0)], 5, None), Stop)


def test_a_retry_of_criteria_is_a_fresh_session_and_of_an_interruption_the_same_one():
    assert plan_retry(TASK, [attempt()], 2, None).resume is None
    resumed = plan_retry(TASK, [attempt(error="interrupted", session="abc")], 2, None)
    assert resumed.resume == "abc" and resumed.prompt == "continue"


def test_it_is_resumed_once_only():
    step = plan_retry(TASK, [attempt(error="interrupted"), attempt(2, error="interrupted")], 5, None)
    assert isinstance(step, Stop) or step.resume is None


def test_without_a_session_there_is_nothing_to_resume():
    step = plan_retry(TASK, [attempt(error="interrupted", session=None)], 2, None)
    assert isinstance(step, Stop) or step.resume is None


# ---- Limits. ----

@pytest.mark.parametrize("kind", ["rate_limit", "usage_limit", "overloaded", "network"])
def test_a_limit_is_waited_for_and_its_session_goes_on_without_a_retry(kind):
    assert plan_retry(TASK, [limit(kind=kind, after=30.0)], 0, None, 900.0, jitter=0.0) == Next("continue", 60.0, "s", 30.0, False)


def test_without_a_session_what_was_last_asked_for_is_asked_again():
    refined = attempt(prompt="Create config.py with X.\n\nIMPORTANT: x")
    step = plan_retry(TASK, [attempt(), refined, limit(3, session=None, prompt=refined.prompt)], 2, None, 900.0)
    assert (step.prompt, step.resume) == (refined.prompt, None)
    assert plan_retry(TASK, [limit(), resumed(2, "network")._replace(session_id=None)], 2, None, 900.0).prompt == TASK.prompt


@pytest.mark.parametrize("in_a_row, least, most", [(1, 2.5, 5), (2, 7.5, 15), (3, 22.5, 45), (4, 67.5, 135), (5, 202.5, 405)])
def test_what_names_no_time_is_waited_for_longer_each_time_with_jitter(in_a_row, least, most):
    attempts = [limit(number) for number in range(1, in_a_row + 1)]
    waits = [plan_retry(TASK, attempts, 0, None, 900.0, jitter=jitter).wait for jitter in (0.0, 0.5, 1.0)]
    assert waits == [least, (least + most) / 2, most]


@pytest.mark.parametrize("named, wait", [(0.0, 2.5), (1.0, 1.0), (42.0, 42.0), (900.0, 900.0)])
def test_the_time_that_was_named_is_waited(named, wait):
    assert plan_retry(TASK, [limit(after=named)], 0, None, 900.0, jitter=0.0).wait == wait
    assert wait <= plan_retry(TASK, [limit(after=named)], 0, None, 900.0, jitter=1.0).wait <= wait + 5


def test_five_in_a_row_are_waited_for_and_not_six():
    attempts = [limit(number, after=1.0) for number in range(1, 6)]
    assert isinstance(plan_retry(TASK, attempts, 0, None, 900.0), Next)
    assert "5 times in a row" in plan_retry(TASK, attempts + [limit(6, after=1.0)], 0, None, 900.0).reason
    assert isinstance(plan_retry(TASK, attempts + [resumed(6), limit(7, after=1.0)], 0, None, 900.0), Next)


def test_a_session_that_is_gone_does_not_make_the_waits_endless():
    attempts = []
    while not attempts or isinstance(plan_retry(TASK, attempts, 0, None, 900.0), Next):
        gone = bool(attempts) and plan_retry(TASK, attempts, 0, None, 900.0).resume
        attempts.append(resumed(len(attempts) + 1, "interrupted", 0) if gone else limit(len(attempts) + 1, after=0.1))
    assert len(attempts) == 11


@pytest.mark.parametrize("named, patience", [(901.0, 900.0), (1.0, 0.5), (None, 0.0), (5.0, 0.0)])
def test_what_takes_longer_than_may_be_waited_ends_it(named, patience):
    step = plan_retry(TASK, [limit(after=named)], 2, None, patience, now=0.0)
    assert isinstance(step, Stop) and "--max-wait" in step.reason and ("then" in step.reason if named else "later" in step.reason)


def test_a_session_that_is_gone_is_begun_anew_without_a_retry():
    step = plan_retry(TASK, [attempt(error="interrupted"), resumed(2, "interrupted", 0)], 0, None)
    assert step == Next(TASK.prompt, 60.0, retry=False)


def test_a_session_that_is_gone_leaves_the_one_resume_to_a_crash():
    attempts = [limit(), resumed(2, "interrupted", 0), attempt(3, error="interrupted")]
    assert plan_retry(TASK, attempts, 0, None).resume == "s"


@pytest.mark.parametrize("jitter", [0.0, 1.0])
def test_no_wait_is_longer_than_may_be_waited(jitter):
    assert plan_retry(TASK, [limit(after=50.0)], 0, None, 50.0, jitter).wait == 50.0
    assert plan_retry(TASK, [limit(number) for number in range(1, 6)], 0, None, 7.0, jitter).wait == 7.0


def test_two_failures_alike_count_as_such_across_a_limit():
    attempts = [attempt(), limit(2, changed=False), resumed(3)._replace(changed_something=False)]
    assert "same way" in plan_retry(TASK, attempts, 2, None).reason
    attempts[1] = limit(2, changed=True)
    assert isinstance(plan_retry(TASK, attempts, 2, None), Next)


def test_work_left_running_is_spoken_of():
    step = plan_retry(TASK, [attempt()._replace(unfinished=("npm test",))], 2, None)
    assert "`npm test` was still running in the background" in step.prompt


def test_nothing_to_say_leaves_the_prompt_as_it_is():
    assert refined_prompt(TASK._replace(retry_strategy=None), "") == TASK.prompt


# ---- What was found, cut to its telling end. ----

def test_a_failed_command_is_told_by_the_end_of_its_output(workspace):
    output = "".join(f"test_{number} passed\n" for number in range(2000)) + "E   assert 1 == 2\nFAILED test_x.py::test_last\n"
    evidence = Evidence(str(workspace), run=lambda command: CommandResult(1, output))
    advice = refinement(judge(read_criteria(["`pytest -q`"]), evidence))
    assert "exit code 1" in advice and advice.count("\n") == 0 and len(advice) < 800
    assert "E assert 1 == 2 · FAILED test_x.py::test_last" in advice.replace("   ", " ") and "test_1 passed" not in advice


def test_an_error_that_scrolled_away_is_told(workspace):
    output = "Traceback (most recent call last):\n  File \"x.py\", line 1\nKeyError: 'port'\n" + "INFO request served\n" * 300
    evidence = Evidence(str(workspace), calls=(ToolCall("Bash", {"command": "python3 x.py"}, output, False, True),))
    verdict, = judge(read_criteria(["No errors"]), evidence)
    assert "KeyError: 'port'" in verdict.evidence and "KeyError: 'port'" in refinement([verdict])


ENDS = {"a long blank tail": "FAILED here" + "\n" * 5000, "colours": "\x1b[31mFAILED\x1b[0m here", "half a character": "FAILED \ud83d here"}


@pytest.mark.parametrize("output", ENDS.values(), ids=ENDS)
def test_the_end_of_an_output_is_what_can_be_read(output):
    end = telling_end(output)
    assert "FAILED" in end and "here" in end and "31m" not in end and end.encode()


def test_of_an_output_without_end_the_end_is_kept():
    kept = CommandOutput()
    for _ in range(20):
        kept.take("stdout", "x" * 1024 * 1024, 1)
    kept.take("stderr", "the last words", 2)
    assert kept.text().startswith("xxx") and kept.text().endswith("the last words") and len(kept.text()) < 17 * 1024 * 1024


def test_what_was_not_reached_is_no_fault_of_claude_s(workspace):
    advice = refinement(judge(read_criteria(["File a.py exists", "`pytest -q`"]), Evidence(str(workspace))))
    assert "a.py" in advice and "pytest" not in advice


def test_hundreds_of_faults_are_not_all_told(workspace):
    advice = refinement(judge(read_criteria([f"File f{number}.py exists" for number in range(300)]), Evidence(str(workspace))))
    assert len(advice) < 40_000 and "And 260 more are not met." in advice


def test_a_judge_that_was_given_up_ends_it():
    given_up = attempt(error="rate_limit", verdicts=())._replace(given_up="it was waited for 5 times in a row")
    assert plan_retry(TASK, [given_up], 2, None, 900.0) == Stop("it was waited for 5 times in a row")


def test_a_failed_call_is_told_by_its_error_and_not_by_its_beginning(workspace):
    trace = "Exit code 1\nTraceback (most recent call last):\n" + '  File "x.py", line 1, in <module>\n' * 100 + "KeyError: 'port'"
    evidence = Evidence(str(workspace), calls=(ToolCall("Bash", {"command": "python3 x.py"}, trace, True, True),))
    advice = refinement(judge(read_criteria(["No errors"]), evidence))
    assert "KeyError: 'port'" in advice and "python3 x.py" in advice


def test_after_too_long_an_answer_a_shorter_one_is_asked_for():
    step = plan_retry(TASK, [attempt(error="token_limit", verdicts=())], 2, None)
    assert step.prompt.startswith("Create config.py with X.\n\nIMPORTANT: ") and "short" in step.prompt


def test_every_retry_prompt_begins_with_the_original_unless_it_is_resumed():
    for row in ROWS:
        step = plan_retry(TASK, row.attempts, row.retries, row.longest)
        assert isinstance(step, Stop) or step.resume or step.prompt.startswith(TASK.prompt)
        assert isinstance(step, Stop) or "IMPORTANT: \n" not in step.prompt and not step.prompt.endswith("IMPORTANT: ")
