"""Jobs: many specs side by side on one machine; folders and patterns; one gate for limits; Ctrl-C; two runs in one folder."""
from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import cc_execute as cc
from bridging import lives, start_bridge
from support import ROOT, heed_signals, marked_processes, own_mark, wait_until

pytestmark = pytest.mark.usefixtures("bridge")

SPEC = "Task: Create a.txt\nTimeout: 60\nDirectory: {folder}\nSuccess Criteria:\n1) creates a.txt\n2) `cat a.txt` prints hello\n"
WORKS = [{"write": {"path": "a.txt", "content": "hello\n"}}, {"text": "Done."}]
LIMITED = [{"api_error": {"text": "API Error: Request rejected (429) · retry after 3 s", "status": 429, "error": "rate_limit"}}]


def write_specs(workspace: Path, count: int, text: str = SPEC) -> list:
    """Specs of one task, each in a folder of its own."""
    names = [f"spec{number:02}.md" for number in range(count)]
    for name in names:
        (workspace / name[:-3]).mkdir()
        (workspace / name).write_text(text.format(folder=name[:-3]))
    return names


def agents() -> list:
    return [process for process in marked_processes(own_mark()) if "stand_in.py" in process.command]


def like_anybody() -> list:
    """The words before a command that a file's mode is to hold for, also where root runs the tests."""
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"] if os.geteuid() == 0 else []


# ---- Which specs. ----

@pytest.mark.parametrize("named", [["specs"], ["specs/*.md"], ["spec*/**/*.md"], ["specs/b.md", "specs", "specs/a.md"]], ids=" ".join)
def test_folders_and_patterns_name_specs(run_cc, stand_in, workspace, named):
    (workspace / "specs").mkdir()
    for name in ("b.md", "a.md", "c.py"):
        (workspace / "specs" / name).write_text("Task: Say hello\nSuccess Criteria: 1) response mentions hello\n")
    documents = run_cc(*named, "--json", env=stand_in([{"text": "Hello"}]).environment).json()["specs"]
    assert [document["spec"] for document in documents] == (["specs/b.md", "specs/a.md"] if len(named) > 1 else ["specs/a.md", "specs/b.md"])


def test_what_else_lies_in_a_folder_is_no_task(run_cc, stand_in, workspace):
    (workspace / "specs").mkdir()
    (workspace / "specs" / "a.md").write_text("Task: Say hello\nSuccess Criteria: 1) response mentions hello\n")
    (workspace / "specs" / "README.md").write_text("# Specs\nDelete old ones when they are done.\n")
    done = run_cc("specs", "--json", env=stand_in([{"text": "Hello"}]).environment)
    assert done.json()["spec"] == "specs/a.md" and "specs/README.md is left out: it has no success criteria" in done.stderr


@pytest.mark.parametrize("named", ["specs", "specs/*.md"])
def test_a_link_that_leads_nowhere_is_not_passed_over(run_cc, workspace, named):
    (workspace / "specs").mkdir()
    (workspace / "specs" / "a.md").write_text("Task: Say hello\nSuccess Criteria: 1) response mentions hello\n")
    (workspace / "specs" / "b.md").symlink_to("moved.md")
    (workspace / "specs" / ".#a.md").symlink_to("ada@box.1234:5678")   # Emacs' lock
    done = run_cc(named, "--json")
    assert done.returncode == 2 and done.json()["error"]["file"] == "specs/b.md" and "No such file" in done.stderr


@pytest.mark.parametrize("locked, told", [("specs/b.md", "specs/b.md: Permission denied; expected a file"), ("specs", "the folder 'specs' cannot be read: Permission denied")])
def test_what_may_not_be_read_in_a_folder_is_bad_usage(run_cc, workspace, locked, told):
    (workspace / "specs").mkdir()
    for name in "ab":
        (workspace / "specs" / f"{name}.md").write_text("Task: Say hello\nSuccess Criteria: 1) response mentions hello\n")
    (workspace / locked).chmod(0)
    try:
        done = run_cc("specs", "--json", prefix=like_anybody())
    finally:
        (workspace / locked).chmod(0o700)
    assert done.returncode == 2 and told in done.stderr and set(done.json()["error"]) == {"file", "line", "found", "expected"}, done.stderr


