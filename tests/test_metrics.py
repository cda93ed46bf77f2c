"""Metrics: the seed's figures from records; how a spec evolved, told without its words; --stats in its three forms."""
from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from pathlib import Path

import pytest

import cc_execute as cc
from cc_execute import Record, describe_change, metrics, parse_spec, read_criteria, spec_outline


def record(number: int = 1, **fields) -> Record:
    usual = {"prompt": "CREATE file", "duration": float(number), "status": "passed", "finished_at": 1000.0 + number, "id": f"id {number}"}
    return Record(**{**usual, **fields})


# ---- Figures. ----

def many(successes: int, failures: int, status: str = "failed") -> list:
    return [record(number) for number in range(successes)] + [record(100 + number, status=status) for number in range(failures)]


GRADUATION = [(9, 0, False), (10, 0, True), (10, 1, True), (11, 1, True), (10, 2, False), (19, 2, False), (20, 2, True), (0, 0, False), (0, 5, False),
              (100, 11, False)]


@pytest.mark.parametrize("successes, failures, graduated", GRADUATION)
def test_a_spec_graduates_at_ten_successes_and_ten_for_each_failure(successes, failures, graduated):
    told = metrics(many(successes, failures))
    assert (told["successes"], told["failures"], told["ratio"], told["graduated"]) == (successes, failures, f"{successes}:{failures}", graduated)


def test_each_spec_graduates_by_itself():
    told = metrics([record(number, spec="a.md") for number in range(10)] + [record(100 + number, spec="b.md", status="failed") for number in range(2)])
    assert not told["graduated"] and [(row["spec"], row["ratio"], row["graduated"]) for row in told["specs"]] == [("a.md", "10:0", True), ("b.md", "0:2", False)]


@pytest.mark.parametrize("status", ["failed", "error", "timeout"])
def test_time_limits_errors_and_unmet_criteria_are_failures(status):
    assert metrics(many(3, 2, status))["failures"] == 2


def test_the_most_frequent_errors_come_first():
    told = metrics([record(1, status="timeout", error_kind="timeout"), *(record(number, status="failed") for number in (2, 3)), record(4, status="error", error_kind="refusal")])
    assert list(told["errors"].items()) == [("criteria", 2), ("refusal", 1), ("timeout", 1)]


def test_nothing_stored_has_no_date():
    told = metrics([])
    assert told["last_updated"] is None and told["versions"] == [] and told["typical_duration"] is None and told["cost_usd"] is None


def test_the_last_update_is_the_newest_record_s_whatever_their_order():
    assert metrics([record(1, finished_at=1_751_328_000.0), record(2, finished_at=0.0)])["last_updated"] == "2025-07-01T00:00:00Z"


def test_each_version_of_a_spec_has_a_row():
    rows = metrics([record(1, spec="a.md", version="v1", status="failed", error_kind="timeout", timeout=45.0, run="r1"),
                    record(2, spec="a.md", version="v2", cost_usd=0.5, timeout=60.0, run="r2"), record(3, spec="a.md", version="v2", cost_usd=0.25, timeout=90.0, run="r2"),
                    record(4, spec="b.md", version="v1", run="r3")])["versions"]
    assert [(row["spec"], row["number"], row["version"], row["runs"], row["successes"], row["result"]) for row in rows] == [
        ("a.md", 1, "v1", 1, 0, "Failed"), ("a.md", 2, "v2", 1, 2, "Success - 2 tasks"), ("b.md", 1, "v1", 1, 1, "Success - 1 task")]
    assert rows[0]["errors"] == {"timeout": 1} and [row["cost_usd"] for row in rows] == [None, 0.75, None]
    assert rows[1]["timeout"] == 90.0 and rows[1]["typical_duration"] == 2.5 and rows[0]["change"] == "first version"


# ---- What changed between two versions. ----

