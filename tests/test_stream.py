"""Stream: what the agent writes, in any pieces, read the same; nothing in it crashes the reader."""
from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

import cc_execute
from cc_execute import Stream
from transcripts import (SESSION, api_retry, backgrounded, bash, error_result, failed_bash, grep_without_match, init, lines, rate_limit,
                         read, result, says, synthetic, task_ended, tool, write)

RUN = [init(), says("I'll do it."), write("/w/a.py", "x\u2028y"), bash("python a.py", "é 🎉\n"), failed_bash("ls b", "no"),
       says("Done."), result("It is done.")]


def read_stream(text: str, *cuts: int) -> Stream:
    stream = Stream()
    for start, end in zip((0, *sorted(cuts)), (*sorted(cuts), len(text))):
        stream.feed(text[start:end])
    stream.finish()
    return stream


def told(stream: Stream) -> dict:
    """Everything that is read of a stream but what it is doing now."""
    return {"session": stream.session_id, "calls": list(stream.calls.values()), "last": stream.last_text, "results": stream.results,
            "synthetic": stream.synthetic,
            "rejected": stream.rejected, "doomed": stream.doomed, "counts": (stream.noise, stream.unknown, stream.oversized),
            "text": stream.text}


def test_a_run_is_read():
    stream = read_stream(lines(RUN))
    assert stream.session_id == SESSION and stream.text == "It is done." and stream.last_text == "Done."
    assert [(call.name, call.failed, call.finished) for call in stream.calls.values()] == [("Write", False, True),
        ("Bash", False, True), ("Bash", True, True)]
    assert [call.output for call in stream.calls.values()][1:] == ["é 🎉\n", "Exit code 1\nno"]
    assert stream.result["subtype"] == "success" and (stream.noise, stream.unknown, stream.oversized) == (0, 0, 0)


@given(st.lists(st.integers(0, len(lines(RUN))), max_size=20))
def test_cut_anywhere_it_is_the_same(cuts):
    assert told(read_stream(lines(RUN), *cuts)) == told(read_stream(lines(RUN)))


def test_letter_by_letter_it_is_the_same():
    text = lines(RUN)
    assert told(read_stream(text, *range(len(text)))) == told(read_stream(text))


FIELDS = ["type", "message", "content", "id", "name", "input", "tool_use_id", "subtype", "error", "text", "num_turns", "status",
          "rate_limit_info", "result", "tool_use_result", "model", "session_id"]
TYPES = ["system", "assistant", "user", "result", "rate_limit_event"]
PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from(["init", "text", "tool_use", "tool_result"])
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5))
EVENTS = st.builds(lambda kind, fields: {**fields, "type": kind}, st.sampled_from(TYPES),
                   st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4))
LINES = st.one_of(st.sampled_from([lines([event]) for event in RUN]), st.text(), VALUES.map(lambda value: json.dumps(value) + "\n"),
                  EVENTS.map(lambda event: json.dumps(event) + "\n"))


@given(st.lists(LINES, max_size=8).map("".join), st.lists(st.integers(0, 400), max_size=5))
def test_whatever_is_written_is_survived_and_cut_anywhere_is_the_same(text, cuts):
    whole = read_stream(text)
    assert isinstance(whole.text, str) and isinstance(whole.doing, str)
    assert told(read_stream(text, *(min(cut, len(text)) for cut in cuts))) == told(whole)


# ---- Lines. ----

@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r"])
def test_only_a_line_feed_ends_a_line(mark):
    event = json.dumps(says(f"a{mark}b"), ensure_ascii=False) if mark >= "\x80" else json.dumps(says(f"a{mark}b"))
    stream = read_stream(event + "\n" + lines([result("")]))
    assert stream.last_text == f"a{mark}b" and stream.noise == 0 and stream.text == f"a{mark}b"


def test_crlf_ends_a_line_too():
    stream = read_stream(lines(RUN).replace("\n", "\r\n"))
    assert stream.text == "It is done." and stream.noise == 0