def test_an_interruption_between_two_specs_is_no_success(stand_in, workspace, tmp_path):
    """As when Ctrl-C comes while a summary is printed."""
    names = write_specs(workspace, 2)
    code = ("import cc_execute as cc, os, sys\nended = cc.Terminal.run_ended\n"
            "def end(self, outcome):\n    ended(self, outcome)\n    os.kill(os.getpid(), 2)\ncc.Terminal.run_ended = end\nsys.exit(cc.main(sys.argv[1:]))")
    done = subprocess.run([sys.executable, "-c", code, *names, "--junit", str(tmp_path / "ci.xml")], cwd=workspace, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT), **stand_in(WORKS).environment}, preexec_fn=heed_signals)
    assert done.returncode == 130 and 'errors="1"' in (tmp_path / "ci.xml").read_text(), done.stderr


@pytest.mark.parametrize("named", ["empty", "nothing*.md"])
def test_what_names_no_spec_is_an_error(run_cc, workspace, named):
    (workspace / "empty").mkdir()
    done = run_cc(named)
    assert done.returncode == 2 and repr(named) in done.stderr and "holds no spec; expected a file, a folder" in done.stderr


@pytest.mark.parametrize("number", ["0", "49", "many"])
def test_jobs_wants_a_number_that_a_bridge_can_serve(run_cc, number):
    done = run_cc("-", "--jobs", number, input="Task: x\n")
    assert done.returncode == 2 and f"found '{number}'; expected a whole number from 1 to 48" in done.stderr


# ---- Side by side. ----

def test_many_run_at_once_and_make_one_document_in_their_order(run_cc, stand_in, workspace):
    names = write_specs(workspace, 12)
    together = [{"bash": "touch here; for i in $(seq 600); do [ $(ls ../*/here 2>/dev/null | wc -l) -ge 12 ] && exit; sleep 0.05; done; exit 1"}, *WORKS]
    done = run_cc(*names, "--jobs", 12, "--json", env=stand_in(together).environment)
    document = done.json()
    assert done.returncode == 0 and document["success"], done.stderr
    assert [spec["spec"] for spec in document["specs"]] == names and len({spec["output_dir"] for spec in document["specs"]}) == 12
    assert all(spec["tasks"][0]["files_changed"]["created"] == ["a.txt", "here"] for spec in document["specs"])
    assert all(spec["warnings"] == [] for spec in document["specs"])


def test_no_more_than_n_run_at_once_and_tasks_stay_in_order(run_cc, stand_in, workspace):
    names = write_specs(workspace, 5, "## Task 1: A\nSay a\n\n## Task 2: B\nSay b\n\n## Task 3: C\nSay c\n")
    agent = stand_in([{"bash": "touch ../run-$$; ls .. | grep -c '^run-' >>../most; sleep 0.2; rm ../run-$$"}, {"text": "ok"}])
    done = run_cc(*[f"{workspace}/{name}" for name in names], "--jobs", 2, "--json", cwd=workspace / "spec00", env=agent.environment)
    assert done.returncode == 0 and max(map(int, (workspace / "most").read_text().split())) == 2
    prompts = [start["prompt"] for start in agent.starts()]
    assert len(prompts) == 15 and sorted(prompts) == ["Say a"] * 5 + ["Say b"] * 5 + ["Say c"] * 5
    for spec in done.json()["specs"]:
        assert [task["number"] for task in spec["tasks"]] == [1, 2, 3]


def test_what_is_said_of_a_task_stands_together_and_names_its_spec(run_cc, stand_in, workspace):
    names = write_specs(workspace, 6)
    done = run_cc(*names, "--jobs", 6, env=stand_in(WORKS).environment)
    blocks = re.findall(r"Task 1 of (spec\d\d\.md): .*\n  in .*\n  met .*\n.*proved.*\n  met .*\n.*proved.*\n  passed \(2 proved\)", done.stdout)
    assert sorted(blocks) == names and done.stdout.rstrip().endswith("6 of 6 specs passed"), done.stdout
    assert len(re.findall(r"^  [1-6]  spec0\d\.md +passed +1 of 1", done.stdout, re.M)) == 6


def test_the_worst_exit_status_counts_and_what_is_not_begun_is_told(run_cc, stand_in, workspace):
    names = write_specs(workspace, 4)
    refused = [{"api_error": {"text": "Invalid API key · Please run /login", "status": 401, "error": "authentication_failed"}}]
    done = run_cc(*names, "--jobs", 2, "--json", env=stand_in(refused).environment)
    statuses = [spec["tasks"][0]["status"] for spec in done.json()["specs"]]
    assert done.returncode == 3 and statuses[0] == "error" and statuses[3] == "skipped" and "spec03.md: it was not begun" in done.stderr


