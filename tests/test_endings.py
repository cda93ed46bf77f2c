"""Endings: why the agent has not done its part, by trusted places only; words in a transcript never make an error.

endings/*.jsonl holds whole runs by hands that had not seen the program, an ending a line: reason, stdout (events, or strings that
stand as lines), stderr, we (what the runner did: "", cancelled, time limit, idle limit), exit_code, signal, now, zone (the
machine's), and what is expected: kind, hint, exit status, retry_after in seconds.
"""
from __future__ import annotations

import datetime
import json
import time
from pathlib import Path
from typing import NamedTuple, Optional

import pytest

from cc_execute import STALL_S, Attempt, Ended, Stream, Task, TaskResult, Watch, classify_ending, describe_span, exit_status, read_reset
from transcripts import (api_error, api_retry, bash, error_result, failed_bash, init, lines, rate_limit, read, result, says,
                         synthetic, tool)

NOW = 1_762_950_000.0
WORK = [init(), says("I'll do it."), bash("make", "ok")]


class Case(NamedTuple):
    kind: Optional[str]
    hint: Optional[str]
    reason: str
    events: list
    ended: Ended = Ended("completed", 1)
    stderr: str = ""


WAIT, LOG_IN, CREDIT, FIX, ALLOW = "wait_and_retry", "log_in", "add_credit", "fix_command", "allow_tool"
SHORTER, LONGER = "shorter_response", "increase_timeout"
OUTPUT_LIMIT = ("API Error: Claude's response exceeded the 64000 output token maximum. To configure this behavior, "
                "set the CLAUDE_CODE_MAX_OUTPUT_TOKENS environment variable.")
ROOT_REFUSED = "--dangerously-skip-permissions cannot be used with root/sudo privileges for security reasons"

