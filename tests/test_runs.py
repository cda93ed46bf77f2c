"""Runs: their folders, which of them are kept, and what is in the state; --replay."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

import cc_execute as cc
from cc_execute import AgentError, Attempt, Changes, Criterion, Denial, Launch, RunState, Span, TaskState, Veil, Verdict, freeze, parse_spec, thaw
from support import ROOT, heed_signals, unshare, wait_until

SPEC = "Task: Create a.txt\nTimeout: 60\nSuccess Criteria:\n1) creates a.txt\n2) Output contains hello\n"
WORKS = [{"bash": "echo hello"}, {"write": {"path": "a.txt", "content": "a\n"}}, {"text": "Done."}]


def runs() -> list:
    return sorted((Path(os.environ["XDG_STATE_HOME"]) / "cc_execute" / "runs").glob("*"))


# ---- The state: plain data and back. ----

VERDICT = Verdict(Criterion("a.txt exists", "file_exists", ("a.txt",), most=3), True, "proved", "a.txt exists", "short")
ATTEMPT = Attempt(2, "Create a.txt\n\nIMPORTANT: x", ("claude", "-p", "Create a.txt"), 60.0, None, 1.5, "s", None, 3, {"input_tokens": 1}, AgentError("timeout", "m", "h", 2.0),
                  "/x/t.jsonl", (VERDICT,), "text", unfinished=("make",), orphaned=True, began_at=1.5, waited=2.0, spans=(Span("Bash: make", 0.5, 1.0, True),))
STATE = RunState(1, "20261128T120000-0123abcd", "batch", "spec", "file", "/x", "/y", 1.5, options={"cwd": "/x", "tasks": [1]}, withheld=("store",), warnings=("w",), tasks=(
    TaskState(0, 1, "task-1", "ff", "passed", (ATTEMPT,), changes=Changes(("a",), folders=("b",)), differing={"a": [1, 2, 3, None], "b": None}, gone=("c",)),
    TaskState(1, 2, "task-2", "ee", launch=Launch(1, "label", 2.5, "Create b.txt", ("claude", "-p"), 60.0, judge_cost_usd=None))))


def test_a_state_comes_back_from_json_as_it_was():
    assert thaw(RunState, json.loads(json.dumps(freeze(STATE)))) == STATE


def test_fields_of_a_later_program_are_left_alone():
    plain = freeze(STATE)
    plain["tasks"][0]["novelty"] = plain["novelty"] = 1
    assert thaw(RunState, plain) == STATE


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)))
def test_rubbish_is_an_error_that_is_expected(plain):
    with pytest.raises((KeyError, TypeError, ValueError)):
        thaw(RunState, plain)


KEY = "sk-ant-api03-abcdefghijklmnop0123456789"


def test_a_secret_of_the_spec_is_put_back_and_another_one_is_gone():
    veil = Veil(parse_spec(f"Task: Use {KEY}\nRetry Strategy: take plain words 1\n"), {"MY_TOKEN": "plain words 1", "OTHER": "x"})
    kept = veil.hide(f"Use {KEY}. Take plain words 1. Found sk-ant-api03-zzzzzzzzzz and plain words 1.")
    assert KEY not in kept and "plain words 1" not in kept
    assert veil.show(kept) == f"Use {KEY}. Take plain words 1. Found sk-ant-*** and plain words 1."


def test_a_secret_beside_a_nul_is_hidden_too():
    """A NUL stands around what is hidden already."""
    veil = Veil(parse_spec("Task: x\n"), {})
    kept = veil.hide("Authorization: Bearer 0paque-secret\0 and Authorization: Bearer \0abcdef\0other-secret-1")
    assert "0paque-secret" not in kept and "other-secret-1" not in kept and "\0abcdef\0" in kept


@given(st.text(), st.text())
def test_what_is_no_secret_comes_back_as_it_was(first, second):
    veil = Veil(parse_spec("Task: x\n"), {"MY_TOKEN": "plain words 1"})
    assert veil.show(veil.hide(first + second)) == first + second or "\0" in first + second


def test_a_denial_stays_one(tmp_path):
    kept = TaskState(0, 1, "task-1", "ff:ee", attempts=(ATTEMPT._replace(error=Denial("permission", "m")),), denied=True)
    (tmp_path / "run-state.json").write_text(json.dumps(freeze(STATE._replace(tasks=()))))
    (tmp_path / "task-1-state.json").write_text(json.dumps(freeze(kept)))
    assert type(cc.read_state(str(tmp_path)).tasks[0].attempts[0].error) is Denial


def test_what_is_kept_is_for_the_user_alone(run_cc, stand_in, bridge):
    run_cc("-", input=SPEC, env=stand_in(WORKS).environment, prefix=["sh", "-c", 'umask 0; exec "$@"', "sh"])
    folder, = runs()
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {path.name: "0o600" for path in folder.iterdir()}
    assert {path.name for path in folder.iterdir()} == {"run-lock", "run-state.json", "task-1-state.json", "result.json", "task-1-before.json", "task-1-attempt-1.jsonl"}


def test_what_else_is_in_the_output_folder_is_left_alone(run_cc, stand_in, bridge, tmp_path):
    names = ["terraform-state.json", "movie.mp4.part", "x-before.json", "my.place", "lock", "state.json", "redux-state.json", "task-1-notes.md"]
    (tmp_path / "out").mkdir()
    for name in names:
        (tmp_path / "out" / name).write_text("precious")
    refused = {"api_error": {"text": "Invalid API key · Fix external API key", "status": 401, "error": "authentication_failed"}}
    agent = stand_in([refused], WORKS)
    assert run_cc("-", "--output", tmp_path / "out", input=SPEC, env=agent.environment).returncode == 3
    assert run_cc("-", "--output", tmp_path / "out", "--resume", input=SPEC, env=agent.environment).returncode == 0
    assert {name: (tmp_path / "out" / name).read_text() for name in names} == dict.fromkeys(names, "precious")


@pytest.mark.parametrize("options", [{"retries": 2.0}, {"strict": 1}, {"tasks": ["1"]}, {"cwd": 5}, {"timeout": "45"}])
def test_an_option_of_another_type_is_a_usage_error(options):
    with pytest.raises(cc.UsageError, match="wrong type"):
        cc.run_spec("Task: x\n", **options)


def test_a_link_in_the_output_folder_is_not_followed(run_cc, stand_in, bridge, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "victim").write_text("precious")
    for name in ("run-lock", "task-1-attempt-1.jsonl"):
        (tmp_path / "out" / name).symlink_to(tmp_path / "victim")
        done = run_cc("-", "--json", "--output", tmp_path / "out", input=SPEC, env=stand_in(WORKS).environment)
        assert done.returncode in (1, 3) and (tmp_path / "victim").read_text() == "precious" and "Traceback" not in done.stderr
        (tmp_path / "out" / name).unlink()


def test_many_threads_may_be_the_first_to_run_something(stand_in, bridge, tmp_path):
    run = "import sys, threading; sys.path.insert(0, sys.argv[1]); import cc_execute as cc; ends = []\n" \
          "threads = [threading.Thread(target=lambda: ends.append(cc.run_spec('Task: Create it\\n')['success'])) for _ in range(6)]\n" \
          "[thread.start() for thread in threads]; [thread.join() for thread in threads]; print(ends)"
    done = subprocess.run([sys.executable, "-c", run, str(ROOT)], cwd=tmp_path, env={**os.environ, **stand_in([{"text": "done"}]).environment}, capture_output=True,
                          text=True, check=False)
    assert done.stdout.strip() == str([True] * 6), done.stderr


@pytest.mark.parametrize("options, says", [
    (("--dry-run", "--resume"), "--dry-run was given with --resume"), (("--stats", "--replay", "x"), "--stats was given with --replay"),
    (("--replay", "x", "--resume-from", "y"), "--replay was given with --resume"), (("--stats", "--markdown", "--json"), "--markdown was given with --json"),
    (("--resume-from", "x", "--output", "y"), "--resume-from was given with --output")])
def test_what_cannot_be_meant_together_is_refused(run_cc, options, says):
    done = run_cc("-", *options, input=SPEC)
    assert done.returncode == 2 and says in done.stderr, done.stderr


def test_what_several_specs_have_come_to_is_not_lost_by_one_that_cannot_be_begun(run_cc, stand_in, bridge, workspace, tmp_path):
    for name in ("one.md", "two.md", "three.md"):
        (workspace / name).write_text(SPEC)
    (tmp_path / "out" / "2-two" / "run-lock").mkdir(parents=True)
    done = run_cc("one.md", "two.md", "three.md", "--json", "--output", tmp_path / "out", env=stand_in(WORKS).environment)
    good, unbegun, later = done.json()["specs"]
    assert done.returncode == 3 and (good["success"], unbegun["success"], later["success"], done.json()["success"]) == (True, False, False, False)
    assert set(good) == set(unbegun) and unbegun["tasks"][0]["status"] == later["tasks"][0]["status"] == "skipped"
    assert "2-two" in unbegun["warnings"][0] and "two.md ended with exit status 3" in later["warnings"][0]
    assert "two.md" in done.stderr and "2-two" in done.stderr


def test_only_one_run_can_be_gone_on_with_by_its_folder(run_cc, stand_in, bridge, tmp_path):
    for name in ("a", "b"):
        run_cc("-", "--output", tmp_path / name, input=SPEC, env=stand_in(WORKS).environment)
    done = run_cc("--resume", tmp_path / "a", tmp_path / "b")
    assert done.returncode == 2 and f"{tmp_path / 'a'}, {tmp_path / 'b'}; expected one" in done.stderr


def test_an_option_that_there_is_not_is_named():
    with pytest.raises(cc.UsageError, match="timout.*timeout"):
        cc.run_spec("Task: x\n", timout=3)


def test_an_output_folder_that_cannot_be_written_to_is_told_before_anything_runs(run_cc, stand_in, bridge, tmp_path):
    (tmp_path / "out").mkdir()
    agent = stand_in(WORKS)
    prefix = [*unshare("--mount"), "sh", "-c", f'mount --bind -o ro {tmp_path}/out {tmp_path}/out && exec "$@"', "sh"]
    done = run_cc("-", "--json", "--output", tmp_path / "out", input=SPEC, env=agent.environment, prefix=prefix)
    assert done.returncode == 3 and "--output" in done.stderr and "Read-only" in done.stderr and agent.starts() == []


def test_a_spec_of_many_tasks_writes_as_much_for_the_last_step_as_for_the_first(run_cc, stand_in, bridge, workspace):
    """Each step's state is a file of its own, so that the work does not grow with the square of the tasks."""
    tasks = "".join(f"## Task {number}: x\nCreate it\n\n" for number in range(1, 31))
    (workspace / "many.md").write_text(tasks)
    assert run_cc("many.md", env=stand_in([{"text": "done"}]).environment).returncode == 0
    sizes = [(runs()[0] / f"task-{number}-state.json").stat().st_size for number in range(1, 31)]
    assert max(sizes) < 1.2 * min(sizes) and (runs()[0] / "run-state.json").stat().st_size < 2 * 30 * 100