@pytest.mark.parametrize("jobs", [1, 4])
@pytest.mark.parametrize("error, status, told", [
    ("OSError(24, 'Too many open files')", 3, "it was broken off: Too many open files; mend that, then give the same command with --resume"),
    ("ZeroDivisionError('float division by zero')", 1, "a fault of cc_execute.py's own broke it off: ZeroDivisionError: float division by zero")])
def test_what_ends_one_unforeseen_loses_nothing_of_the_others(stand_in, workspace, tmp_path, jobs, error, status, told):
    """They were paid for. What the system refuses ends the list, since the next would meet it too."""
    names = write_specs(workspace, 4)
    code = ("import cc_execute as cc, os, sys, time\nrun = cc.run_watched\ndef fail(context, leave):\n    if context.spec.file != 'spec01.md':\n        return run(context, leave)\n"
            "    while len([name for name in os.listdir('.') if os.path.exists(name + '/a.txt')]) < int(sys.argv[2]) - 1:\n        time.sleep(0.05)\n"
            f"    raise {error}\ncc.run_watched = fail\nsys.exit(cc.main(sys.argv[1:]))")
    done = subprocess.run([sys.executable, "-c", code, "--jobs", str(jobs), *names, "--json", "--junit", str(tmp_path / "ci.xml")], cwd=workspace,
                          capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT), **stand_in(WORKS).environment})
    documents = json.loads(done.stdout)["specs"]
    assert done.returncode == status and [document["spec"] for document in documents] == names, done.stderr
    assert documents[1]["warnings"] == [told] and told in done.stderr and 'name="spec01.md"' in (tmp_path / "ci.xml").read_text()
    passed = [document["success"] for document in documents]
    assert passed == ([True, False, True, True] if jobs == 4 or status == 1 else [True, False, False, False])


def test_ctrl_c_ends_all_of_them(stand_in, workspace):
    names = write_specs(workspace, 6)
    agent = stand_in([{"bash": "touch here; sleep 600"}])
    process = subprocess.Popen([sys.executable, ROOT / "cc_execute.py", *names, "--jobs", "4", "--json"], cwd=workspace, env={**os.environ, **agent.environment},
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_signals)
    wait_until(lambda: len(list(workspace.glob("*/here"))) == 4, "four agents at work")
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    statuses = [spec["tasks"][0]["status"] for spec in json.loads(stdout)["specs"]]
    assert process.returncode == 130 and statuses == ["cancelled"] * 4 + ["skipped"] * 2, stderr
    assert agents() == [] and "Traceback" not in stderr


def test_each_line_of_progress_names_its_spec_where_the_document_has_stdout(run_cc, stand_in, workspace):
    names = write_specs(workspace, 2)
    done = run_cc(*names, "--json", env=stand_in(WORKS).environment)
    assert done.returncode == 0 and all(any(name in line for name in names) for line in done.stderr.splitlines()), done.stderr


def test_a_spec_that_is_new_before_the_others_has_none_of_them_done_anew(run_cc, stand_in, workspace, tmp_path):
    """Within --output they are numbered."""
    names, agent = write_specs(workspace, 2), stand_in(WORKS)
    (workspace / "specs").mkdir()
    for name in names:
        os.rename(workspace / name, workspace / "specs" / name)
    given = ("specs", "--jobs", 2, "--json", "--output", tmp_path / "out", "--resume-if-any")
    assert run_cc(*given, env=agent.environment).returncode == 0
    (workspace / "specs" / "0.md").write_text("Task: Say so\nSuccess Criteria: response mentions Done\n")
    done = run_cc(*given, env=agent.environment)
    assert done.returncode == 0 and len(done.json()["specs"]) == 3 and len(agent.starts()) == 3, done.stderr


# ---- One gate: a limit that one meets is waited for by all. ----

def test_a_limit_that_one_meets_is_waited_for_by_all(run_cc, stand_in, workspace):
    names = write_specs(workspace, 6)
    agent = stand_in(LIMITED, WORKS)
    done = run_cc(*names, "--jobs", 2, "--json", env=agent.environment)
    document = done.json()
    assert done.returncode == 0, done.stderr
    attempts = [len(spec["tasks"][0]["attempts"]) for spec in document["specs"]]
    assert sum(attempts) == len(agent.starts()) <= 8   # the first, and perhaps the one beside it, met it; the others waited