CASES = [
    # what we did ourselves comes first
    Case("timeout", LONGER, "the time limit passed", WORK, Ended("timeout", None, "SIGINT", 45.0)),
    Case("timeout", LONGER, "the time limit passed and the interrupted turn gave an error result",
         WORK + [error_result("error_during_execution")], Ended("timeout", 130)),
    Case("timeout", LONGER, "the time limit passed; words of other errors change nothing",
         WORK + api_error("Credit balance is too low"), Ended("timeout", 1)),
    Case("timeout", LONGER, "a good result that came only after the limit", WORK + [result()],
         Ended("timeout", 0, duration=46.0, late=True)),
    Case("stalled", LONGER, "it said nothing for too long", WORK, Ended("stalled", None, "SIGKILL")),
    Case("cancelled", None, "the user cancelled it", WORK, Ended("cancelled", 130, cause="user")),
    Case("cancelled", None, "the user cancelled it and it still gave a result", WORK + [result()],
         Ended("cancelled", 0, cause="user")),
    Case("bridge", None, "the bridge was ended, or another client cancelled it", WORK, Ended("cancelled", None, "SIGKILL")),
    # then the result's subtype
    Case("max_turns", None, "turns are used up", WORK + [error_result("error_max_turns", "Reached maximum number of turns (3)",
        terminal_reason="max_turns")]),
    Case("max_turns", None, "turns are used up, without any text", WORK + [error_result("error_max_turns")]),
    Case("budget", None, "the budget is used up", WORK + [error_result("error_max_budget_usd", "Reached maximum budget ($0.01)",
        terminal_reason=None)]),
    Case("budget", None, "subtype before a text about something else",
         WORK + [error_result("error_max_budget_usd", "rate limit")]),
    # terminal_reason and rejected limits
    Case("token_limit", SHORTER, "terminal_reason prompt_too_long",
         api_error("Prompt is too long", terminal_reason="prompt_too_long")),
    Case("token_limit", SHORTER, "terminal_reason blocking_limit",
         [result("Context limit reached", is_error=True, terminal_reason="blocking_limit")]),
    Case("usage_limit", WAIT, "a rejected limit", [init(), rate_limit("rejected", NOW + 600),
        api_error("You've hit your session limit · resets 3:45pm", 429, "rate_limit")]),
    Case("usage_limit", WAIT, "a rejected limit, whatever the text",
         [init(), rate_limit("rejected", NOW + 600), api_error("API Error: Request rejected (429)", 429, "rate_limit")]),
    # status and error fields
    Case("authentication", LOG_IN, "401", [init(),
                                           api_error("Failed to authenticate. API Error: 401 Invalid bearer token", 401,
                                               "authentication_failed")]),
    Case("authentication", LOG_IN, "403", [init(), api_error("API Error: 403 Forbidden", 403)]),
    Case("authentication", LOG_IN, "the organization is disabled",
         [init(), api_error("Your organization has disabled Claude subscription access for Claude Code", 403,
                            "oauth_org_not_allowed")]),
    Case("authentication", LOG_IN, "a doomed api_retry, cut short by us", [init(), api_retry("authentication_failed", 401)],
         Ended("cancelled", 130, cause="doomed")),
    Case("billing", CREDIT, "a doomed api_retry, cut short by us", [init(), api_retry("billing_error", 402)],
         Ended("cancelled", 130, cause="doomed")),
    Case("rate_limit", WAIT, "429, passing", [init(),
        api_error("API Error: Request rejected (429) · this may be a temporary capacity issue", 429, "rate_limit")]),
    Case("rate_limit", WAIT, "429, not the usage limit",
         [init(), api_error("API Error: Server is temporarily limiting requests (not your usage limit)", 429, "rate_limit")]),
    Case("usage_limit", WAIT, "429, a session limit by its text",
         [init(), api_error("You've hit your session limit · resets 3:45pm", 429, "rate_limit")]),
    Case("usage_limit", WAIT, "429, with a typographic apostrophe",
         [init(), api_error("You’ve hit your weekly limit · resets Mon 12:00am", 429, "rate_limit")]),
    Case("usage_limit", WAIT, "429, mid-run, terminal_reason completed",
         WORK + api_error("You've hit your session limit · resets 4pm (UTC)", 429, "rate_limit") + [
        result("You've hit your session limit · resets 4pm (UTC)", is_error=True, api_error_status=429, num_turns=588)]),
    Case("usage_limit", WAIT, "the older text with an epoch",
         [init(), api_error("Claude AI usage limit reached|1762952400", 429)]),
    Case("usage_limit", WAIT, "extra usage", [init(), api_error("You're out of extra usage · resets 9pm", 429, "rate_limit")]),
    Case("billing", CREDIT, "429, a spend limit by its text",
         [init(), api_error("You've hit your org's monthly spend limit", 429, "rate_limit")]),
    Case("overloaded", WAIT, "529", [init(), api_error("API Error: 529 Overloaded. This is a server-side issue", 529,
        "overloaded")]),
    Case("overloaded", WAIT, "500", [init(), api_error("API Error: 500 Internal server error.", 500, "server_error")]),
    Case("overloaded", WAIT, "503 without a field", [init(), api_error("API Error: 503", 503)]),
    Case("token_limit", SHORTER, "output too long, by its field", [init(), api_error(OUTPUT_LIMIT, None, "max_output_tokens")]),
    Case("token_limit", SHORTER, "413", [init(), api_error("Request too large (max 32MB)", 413)]),
    Case("token_limit", SHORTER, "400 that means a long prompt",
         [init(), api_error("API Error: 400 prompt is too long: 250000 tokens > 200000 maximum", 400, "invalid_request")]),
    Case("billing", CREDIT, "400 that means credit",
         [init(), api_error("API Error: 400 Your credit balance is too low to access the Anthropic API", 400,
                            "invalid_request")]),
    Case("invalid_request", FIX, "an unknown model",
         [init(), api_error("There's an issue with the selected model (x). It may not exist or you may not have access to it.",
                            404, "model_not_found")]),
    Case("invalid_request", FIX, "another 4xx", [init(), api_error("API Error: 422 Unprocessable", 422)]),
    Case("invalid_request", FIX, "400", [init(), api_error("API Error: 400 due to tool use concurrency issues", 400,
        "invalid_request")]),
    # the text of the error result or synthetic message
    Case("authentication", LOG_IN, "not logged in", [init(), api_error("Not logged in · Please run /login")]),
    Case("authentication", LOG_IN, "a bad key", [init(), api_error("Invalid API key · Fix external API key")]),
    Case("authentication", LOG_IN, "an expired token", [init(), api_error("OAuth token has expired · Please run /login")]),
    Case("billing", CREDIT, "credit", [init(), api_error("Credit balance is too low")]),
    Case("token_limit", SHORTER, "output too long, by its text", [init(), api_error(OUTPUT_LIMIT)]),
    Case("network", WAIT, "no connection", [init(), api_error("API Error: Unable to connect to API (ConnectionRefused)")]),
    Case("network", WAIT, "the CLI's own time limit is not ours", [init(), api_error("Request timed out")]),
    Case("network", WAIT, "dropped", [init(), api_error("API Error: Connection dropped (ECONNRESET)")]),
    Case("network", WAIT, "connection error", [init(), api_error("API Error: Connection error.")]),
    Case("overloaded", WAIT, "high load", [init(),
                                           api_error("Opus is experiencing high load, please use /model to switch to Sonnet")]),
    Case("refusal", None, "a refusal", [init(), api_error("Claude can't help with this. Start a new session to continue")]),
    Case("refusal", None, "an older refusal", [init(),
        api_error("API Error: Claude Code is unable to respond to this request, which appears to violate our Usage Policy")]),
    Case("unknown", None, "an error result of which nothing is known", [init(), api_error("Something went wrong")]),
    Case("overloaded", WAIT, "a synthetic message and no result",
         [init(), synthetic("API Error: Repeated 529 Overloaded errors.", "overloaded")]),
    # stderr, when there was no result
    Case("permission", ALLOW, "refused as root", [], Ended("completed", 1), ROOT_REFUSED),
    Case("invalid_request", FIX, "a bad flag", [], Ended("completed", 1), "error: unknown option '--frobnicate'"),
    Case("interrupted", None, "no result, exit code 0", WORK, Ended("completed", 0)),
    Case("interrupted", None, "no result, nothing at all", [], Ended("completed", 0)),
    Case("interrupted", None, "killed", WORK, Ended("completed", None, "SIGKILL")),
    Case("interrupted", None, "stderr says nothing that is known", WORK, Ended("completed", 1), "Segmentation fault"),
    Case("interrupted", None, "a transcript full of words, and no result",
         [init(), says("Credit balance is too low. Not logged in. rate limit"), bash("cat x", "API Error: 529 Overloaded")],
         Ended("completed", 1)),
]


