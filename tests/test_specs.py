"""Specs: every form that is in daily use says what it says, and what cannot be read is refused with its place.

The cases stand in specs/ (forms, prose, labels, lists and editors.txt must be read, refused.txt must be refused) and in the tables below.
"""
from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Iterator, NamedTuple

import pytest
from hypothesis import given, strategies as st

from cc_execute import Options, Spec, SpecError, Task, check_spec, load_spec, parse_spec
from support import ROOT

SPECS = Path(__file__).parent / "specs"
MARKS = {"<BOM>": "\ufeff", "<CR>": "\r", "<LS>": "\u2028", "<NBSP>": "\xa0", "<NUL>": "\0", "<TAB>": "\t", "<ZWSP>": "\u200b"}


class Case(NamedTuple):
    name: str
    text: str
    told: list


def read_cases(name: str) -> list:
    """The cases of a data file; see its first lines."""
    cases = []
    for part in (SPECS / name).read_text("utf-8").split("\n%%%% ")[1:]:
        title, rest = part.split("\n", 1)
        text, told = f"\n{rest}".split("\n%%\n")
        text = text[1:]
        for mark, character in MARKS.items():
            text = text.replace(mark, character)
        cases.append(Case(title, text, told.strip().split("\n")))
    return cases


FORMS = [case for name in ("forms", "prose", "labels", "lists", "editors", "colleagues") for case in read_cases(f"{name}.txt")]
REFUSED = read_cases("refused.txt")


def without_full_stop(strategy):
    return strategy and strategy.rstrip(".。")


def summary(task: Task) -> dict:
    """A task's fields as a case tells them."""
    return comparable({**task._asdict(), "criteria": list(task.criteria), "tools": list(task.tools)})


def comparable(fields: dict) -> dict:
    told = {name: value for name, value in fields.items() if name not in ("line", "lines", "criteria_lines")}
    return {**told, "retry_strategy": without_full_stop(told["retry_strategy"])}


def expected(told: list) -> Iterator[dict]:
    """What the JSON lines of a case stand for, with all that they leave out."""
    for number, line in enumerate((line for line in told if line.startswith("{")), 1):
        empty = {**Task(number, None, 0, "")._asdict(), "criteria": [], "tools": []}
        yield comparable({**empty, **json.loads(line)})


def named(cases: list):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


# ---- What must be read. ----

@named(FORMS)
def test_a_spec_says(case):
    spec = parse_spec(case.text)
    assert [summary(task) for task in spec.tasks] == list(expected(case.told))


@named(FORMS)
def test_its_warnings_are(case):
    wanted = [line[2:] for line in case.told if line.startswith("! ")]
    given = list(parse_spec(case.text).warnings)
    lines = [re.match(r"line \d+|", words)[0] for words in wanted]
    assert len(given) == len(wanted), given
    assert all(warning.startswith(f"{line}:") if line else words in warning for line, words, warning in zip(lines, wanted, given)), given


@named([case for case in FORMS if '"line"' in "".join(case.told)])
def test_a_task_names_the_line_where_it_begins(case):
    wanted = [json.loads(line)["line"] for line in case.told if line.startswith("{")]
    assert [task.line for task in parse_spec(case.text).tasks] == wanted


@named(FORMS)
def test_line_ends_and_a_byte_order_mark_change_nothing(case):
    text = case.text.replace("\r", "")
    plain = parse_spec(text).tasks
    assert parse_spec(text.replace("\n", "\r\n")).tasks == plain
    assert parse_spec(text.replace("\n", "\r")).tasks == plain
    assert parse_spec("\ufeff" + text + "\n\n").tasks == plain


@named(FORMS)
def test_spaces_at_line_ends_change_no_criterion(case):
    def criteria(text: str) -> list:
        return [" ".join(criterion.split()) for task in parse_spec(text).tasks for criterion in task.criteria]
    assert criteria(case.text.replace("\n", "  \n")) == criteria(case.text)


TIME_LIMITS = {
    "60": 60, "45 seconds": 45, "45s": 45, "2 minutes": 120, "1.5 minutes": 90, "1m30s": 90, "1 hour": 3600,
    "300s (5 minutes)": 300,
    "1 minute": 60, "90 Seconds": 90, "0.5 hours": 1800, "1h 30m": 5400, "2 min": 120, "10 sec": 10, "45 seconds.": 45,
    "`45`": 45,
    "Redis estimate": None, "let Redis decide": None, "auto": None, "": None, "redis estimate": None, "Auto": None,
}


