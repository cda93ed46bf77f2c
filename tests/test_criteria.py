"""Criteria: what a criterion means, whether it is met and how sure that is, by the table in criteria_cases.py.

A wrong "met", and above all a wrong "proved", is the worst that this program can do; so is the emphasis of the table.
"""
from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

import cc_execute
from cc_execute import Changes, CommandResult, Evidence, Snapshot, Stream, ToolCall, compare, judge, read_criteria, take_snapshot
from criteria_cases import MET, OPEN, PROVED, TABLE, UNMET, WEAK, Row, World
from transcripts import bash, lines

COMMAND_LIMIT_S = 60


def write_files(folder: Path, files: dict) -> None:
    for name, content in files.items():
        path = folder / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_text(content, "utf-8")


def run_command(folder: Path):
    def run(command: str) -> CommandResult:
        done = subprocess.run(["sh", "-c", command], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT,
                              encoding="utf-8", timeout=COMMAND_LIMIT_S, check=False)
        return CommandResult(done.returncode, done.stdout)
    return run


def make_evidence(world: World, folder: Path) -> Evidence:
    """The world made real: files before the run, then what the run did, with the tool results read from a stream."""
    write_files(folder, world.before)
    before = take_snapshot(str(folder))
    write_files(folder, world.wrote)
    for name in world.deleted:
        (folder / name).rmdir() if name.endswith("/") else (folder / name).unlink()
    stream = Stream()
    stream.feed(re.sub(r"(?<![\w./])/w(?![\w.-])", str(folder), lines(world.events)))
    changes = compare(before, take_snapshot(str(folder), before))
    return Evidence(str(folder), before, changes, tuple(stream.calls.values()), world.text,
                    None if world.only_claims else run_command(folder))


def judge_in(world: World, folder: Path, *criteria: str, **options):
    """The verdict on the last of the criteria."""
    return judge(read_criteria(criteria), make_evidence(world, folder), **options)[-1]


def texts(case: Row) -> tuple:
    return (case.criteria,) if isinstance(case.criteria, str) else case.criteria


@pytest.mark.parametrize("case", TABLE, ids=lambda case: f"{texts(case)[-1]} / {case.reason}")
def test_a_criterion_is(case, workspace):
    verdict = judge_in(case.world, workspace, *texts(case))
    told = f"{verdict.criterion.kind}: {verdict.evidence}"
    if case.met is OPEN:
        assert not (verdict.met and verdict.confidence == PROVED), told
    else:
        assert verdict.met == case.met, told
    assert case.kind in (None, verdict.criterion.kind), told
    assert case.sure in ("", verdict.confidence), f"{verdict.confidence}, {told}"
    assert verdict.evidence and "\n" not in verdict.evidence
    assert verdict.criterion.text == texts(case)[-1]


def test_the_table_is_as_big_and_as_nasty_as_it_ought_to_be():
    assert len(TABLE) >= 100
    assert 3 * sum("LIES" in case.reason for case in TABLE) >= len(TABLE)


@pytest.mark.parametrize("case", TABLE, ids=lambda case: f"{texts(case)[-1]} / {case.reason}")
def test_strict_takes_only_what_is_proved(case, workspace):
    criteria, evidence = read_criteria(texts(case)), make_evidence(case.world, workspace)
    loose, strict = judge(criteria, evidence)[-1], judge(criteria, evidence, strict=True)[-1]
    assert strict.met == (loose.met and loose.confidence == PROVED)


# ---- Evidence says what a person has to know. ----