def test_a_state_that_cannot_be_written_costs_a_warning_and_not_the_task(run_cc, stand_in, bridge, tmp_path):
    (tmp_path / "out" / "run-state.json").mkdir(parents=True)
    (tmp_path / "out" / "run-state.json" / "x").touch()
    done = run_cc("-", "--json", "--output", tmp_path / "out", input=SPEC, env=stand_in(WORKS).environment)
    told, = [warning for warning in done.json()["warnings"] if "--resume" in warning]
    assert done.returncode == 0 and str(tmp_path / "out" / "run-state.json") in told


# ---- Which runs are kept. ----

def run_times(run_cc, stand_in, count: int, *options: object, spec: str = "spec.md") -> None:
    for number in range(count):
        agent = stand_in([*WORKS, {"bash": "date +%N >a.txt"}])   # "creates" wants another content each time
        assert run_cc(spec, *options, env=agent.environment).returncode == 0


def test_of_a_spec_s_runs_the_newest_are_kept(run_cc, stand_in, bridge, workspace):
    for name in ("spec.md", "other.md"):
        (workspace / name).write_text(SPEC)
    run_times(run_cc, stand_in, 3)
    run_times(run_cc, stand_in, 1, spec="other.md")
    before = runs()
    run_times(run_cc, stand_in, 1, "--keep", 2)
    left = runs()
    assert len(left) == 3 and before[3] in left and before[2] in left and before[0] not in left and before[1] not in left