@pytest.mark.parametrize("words, seconds", TIME_LIMITS.items())
def test_a_time_limit_is(words, seconds):
    task = parse_spec(f"Task: Create a.py\nTimeout: {words}\nSuccess Criteria: 1) a.py exists").tasks[0]
    assert task.timeout == seconds
    assert task.prompt == "Create a.py" and task.criteria == ("a.py exists",)


NO_TIME_LIMITS = ["soon", "0", "0s", "-5", "-5 seconds", "five minutes or so", "45 apples", "nan", "inf", "1e3", "45 seconds 3",
                  "1:30 h", "12 34 s", "s"]


@pytest.mark.parametrize("words", NO_TIME_LIMITS)
def test_a_time_limit_is_not(words):
    with pytest.raises(SpecError, match=r"spec\.md:2: .*time limit"):
        parse_spec(f"Task: Create a.py\nTimeout: {words}\nSuccess Criteria: 1) a.py exists", "spec.md")


PROSE_LIMITS = {
    "Expect a timeout of 45 seconds.": 45, "Expect a timeout of 2.5 minutes.": 150, "Expect a timeout of 1m30s.": 90,
    "Expect a timeout of 60.": 60,
    "Expect an execution time using the redis prompt of 90 seconds.": 90, "Expect a timeout of 300s (5 minutes).": 300,
}


@pytest.mark.parametrize("sentence, seconds", PROSE_LIMITS.items())
def test_a_sentence_sets_the_time_limit_and_leaves_the_prompt(sentence, seconds):
    text = f"Use your x.md to execute the task: Create a.py. {sentence} Evaluate the response based on: 1) a.py exists"
    task = parse_spec(text).tasks[0]
    assert (task.prompt, task.timeout, task.criteria) == ("Create a.py.", seconds, ("a.py exists",))


LABEL_STYLES = ["{}: {}", "- {}: {}", "* {}: {}", "**{}**: {}", "**{}:** {}", "- **{}**: {}", "- **{}:** {}", "__{}__: {}",
                "  {}: {}", "### {}\n{}"]
LIST_STYLES = ["1. {}\n2. {}", "1) {}\n2) {}", "- {}\n- {}", "* {}\n* {}", "  1. {}\n  2. {}", "    - {}\n    - {}",
               "1) {}, 2) {}", "1. {} 2. {}", "\n- {}\n\n- {}"]


@pytest.mark.parametrize("label", LABEL_STYLES)
@pytest.mark.parametrize("items", LIST_STYLES)
def test_every_way_to_write_labels_takes_every_way_to_write_criteria(label, items):
    criteria = ("File a.py exists", "Contains x = 1")
    fields = [("Task", "Create a.py"), ("Timeout", "45"), ("Success Criteria", "\n" + items.format(*criteria)),
              ("Retry Strategy", "be exact")]
    task = parse_spec("\n".join(label.format(name, value) for name, value in fields)).tasks[0]
    assert (task.prompt, task.timeout, task.criteria, task.retry_strategy) == ("Create a.py", 45, criteria, "be exact")


HEADINGS = {
    "## Task 3: Add tests": "Add tests", "# Task 3: Add tests": "Add tests", "### Task 3 - Add tests": "Add tests",
    "## Task 3. Add tests": "Add tests",
    "**Task 3**: Add tests": "Add tests", "**Task 3: Add tests**": "Add tests", "## **Task 3**: Add tests": "Add tests",
    "## task 3: Add tests ##": "Add tests",
    "## Task 3": None, "**Task 3**": None, "Task 3: Add tests": "Add tests",
}


@pytest.mark.parametrize("heading, title", HEADINGS.items())
def test_a_task_heading_is(heading, title):
    spec = parse_spec(f"{heading}\nTask: Create test_a.py\nSuccess Criteria: 1) test_a.py exists\n")
    task = spec.tasks[0]
    assert (task.number, task.title, task.prompt, task.criteria, spec.warnings) == (3, title, "Create test_a.py",
        ("test_a.py exists",), ())


NO_HEADINGS = ["## Task N: name", "**Task N**: name", "## Tasks", "## Taskforce 3: x", "## Overview", "**Task** 3 of many",
               "## Multitask 3: x"]


@pytest.mark.parametrize("heading", NO_HEADINGS)
def test_a_task_heading_is_not(heading):
    spec = parse_spec(f"## Task 4: Real\nCreate a.py\nSuccess Criteria: 1) a.py exists\n\n{heading}\n")
    assert [task.number for task in spec.tasks] == [4]


# ---- What must be refused. ----

@named(REFUSED)
def test_a_spec_is_refused_with_its_place(case):
    line, found, wanted = (part.strip() for part in case.told[0].split("|"))
    with pytest.raises(SpecError) as refusal:
        parse_spec(case.text, "plan.md")
    details = refusal.value.details
    assert (details["file"], details["line"]) == ("plan.md", int(line))
    assert found in details["found"] and wanted in details["expected"], details
    assert str(refusal.value).startswith(f"plan.md:{line}: ") and refusal.value.exit_status == 2