def test_the_last_line_may_lack_its_line_feed():
    assert read_stream(lines(RUN).rstrip("\n")).result["result"] == "It is done."


def test_an_event_written_into_another_s_line_is_found():
    limit, text = json.dumps(rate_limit("rejected", 5)), json.dumps(says("hello"))
    for line in (text[:30] + limit + text[30:], text[:30] + limit):
        stream = read_stream(line + "\n" + lines([result("end")]))
        assert stream.rejected and stream.rejected["resetsAt"] == 5 and stream.text == "end"


def test_two_events_in_one_line_are_both_read():
    stream = read_stream(json.dumps(says("one")) + json.dumps(result("two")) + "\n")
    assert stream.last_text == "one" and stream.result and stream.text == "two"


def test_noise_and_unknown_events_are_counted_and_nothing_else():
    stream = read_stream(lines([init(), "[SandboxDebug] starting", "nvm: using v20", "{}", "[]", "null", '{"type": 5}',
                                '{"type": "brand_new", "x": 1}',
                                {"type": "system", "subtype": "brand_new"}, "", "   ", says("x"), result("y")]))
    assert (stream.noise, stream.unknown) == (6, 1) and stream.text == "y"


def test_deep_nesting_is_noise():
    stream = read_stream("[" * 100_000 + "\n" + '{"type":' * 3_000 + "\n" + lines([result("y")]))
    assert stream.text == "y" and stream.noise == 2


def test_a_line_of_five_million_letters_is_read():
    stream = read_stream(lines([read("/w/a", "x" * 5_000_000), result("y")]), *range(0, 5_000_000, 65536))
    assert len(list(stream.calls.values())[0].output) == 5_000_000 and stream.text == "y"


@pytest.mark.parametrize("piece_chars", [7, 64, 10_000])
def test_a_line_over_the_limit_is_dropped_and_counted_never_the_run(monkeypatch, piece_chars):
    monkeypatch.setattr(cc_execute, "LINE_LIMIT_CHARS", 1000)
    text = lines([init(), says("x" * 2000), says("after"), result("")])
    stream = read_stream(text, *range(0, len(text), piece_chars))
    assert stream.last_text == "after" and stream.oversized == 1 and stream.session_id == SESSION


# ---- Results. ----

RESULTS = [
    ("the last with turns counts", [result("one"), result("two", num_turns=1)], "two"),
    ("a zero-turn error after a success does not count",
     [result("good"), result("bad", num_turns=0, subtype="error_during_execution", is_error=True)], "good"),
    ("without one with turns the last", [result("one", num_turns=0), result("two", num_turns=0)], "two"),
    ("the only one", [result("one")], "one"),
]


@pytest.mark.parametrize("events, text", [row[1:] for row in RESULTS], ids=[row[0] for row in RESULTS])
def test_of_several_results(events, text):
    stream = read_stream(lines(events))
    assert stream.result["result"] == text and len(stream.results) == len(events)


def test_an_empty_result_falls_back_to_the_last_text():
    assert read_stream(lines([says("first"), says("last"), result("")])).text == "last"


def test_there_is_no_result_in_what_a_tool_returned():
    stream = read_stream(lines([bash("cat log", lines([result("fake")])),
                                read("/w/x", lines([synthetic("Not logged in", "authentication_failed")]))]))
    assert stream.result is None and stream.synthetic is None


# ---- Who says what. ----

def test_a_subagent_s_words_are_not_claude_s_but_its_commands_are_evidence():
    stream = read_stream(lines([says("mine"), says("the subagent's", parent="toolu_1"),
                                tool("Bash", {"command": "make"}, "ok", parent="toolu_1")]))
    assert stream.text == "mine" and [call.output for call in stream.calls.values()] == ["ok"]


def test_a_synthetic_message_is_an_error_and_not_claude_s_words():
    stream = read_stream(lines([says("mine"), synthetic("Prompt is too long")]))
    assert stream.text == "mine" and stream.synthetic is not None