BASE = "## Task 1: A\nCreate a.txt\nTimeout: 45\nSuccess Criteria:\n1) a.txt exists\n2) a.txt contains X\n\n## Task 2: B\nCreate b.txt\nSuccess Criteria: b.txt exists\n"
CHANGES = [
    (lambda text: text.replace("2) a.txt contains X\n", ""), ["criterion removed: contains of task 1"]),
    (lambda text: text.replace("X\n", "X\n3) no errors\n4) `make`\n"), ["2 criteria added: no_errors, command of task 1"]),
    (lambda text: text.replace("contains X", "contains Y"), ["criterion added: contains of task 1", "criterion removed: contains of task 1"]),
    (lambda text: text.replace("Timeout: 45", "Timeout: 90"), ["time limit 45 s → 90 s of task 1"]),
    (lambda text: text.replace("Timeout: 45\n", ""), ["time limit 45 s → estimated of task 1"]),
    (lambda text: text.replace("Create b.txt", "Please create b.txt"), ["wording of task 2"]),
    (lambda text: text + "Retry Strategy: look twice\n", ["retry strategy of task 2"]),
    (lambda text: text + "\n## Task 3: C\nCreate c.txt\n", ["task 3 added"]),
    (lambda text: text.split("## Task 2")[0], ["task 2 removed"]),
    (lambda text: "# Notes\n\n" + text, ["layout or notes"]),
]


def outline(text: str) -> str:
    return spec_outline(parse_spec(text), lambda task: read_criteria(task.criteria))


@pytest.mark.parametrize("change, told", CHANGES)
def test_what_changed_is_told(change, told):
    assert describe_change(outline(BASE), outline(change(BASE))) == told


def test_of_a_spec_with_one_task_its_number_is_not_told():
    text = "Task: Create a.txt\nTimeout: 45\n"
    assert describe_change(outline(text), outline(text.replace("45", "60"))) == ["time limit 45 s → 60 s"]


@pytest.mark.parametrize("broken", ["", "{", "[1]", "null", "[[1,2]]"])
def test_what_is_not_known_is_said_to_be_so(broken):
    assert describe_change(broken, outline(BASE)) == ["not known"]


def test_an_outline_holds_no_word_of_the_spec():
    kept = outline(BASE.replace("contains X", "contains opensesame").replace("Create b.txt", "Create b.txt with swordfish"))
    assert "opensesame" not in kept and "swordfish" not in kept and "a.txt" not in kept


# ---- By what a spec is known. ----