UNREADABLE = {"not UTF-8": (b"Task: Create a.py\nSuccess Criteria: 1) gr\xfc\xdfe.txt exists\n", 2),
              "UTF-16": ("Task: x".encode("utf-16"), 1),
              "NUL bytes": (b"Task: Create a.py\n\n\0\n", 3), "an archive": (b"PK\x03\x04\x00\x00", 1)}


@pytest.mark.parametrize("data, line", UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_is_no_utf8_text_is_refused_with_its_line(data, line, tmp_path):
    path = tmp_path / "spec.md"
    path.write_bytes(data)
    with pytest.raises(SpecError) as refusal:
        load_spec(str(path))
    assert refusal.value.details["file"] == str(path) and refusal.value.details["line"] == line
    assert "UTF-8" in refusal.value.details["expected"]


@pytest.mark.parametrize("name", ["missing.md", "."])
def test_a_spec_that_cannot_be_opened_is_refused_by_its_name(name, tmp_path):
    with pytest.raises(SpecError) as refusal:
        load_spec(str(tmp_path / name))
    assert refusal.value.details["file"] == str(tmp_path / name)


def test_a_directory_that_is_not_there_is_refused(tmp_path):
    (tmp_path / "there").mkdir()
    text = "## Task 1: A\nTask: a\nDirectory: {}\nSuccess Criteria: 1) a exists\n"
    assert check_spec(parse_spec(text.format("there")), Options(cwd=str(tmp_path))) == str(tmp_path)
    with pytest.raises(SpecError) as refusal:
        check_spec(parse_spec(text.format("elsewhere"), "plan.md"), Options(cwd=str(tmp_path)))
    assert refusal.value.details["file"] == "plan.md" and "elsewhere" in refusal.value.details["found"]


def test_the_line_of_a_missing_directory_is_that_of_its_label(tmp_path):
    text = "## Task 1: A\nTask: a\nDirectory: elsewhere\nSuccess Criteria: 1) a exists\n"
    with pytest.raises(SpecError) as refusal:
        check_spec(parse_spec(text, "plan.md"), Options(cwd=str(tmp_path)))
    assert refusal.value.details["line"] == 3


# ---- What holds for any text. ----

PIECES = ["Task:", "**Task**:", "- Task: ", "Prompt:", "Timeout:", "Success Criteria:", "- **Success Criteria**:",
          "Retry Strategy:", "Tools:", "Category:",
          "## Task 1: A", "**Task 2**: B", "## Notes", "# ", "```", "~~~", "```py", "Use your x.md to execute the task: ",
          "Using a.md:", "to execute: ",
          "Expect a timeout of ", "Evaluate the response based on: ", "If the task fails, retry with ",
          "Retry if the task fails.", "1) ", "2) ", "- ", "  * ",
          "\n", "\n\n", "  ", "\t", "45", "45 seconds", "a.py exists", "create a file", ". ", ", ", ": ", "\"", "'", "**", "`",
          "\u2028", "\x85", "\x0c", "\x1c", "é", "\xa0", "\u200b", "：", "1）", "。", "“", "”", "•", "> ", "<!-- ", " -->", "---\n", "===\n",
          "1. Task: ", "2. Use your x.md to execute the task: ", "## ✅ Task 3 of 4 (x): ", "## Success Criteria\n", "Timeout (minutes): ",
          "and evaluate the results based on ", "Timeout: ", "Retry with x if the task fails. ", "none", "a) ", "; ", "- [ ] ", "Step 1: "]
WRITTEN = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5)), max_size=25).map("".join)


def read_or_none(text: str):
    try:
        return parse_spec(text)
    except SpecError as refusal:
        assert refusal.details["line"] >= 1
        return None


@given(WRITTEN)
def test_any_text_is_read_or_refused(text):
    spec = read_or_none(text)
    assert spec is None or (isinstance(spec, Spec) and spec.tasks and all(task.prompt.strip() for task in spec.tasks))


@given(WRITTEN.map(lambda text: text.replace("\r", "")))
def test_crlf_and_lf_are_the_same(text):
    plain, windows = read_or_none(text), read_or_none(text.replace("\n", "\r\n"))
    assert (plain and plain.tasks) == (windows and windows.tasks)