def stream_of(events: list) -> Stream:
    stream = Stream()
    stream.feed(lines(events))
    stream.finish()
    return stream


def end(case: Case):
    return classify_ending(stream_of(case.events), case.ended, case.stderr, NOW)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}: {case.reason}")
def test_an_ending_is(case):
    error = end(case)
    assert error is not None and error.kind == case.kind, error
    assert error.retry_hint == case.hint
    assert error.message.strip() and "\n" not in error.message


NASTY = ("Error: rate limit exceeded. Not logged in · Please run /login. Credit balance is too low. Prompt is too long. "
         "API Error: 529 Overloaded. timeout. Traceback")
HARMLESS = [
    Case(None, None, "a clean run", WORK + [result()], Ended("completed", 0)),
    Case(None, None, "Claude's words are full of errors", [init(), says(NASTY), result(NASTY)], Ended("completed", 0)),
    Case(None, None, "a file is full of errors", [init(), read("/w/log", NASTY), result()], Ended("completed", 0)),
    Case(None, None, "a command printed errors", [init(), failed_bash("make", NASTY), result()], Ended("completed", 0)),
    Case(None, None, "a denied tool", [init(), tool("Write", {"file_path": "/w/a"},
        "Claude requested permissions to write to /w/a", True), result()], Ended("completed", 0)),
    Case(None, None, "stderr is full of errors", WORK + [result()], Ended("completed", 0), NASTY),
    Case(None, None, "the exit code decides nothing", WORK + [result()], Ended("completed", 1)),
    Case(None, None, "killed after its result", WORK + [result()], Ended("completed", None, "SIGKILL")),
    Case(None, None, "it hung after its result and was ended by us", WORK + [result()],
         Ended("cancelled", None, "SIGKILL", cause="lingering")),
    Case(None, None, "it hung after its result until the time limit", WORK + [result()],
         Ended("timeout", None, "SIGKILL", late=False)),
    Case(None, None, "API retries that got better",
         WORK + [api_retry("overloaded", 529), api_retry("rate_limit", 429), result()], Ended("completed", 0)),
    Case(None, None, "an allowed rate_limit_event", WORK + [rate_limit("allowed_warning", NOW + 5), result()],
         Ended("completed", 0)),
    Case(None, None, "an error message of the CLI's after which it went on",
         [init(), synthetic("API Error: Connection error."), says("again"), result()], Ended("completed", 0)),
    Case(None, None, "a zero-turn error after the success",
         WORK + [result(), error_result("error_during_execution", num_turns=0)], Ended("completed", 1)),
    Case(None, None, "an empty result text", WORK + [result("")], Ended("completed", 0)),
    Case(None, None, "tool results that look like events",
         [init(), bash("cat old.jsonl", lines(api_error("Not logged in", 401, "authentication_failed"))), result()],
         Ended("completed", 0)),
]