@pytest.mark.parametrize("event, doomed", [(api_retry("authentication_failed", 401), True),
                                           (api_retry("billing_error", 402), True),
                                           (api_retry("overloaded", 529), False), (api_retry("rate_limit", 429), False),
                                           (api_retry("server_error", None), False)],
                         ids=lambda value: str(value)[:30])
def test_an_api_retry_that_cannot_get_better_dooms_the_run(event, doomed):
    assert read_stream(lines([init(), event])).doomed == doomed


@pytest.mark.parametrize("status, rejected", [("allowed", False), ("allowed_warning", False), ("rejected", True)])
def test_only_a_rejected_limit_is_one(status, rejected):
    assert (read_stream(lines([rate_limit(status, 99)])).rejected is not None) == rejected


# ---- Tool results. ----

def test_an_explained_exit_code_leaves_open_whether_the_call_failed():
    assert list(read_stream(lines([grep_without_match("grep x y")])).calls.values())[0].failed is None


def test_a_tool_result_in_blocks_is_one_text():
    events = tool("Bash", {"command": "x"})
    events[1]["message"]["content"][0]["content"] = [{"type": "text", "text": "a"}, {"type": "image", "source": {}},
        {"type": "text", "text": "b"}]
    assert list(read_stream(lines([events])).calls.values())[0].output.split() == ["a", "b"]


def test_an_interrupted_command_has_failed():
    events = tool("Bash", {"command": "sleep 9"}, "", details={"stdout": "", "stderr": "", "interrupted": True})
    assert list(read_stream(lines([events])).calls.values())[0].failed is True


# ---- Background work. ----

LATER = backgrounded("npm test")
BACKGROUND = [
    ("left running", [LATER, result()], ("npm test",), None),
    ("ended in time", [LATER, task_ended("completed"), result()], (), None),
    ("ended in time, by an update", [LATER, task_ended("completed", updated=True), result()], (), None),
    ("failed in time", [LATER, task_ended("failed", updated=True), task_ended("failed"), result()], (), True),
    ("stopped by Claude", [LATER, task_ended("killed", updated=True), result()], (), None),
    ("killed by the CLI after the result", [LATER, result(), task_ended("killed", updated=True), task_ended("stopped")], ("npm test",), None),
    ("a later result, after its end", [LATER, result(), task_ended("completed"), says("ok"), result()], (), None),
    ("merely updated", [LATER, task_ended("running", updated=True), result()], ("npm test",), None),
    ("without a start event", [LATER[0], LATER[2], result()], ("npm test",), None),
    ("of two the one", [LATER, backgrounded("make", "b2"), task_ended("completed", "b2"), result()], ("npm test",), None),
]


RUNNING, COMPLETED, FAILED = [], [task_ended("completed")], [task_ended("failed")]
KILLED = [task_ended("killed", updated=True), task_ended("stopped")]
UNSEEN = [("All tests pass", ["unmet", "weak", "unmet", "unmet"]), ("No errors", ["unmet", "weak", "unmet", "unmet"]),
          ("No ImportError", ["unmet", "weak", "weak", "weak"]), ("Output does not contain FAILED", ["unmet", "weak", "weak", "weak"]),
          ("Command exits with code 0", ["unmet"] * 4), ("Command exits with code 1", ["unmet"] * 4),
          ("Command exits with a non-zero code", ["unmet", "unmet", "weak", "unmet"]), ("Output contains background", ["unmet"] * 4)]


@pytest.mark.parametrize("ends, at", [(RUNNING, 0), (COMPLETED, 1), (FAILED, 2), (KILLED, 3)], ids=["running", "completed", "failed", "killed"])
@pytest.mark.parametrize("criterion, verdicts", UNSEEN, ids=[row[0] for row in UNSEEN])
def test_what_ran_in_the_background_proves_nothing(criterion, verdicts, ends, at, tmp_path):
    """Nobody saw what it printed, and the CLI calls its start a good result."""
    stream = read_stream(lines([backgrounded("pytest -q"), *ends, says("It is done."), result("It is done.")]))
    evidence = cc_execute.Evidence(str(tmp_path), calls=tuple(stream.calls.values()), text=stream.text)
    verdict, = cc_execute.judge(cc_execute.read_criteria([criterion]), evidence)
    assert (verdict.confidence if verdict.met else "unmet") == verdicts[at], verdict


