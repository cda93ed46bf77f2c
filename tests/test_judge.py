"""The judge: criteria that are not proved are put to a fresh agent that can only read; without a whole answer they are not met."""
from __future__ import annotations

import json

import pytest

from cc_execute import JUDGE_SCHEMA, Criterion, Evidence, Verdict, judge_prompt, judged, read_judge
from scripted_api import ScriptedApi, prompts

SPEC = "Task: Create notes.md with words\nSuccess Criteria:\n1. notes.md exists\n2. The tone is warm\n3. It never sounds rude\n"
WRITES = [{"write": {"path": "notes.md", "content": "Dear all\n"}}, {"text": "The tone is warm, I promise."}]


def answers(*rows) -> dict:
    return {"result": {"structured_output": {"verdicts": list(rows)}, "total_cost_usd": 0.25}}


def row(number, met, reason="notes.md line 1 says so") -> dict:
    return {"number": number, "met": met, "reason": reason}


@pytest.fixture
def run(run_cc, stand_in):
    """run(*judge's steps, options=…) -> (the document, what was recorded of each start)."""
    def start(*steps, spec: str = SPEC, options: tuple = (), work: list = WRITES):
        agent = stand_in(work, list(steps))
        done = run_cc("-", "--json", "--judge", *options, input=spec, env=agent.environment)
        return done.json(), agent.starts()
    return start


def verdicts(document: dict) -> list:
    attempt, = document["tasks"][0]["attempts"]
    return [(criterion["met"], criterion["confidence"]) for criterion in attempt["criteria"]]


def test_what_is_not_proved_is_put_to_the_judge_in_one_call(run):
    document, starts = run(answers(row(1, True), row(2, True)))
    assert (document["success"], document["confidence"]) == (True, "judged") and len(starts) == 2
    assert verdicts(document) == [(True, "proved"), (True, "judged"), (True, "judged")]
    asked = starts[1]["stdin"]
    for words in ("1. The tone is warm", "2. It never sounds rude", "created: notes.md", "The tone is warm, I promise."):
        assert words in asked
    assert "notes.md exists" not in asked.split("Files that were changed")[0]


def test_the_judge_can_only_read(run):
    argv = run(answers(row(1, True), row(2, True)))[1][1]["argv"]
    assert argv[argv.index("--tools") + 1] == argv[argv.index("--allowedTools") + 1] == "Read,Grep,Glob"
    assert "--dangerously-skip-permissions" not in argv and json.loads(argv[argv.index("--json-schema") + 1]) == JUDGE_SCHEMA


def test_its_cost_counts(run):
    document, _ = run(answers(row(1, True), row(2, True)), work=[*WRITES, {"result": {"total_cost_usd": 0.5}}])
    assert (document["cost_usd"], document["tasks"][0]["attempts"][0]["cost_usd"]) == (0.75, 0.75)


def test_its_reason_is_the_evidence_and_goes_into_the_retry(run_cc, stand_in):
    agent = stand_in(WRITES, [answers(row(1, True), row(2, False, "notes.md line 1 is rude"))], WRITES, [answers(row(1, True), row(2, True))])
    document = run_cc("-", "--json", "--judge", "--retries", "1", input=SPEC, env=agent.environment).json()
    first, second = document["tasks"][0]["attempts"]
    assert first["criteria"][2]["evidence"] == "judged: notes.md line 1 is rude" and document["success"]
    assert "notes.md line 1 is rude" in second["prompt"]


MALFORMED = {
    "no structured output": {"result": {"total_cost_usd": 0.25}}, "words instead": {"text": "All criteria are met."}, "an error": {"api_error": {"text": "Something broke"}},
    "a crash": {"exit": 1}, "no list": {"result": {"structured_output": {"verdicts": "met"}}}, "other fields": {"result": {"structured_output": {"met": True}}},
    "a word for a truth": answers(row(1, "true"), row(2, "true")), "no reason": answers({"number": 1, "met": True}, {"number": 2, "met": True}),
    "an empty reason": answers(row(1, True, " "), row(2, True, "")), "other numbers": answers(row(0, True), row(3, True), row(True, True)),
    "one number twice": answers(row(1, True), row(1, True), row(2, True), row(2, False)),
}


@pytest.mark.parametrize("step", MALFORMED.values(), ids=MALFORMED)
def test_no_answer_or_a_malformed_one_is_not_met(run, step):
    document, starts = run(step)
    assert len(starts) == 2 and not document["success"]
    assert verdicts(document) == [(True, "proved"), (False, "weak"), (False, "weak")]
    assert "the judge did not decide" in document["tasks"][0]["attempts"][0]["criteria"][1]["evidence"]


def test_what_is_left_out_of_a_good_answer_is_not_met(run):
    assert verdicts(run(answers(row(2, True)))[0]) == [(True, "proved"), (False, "weak"), (True, "judged")]