def test_twenty_are_kept_by_themselves(run_cc, stand_in, bridge, workspace):
    (workspace / "spec.md").write_text(SPEC)
    suffix = cc.run_suffix(os.path.realpath(workspace / "spec.md"))
    folder = Path(os.environ["XDG_STATE_HOME"]) / "cc_execute" / "runs"
    for number in range(30):
        (folder / f"20250101T000000-{number:09d}{suffix}").mkdir(parents=True)
        (folder / f"20250101T000000-{number:09d}{suffix}" / "task-1-attempt-1.jsonl").write_text("{}\n")
    (folder / "not ours").mkdir()
    run_times(run_cc, stand_in, 1)
    names = [path.name for path in runs()]
    assert len(names) == 21 and "not ours" in names and f"20250101T000000-{29:09d}{suffix}" in names and f"20250101T000000-{10:09d}{suffix}" not in names


def test_a_run_that_is_still_going_on_is_not_removed(run_cc, stand_in, bridge, workspace):
    (workspace / "spec.md").write_text(SPEC)
    agent = stand_in([{"text": "begun"}, {"bash": "until [ -e go ]; do sleep 0.05; done"}, *WORKS])
    first = subprocess.Popen([sys.executable, str(ROOT / "cc_execute.py"), "spec.md"], cwd=workspace, env={**os.environ, **agent.environment}, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, preexec_fn=heed_signals)
    wait_until(lambda: any("begun" in path.read_text() for path in Path(os.environ["XDG_STATE_HOME"]).rglob("*.jsonl")), "the first one runs")
    run_times(run_cc, stand_in, 2, "--keep", 1)
    (workspace / "go").touch()
    assert first.wait() == 0 and len(runs()) == 2 and (runs()[0] / "result.json").exists()