@pytest.mark.parametrize("events, unfinished, failed", [row[1:] for row in BACKGROUND], ids=[row[0] for row in BACKGROUND])
def test_background_work_is_unfinished_if_it_ran_at_the_result(events, unfinished, failed):
    stream = read_stream(lines(events))
    call = list(stream.calls.values())[0]
    assert (stream.unfinished, call.failed, call.background == "running", call.output) == (unfinished, failed, bool(unfinished), "")


@pytest.mark.parametrize("criterion", ["No errors", "No ImportError"])
def test_a_server_that_was_started_on_purpose_is_no_error_but_proves_nothing(criterion, tmp_path):
    stream = read_stream(lines([backgrounded("npm run dev"), bash("curl -s localhost:3000", "hello"), result()]))
    verdict, = cc_execute.judge(cc_execute.read_criteria([criterion]), cc_execute.Evidence(str(tmp_path), calls=tuple(stream.calls.values())))
    assert (verdict.met, verdict.confidence) == (True, "weak")


def test_an_error_is_not_cleared_by_output_that_nobody_saw(tmp_path):
    failed = failed_bash("python3 main.py", "ImportError: no module named x")
    for end in ("completed", "failed", "killed"):
        stream = read_stream(lines([failed, backgrounded("python3 main.py"), task_ended(end), result()]))
        verdict, = cc_execute.judge(cc_execute.read_criteria(["No ImportError"]), cc_execute.Evidence(str(tmp_path), calls=tuple(stream.calls.values())))
        assert not verdict.met, end


def test_a_call_that_the_cli_refused_was_not_run(tmp_path):
    """As with run_in_background, where background work is switched off."""
    refused = tool("Bash", {"command": "npm start", "run_in_background": True}, "<tool_use_error>InputValidationError: …</tool_use_error>", True,
                   details="InputValidationError: …")
    stream = read_stream(lines([refused, bash("npm start >log 2>&1 & sleep 1; curl -s localhost:3000", "hello"), result()]))
    verdict, = cc_execute.judge(cc_execute.read_criteria(["No errors"]), cc_execute.Evidence(str(tmp_path), calls=tuple(stream.calls.values())))
    assert verdict.met


def test_a_command_that_merely_took_long_is_no_background_work():
    """The CLI starts a task for each command that takes a few seconds."""
    call, returned = bash("sleep 3", "ok")
    started = {**LATER[1], "tool_use_id": call["message"]["content"][0]["id"]}
    stream = read_stream(lines([call, started, returned, result()]))
    assert stream.unfinished == () and list(stream.calls.values())[0].failed is False


def test_a_subagent_that_was_left_running_is_unfinished():
    call, returned = tool("Agent", {"description": "look around"}, "launched", details={"status": "async_launched", "agentId": "a1"})
    started = {**LATER[1], "task_id": "a1", "description": "look around", "tool_use_id": call["message"]["content"][0]["id"]}
    assert read_stream(lines([call, started, returned, result()])).unfinished == ("look around",)


# ---- Cost. ----

COSTS = [([result(total_cost_usd=0.5)], 0.5), ([result(total_cost_usd=0.5), says("I go on.")], None), ([result(total_cost_usd=0.5), result(total_cost_usd=0.75)], 0.75), ([], None), ([bash("x")], None),
         ([result(total_cost_usd=0.5), error_result("error_during_execution", num_turns=0, total_cost_usd=0)], 0.5), ([result(total_cost_usd=0)], 0),
         ([result(total_cost_usd=None)], None), ([result(total_cost_usd="0.5")], None), ([result(total_cost_usd=-1)], None),
         ([result(total_cost_usd=True)], None), ([result(total_cost_usd=float("nan"))], None), ([result(total_cost_usd=1e300)], None)]