def test_nobody_is_asked_when_all_is_proved_or_the_agent_did_not_do_its_part(run):
    proved, starts = run(answers(), spec="Task: Create notes.md with words\nSuccess Criteria: notes.md exists\n")
    assert proved["confidence"] == "proved" and len(starts) == 1
    failed, starts = run(answers(row(1, True), row(2, True)), work=[{"api_error": {"text": "Something went wrong"}}])
    assert not failed["success"] and len(starts) == 1


def test_a_limit_of_the_judge_s_is_waited_for_and_is_no_fault_of_the_work(run, stand_in, run_cc):
    limited = {"api_error": {"text": "API Error: 429, retry after 0.2", "status": 429, "error": "rate_limit"}}
    agent = stand_in(WRITES, [limited], [answers(row(1, True), row(2, True))])
    done = run_cc("-", "--json", "--judge", input=SPEC, env=agent.environment)
    assert (done.returncode, len(agent.starts())) == (0, 3) and "waiting for the rate limit" in done.stderr
    agent = stand_in(WRITES, [limited])
    done = run_cc("-", "--json", "--judge", "--retries", "1", "--max-wait", "0", input=SPEC, env=agent.environment)
    attempt, = done.json()["tasks"][0]["attempts"]
    assert (done.returncode, len(agent.starts()), attempt["error"]["kind"]) == (4, 2, "rate_limit")


def test_a_judge_that_stays_limited_is_given_up_and_the_work_is_not_paid_again(stand_in, run_cc):
    limited = {"api_error": {"text": "API Error: 429, retry after 0.1", "status": 429, "error": "rate_limit"}}
    agent = stand_in([*WRITES, {"result": {"total_cost_usd": 0.25}}], [limited])
    done = run_cc("-", "--json", "--judge", "--retries", "2", input=SPEC, env=agent.environment)
    assert (done.returncode, len(agent.starts()), done.json()["cost_usd"]) == (4, 7, 0.25)
    assert any("5 times in a row" in warning for warning in done.json()["warnings"]) and "the judge could not be asked" in done.stderr


def test_a_judge_that_hangs_after_its_answer_is_ended_and_the_answer_counts(run):
    document, starts = run(answers(row(1, True), row(2, True)), {"sleep": 300})
    assert document["success"] and len(starts) == 2


def test_a_file_whose_name_is_no_utf_8_does_not_keep_the_judge_from_its_work(run):
    odd = {"bash": "touch $(printf 'caf\\351.txt')"}
    assert run(answers(row(1, True), row(2, True)), work=[*WRITES, odd])[0]["success"]


def test_what_the_judge_s_cli_says_on_stderr_is_heard(run_cc, stand_in):
    agent = stand_in(WRITES, [{"stderr": "error: unknown option '--json-schema'"}, {"exit": 1}])
    done = run_cc("-", "--json", "--judge", input=SPEC, env=agent.environment)
    attempt, = done.json()["tasks"][0]["attempts"]
    assert (done.returncode, attempt["error"]["kind"]) == (3, "invalid_request") and "--json-schema" in attempt["error"]["message"]


def test_a_login_that_the_judge_lacks_is_exit_3(run, stand_in, run_cc):
    agent = stand_in(WRITES, [{"api_error": {"text": "Not logged in · Please run /login"}}])
    done = run_cc("-", "--json", "--judge", "--retries", "1", input=SPEC, env=agent.environment)
    assert (done.returncode, len(agent.starts())) == (3, 2)


def test_strict_takes_the_judges_word(run):
    assert run(answers(row(1, True), row(2, True)), options=("--strict",))[0]["success"]


def test_a_long_transcript_is_told_by_its_end():
    verdict = Verdict(Criterion("It is warm", "keywords"), False, "weak", "x")
    prompt = judge_prompt([verdict], Evidence("/w", text="a" * 100_000 + "the end"))
    assert len(prompt) < 30_000 and "the end" in prompt


def test_answers_are_read_by_number():
    assert read_judge({"structured_output": {"verdicts": [row(2, False, "b"), row(1, True, "a")]}}, 2) == {2: (False, "b"), 1: (True, "a")}
    assert read_judge(None, 1) == {} and judged(Verdict(Criterion("x", "keywords"), True, "weak", "words"), None, "").met is False


def test_the_real_cli_as_judge(run_cc, claude, workspace):
    steps = [{"text": "I'll write it.", "tool": "Write", "input": {"file_path": "notes.md", "content": "Dear all\n"}}, {"text": "Done."},
             {"tool": "StructuredOutput", "input": {"verdicts": [row(1, True), row(2, True)]}}, {"text": "ok"}]
    with ScriptedApi(steps) as api:
        done = run_cc("-", "--json", "--judge", input=SPEC, env={**api.environment, "CC_EXECUTE_CLAUDE": str(claude), "IS_SANDBOX": "1"})
        asked = [prompts(body) for body in api.requests]
    assert verdicts(done.json()) == [(True, "proved"), (True, "judged"), (True, "judged")], done.stdout + done.stderr
    assert any("2. It never sounds rude" in str(prompt) for prompt in asked)