def test_after_the_wait_one_goes_first(run_cc, stand_in, workspace):
    names = write_specs(workspace, 8)
    agent = stand_in(LIMITED, LIMITED, WORKS)
    done = run_cc(*names, "--jobs", 8, "--json", env=agent.environment)
    starts = len(agent.starts())
    assert done.returncode == 0 and starts <= 8 + 8 + 1, starts


def test_a_limit_that_is_too_long_for_one_ends_those_that_have_to_wait_for_it(run_cc, stand_in, workspace):
    names = write_specs(workspace, 3)
    long = [{"api_error": {"text": "API Error: Request rejected (429) · retry after 5000 s", "status": 429, "error": "rate_limit"}}]
    done = run_cc(*names, "--jobs", 1, "--json", "--max-wait", 2, env=stand_in(long).environment)
    assert done.returncode == 4 and [spec["tasks"][0]["status"] for spec in done.json()["specs"]] == ["error", "skipped", "skipped"]


def test_a_limit_that_never_passes_is_tried_by_one_for_all(run_cc, stand_in, workspace):
    """Six starts of one agent, with ever longer pauses, and one of each of the others: not six of each."""
    names = write_specs(workspace, 5)
    agent = stand_in(LIMITED)
    done = run_cc(*names, "--jobs", 4, "--json", env=agent.environment)
    tasks = [spec["tasks"][0] for spec in done.json()["specs"]]
    assert done.returncode == 4 and len(agent.starts()) <= 4 + 5, len(agent.starts())
    assert max(len(task["attempts"]) for task in tasks) == 6
    assert done.stderr.count("5 times in a row, and is still there") == 1 and done.stderr.count("5 times in a row by another run") == 3


OPEN = cc.Turn()


def test_the_gate():
    gate, first, second = cc.Gate(), object(), object()
    assert gate.ask(first) == OPEN
    gate.shut(0.1, "rate_limit")
    turn = gate.ask(first)
    assert 0 < turn.seconds <= 0.1 and turn.kind == "rate_limit" and not turn.behind
    gate.open(first)                  # an answer to what was asked before says nothing of it
    assert gate.ask(second).kind
    wait_until(lambda: gate.ask(first) == OPEN, "the time is over")
    assert gate.ask(first) == OPEN and gate.ask(second) == cc.Turn("rate_limit", behind=True)
    gate.leave(first)
    assert gate.ask(second) == OPEN and gate.ask(first).behind
    gate.shut(0.0, "rate_limit", second)
    assert gate.ask(first).behind and gate.ask(second) == OPEN
    gate.open(second)
    assert gate.ask(first) == gate.ask(second) == OPEN
    gate.give_up("overloaded")
    assert gate.ask(first) == gate.ask(second) == cc.Turn("overloaded", hopeless=True)


def test_what_is_met_while_one_goes_first_stands():
    gate, first, second = cc.Gate(), object(), object()
    gate.shut(0.0, "rate_limit")
    assert gate.ask(first) == OPEN
    gate.shut(30, "usage_limit")
    gate.open(first)
    assert gate.ask(second).kind == "usage_limit" and gate.ask(second).seconds > 20


def test_a_machine_that_slept_meanwhile_does_not_wait_again(monkeypatch):
    gate, now = cc.Gate(), time.time()
    gate.shut(600, "usage_limit")
    monkeypatch.setattr(cc.time, "time", lambda: now + 601)
    assert gate.ask(object()) == OPEN


def test_to_wait_for_who_goes_first_costs_no_patience(run_cc, stand_in, workspace):
    """It thinks for longer than --max-wait allows to wait for limits."""
    names = write_specs(workspace, 2)
    slow = stand_in(LIMITED, LIMITED, [{"sleep": 6}, *WORKS])
    done = run_cc(*names, "--jobs", 2, "--json", "--max-wait", 5, env=slow.environment)
    assert done.returncode == 0, done.stderr


# ---- Two runs in one folder. ----