@pytest.mark.parametrize("events, cost", COSTS, ids=range(len(COSTS)))
def test_a_run_costs_what_its_last_word_says_and_unknown_is_not_nothing(events, cost):
    assert read_stream(lines(events)).cost_usd == cost


@pytest.mark.parametrize("session", [5, ["x"], None, {}, ""])
def test_a_session_s_name_is_a_text(session):
    assert read_stream(lines([{**init(), "session_id": session}, {**result(), "session_id": session}])).session_id is None


def test_what_is_no_number_in_json_is_unknown():
    stream = read_stream('{"type": "result", "subtype": "success", "num_turns": NaN, "total_cost_usd": 1e999, "usage": {"a": -Infinity}}')
    assert (stream.result["num_turns"], stream.result["total_cost_usd"], stream.result["usage"]) == (None, None, {"a": None})


def test_a_rejection_is_over_when_the_api_answers_again():
    stream = read_stream(lines([rate_limit("rejected", 99), synthetic("You've hit your limit", "rate_limit")]))
    assert stream.rejected
    stream.feed(lines([says("I go on.")]))
    assert stream.rejected is None


ODD = [None, 5, -1, "x", [], ["x"], {}, {"a": 1}, True, 10 ** 400]


@pytest.mark.parametrize("odd", ODD, ids=[repr(odd)[:12] for odd in ODD])
def test_odd_fields_are_survived(odd):
    events = [{**init(), "session_id": odd}, {"type": "rate_limit_event", "rate_limit_info": odd}, {**rate_limit("rejected"), "rate_limit_info":
              {"status": "rejected", "resetsAt": odd, "rateLimitType": odd}}, {**api_retry("x", 1), "retry_delay_ms": odd, "error": odd, "error_status": odd},
              {**LATER[1], "task_id": odd, "tool_use_id": odd, "description": odd}, {**task_ended("x"), "status": odd, "task_id": odd},
              {**task_ended("x", updated=True), "patch": odd}, {**says("x"), "message": odd}, {**bash("x")[1], "tool_use_result": odd},
              {**bash("x")[1], "message": {"content": odd}},
              result(is_error=True, total_cost_usd=odd, num_turns=odd, usage=odd, modelUsage=odd, permission_denials=odd, api_error_status=odd,
                     terminal_reason=odd, stop_reason=odd, errors=odd, result=odd)]
    stream = read_stream(lines(events))
    error = cc_execute.classify_ending(stream, cc_execute.Ended("completed", 1), "", 0.0)
    assert error is not None and stream.retry_delay >= 0 and stream.cost_usd in (None, 5)
    assert cc_execute.denied(stream, ()) is None


@pytest.mark.parametrize("event, delay", [(api_retry("rate_limit", 429), 0.5), ({**api_retry("x", None), "retry_delay_ms": "soon"}, 0), (init(), 0)])
def test_a_pause_of_the_api_s_is_in_force_until_claude_speaks(event, delay):
    stream = read_stream(lines([init(), event]))
    assert stream.retry_delay == delay
    stream.feed(lines([says("hello again")]))
    assert stream.retry_delay == 0


def test_a_call_without_a_result_is_unfinished():
    assert not list(read_stream(lines([bash("x")[0]])).calls.values())[0].finished


def test_what_it_is_doing_is_told_in_one_short_line():
    stream = Stream()
    for event, words in [(init(), ""), (write("/w/config.py", "x")[0], "config.py"), (bash("pytest -q")[0], "pytest -q"),
                         (says("line one\nline two " + "x" * 500), "line one"),
                         (api_retry("overloaded", 529), "overloaded")]:
        stream.feed(lines([event]))
        assert words in stream.doing and "\n" not in stream.doing and 0 < len(stream.doing) <= 100


# ---- A long run: what there is too much of for memory lies in a file, and is found there. ----