def test_what_is_named_with_output_is_nobody_s_to_remove(run_cc, stand_in, bridge, workspace, tmp_path):
    (workspace / "spec.md").write_text(SPEC)
    for number in range(3):
        run_times(run_cc, stand_in, 1, "--keep", 1, "--output", tmp_path / f"out-{number}")
    assert len(list(tmp_path.glob("out-*/result.json"))) == 3


def test_a_link_among_the_runs_is_not_followed(run_cc, stand_in, bridge, workspace, tmp_path):
    (workspace / "spec.md").write_text(SPEC)
    suffix = cc.run_suffix(os.path.realpath(workspace / "spec.md"))
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    folder = Path(os.environ["XDG_STATE_HOME"]) / "cc_execute" / "runs"
    folder.mkdir(parents=True)
    (folder / f"20250101T000000-000000000{suffix}").symlink_to(tmp_path / "precious")
    run_times(run_cc, stand_in, 2, "--keep", 1)
    assert (tmp_path / "precious" / "file").exists()


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5"])
def test_keep_wants_a_whole_number_above_0(run_cc, value):
    done = run_cc("-", "--keep", value, input=SPEC)
    assert done.returncode == 2 and value in done.stderr and "whole number above 0" in done.stderr


# ---- --replay: a kept transcript judged again. ----