def test_two_runs_in_one_folder_are_warned_of(run_cc, stand_in, workspace):
    for name in ("one.md", "two.md"):
        (workspace / name).write_text("Task: Say hello\n")
    agent = stand_in([{"bash": "touch ../here-$$; while [ $(ls .. | grep -c here-) -lt 2 ]; do sleep 0.05; done"}, {"text": "ok"}])
    warnings = [" ".join(spec["warnings"]) for spec in run_cc("one.md", "two.md", "--jobs", 2, "--json", env=agent.environment).json()["specs"]]
    told = [re.findall(r"another run (works in|has worked in) \S+ (?:too|meanwhile) \(process \d+, \w+\.md, run", warning) for warning in warnings]
    assert sorted(told) == [["has worked in"], ["works in"]] and all("git worktree" in warning for warning in warnings)


def test_two_runs_in_two_processes_are_warned_of_too(run_cc, stand_in, workspace, tmp_path):
    (workspace / "spec.md").write_text("Task: Say hello\n")
    agent = stand_in([{"bash": "touch here; while [ ! -e go ]; do sleep 0.05; done"}, {"text": "ok"}])
    with ThreadPoolExecutor() as pool:
        first = pool.submit(run_cc, "spec.md", "--json", env=agent.environment)
        wait_until(lambda: (workspace / "here").exists(), "the first is at work")
        second = pool.submit(run_cc, "spec.md", "--json", env=agent.environment)
        wait_until(lambda: len(agents()) == 2, "the second too")
        (workspace / "go").touch()
    assert "another run has worked in" in " ".join(first.result().json()["warnings"])
    assert "another run works in" in " ".join(second.result().json()["warnings"])
    assert "another run" not in " ".join(run_cc("spec.md", "--json", env=agent.environment).json()["warnings"])


# ---- As a module, from threads. ----

def test_the_umask_of_the_moment_is_not_taken_for_the_process_s():
    before = os.umask(0o022)
    try:
        with ThreadPoolExecutor(16) as pool:
            assert set(pool.map(lambda _: cc.current_umask(), range(4000))) == {0o022} and cc.current_umask() == 0o022
    finally:
        os.umask(before)


def test_who_ends_a_job_by_an_exception_leaves_no_agent(stand_in, workspace, monkeypatch, bridge):
    """A queue's time limit is one that a signal handler raises."""
    for name, value in stand_in([{"bash": "touch here; sleep 600"}]).environment.items():
        monkeypatch.setenv(name, value)

    class TimeIsUp(Exception):
        pass

    def raise_it(*_: object) -> None:
        raise TimeIsUp
    before = signal.signal(signal.SIGUSR1, raise_it)

    def end() -> None:
        wait_until(lambda: (workspace / "here").exists(), "the agent at work")
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
    ending = threading.Thread(target=end)
    ending.start()
    try:
        with pytest.raises(TimeIsUp):
            cc.run_spec("Task: Create a.txt\nTimeout: 600\n", cwd=str(workspace))
    finally:
        ending.join()
        signal.signal(signal.SIGUSR1, before)
    assert agents() == []


# ---- A run that is gone on with by somebody else (--resume-if-any). ----

TICKS = [{"bash": "echo $$ >pid; while :; do echo first >>ticks; sleep 0.1; done"}]   # silent on the stream: one long command