@given(WRITTEN)
def test_what_is_read_stands_in_the_text(text):
    def plain(words: str) -> str:
        return " ".join(re.sub("[\u200b\u2060\ufeff]", "", words).split())
    spec = read_or_none(text)
    for task in spec.tasks if spec else ():
        pieces = task.prompt.split("\n") + list(task.criteria) + (task.retry_strategy or "").split("\n")
        for piece in pieces:
            assert plain(piece) in plain(text)


PREAMBLES = ["# Overview\n\nWhat this is about, in a word.\n\n", "# Plan\n\n1. first this\n2. then that\n\n---\n\n",
             "---\ntitle: a plan\n---\n\n", "<!-- Task: not this\nTimeout: 5 -->\n\n", "## Notes\n\n```\nTask: not this\n```\n\n"]
APPENDICES = ["\n\n# Appendix\n\nOld numbers, and whom to ask.\n", "\n\n# Notes\n\n- ask Anna\n- Timeouts are long\n",
              "\n\n# Changelog\n\n| 1 | first version |\n\nIf the task fails, retry with care.\n"]
LISTS = [case for case in FORMS if re.search(r"^(#+ .*|(- )?\*\*)Task \d", case.text, re.M)]
LED = [case for case in FORMS if len(list(expected(case.told))) == 1 and re.match(r"(?:\s*(?:Use|Using) |(?:- )?(?:\*\*)?(?:Task|Prompt)\b)", case.text)]


def told_of(text: str) -> list:
    return [summary(task) for task in parse_spec(text).tasks]


@named([case for case in LISTS + LED if not case.text.startswith(("---", "```", "~~~"))])
@pytest.mark.parametrize("preamble", PREAMBLES, ids=["overview", "plan", "front matter", "comment", "notes"])
def test_a_preamble_changes_no_task(case, preamble):
    text = case.text.replace("\r", "").lstrip("\ufeff")
    assert told_of(preamble + text) == told_of(text)


@named([case for case in LISTS + LED if told_of(case.text)[-1]["criteria"]])
@pytest.mark.parametrize("appendix", APPENDICES, ids=["appendix", "notes", "changelog"])
def test_an_appendix_changes_no_task(case, appendix):
    text = case.text.replace("\r", "").rstrip()
    assert told_of(text + appendix) == told_of(text)


@given(st.lists(st.sampled_from(["File a.py exists", "Contains x = 1", "No errors", "`make test` passes",
                                 "Output shows 1, 2 and 3", "a.py has 9) in it"]),
                min_size=1, max_size=6), st.sampled_from(LIST_STYLES[:2]))
def test_a_list_of_criteria_is_read_item_by_item(criteria, style):
    numbered = "\n".join(f"{number}{style[1]} {text}" for number, text in enumerate(criteria, 1))
    assert parse_spec(f"Task: x\nSuccess Criteria:\n{numbered}\nRetry Strategy: y").tasks[0].criteria == tuple(criteria)


SIZE_BYTES = 250_000
UNITS = ["#", "1) ", "`", "x", " ", "- x\n", "```\n", "**", "(", "> ", "“a ", "\"a ", "word. ", "Foo: x\n", "## Task 1: x\n", "1. Task: x\n", "a\n---\n",
         "Expect a timeout of 5 ", "Expect a timeout of 5. ", "Evaluate the response based on: 1) a, ", "If the task fails, retry with x. ",
         "and evaluate ", "Use your ", "Use your x.md to execute the task: a\n", "Success criteria: ", "<!-- \n", "\xa0", "Retry with x "]
LEADS = {"alone": "", "in criteria": "Task: x\nSuccess Criteria:\n", "in prose": "Use your x.md to execute the task: y. Evaluate the response based on: "}
HANGS_S = 60   # no timing: a pattern that backtracks takes hours where a linear one takes a second


@pytest.mark.parametrize("lead", LEADS.values(), ids=LEADS)
def test_a_big_text_of_anything_is_read_in_time_that_grows_with_its_size(lead):
    """In a process of its own, since a regular expression at work cannot be interrupted."""
    program = ("import sys; sys.path.insert(0, sys.argv[1]); from cc_execute import SpecError, parse_spec\n"
               f"for unit in {UNITS!r}:\n"
               "    try: parse_spec(sys.argv[2] + unit * (%d // len(unit)))\n"
               "    except SpecError: pass\n"
               "    print(repr(unit), flush=True)\n") % SIZE_BYTES
    try:
        done = subprocess.run([sys.executable, "-c", program, str(ROOT), lead], capture_output=True, text=True, timeout=HANGS_S * 3)
    except subprocess.TimeoutExpired as hung:
        pytest.fail(f"does not come to an end behind {(hung.stdout or b'').decode().splitlines()[-1:]}")
    assert done.stdout.splitlines() == [repr(unit) for unit in UNITS], done.stderr