@pytest.mark.parametrize("case", HARMLESS, ids=lambda case: case.reason)
def test_words_in_a_transcript_make_no_error(case):
    assert end(case) is None


NOT_DONE = {
    "is_error is missing": {"is_error": None}, "is_error is a word": {"is_error": "false"},
    "another subtype": {"subtype": "error_during_execution"},
    "is_error is true": {"is_error": True}, "subtype is missing": {"subtype": None},
}


@pytest.mark.parametrize("fields", NOT_DONE.values(), ids=NOT_DONE)
def test_only_a_clean_result_is_one(fields):
    assert end(Case(None, None, "", WORK + [result(**fields)], Ended("completed", 0))) is not None


# ---- The corpus. ----

CORPUS = [json.loads(line) for file in sorted((Path(__file__).parent / "endings").glob("*.jsonl"))
          for line in file.read_text("utf-8").split("\n") if line]
OURS = {"": "completed", "cancelled": "cancelled", "time limit": "timeout", "idle limit": "stalled"}


@pytest.fixture
def clock_of(monkeypatch):
    """clock_of(zone): from now on this machine's clock is that zone's."""
    def change(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()
    yield change
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("row", CORPUS, ids=lambda row: row["reason"])
def test_a_whole_run_ended_by(row, clock_of):
    clock_of(row["zone"])
    cause, late = "user" * (row["we"] == "cancelled"), row["kind"] == "timeout"
    ended = Ended(OURS[row["we"]], row["exit_code"], row["signal"], 45.0, cause=cause, late=late)
    stream = stream_of(row["stdout"])
    error = classify_ending(stream, ended, row["stderr"], datetime.datetime.fromisoformat(row["now"].replace("Z", "+00:00")).timestamp())
    found = (error.kind, error.retry_hint, error.retry_after) if error else (None, None, None)
    assert found[:2] == (row["kind"], row["hint"]), error
    assert found[2] == (row["retry_after"] if row["retry_after"] is None else pytest.approx(row["retry_after"], abs=1)), error
    attempt = Attempt(1, "", (), 60.0, row["exit_code"], 45.0, stream.session_id, None, None, None, error, "", ())
    status = "passed" if error is None else "error"
    assert exit_status(TaskResult(Task(1, None, 1, ""), status, (attempt,))) == row["exit"]


def test_the_corpus_is_large_and_a_quarter_of_it_only_looks_like_errors():
    assert len(CORPUS) >= 80 and len({row["reason"] for row in CORPUS}) == len(CORPUS)
    assert sum(row["kind"] is None for row in CORPUS) >= len(CORPUS) / 4
    kinds = {row["kind"] for row in CORPUS} | {case.kind for case in CASES}
    assert kinds >= {"timeout", "stalled", "cancelled", "max_turns", "budget", "rate_limit", "usage_limit", "overloaded", "network",
                     "token_limit", "authentication", "billing", "permission", "not_found", "invalid_request", "refusal", "interrupted", "unknown"}


# ---- When a limit passes. ----

def at(zone: str, *when: int) -> float:
    import zoneinfo
    return datetime.datetime(*when, tzinfo=zoneinfo.ZoneInfo(zone)).timestamp()


NOON = ("Europe/Rome", 2026, 11, 22, 12, 0)   # a Sunday
RESETS = [
    ("resets 3:45pm", NOON, 3.75 * 3600), ("resets 3pm", NOON, 3 * 3600), ("resets at 15:45", NOON, 3.75 * 3600),
    ("Resets 11:59 AM", NOON, 86400 - 60), ("resets 12pm", NOON, 0), ("resets 12:00pm", (*NOON[:-1], 1), 86400 - 60),
    ("resets 12am", NOON, 12 * 3600), ("resets 12:00am", ("Europe/Rome", 2026, 11, 22, 23, 50), 600),
    ("resets 12:30am", ("Europe/Rome", 2026, 11, 22, 0, 10), 1200),
    ("resets Mon 12:00am", NOON, 12 * 3600), ("resets Sun 1pm", NOON, 3600), ("resets Sunday 11am", NOON, 7 * 86400 - 3600),
    ("resets 3pm (UTC)", NOON, 4 * 3600), ("resets 3pm UTC", NOON, 4 * 3600), ("resets 8am (America/New_York)", NOON, 2 * 3600),
    ("Your limit will reset at 3pm (America/Bogota).", NOON, 9 * 3600), ("resets 8pm (etc/gmt+5)", NOON, 14 * 3600),
    ("resets 3pm (Mars/Olympus)", NOON, 3 * 3600), ("resets 3pm (not a zone)", NOON, 3 * 3600),
    ("resets Jan 15, 8am", NOON, 54 * 86400 - 4 * 3600), ("resets Nov 23 at 12pm (Europe/London)", NOON, 25 * 3600),
    ("resets Nov 22, 11am", NOON, 0), ("resets December 1st, 2026, 12:00 pm", NOON, 9 * 86400),
    ("resets 2026-11-23 00:00 UTC", NOON, 13 * 3600), ("resets 2026-11-23T00:00:00Z", NOON, 13 * 3600),
    ("limit reached|1795348800", ("UTC", 2026, 11, 22, 12, 0), 0), ("limit reached|1795352400000", ("UTC", 2026, 11, 22, 12, 0), 3600),
    ("retry-after: 42", NOON, 42), ('{"retry_after": 1.5}', NOON, 1.5), ("Please try again in 2h 30m.", NOON, 9000),
    ("try again in 45 seconds", NOON, 45), ("retrying in 1 minute", NOON, 60),
    ("retry after 5 minutes", NOON, 300), ("Retry-After: 2 hours", NOON, 7200), ("try again in 1 day", NOON, 86400), ("resets in 2 days", NOON, 2 * 86400),
    ("wait for 1 hour and 5 minutes", NOON, 3900), ("retry after 10:30", NOON, None),
    # daylight saving: 29 March 2026 and 25 October 2026 in Rome
    ("resets 9am", ("Europe/Rome", 2026, 3, 28, 21, 0), 11 * 3600), ("resets 9am", ("Europe/Rome", 2026, 10, 24, 21, 0), 13 * 3600),
    ("resets 3am", ("Europe/Rome", 2026, 3, 29, 1, 30), 1800), ("resets 2:30am", ("Europe/Rome", 2026, 10, 25, 2, 40), 50 * 60),
    ("resets Mon 12am", ("Europe/Rome", 2026, 10, 25, 0, 0), 25 * 3600),
    # none is named
    ("You've hit your limit", NOON, None), ("resets soon", NOON, None), ("resets 3 times a day", NOON, None),
    ("resets 25:00", NOON, None), ("resets 13pm", NOON, None), ("resets 12:75", NOON, None), ("resets Feb 30, 8am", NOON, None),
    ("presets 3pm", NOON, None), ("the number |123|", NOON, None), ("", NOON, None),
]


@pytest.mark.parametrize("text, now, seconds", RESETS, ids=[f"{row[0]} at {row[1][0]} {row[1][2:]}" for row in RESETS])
def test_a_limit_passes_in(text, now, seconds, clock_of):
    clock_of(now[0])
    found = read_reset(text, at(*now))
    assert found == (seconds if seconds is None else pytest.approx(seconds, abs=0.01))


@pytest.mark.parametrize("text", ["retry after 99999999999999999999", "resets 9999-12-31 23:59", "resets 0001-01-01 00:00", "please wait 99999999999999 hours",
                                  "limit reached|9999999999999"])
def test_a_time_that_cannot_be_meant_is_none(text, clock_of):
    clock_of("America/New_York")
    error = classify_ending(stream_of(api_error(f"API Error: {text}", 429, "rate_limit")), Ended("completed", 1), "", NOW)
    assert error.kind in ("rate_limit", "usage_limit") and not error.retry_after


STDERR = [("MCP server 'foo' connection timed out", 1), ("[hook] checking certificate verification... ok", 1), ("warning: unknown option in settings", 1),
          ("Error: Rate limit reached", 139), ("    at connect (ECONNREFUSED)", 1)]


@pytest.mark.parametrize("stderr, code", STDERR, ids=[row[0] for row in STDERR])
def test_what_others_say_on_stderr_is_no_reason(stderr, code):
    assert end(Case("", "", "", WORK, Ended("completed", code), stderr)).kind == "interrupted"


@pytest.mark.parametrize("status, kind", [(501, "overloaded"), (520, "overloaded"), (599, "overloaded"), (408, "network"), (410, "invalid_request"),
                                          (451, "invalid_request"), ("429", "rate_limit"), ("503", "overloaded")])
def test_every_http_status_has_its_kind(status, kind):
    assert end(Case("", "", "", [init(), api_error("API Error", status)])).kind == kind


def test_a_reason_counts_also_if_the_cli_hung_after_telling_it():
    hung = Ended("cancelled", None, "SIGKILL", cause="lingering")
    assert end(Case("", "", "", [init(), api_error("x", terminal_reason="rapid_refill_breaker")], hung)).kind == "token_limit"


def test_a_subagent_that_goes_on_shows_that_the_api_answers():
    events = [init(), api_retry("overloaded", 529), tool("Bash", {"command": "ls"}, "a", parent="toolu_1")]
    assert end(Case("", "", "", events, Ended("completed", 137))).kind == "interrupted"


@pytest.mark.parametrize("seconds, words", [(0, "0 s"), (42, "42 s"), (59.6, "1 min"), (250, "4 min 10 s"), (6300, "1 h 45 min"),
                                            (3 * 86400 + 7300, "3 d 2 h"), (86400, "1 d")])
def test_a_span_of_time_is_told_in_its_two_largest_units(seconds, words):
    assert describe_span(seconds) == words


def test_a_limit_says_when_it_passes(clock_of):
    clock_of("Europe/Rome")
    told = classify_ending(stream_of(api_error("You've hit your session limit · resets 3:45pm", 429, "rate_limit")),
                           Ended("completed", 1), "", at(*NOON)).message
    assert told == "You've hit your session limit · resets 3:45pm. It resets at 15:45 CET (in 3 h 45 min)."


@pytest.mark.parametrize("ended, kind", [(Ended("completed", 0), None), (Ended("completed", 137), "interrupted"), (Ended("completed", None, "SIGKILL"), "interrupted")])
def test_a_further_turn_that_dies_undoes_the_result_before_it(ended, kind):
    error = classify_ending(stream_of([*WORK, result(), says("I go on."), bash("pytest -q")[0]]), ended, "", NOW)
    assert (error and error.kind) == kind


def test_the_pause_that_the_api_asks_for_is_how_long_it_takes():
    stream = stream_of(WORK + [{**api_retry("rate_limit", 429), "retry_delay_ms": 50_000}])
    error = classify_ending(stream, Ended("cancelled", 0, cause="waiting"), "", NOW)
    assert (error.kind, error.retry_after) == ("rate_limit", 50.0) and "50 s" in error.message


@pytest.mark.parametrize("error, status, kind", [("unknown", None, "network"), ("overloaded", 529, "overloaded"), ("server_error", 502, "overloaded"),
                                                 ("unknown", 503, "overloaded"), ("rate_limit", 429, "rate_limit")])
def test_the_cli_s_own_pause_names_no_time(error, status, kind):
    """They are no whole seconds, unlike a retry-after; without an HTTP status there was no answer at all (seen with 2.1.197)."""
    cut = [*WORK, {**api_retry(error, status), "retry_delay_ms": 8253.736}, error_result("error_during_execution", terminal_reason="aborted_streaming")]
    found = classify_ending(stream_of(cut), Ended("cancelled", 0, cause="waiting"), "", NOW)
    assert (found.kind, found.retry_after) == (kind, None) and "8 s" in found.message


# ---- What the user is told. ----

def test_a_limit_tells_exactly_when_it_ends():
    error = end(Case("usage_limit", WAIT, "", [init(), rate_limit("rejected", NOW + 600.5),
        api_error("You've hit your session limit", 429, "rate_limit")]))
    assert error.retry_after == pytest.approx(600.5)


def test_a_limit_that_has_already_ended_is_no_negative_wait():
    assert end(Case("usage_limit", WAIT, "", [init(), rate_limit("rejected", NOW - 5), api_error("x", 429)])).retry_after == 0


def test_a_limit_that_belongs_to_no_waiting_names_no_time():
    assert end(Case("authentication", LOG_IN, "", [init(), api_error("Not logged in", 401)])).retry_after is None


MESSAGES = [("login", [init(), api_error("Not logged in · Please run /login")], "", ["Not logged in", "ANTHROPIC_API_KEY"]),
            ("root", [], ROOT_REFUSED, ["root", "IS_SANDBOX"]),
            ("flag", [], "error: unknown option '--x'", ["unknown option '--x'"]),
            ("model", [init(), api_error("There's an issue with the selected model (x).", 404, "model_not_found")], "",
             ["selected model (x)"]),
            ("no result", [], "", ["without a result", "exit code 1"])]


@pytest.mark.parametrize("events, stderr, words", [row[1:] for row in MESSAGES], ids=[row[0] for row in MESSAGES])
def test_the_message_says_what_happened_and_what_to_do(events, stderr, words):
    message = end(Case("", "", "", events, stderr=stderr)).message
    assert all(word in message for word in words), message


def test_a_time_limit_tells_of_a_long_silence():
    message = end(Case("", "", "", WORK, Ended("timeout", None, "SIGKILL", 1200.0, silence=1190.0))).message
    assert "after 1200.0 s, silent for the last 19 min 50 s" in message
    assert "silent" not in end(Case("", "", "", WORK, Ended("timeout", None, "SIGKILL", 45.0, silence=40.0))).message


@pytest.mark.parametrize("events, cause", [
    (WORK, "stalled"), (WORK + [bash("make")[0]], ""), (WORK + [result()], "lingering"), ([], "stalled"), (WORK + [api_retry("authentication_failed", 401)], "doomed"),
], ids=["in the midst of it", "a tool at work", "after its result", "from the beginning", "not let in"])
def test_half_an_hour_of_silence_is_a_stall_unless_a_tool_is_at_work(events, cause):
    watch = Watch(Stream(), 7200.0)
    watch.feed(lines(events))
    assert watch.why_end() in ("", "doomed")
    watch.started_at -= STALL_S + 1
    assert watch.why_end() == cause


def test_a_stall_is_told_as_such():
    error = end(Case("", "", "", WORK, Ended("cancelled", None, "SIGKILL", 2000.0, cause="stalled", silence=1801.0)))
    assert (error.kind, error.retry_hint) == ("stalled", LONGER) and "30 min" in error.message


def test_a_time_limit_says_how_long_it_was():
    assert "45" in end(Case("", "", "", WORK, Ended("timeout", None, "SIGKILL", 45.02))).message


@pytest.mark.parametrize("text", ["x" * 100_000, "a\nb\nc", "\u2028", ""])
def test_a_message_is_one_line_of_bearable_length(text):
    message = end(Case("", "", "", [init(), api_error(text)])).message
    assert message and "\n" not in message and len(message) < 1000