EVIDENCE = [
    ("File a.py exists", World(wrote={"a.py": "12345"}), ["a.py", "5 bytes", "created by this run"]),
    ("File a.py exists", World(before={"a.py": "1"}), ["a.py", "1 byte", "was there before, unchanged"]),
    ("File a.py exists", World(before={"a.py": "1"}, wrote={"a.py": "2"}), ["changed by this run"]),
    ("File a.py exists", World(wrote={"src/a.py": "1"}), ["a.py does not exist", "src/a.py"]),
    ("a.py contains DEBUG", World(wrote={"a.py": "\n\nDEBUG = 1\n"}), ["a.py", "line 3", "DEBUG = 1"]),
    ("`sh -c 'echo oops; exit 7'`", World(), ["exit code 7", "oops"]),
    ("No errors", World(events=(bash("python a.py", "Traceback (most recent call last):\n  x\nKeyError: 'k'"),)),
     ["python a.py", "KeyError"]),
]


@pytest.mark.parametrize("criterion, world, words", EVIDENCE, ids=[f"{row[0]} -> {row[2][-1]}" for row in EVIDENCE])
def test_the_evidence_names(criterion, world, words, workspace):
    evidence = judge_in(world, workspace, criterion).evidence
    assert all(word in evidence for word in words), evidence


# ---- What is not known for certain is not proved. ----

def test_after_an_incomplete_baseline_created_by_this_run_is_only_weak(workspace):
    write_files(workspace, {"a.py": "DEBUG = 1"})
    evidence = Evidence(str(workspace), Snapshot({}, complete=False), Changes(created=("a.py",), complete=False))
    verdicts = judge(read_criteria(["Creates a.py", "Contains DEBUG"]), evidence)
    assert [(verdict.met, verdict.confidence) for verdict in verdicts[:1]] == [(MET, WEAK)]


def test_a_file_of_which_nothing_is_known_is_not_proved_to_be_written_by_this_run(workspace):
    write_files(workspace, {"a.py": "x"})
    verdict = judge(read_criteria(["Creates a.py"]), Evidence(str(workspace), Snapshot({}, False), Changes(complete=False)))[0]
    assert (verdict.met, verdict.confidence) in ((MET, WEAK), (UNMET, WEAK))


def test_an_unfinished_bash_call_proves_nothing(workspace):
    call = ToolCall("Bash", {"command": "pytest -q"})
    verdict = judge(read_criteria(["No errors"]), Evidence(str(workspace), calls=(call,)))[0]
    assert verdict.confidence == WEAK


def test_a_dangling_link_does_not_exist_and_is_still_in_the_way(workspace):
    (workspace / "a.py").symlink_to("nowhere")
    world = World()
    assert not judge_in(world, workspace, "File a.py exists").met
    assert not judge_in(world, workspace, "a.py does not exist").met


def link_verdict(folder: Path, criterion: str, before: str, run: str):
    subprocess.run(["sh", "-c", before], cwd=folder, check=True)
    known = take_snapshot(str(folder))
    subprocess.run(["sh", "-c", run], cwd=folder, check=True)
    verdict = judge(read_criteria([criterion]), Evidence(str(folder), known, compare(known, take_snapshot(str(folder), known))))[0]
    return verdict.met, verdict.confidence


@pytest.mark.parametrize("criterion, before, run, met", [
    ("creates link.txt", "echo x > old.txt", "ln -s old.txt link.txt", MET), ("creates link.txt", "echo x > old.txt; ln -s old.txt link.txt", "true", UNMET),
    ("link.txt is unchanged", "echo x > old.txt; ln -s old.txt link.txt", "echo y > old.txt", UNMET), ("creates docs", "mkdir old", "ln -s old docs", MET),
    ("updates link.txt", "echo x > old.txt; ln -s old.txt link.txt", "echo y > old.txt", MET), ("old.txt is unchanged", "echo x > old.txt", "ln -s old.txt link.txt", MET)])
def test_a_link_is_created_though_what_it_leads_to_is_old(criterion, before, run, met, workspace):
    assert link_verdict(workspace, criterion.replace("docs", "the folder docs"), before, run) == (met, PROVED)


def test_commands_run_last_so_that_they_cannot_make_the_files_that_others_ask_for(workspace):
    verdicts = judge(read_criteria(["`touch a.txt`", "File a.txt exists"]), make_evidence(World(), workspace))
    assert [verdict.met for verdict in verdicts] == [True, False]