def git(*arguments: object, cwd: Path) -> None:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    subprocess.run(["git", *who, *map(str, arguments)], cwd=cwd, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    """A repository with specs/a.md, and a worktree of it."""
    repository = tmp_path / "project"
    (repository / "specs").mkdir(parents=True)
    (repository / "specs" / "a.md").write_text("Task: x\n")
    git("init", cwd=repository)
    git("add", ".", cwd=repository)
    git("commit", "-m", "x", cwd=repository)
    git("worktree", "add", tmp_path / "elsewhere", cwd=repository)
    return repository


@pytest.mark.parametrize("url", ["https://github.com/ada/engine.git", "git@github.com:ada/engine.git", "ssh://git@github.com/ada/engine",
                                 "https://ada:hunter22@github.com/ada/engine/"])
def test_a_spec_in_a_repository_with_a_remote_is_known_by_it_in_clones_and_worktrees(repository, tmp_path, url):
    git("remote", "add", "origin", url, cwd=repository)
    git("clone", repository, tmp_path / "clone", cwd=tmp_path)
    git("remote", "set-url", "origin", url, cwd=tmp_path / "clone")
    names = {cc.spec_name(str(folder / "specs" / "a.md")) for folder in (repository, tmp_path / "elsewhere", tmp_path / "clone")}
    assert names == {"github.com/ada/engine/specs/a.md"}


def test_without_a_remote_it_is_known_by_the_repository_s_folder_in_worktrees_too(repository, tmp_path):
    names = {cc.spec_name(str(folder / "specs" / "a.md")) for folder in (repository, tmp_path / "elsewhere")}
    assert names == {str(repository.resolve() / "specs" / "a.md")}


def test_elsewhere_it_is_known_by_its_whole_path(tmp_path, monkeypatch):
    (tmp_path / "a.md").write_text("Task: x\n")
    (tmp_path / "link.md").symlink_to("a.md")
    monkeypatch.chdir(tmp_path)
    assert cc.spec_name("a.md") == cc.spec_name("./link.md") == os.path.realpath(tmp_path / "a.md")


def test_text_is_known_by_its_version():
    first, second = parse_spec("Task: x\n"), parse_spec("Task: y\n")
    assert cc.known_as(first) == f"text {cc.spec_version(first)}" != cc.known_as(second)


# ---- --stats. ----

SPEC = "Task: Create a.txt\nTimeout: 60\nSuccess Criteria: a.txt exists\n"
WRITES = [{"write": {"path": "a.txt", "content": "a"}}]


def test_of_a_run_each_attempt_is_recorded_with_what_it_cost_and_pauses_count_for_nothing(run_cc, bridge, stand_in, tmp_path):
    limited = {"api_error": {"text": "API Error: Request rejected (429) · retry after 0.1", "status": 429, "error": "rate_limit"}}
    costs = {"result": {"total_cost_usd": 0.25}}
    agent = stand_in([{"api_retry": {"retry_delay_ms": 900}}, {"sleep": 0.9}, {"text": "x"}, limited], [*WRITES, costs])
    assert run_cc("-", "--store", tmp_path / "h.sqlite3", input=SPEC, env=agent.environment).returncode == 0
    stored, = cc.SqliteStore(str(tmp_path / "h.sqlite3")).records()
    assert stored.attempts == 2 and stored.cost_usd == 0.25 and stored.duration < 0.9 and stored.longest < 0.9
    rows = sqlite3.connect(tmp_path / "h.sqlite3").execute("SELECT number, error_kind, cost_usd, passed FROM attempts ORDER BY number").fetchall()
    assert rows == [(1, "rate_limit", 0.0, 0), (2, None, 0.25, 1)]


@pytest.fixture
def history(run_cc, stand_in, bridge, tmp_path):
    """Three runs of one spec in two versions, the first a failure, and one of another with a pipe in its name."""
    for name, text, agent in (("spec.md", SPEC, stand_in([{"text": "No."}])), ("spec.md", SPEC.replace("60", "90"), stand_in(WRITES)),
                              ("spec.md", SPEC.replace("60", "90"), stand_in(WRITES)), ("a|b.md", SPEC, stand_in(WRITES))):
        (tmp_path / name).write_text(text)
        run_cc(tmp_path / name, env=agent.environment)
    return tmp_path


def test_stats_of_one_spec_and_of_all(run_cc, history):
    every, one = run_cc("--stats", "--json").json(), run_cc("--stats", history / "spec.md", "--json").json()
    assert (every["ratio"], one["ratio"]) == ("3:1", "2:1") and len(every["specs"]) == 2
    assert [(row["version"] != "", row["runs"], row["result"], row["change"]) for row in one["versions"]] == [
        (True, 1, "Failed", "first version"), (True, 2, "Success - 2 tasks", "time limit 60 s → 90 s")]
    assert one["errors"] == {"criteria": 1} and one["last_updated"].startswith("20") and one["cost_usd"] == 0


def test_stats_for_people(run_cc, history):
    told = run_cc("--stats", history / "spec.md").stdout
    for part in ("Success/Failure ratio: 2:1, not graduated yet", "Last updated: 20", f"{history / 'spec.md'}: 2:1, typically", "v1 ", "Failed in 1 run", "first version",
                 "v2 ", "Success - 2 tasks in 2 runs", "time limit 60 s → 90 s", "failures: 1 criteria"):
        assert part in told, told


def test_stats_as_the_seed_s_block(run_cc, history):
    told = run_cc("--stats", history / "spec.md", "--markdown").stdout.splitlines()
    assert told[0] == "## 📊 EXECUTION METRICS & HISTORY" and told[1] == "- **Success/Failure Ratio**: 2:1" and told[3] == "- **Evolution History**:"
    assert told[2].startswith("- **Last Updated**: 20") and len(told[2]) == len("- **Last Updated**: 2025-07-01")
    cells = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in told[4:]]
    assert cells[0] == ["Version", "Change & Reason", "Result"] and all(set(cell) <= set(":-") for cell in cells[1])
    assert cells[2:] == [["v1", "first version", "Failed"], ["v2", "time limit 60 s → 90 s", "Success - 2 tasks"]]
    assert len({len(line) for line in told[4:]}) == 1
    every = run_cc("--stats", "--markdown").stdout
    assert "a\\|b.md v1" in every