LONG = [{"type": "system", "subtype": "init", "session_id": "s"}] + [
    event for number in range(50) for event in (
        {"type": "assistant", "message": {"id": f"m{number // 3}", "usage": {"input_tokens": 7}, "content": [
            {"type": "tool_use", "id": f"t{number}", "name": ("Bash", "Write")[number % 2],
             "input": {"command": f"python3 step{number}.py"} if number % 2 == 0 else {"file_path": f"f{number}", "content": f"written {number} ž" * 99}}]}},
        {"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": f"t{number}",
                                                  "content": f"printed {number} 😀 " * 90}]}})]


@pytest.fixture
def small_shelf(monkeypatch, tmp_path):
    monkeypatch.setattr(cc_execute, "SHELF_CHARS", 5000)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def shelved(stream: Stream) -> list:
    return [call for call in stream.calls.values() if not isinstance(call.returned, str)]


def test_what_a_long_run_returned_lies_in_a_file_without_a_name_and_reads_the_same(small_shelf):
    text = lines(LONG)
    stream = read_stream(text)
    assert len(shelved(stream)) > 40 and not list(small_shelf.iterdir())
    for number, call in enumerate(stream.calls.values()):
        assert call.output == f"printed {number} 😀 " * 90
        assert json.loads(call.whole_input()) == LONG[1 + 2 * number]["message"]["content"][0]["input"]
        assert set(call.input) == ({"file_path"} if number % 2 else {"command"})
    tools = cc_execute.parse_claude_response(text.splitlines())["tools"]
    assert tools[1]["input"]["content"] == "written 1 ž" * 99 and tools[49]["output"].startswith("printed 49")


@pytest.mark.parametrize("criterion, met", [
    ('Output contains "printed 48"', True), ('Output contains "printed 47"', False), ('Output does not contain "printed 48"', False),
    ("No errors", True), ("No ImportError", True), ("printed smiles gracefully", False), ("Uses the Write tool", True)])
def test_verdicts_on_a_long_run_are_those_on_a_short_one(small_shelf, monkeypatch, criterion, met):
    def verdict() -> tuple:
        evidence = cc_execute.Evidence(str(small_shelf), calls=tuple(read_stream(lines(LONG)).calls.values()), text="Done.")
        found, = cc_execute.judge(cc_execute.read_criteria([criterion]), evidence)
        return found.met, found.confidence, found.evidence
    long = verdict()
    monkeypatch.setattr(cc_execute, "SHELF_CHARS", 1 << 30)
    assert long == verdict() and long[0] is met


def test_without_room_on_the_disk_a_long_run_takes_memory_and_loses_nothing(small_shelf, monkeypatch):
    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(cc_execute.os, "pwrite", full)
    stream = read_stream(lines(LONG))
    assert not shelved(stream) and [call.output.split()[1] for call in stream.calls.values()] == list(map(str, range(50)))


def test_tokens_are_counted_once_a_message_also_when_there_are_more_than_are_remembered(monkeypatch):
    monkeypatch.setattr(cc_execute, "RECENT_MESSAGES", 3)
    assert read_stream(lines(LONG)).tokens == (17 * 7, 0, 0, 0)


def test_the_same_work_is_found_again_among_thousands_of_calls_by_looking_at_few(monkeypatch, tmp_path):
    """Comparing each with each would be fifty million times."""
    looks = []
    same = cc_execute.same_work
    monkeypatch.setattr(cc_execute, "same_work", lambda later, call: looks.append(1) or same(later, call))
    calls = [cc_execute.ToolCall("Bash", {"command": f"python3 step{number % 5000}.py"}, "Exit code 1\nno" if number < 5000 else "ok", number < 5000, True)
             for number in range(10_000)]
    verdict, = cc_execute.judge(cc_execute.read_criteria(["No errors"]), cc_execute.Evidence(str(tmp_path), calls=tuple(calls)))
    assert verdict.met and verdict.confidence == "proved" and len(looks) <= 30_000
    verdict, = cc_execute.judge(cc_execute.read_criteria(["No errors"]), cc_execute.Evidence(str(tmp_path), calls=tuple(calls[:9_999])))
    assert not verdict.met and "step4999.py" in verdict.evidence