def test_a_command_that_is_killed_or_runs_into_the_limit_is_not_met(workspace):
    evidence = Evidence(str(workspace), run=lambda command: CommandResult(None, "120\n", "timeout after 45.0 s"))
    for criterion in ("`sleep 100`", "`sleep 100` → 120"):
        verdict = judge(read_criteria([criterion]), evidence)[0]
        assert not verdict.met and "timeout after 45.0 s" in verdict.evidence


def test_each_command_is_run_once(workspace):
    judge(read_criteria(["`echo x >> ran`", "Contains y", "File z exists"]), make_evidence(World(), workspace))
    assert (workspace / "ran").read_text() == "x\n"


def test_only_backticks_known_interpreters_and_dot_slash_are_commands(workspace):
    texts = ["rm -rf build succeeds", "curl example.org prints ok", "The command rm x works", "Running deploy.sh prints ok",
             "File rm exists", "eval x prints 1"]
    assert [criterion.command for criterion in read_criteria(texts)] == [""] * len(texts)
    texts = ["python x.py prints 1", "node x.js prints 1", "npm test passes", "pytest -q passes", "make all succeeds",
             "go test succeeds", "cargo test passes",
             "bash x.sh prints 1", "./x.sh prints 1"]
    assert all(criterion.kind == "command" for criterion in read_criteria(texts))


@pytest.mark.parametrize("binary", [b"\xff\xfeDEBUG\x00", b"\x80DEBUG = 1"])
def test_files_that_are_no_text_are_searched_all_the_same(binary, workspace):
    (workspace / "a.bin").write_bytes(binary)
    assert judge(read_criteria(["a.bin contains DEBUG"]), Evidence(str(workspace)))[0].met


def test_a_pipe_in_the_folder_does_not_hang_the_verdict(workspace):
    os.mkfifo(workspace / "a.py")
    assert not judge(read_criteria(["a.py contains DEBUG"]), Evidence(str(workspace)))[0].met


@pytest.mark.parametrize("name, content", [("a.json", b'"\xff"'), ("a.py", b"x = '\xff'\n"), ("a.toml", b'x = "\xff"\n')])
def test_a_file_that_is_not_in_utf_8_is_not_valid(name, content, workspace):
    (workspace / name).write_bytes(content)
    form = {"a.json": "JSON", "a.py": "Python", "a.toml": "TOML"}[name]
    assert not judge(read_criteria([f"{name} is valid {form}"]), Evidence(str(workspace)))[0].met


def test_python_in_an_encoding_that_it_names_is_valid(workspace):
    (workspace / "a.py").write_bytes(b"# -*- coding: latin-1 -*-\nx = '\xe9'\n")
    assert judge(read_criteria(["a.py is valid Python"]), Evidence(str(workspace)))[0].met


def verdict_after(change: str, criterion: str, folder: Path):
    """On a file that is too large to be hashed, after a shell command."""
    (folder / "big.bin").write_bytes(b"x" * (cc_execute.HASH_LIMIT_BYTES + 1))
    before = take_snapshot(str(folder))
    subprocess.run(["sh", "-c", change], cwd=folder, check=True)
    changes = compare(before, take_snapshot(str(folder), before))
    return judge(read_criteria([criterion]), Evidence(str(folder), before, changes))[0]


def test_a_big_file_that_was_only_touched_is_not_proved_to_be_updated(workspace):
    assert verdict_after("touch -d 2001-01-01 big.bin", "big.bin was updated", workspace).confidence == WEAK


def test_a_big_file_that_was_changed_is_not_proved_unchanged_because_its_time_was_put_back(workspace):
    change = "touch -r big.bin ../then; printf y | dd of=big.bin conv=notrunc 2> ../told; touch -r ../then big.bin"
    assert verdict_after(change, "big.bin is unchanged", workspace).confidence == WEAK


def test_a_big_file_that_grew_is_proved_to_be_updated(workspace):
    verdict = verdict_after("echo y >> big.bin", "big.bin was updated", workspace)
    assert verdict.met and verdict.confidence == PROVED