@pytest.fixture
def kept(run_cc, stand_in, bridge, workspace):
    """The transcript of a run whose criteria were met, with its spec in the workspace."""
    (workspace / "spec.md").write_text(SPEC)
    assert run_cc("spec.md", env=stand_in(WORKS).environment).returncode == 0
    return runs()[0] / "task-1-attempt-1.jsonl"


def test_a_replay_judges_without_running_anything(run_cc, kept, workspace, bridge):
    before = {path: path.read_bytes() for path in [*kept.parent.iterdir(), *workspace.iterdir()] if path.is_file()}
    stats = run_cc("--stats", "--json").json()["successes"]
    done = run_cc("--replay", kept, "spec.md", "--json", env={"CC_EXECUTE_BRIDGE": "ws://127.0.0.1:1", "CC_EXECUTE_CLAUDE": "/no/such/claude"})
    document = done.json()
    attempt, = document["tasks"][0]["attempts"]
    assert done.returncode == 0 and document["success"] and document["confidence"] == "proved"
    assert [(row["met"], row["confidence"]) for row in attempt["criteria"]] == [(True, "proved")] * 2 and "created by this run" in attempt["criteria"][0]["evidence"]
    assert attempt["transcript"] == str(kept) and attempt["prompt"] == "Create a.txt" and "Create a.txt" in attempt["command"]
    assert {path: path.read_bytes() for path in before} == before and run_cc("--stats", "--json").json()["successes"] == stats


def test_a_criterion_that_was_wrong_can_be_tried(run_cc, kept, workspace):
    (workspace / "spec.md").write_text(SPEC.replace("hello", "goodbye"))
    done = run_cc("--replay", kept, "spec.md")
    assert done.returncode == 1 and "NOT MET  Output contains goodbye" in done.stdout and "not passed: 1 of 2 criteria met" in done.stdout


def test_it_is_judged_by_the_files_as_they_are_now(run_cc, kept, workspace):
    (workspace / "a.txt").unlink()
    done = run_cc("--replay", kept, "spec.md", "--json")
    assert done.returncode == 1 and [row["met"] for row in done.json()["tasks"][0]["attempts"][0]["criteria"]] == [False, True]


@pytest.mark.parametrize("words", ["creates r.txt", "updates r.txt", "r.txt was updated", "creates new.txt", "Only r.txt was changed"])
def test_what_was_changed_by_hand_after_the_run_is_not_counted_as_the_run_s(run_cc, stand_in, bridge, workspace, words):
    (workspace / "r.txt").write_text("old\n")
    (workspace / "spec.md").write_text(f"Task: Write r.txt\nTimeout: 60\nSuccess Criteria:\n1) {words}\n")
    assert run_cc("spec.md", env=stand_in([{"text": "Done."}]).environment).returncode == 1
    for name in ("r.txt", "new.txt"):
        (workspace / name).write_text("by hand\n")
    done = run_cc("--replay", runs()[0] / "task-1-attempt-1.jsonl", "spec.md", "--json")
    row, = done.json()["tasks"][0]["attempts"][0]["criteria"]
    assert done.returncode == 1 and not row["met"] and ("after this run" in row["evidence"] or "was not touched" in row["evidence"]), row
    assert not any(done.json()["tasks"][0]["files_changed"].values())


def test_what_the_run_made_and_was_changed_by_hand_later_is_told(run_cc, kept, workspace):
    (workspace / "a.txt").write_text("by hand")
    (workspace / "spec.md").write_text(SPEC + "3) Contains hand\n4) spec.md is unchanged\n")
    rows = run_cc("--replay", kept, "spec.md", "--json").json()["tasks"][0]["attempts"][0]["criteria"]
    assert "created by this run, and changed after it" in rows[0]["evidence"]
    assert [row["confidence"] for row in rows[2:]] == ["proved", "weak"]