def begin_alone(folder: Path, workspace: Path, agent, url: str) -> subprocess.Popen:
    """A cc_execute.py of its own that does the spec, seen to be at work."""
    command = [sys.executable, str(ROOT / "cc_execute.py"), "spec.md", "--output", str(folder), "--bridge", url, "--json"]
    process = subprocess.Popen(command, cwd=workspace, env={**os.environ, **agent.environment}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    wait_until((workspace / "pid").exists, "the agent is at work")
    return process


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def work(workspace):
    (workspace / "spec.md").write_text("Task: Create a.txt\nTimeout: 60\nSuccess Criteria:\n1) creates a.txt\n")
    return workspace


def test_who_comes_second_waits_and_gives_what_the_first_came_to(work, stand_in, bridge, run_cc, tmp_path):
    agent = stand_in([{"bash": "echo $$ >pid; while [ ! -e go ]; do sleep 0.05; done"}, *WORKS])
    first = begin_alone(tmp_path / "out", work, agent, bridge.url)
    with ThreadPoolExecutor() as pool:
        others = [pool.submit(run_cc, "spec.md", "--output", tmp_path / "out", "--resume-if-any", "--json", env=agent.environment) for _ in range(2)]
        wait_until(lambda: len([process for process in marked_processes(own_mark()) if "--resume-if-any" in process.command]) == 2, "both have come")
        (work / "go").touch()
        documents = [json.loads(first.communicate()[0]), *(other.result().json() for other in others)]
    assert len(agent.starts()) == 1 and all(document["success"] for document in documents)
    assert documents[1]["tasks"] == documents[2]["tasks"] == documents[0]["tasks"]
    assert all("it is waited for" in other.result().stderr or "going on with the run" in other.result().stderr for other in others)


def test_who_waits_for_another_s_run_can_be_interrupted(work, stand_in, bridge, tmp_path):
    agent = stand_in([{"bash": "echo $$ >pid; while [ ! -e go ]; do sleep 0.05; done"}, *WORKS])
    first = begin_alone(tmp_path / "out", work, agent, bridge.url)
    second = subprocess.Popen([sys.executable, str(ROOT / "cc_execute.py"), "spec.md", "--output", str(tmp_path / "out"), "--resume-if-any", "--json"], cwd=work,
                              env={**os.environ, **agent.environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "it is waited for" in second.stderr.readline()
    second.terminate()
    stdout, _ = second.communicate(timeout=30)
    assert second.returncode == 143 and json.loads(stdout)["tasks"][0]["status"] == "skipped"
    (work / "go").touch()
    assert json.loads(first.communicate()[0])["success"]


def test_an_agent_that_was_left_on_another_machine_is_waited_out(work, stand_in, tmp_path, monkeypatch):
    """Its bridge ends it a while after its client has gone; until then nobody else begins, however silent it is."""
    agent = stand_in(TICKS, [{"bash": "echo second >>ticks"}, *WORKS])
    monkeypatch.setattr(cc, "LEFT_S", 8)
    monkeypatch.setattr(cc, "machine_name", lambda: "another")
    for name, value in agent.environment.items():
        monkeypatch.setenv(name, value)
    with start_bridge("--detach-grace", "2", "--grace", "1") as far, start_bridge() as near:
        kill(begin_alone(tmp_path / "out", work, agent, far.url))
        document = cc.run_spec(work / "spec.md", cwd=str(work), output=str(tmp_path / "out"), resume_if_any=True, bridge=near.url)
    ticks = (work / "ticks").read_text().split()
    assert document["success"] and ticks == ["first"] * (len(ticks) - 1) + ["second"] and len(ticks) > 15


def test_what_outlived_an_agent_and_its_bridge_is_ended_before_another_begins(work, stand_in, tmp_path, monkeypatch):
    """As when the machine ran out of memory: the agent's command goes on in a session of its own."""
    agent = stand_in(TICKS, [{"bash": "echo second >>ticks; sleep 1; echo second >>ticks"}, *WORKS])
    for name, value in agent.environment.items():
        monkeypatch.setenv(name, value)
    with start_bridge() as far, start_bridge() as near:
        client = begin_alone(tmp_path / "out", work, agent, far.url)
        far.process.kill()
        kill(client)
        command = int((work / "pid").read_text())
        document = cc.run_spec(work / "spec.md", cwd=str(work), output=str(tmp_path / "out"), resume_if_any=True, bridge=near.url)
    ticks = (work / "ticks").read_text().split()
    assert document["success"] and ticks[-2:] == ["second", "second"] and not lives(command)


def test_a_machine_is_told_from_another_and_from_a_container():
    assert os.uname().nodename in cc.machine_name() and os.readlink("/proc/self/ns/pid") in cc.machine_name()


def test_a_run_that_decided_nothing_fails_the_job_if_it_is_checked(work, bridge, monkeypatch):
    with pytest.raises(cc.Undecided, match="exit status 3: the environment is not ready. Task 1: .*no-such-claude"):
        cc.run_spec(work / "spec.md", cwd=str(work), claude="no-such-claude", check=True)
    assert not cc.run_spec(work / "spec.md", cwd=str(work), claude="no-such-claude")["success"]


def test_a_file_system_without_locks_is_warned_of(work, stand_in, bridge, monkeypatch, tmp_path):
    import fcntl
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(38, "Function not implemented")))
    for name, value in stand_in(WORKS).environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cc, "connect_bridge", lambda url, say: cc.connect_named(cc.parse_address(url)))   # which locks too, on a local disk
    document = cc.run_spec(work / "spec.md", cwd=str(work), output=str(tmp_path / "out"))
    assert document["success"] and any("knows no locks" in warning for warning in document["warnings"])