# ---- What holds for any words. ----

FRAGMENTS = ["File ", "a.py", " exists", "Contains ", "contains ", "does not ", "No ", "errors", "`", "`make`", "Output ",
             " or ", " and ", ", ", "prints ", "120", '"', "'",
             " in ", "(", "[", "\\", "/", "*", ".", "+", "?", "→", "é", "{", "creates ", "Running ", "python3 ",
             "no longer exists", "matches /(/", "\u2028"]
WORDS = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=4)), min_size=1,
                 max_size=12).map("".join).filter(str.strip)


@given(WORDS)
def test_any_words_are_a_criterion_that_can_be_judged_planned_and_advised_on(tmp_path_factory, words):
    from cc_execute import KIND
    folder = tmp_path_factory.mktemp("any")
    try:
        criterion = read_criteria([words])[0]
        verdict = judge([criterion], Evidence(str(folder), text="a.py 120", run=lambda command: CommandResult(0, "120")))[0]
        assert criterion.text == words and verdict.confidence in ("proved", "weak")
        assert KIND[criterion.kind].plan(criterion) and KIND[criterion.kind].advice(criterion)
        if criterion.kind == "keywords":
            assert verdict.confidence == "weak"
    finally:
        shutil.rmtree(folder)


@given(WORDS)
def test_nobody_is_believed_about_files(tmp_path_factory, words):
    """Whatever Claude says: in an empty folder no file exists and none contains anything."""
    folder = tmp_path_factory.getbasetemp()
    evidence = Evidence(str(folder / "empty"),
                        text=words + " File config.py exists. config.py contains DEBUG. I created config.py")
    verdicts = judge(read_criteria(["File config.py exists", "config.py contains DEBUG", "Creates config.py"]), evidence)
    assert [verdict.met for verdict in verdicts] == [False] * 3


@given(st.integers(0, 10 ** 6), st.integers(0, 10 ** 6))
def test_a_number_is_found_if_and_only_if_it_stands_there_whole(wanted, printed):
    evidence = Evidence("/", run=lambda command: CommandResult(0, f"result: {printed}\n"))
    verdict = judge(read_criteria([f"`x` → {wanted}"]), evidence)[0]
    assert verdict.met == (wanted == printed)


# ---- Files that are too big to be searched whole. ----

def test_the_absence_of_a_text_is_not_proved_by_the_beginning_of_a_big_file(workspace, monkeypatch):
    monkeypatch.setattr(cc_execute, "SEARCH_LIMIT_BYTES", 100)
    write_files(workspace, {"big.log": "x" * 200 + "\nSECRET\n"})
    for criterion in ("big.log does not contain SECRET", "big.log contains SECRET"):
        verdict = judge(read_criteria([criterion]), Evidence(str(workspace)))[0]
        assert verdict.confidence == WEAK or verdict.met == ("not" not in criterion), verdict


@pytest.mark.parametrize("criterion", ["big.log has exactly 1 line", "big.log has at most 2 lines", "big.log has at least 9 lines"])
def test_what_is_counted_in_the_beginning_of_a_big_file_is_not_proved(criterion, workspace, monkeypatch):
    monkeypatch.setattr(cc_execute, "SEARCH_LIMIT_BYTES", 100)
    write_files(workspace, {"big.log": "x" * 200 + "\n" * 5})
    assert judge(read_criteria([criterion]), Evidence(str(workspace)))[0].confidence == WEAK


UNITS = ["word ", "a, ", "no a in ", "neither a nor b ", "`x` ", "is not ", "x contains y and ", "(a ", "there is no a.py left in ", "in a.py ", "[", "\"a "]


@pytest.mark.parametrize("unit", UNITS)
def test_a_criterion_of_any_length_is_read(unit):
    """No timing: a pattern that backtracks would take minutes here."""
    assert read_criteria([unit * (16_000 // len(unit))])[0].kind