def test_whose_the_changes_are_is_not_proved_without_the_state_of_the_run(run_cc, kept, workspace):
    (kept.parent / "task-1-state.json").unlink()
    row = run_cc("--replay", kept, "spec.md", "--json").json()["tasks"][0]["attempts"][0]["criteria"][0]
    assert (row["met"], row["confidence"]) == (True, "weak")


def test_commands_are_shown_as_not_run(run_cc, kept, workspace):
    (workspace / "spec.md").write_text(SPEC + "3) `touch ran`\n")
    done = run_cc("--replay", kept, "spec.md")
    assert done.returncode == 1 and "not run  `touch ran`" in done.stdout and "2 of 3 criteria met, 1 not run" in done.stdout and not (workspace / "ran").exists()
    criterion = run_cc("--replay", kept, "spec.md", "--json").json()["tasks"][0]["attempts"][0]["criteria"][2]
    assert criterion == {"text": "`touch ran`", "kind": "command", "met": False, "confidence": "weak", "evidence": "not run: a replay runs nothing"}


def test_a_transcript_from_elsewhere_will_do(run_cc, kept, workspace, tmp_path):
    """As it comes with a bug report: nothing is known of what was there before."""
    shutil.copy(kept, tmp_path / "report.jsonl")
    done = run_cc("--replay", tmp_path / "report.jsonl", "spec.md", "--json")
    rows = done.json()["tasks"][0]["attempts"][0]["criteria"]
    assert done.returncode == 0 and [(row["met"], row["confidence"]) for row in rows] == [(True, "weak"), (True, "proved")]


def test_it_is_judged_where_the_run_worked_unless_told_otherwise(run_cc, kept, workspace, tmp_path):
    done = run_cc("--replay", kept, workspace / "spec.md", cwd=tmp_path)
    assert done.returncode == 0 and f"  in {workspace}\n" in done.stdout
    elsewhere = run_cc("--replay", kept, workspace / "spec.md", "--cwd", tmp_path)
    assert elsewhere.returncode == 1 and f"  in {tmp_path}\n" in elsewhere.stdout


def test_a_transcript_of_another_task_is_warned_of(run_cc, kept, workspace):
    (workspace / "other.md").write_text(SPEC.replace("Create a.txt", "Write another a.txt"))
    done = run_cc("--replay", kept, "other.md", "--json")
    assert "another task" in done.json()["warnings"][0] and "Create a.txt" in done.stderr


def test_which_task_it_is_of_is_told_or_asked_for(run_cc, stand_in, bridge, workspace, tmp_path):
    (workspace / "list.md").write_text("## Task 3: a\nCreate a.txt\nSuccess Criteria: a.txt exists\n\n## Task 7: b\nCreate b.txt\nSuccess Criteria: b.txt exists\n")
    assert run_cc("list.md", env=stand_in([{"write": {"path": "a.txt", "content": "a"}}], [{"write": {"path": "b.txt", "content": "b"}}]).environment).returncode == 0
    transcript = runs()[0] / "task-7-attempt-1.jsonl"
    assert run_cc("--replay", transcript, "list.md", "--json").json()["tasks"][0]["number"] == 7
    shutil.copy(transcript, tmp_path / "t.jsonl")
    refused = run_cc("--replay", tmp_path / "t.jsonl", "list.md")
    assert refused.returncode == 2 and "--task N with one of 3, 7" in refused.stderr
    assert run_cc("--replay", tmp_path / "t.jsonl", "list.md", "--task", "7", "--json").json()["tasks"][0]["number"] == 7


ENDINGS = [
    ({"api_error": {"text": "Invalid API key · Fix external API key", "status": 401, "error": "authentication_failed"}}, "authentication", 3),
    ({"api_error": {"text": "API Error: 529 Overloaded.", "status": 529, "error": "overloaded"}}, "overloaded", 4),
    ({"result": {"subtype": "error_max_turns", "errors": ["Reached maximum number of turns (1)"]}}, "max_turns", 1), ({"exit": 1}, "interrupted", 1)]