def test_a_graduated_spec_says_so_as_the_seed_does(run_cc, tmp_path):
    store = cc.SqliteStore(str(tmp_path / "h.db"))
    store.add([cc.Entry(record(number, spec="x", version="1", id="")) for number in range(10)])
    told = run_cc("--stats", "--markdown", "--store", tmp_path / "h.db").stdout
    assert "- **Success/Failure Ratio**: 10:0 ✅ GRADUATED!\n" in told and "| Final " in told and "Graduated ✅" in told
    assert "10:0, GRADUATED" in run_cc("--stats", "--store", tmp_path / "h.db").stdout


def test_the_block_is_read_as_no_task(run_cc, history):
    """It is pasted into a spec, above its tasks."""
    block = run_cc("--stats", history / "spec.md", "--markdown").stdout
    spec = parse_spec(f"# Prompt\n\n{block}\n## Task 1: A\nCreate a.txt\nSuccess Criteria: a.txt exists\n")
    assert [task.prompt for task in spec.tasks] == ["Create a.txt"]


def test_of_a_spec_that_never_ran_it_says_what_is_known(run_cc, history):
    done = run_cc("--stats", "never.md", "--json")
    assert done.returncode == 0 and done.json()["successes"] == 0 and "nothing is stored of never.md" in done.stderr and "spec.md" in done.stderr


def test_a_spec_may_be_named_as_it_is_shown(run_cc, bridge, stand_in):
    run_cc("-", input=SPEC, env=stand_in(WRITES).environment)
    name, = (row["spec"] for row in run_cc("--stats", "--json").json()["specs"])
    assert name.startswith("text ") and run_cc("--stats", name, "--json").json()["successes"] == 1


def test_records_of_the_first_version_knew_the_file_s_name_only(run_cc, tmp_path):
    cc.SqliteStore(str(tmp_path / "h.db")).add([cc.Entry(record(spec="spec.md"))])
    (tmp_path / "spec.md").write_text(SPEC)
    assert run_cc("--stats", tmp_path / "spec.md", "--json", "--store", tmp_path / "h.db").json()["successes"] == 1


def test_markdown_without_stats_is_a_usage_error(run_cc):
    done = run_cc("--markdown", "-", input=SPEC)
    assert done.returncode == 2 and "--stats" in done.stderr


@pytest.mark.parametrize("options", [(), ("--json",), ("--markdown",)])
def test_an_empty_history_is_no_error(run_cc, options):
    done = run_cc("--stats", *options)
    assert done.returncode == 0 and "0:0" in done.stdout
    assert json.loads(done.stdout)["versions"] == [] if "--json" in options else True


def test_the_reason_of_a_limit_is_told(run_cc, bridge, stand_in, tmp_path):
    cc.SqliteStore(str(tmp_path / "h.db")).add([cc.Entry(record(number, prompt=cc.normalise("Create a.txt"), duration=30.0, id="")) for number in range(14)])
    spec = SPEC.replace("Timeout: 60\n", "")
    for options in (("--json",), ()):
        done = run_cc("-", *options, "--store", tmp_path / "h.db", input=spec, env=stand_in(WRITES).environment)
        assert "s (p95 of 1" in done.stderr and "similar tasks)" in done.stderr, done.stderr
    plan = run_cc("-", "--dry-run", "--store", tmp_path / "h.db", input=spec).stdout
    assert "(from the history: p95 of 16 similar tasks)" in plan, plan
    fresh = run_cc("-", "--dry-run", "--store", tmp_path / "none.db", input=spec).stdout
    assert "(estimated: no similar task yet: by the task's size)" in fresh