@pytest.mark.parametrize("step, kind, status", ENDINGS, ids=[kind for _, kind, _ in ENDINGS])
def test_an_ending_is_classified_again(run_cc, stand_in, bridge, workspace, step, kind, status):
    (workspace / "spec.md").write_text(SPEC)
    run_cc("spec.md", "--max-wait", "0", env=stand_in([*WORKS, step]).environment)
    done = run_cc("--replay", runs()[0] / "task-1-attempt-1.jsonl", "spec.md", "--json")
    attempt, = done.json()["tasks"][0]["attempts"]
    assert (done.returncode, attempt["error"]["kind"]) == (status, kind) and not done.json()["success"]


def test_what_was_done_to_the_process_is_taken_as_it_was_kept(run_cc, stand_in, bridge, workspace):
    (workspace / "spec.md").write_text(SPEC.replace("60", "1"))
    run_cc("spec.md", env=stand_in([*WORKS, {"sleep": 60}]).environment)
    done = run_cc("--replay", runs()[0] / "task-1-attempt-1.jsonl", "spec.md", "--json")
    assert (done.returncode, done.json()["tasks"][0]["status"]) == (1, "timeout")


def test_what_an_attempt_went_on_with_counts(run_cc, stand_in, bridge, workspace):
    (workspace / "spec.md").write_text(SPEC)
    limited = {"api_error": {"text": "API Error: Request rejected (429) · retry after 0.1", "status": 429, "error": "rate_limit"}}
    assert run_cc("spec.md", env=stand_in([WORKS[0], limited], WORKS[1:]).environment).returncode == 0
    assert run_cc("--replay", runs()[0] / "task-1-attempt-2.jsonl", "spec.md").returncode == 0


@pytest.mark.parametrize("content, says", [(None, "No such file"), ("", "no line of stream-json"), ("just text\n{\"a\": 1}\n", "no line of stream-json")])
def test_what_is_no_transcript_is_a_usage_error(run_cc, workspace, content, says):
    (workspace / "spec.md").write_text(SPEC)
    if content is not None:
        (workspace / "t.jsonl").write_text(content)
    done = run_cc("--replay", "t.jsonl", "spec.md", "--json")
    assert done.returncode == 2 and says in done.stderr and done.json()["error"]["expected"].startswith("a transcript")


def test_one_transcript_is_of_one_spec(run_cc, kept, workspace):
    (workspace / "other.md").write_text(SPEC)
    done = run_cc("--replay", kept, "spec.md", "other.md")
    assert done.returncode == 2 and "2 specs" in done.stderr


# ---- Tool calls in time. ----

def called(spans: cc.Spans, number: int, began: float, ended: float, failed: bool = False) -> None:
    spans.begin(str(number), cc.ToolCall("Bash", {"command": f"step {number}"}), began)
    spans.end(str(number), failed, ended)


def test_of_very_many_calls_the_times_of_the_longest_are_kept_in_their_order(monkeypatch):
    monkeypatch.setattr(cc, "MOST_SPANS", 5)
    spans = cc.Spans()
    for number in range(100):
        called(spans, number, number, number + (0.9 if number % 20 == 7 else 0.1))
    assert [span.what for span in spans.close(100)] == [f"Bash: step {number}" for number in (7, 27, 47, 67, 87)]


def test_a_call_without_an_end_was_cut_off_and_none_goes_beyond_its_attempt():
    spans = cc.Spans()
    called(spans, 1, 0.5, 1.0)
    called(spans, 2, 1.5, 2.2, failed=True)
    spans.begin("3", cc.ToolCall("Write", {"file_path": "/x/a.txt"}), 1.9)
    spans.end("never begun", False, 2.0)
    assert spans.close(2.0) == (Span("Bash: step 1", 0.5, 1.0), Span("Bash: step 2", 1.5, 2.0, True), Span("Write a.txt", 1.9, 2.0, True))
