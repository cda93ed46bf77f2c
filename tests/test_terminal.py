"""What people see, read back from the screen of a real terminal (tmux): the live line, verdicts, colours, errors, Ctrl-C."""
from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest
import wcwidth
from hypothesis import given, strategies as st

from cc_execute import Live, ToolCall, cells, describe_call, fit, live_line
from support import ROOT, missing, wait_until

pytestmark = pytest.mark.usefixtures("bridge")

SPEC = "Task: Create config.py with DEBUG\nTimeout: 47\nSuccess Criteria:\n1) File config.py exists\n2) Contains DEBUG\n"
LIVE = re.compile(r"task \d.*\d+/47 s")  # no line of the end looks like that
WRITES = [{"write": {"path": "config.py", "content": "DEBUG=1\n"}}, {"text": "Created config.py."}]
GO = {"bash": "while [ ! -e go ]; do sleep 0.02; done"}
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


# ---- A screen. ----

class Screen:
    """A terminal of that many columns with one program in it, which stays on the screen after its end with "exit status N"."""

    def __init__(self, folder: Path, columns: int, *command: str, env: dict, cwd: Path, above: int = 0) -> None:
        self._tmux = ["tmux", "-u", "-S", str(folder / "tmux"), "-f", os.devnull]
        self.columns = columns
        program = ["sh", "-c", f'trap : INT; seq {above}; "$@"; echo "exit status $?"; read until_the_end', "sh", *command]
        environment = {**{name: value for name, value in os.environ.items() if name != "TMUX"}, "LC_ALL": "C.UTF-8", "SHELL": "/bin/sh", **env}
        self._call("new-session", "-d", "-x", str(columns), "-y", "30", shlex.join(program), cwd=cwd, env=environment)

    def _call(self, *words: str, **how) -> str:
        return subprocess.run([*self._tmux, *words], capture_output=True, encoding="utf-8", check=True, **how).stdout

    def text(self, *options: str) -> str:
        """Everything that is and was on the screen; "-e": with colours, "-J": lines that were wrapped as one."""
        return self._call("capture-pane", "-p", "-S", "-", *options)

    def resize(self, columns: int) -> None:
        self.columns = columns
        self._call("resize-window", "-x", str(columns))

    def press(self, key: str) -> None:
        self._call("send-keys", key)

    def wait_for(self, pattern: str) -> str:
        """What was found, as soon as it stands on the screen."""
        wait_until(lambda: re.search(pattern, self.text()), f"{pattern!r} on the screen", deadline_s=60)
        return re.search(pattern, self.text())[0]

    def end(self) -> str:
        """The whole screen after the end of the program."""
        self.wait_for(r"exit status \d+")
        return self.text("-J")

    def close(self) -> None:
        self._call("kill-server")


@pytest.fixture
def show(tmp_path, workspace) -> Iterator:
    """show(spec text, *options, agent=…, columns=…, setting=NAME=VALUE words, above=lines that are there before): cc_execute.py on a screen."""
    if not shutil.which("tmux"):
        missing("tmux", "not found on PATH")
    screens = []

    def start(spec: str, *options: str, agent=None, columns: int = 100, setting: tuple = (), above: int = 0) -> Screen:
        (workspace.parent / "spec.txt").write_text(spec)
        command = ["env", *setting, sys.executable, str(ROOT / "cc_execute.py"), "../spec.txt", *options]
        screens.append(Screen(tmp_path, columns, *command, cwd=workspace, env=agent.environment if agent else {}, above=above))
        return screens[-1]

    yield start
    for screen in screens:
        screen.close()


def too_wide(screen: Screen) -> list:
    """Progress that needs more than one line of the screen."""
    shown = screen.text().split("\n")
    return [line for line in screen.text("-J").split("\n") if "/47 s" in line and line.rstrip() not in map(str.rstrip, shown)]


# ---- The live line. ----

def test_the_live_line_tells_what_claude_does_and_goes_again(show, stand_in, workspace):
    screen = show(SPEC, agent=stand_in([{"text": "Let me look around."}, GO, *WRITES]))
    line = screen.wait_for("task 1.*Bash.*")
    assert LIVE.search(line) and "while [ ! -e go ]" in line and "░" in line and "tok" in line
    screen.wait_for(r"task 1.* [2-9]/47 s · Bash: .*\([2-9] s\)")
    assert len(LIVE.findall(screen.text())) == 1
    (workspace / "go").touch()
    ended = screen.end()
    assert not LIVE.search(ended) and "exit status 0" in ended, ended
    for words in ("File config.py exists", "Contains DEBUG", "2 proved", "1 of 1 task passed"):
        assert words in ended


@pytest.mark.parametrize("said", ["word " * 60, "x" * 300, "写代码" * 60, "🐎" * 80, "one\ntwo\nthree", "a\tb\tc\td\te\tf\tg\th\ti\tj", "é" * 120 + "e\u0301" * 90],
                         ids=["words", "one word", "wide", "emoji", "lines", "tabs", "combining"])
def test_no_line_of_progress_wraps_at_60_columns(show, stand_in, workspace, said):
    screen = show(SPEC, agent=stand_in([{"text": said}, {"sleep": 1}, GO, *WRITES]), columns=60)
    screen.wait_for(re.escape(said.split()[0][:4]))
    wait_until(lambda: LIVE.search(screen.text()) or too_wide(screen), "a line of progress")
    assert too_wide(screen) == [] and len([line for line in screen.text().split("\n") if line.strip()]) <= 3, screen.text()
    screen.wait_for("Bash")
    (workspace / "go").touch()
    ended = screen.end()
    assert not LIVE.search(ended) and "exit status 0" in ended, ended


@pytest.mark.parametrize("before, after", [(120, 40), (40, 120), (100, 31)])
def test_a_resize_leaves_no_remains_of_the_line(show, stand_in, workspace, before, after):
    """tmux breaks what is there into more lines when it gets narrower, as most terminals do. (From the top of the screen it moves lines
    into its history then, where nobody can wipe them out.)"""
    screen = show(SPEC, agent=stand_in([{"text": "word " * 60}, GO, *WRITES]), columns=before, above=12)
    screen.wait_for("Bash")
    screen.resize(after)
    wait_until(lambda: LIVE.search(screen.text()) and too_wide(screen) == [] and len(re.findall("task 1:", screen.text())) == 1, "one live line")
    (workspace / "go").touch()
    ended = screen.end()
    assert not LIVE.search(ended) and "task 1:" not in ended and "exit status 0" in ended, ended


def test_a_wait_is_counted_down(show, stand_in):
    limited = [{"api_error": {"text": "API Error: Request rejected (429) · retry after 100 s", "status": 429, "error": "rate_limit"}}]
    screen = show(SPEC, agent=stand_in(limited, WRITES))
    screen.wait_for(r"task 1: .* waiting for the rate limit: \d:\d\d left · attempt 1")
    screen.press("C-c")
    assert "exit status 130" in screen.end()


def test_what_the_agent_says_cannot_move_the_cursor_or_colour_the_screen(show, stand_in, workspace):
    evil = "\x1b[2J\x1b[Hgone \x1b]0;title\x07 \x1b[41mred \x9b31m \r back \x08\x08 \x07"
    spec = SPEC.replace("2) Contains DEBUG", "2) Contains DEBUG\n3) The answer mentions nothing of the kind")
    screen = show(spec, agent=stand_in([{"text": evil}, GO, {"write": {"path": "config.py", "content": f"DEBUG=1 {evil}\n"}}, {"text": evil}]))
    screen.wait_for("Bash")
    assert "Create config.py" in screen.text() and "\x1b[41m" not in screen.text("-e")
    (workspace / "go").touch()
    assert "Create config.py" in screen.end() and "\x1b[41m" not in screen.text("-e")


EVIL = "x\x1b[2J\x1b]0;title\x07\n\x9b31m"
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@pytest.mark.parametrize("call", [ToolCall(EVIL, {}), ToolCall("Read", {"file_path": f"/a/{EVIL}"}), ToolCall(EVIL, {"command": EVIL})], ids=["tool", "file", "command"])
def test_the_name_of_a_tool_or_a_file_cannot_move_the_cursor(call):
    assert not CONTROLS.search(describe_call(call)) and "\n" not in describe_call(call)


def test_v_shows_no_control_character_of_a_tool_s_or_a_file_s_name(run_cc, stand_in):
    tools = [{"tool": {"name": name, "input": {"file_path": path}, "content": EVIL, "is_error": True}} for name, path in (("Read", EVIL), (EVIL, "a"))]
    told = run_cc("-", "-v", input=SPEC, env=stand_in([*tools, *WRITES]).environment).stderr
    assert not CONTROLS.search(told) and told.count("x·[2J·]0;title·") >= 4, told


def test_the_names_of_files_in_the_evidence_move_no_cursor(run_cc, stand_in):
    spec = "Task: Go\nTimeout: 47\nSuccess Criteria:\n1) only a.txt was changed\n2) no .txt files exist\n"
    told = run_cc("-", input=spec, env=stand_in([{"write": {"path": "w\x1b[2J.txt", "content": ""}}]).environment).stdout
    assert "w·[2J.txt was touched too" in told and "w·[2J.txt is there" in told and not CONTROLS.search(told)


@pytest.mark.parametrize("words", [
    ["-"], ["-", "--output", f"../{EVIL}"], ["-", "--dry-run", "--claude", f"'{EVIL}'"], ["-", "--report", f"{EVIL}/a.html"], [f"--{EVIL}"], ["--stats", EVIL],
    ["-", "--resume-from", EVIL], ["-", "--replay", EVIL], ["--replay", "../kept.jsonl", "-"]], ids=lambda words: " ".join(words).replace(EVIL, "evil"))
def test_no_control_character_of_a_folder_s_or_an_option_s_name_reaches_the_terminal(words, run_cc, stand_in, workspace):
    (workspace / EVIL).mkdir()
    (workspace / "kept.jsonl").write_text('{"type":"result","subtype":"success","is_error":false,"result":"Done."}\n')
    done = run_cc(*words, input=SPEC, env=stand_in(WRITES).environment, cwd=workspace / EVIL)
    assert not CONTROLS.search(done.stdout + done.stderr), done


def test_each_attempt_and_what_failed_is_told(show, stand_in):
    spec = SPEC + "Retry Strategy: Try harder.\n"
    ended = show(spec, agent=stand_in([{"text": "It is done."}], WRITES)).end()
    assert re.search(r"attempt 1.*config\.py", ended) and "2 attempts" in ended and "exit status 0" in ended, ended
    assert not LIVE.search(ended)


def test_a_failure_is_told_with_its_reason(show, stand_in):
    ended = show(SPEC, agent=stand_in([{"text": "It is done."}])).end()
    assert re.search(r"NOT MET\s+File config\.py exists\n\s+found: config\.py does not exist", ended), ended
    assert "0 of 1 task passed" in ended and "exit status 1" in ended


def test_a_list_shows_each_task(show, stand_in):
    spec = "## Task 1: First\nCreate config.py\nSuccess Criteria: 1) config.py exists\n\n## Task 2: Second\nCreate b.py\nSuccess Criteria: 1) b.py exists\n\n## Task 3: Third\nSay hello\n"
    ended = show(spec, agent=stand_in(WRITES)).end()
    assert "First" in ended and "Second" in ended and "1 of 3 tasks passed, 1 skipped" in ended and "exit status 1" in ended, ended


# ---- Colours. ----

@pytest.mark.parametrize("setting, coloured", [
    ((), True), (("NO_COLOR=1",), False), (("TERM=dumb",), False), (("FORCE_COLOR=0",), False), (("TERM=dumb", "FORCE_COLOR=1"), True),
    (("NO_COLOR=1", "FORCE_COLOR=1"), False)], ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value))
def test_colours_are_for_terminals_that_want_them(show, stand_in, setting, coloured):
    screen = show(SPEC, agent=stand_in(WRITES), setting=setting)
    assert "2 proved" in screen.end()
    assert bool(COLOUR.search(screen.text("-e"))) is coloured


def test_a_log_has_colours_only_when_they_are_forced(run_cc, stand_in):
    for setting, coloured in (({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)):
        done = run_cc("-", input=SPEC, env={**stand_in(WRITES).environment, **setting})
        assert bool(COLOUR.search(done.stdout)) is coloured and "passed" in done.stdout


def test_ctrl_z_gives_the_line_to_the_shell_and_fg_brings_it_back(tmp_path, workspace, stand_in, monkeypatch):
    """In an interactive shell, which has jobs."""
    if not shutil.which("tmux"):
        missing("tmux", "not found on PATH")
    (workspace / "spec.txt").write_text(SPEC)
    monkeypatch.setenv("PS1", "> ")
    screen = Screen(tmp_path, 100, "bash", "--norc", "--noprofile", "-i", env=stand_in([GO, *WRITES]).environment, cwd=workspace)
    try:
        screen.press(shlex.join([sys.executable, str(ROOT / "cc_execute.py"), "spec.txt"]))
        screen.press("Enter")
        screen.wait_for("task 1:.*Bash")
        screen.press("C-z")
        screen.wait_for(r"Stopped")
        assert not LIVE.search(screen.text()), screen.text()
        for key in ("fg", "Enter"):
            screen.press(key)
        screen.wait_for("task 1:.*Bash")
        (workspace / "go").touch()
        screen.wait_for("1 of 1 task passed")
        assert not LIVE.search(screen.text())
        for key in ("exit", "Enter"):
            screen.press(key)
        screen.end()
    finally:
        screen.close()


# ---- More and less. ----

LIST = "## Task 1: 写配置\nCreate config.py\nSuccess Criteria: 1) config.py exists\n\n## Task 2: Second\nCreate b.py\nSuccess Criteria: 1) b.py exists\n\n## Task 3: Third\nSay hello\n"


def test_v_shows_what_claude_says_and_does_as_it_comes(show, stand_in, workspace):
    agent = stand_in([{"text": "Let me look:\nsecond line"}, {"bash": "echo found it"}, {"bash": "ls nowhere"}, GO, *WRITES])
    screen = show(SPEC, "-v", agent=agent)
    screen.wait_for("tool +Bash: while")
    shown = screen.text()
    for words in ("  Claude   Let me look:\n           second line", "  tool     Bash: echo found it", "  done     Bash: echo found it", "           found it",
                  "  failed   Bash: ls nowhere", "No such file"):
        assert words in shown
    assert "2 proved" not in shown and LIVE.search(screen.wait_for("task 1.*Bash.*"))
    (workspace / "go").touch()
    ended = screen.end()
    assert "  tool     Write config.py" in ended and "Created config.py." in ended and not LIVE.search(ended), ended


def test_v_under_json_leaves_stdout_to_the_document(run_cc, stand_in):
    done = run_cc("-", "--json", "-v", input=SPEC, env=stand_in(WRITES).environment)
    assert done.json()["success"] and "tool     Write config.py" in done.stderr and "Claude   Created config.py." in done.stderr


def test_what_v_shows_has_no_secrets_and_moves_no_cursor(run_cc, stand_in):
    secret = "sk-ant-api03-abcdefghijklmnop0123456789"
    done = run_cc("-", "-v", input=SPEC, env=stand_in([{"text": f"key {secret} \x1b[2Jgone"}, {"bash": f"echo {secret}; false"}, *WRITES]).environment)
    assert secret not in done.stderr + done.stdout and "\x1b" not in done.stderr and "key sk-ant-***" in done.stderr and "failed   Bash" in done.stderr


def test_q_shows_the_verdicts_only(show, stand_in, workspace):
    screen = show(LIST, "-q", agent=stand_in([GO, *WRITES], [{"text": "Done."}]))
    screen.wait_for("Task 1")
    (workspace / "go").touch()
    warning, rest, *ended = [line.rstrip() for line in screen.end().split("\n") if line.strip()]
    assert "no success criteria" in warning and rest == "  Criteria:'" and ended[0].startswith("Task 1: 写配置") and ended[-2].startswith("1 of 3 tasks passed, 1 skipped"), ended
    assert [line.split()[0] for line in ended[1:-2]] == ["met", "proved:", "passed", "Task", "NOT", "found:", "failed"], ended


def test_q_leaves_stderr_to_warnings(run_cc, stand_in):
    done = run_cc("-", "-q", input=SPEC + "Category: x\n", env=stand_in(WRITES).environment)
    assert done.stderr.count("\n") == 1 and "Category" in done.stderr and done.stdout.count("\n") == 7
    assert run_cc("-", "-q", "-v", input=SPEC).returncode == 2


# ---- After the run. ----

@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_table_of_the_tasks_stands_at_the_end(show, stand_in, columns):
    spec = LIST.replace("Second", "Second of the tasks, with a title that goes on and on and on") + "Retry Strategy: again\n"
    screen = show(spec, agent=stand_in([{"text": "No."}]), columns=columns)
    screen.end()
    rows = [line.rstrip() for line in screen.text().split("\n") if re.match(r" +task +result|  [123]  ", line)]
    assert len(rows) == 4 and all(wcwidth.wcswidth(row) < columns for row in rows), screen.text()
    assert re.search(r"1  写配置 +failed +1  \d\.\d s of \d+ s  \$0\.0000$", rows[1]) and re.search(r"2  Second.* skipped$", rows[2]), rows


@pytest.mark.parametrize("columns", [60, 80])
def test_no_word_is_broken_at_the_edge_of_the_terminal(show, stand_in, columns):
    """But for those that are wider, as the folder of the transcripts can be."""
    screen = show(SPEC + "Retry Strategy: again\n", agent=stand_in([{"text": "写配置 " * 30}, {"bash": "cat /nonexistent/file"}]), columns=columns)
    whole = {line.rstrip() for line in screen.end().split("\n")}
    broken = [line for line in map(str.rstrip, screen.text().split("\n")) if line not in whole and " " in line.strip()]
    assert not broken and any("not met: File config.py" in line for line in whole), (broken, screen.text())


def test_v_names_the_spec_where_several_run_side_by_side(run_cc, stand_in, workspace):
    for name in ("one.md", "two.md"):
        (workspace / name).write_text(SPEC)
    told = run_cc("one.md", "two.md", "--jobs", 2, "-v", env=stand_in(WRITES).environment).stderr
    assert "  tool     [one.md] Write config.py" in told and "  Claude   [two.md] Created config.py." in told


def test_of_several_specs_each_is_named_and_the_sum_told(run_cc, stand_in, workspace):
    for name in ("one.md", "two.md"):
        (workspace / name).write_text(SPEC)
    lines = run_cc("one.md", "two.md", env=stand_in(WRITES).environment).stdout.split("\n")
    assert lines[0] == "one.md" and "two.md" in lines and lines[-2] == "2 of 2 specs passed"


# ---- A log. ----

def test_a_log_gets_plain_lines_at_a_slow_pace(run_cc, stand_in, workspace):
    done = run_cc("-", input=SPEC, env=stand_in([{"text": "Hm."}, *[{"bash": f"echo {number}; sleep 0.02"} for number in range(60)], *WRITES]).environment)
    assert done.returncode == 0 and "\x1b" not in done.stderr and "\r" not in done.stderr
    assert done.stderr.split("\n") == ["cc_execute: task 1, attempt 1, time limit 47 s", ""]


def test_a_terminal_without_utf_8_gets_signs_that_it_knows(show, stand_in, workspace):
    screen = show(SPEC, agent=stand_in([{"text": "写 — done…"}, GO, *WRITES]), setting=("PYTHONIOENCODING=ascii", "PYTHONUTF8=0", "LC_ALL=C"))
    line = screen.wait_for("task 1.*Bash.*")
    assert re.search(r"task 1: Create config\.py.* \. [#-]{6} \d+/47 s \. Bash: while .*~", line), line
    (workspace / "go").touch()
    assert "exit status 0" in screen.end()


# ---- The layout of the live line: pure. ----

TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=80)
LINES = st.builds(Live, st.sampled_from(["task 1", "task 12/300", "task 7 (2/5)"]), TEXTS, TEXTS, st.floats(0, 10 ** 5), st.floats(0, 10 ** 5), st.floats(0, 10 ** 5),
                  st.integers(0, 12), st.floats(0, 10 ** 8), st.none() | st.floats(0, 1000))


@given(LINES, st.integers(1, 220))
def test_a_live_line_is_never_wider_than_it_may_be(line, columns):
    shown = "".join(text for text, _ in live_line(line, columns))
    assert cells(shown) <= columns and sum(max(0, wcwidth.wcwidth(character)) for character in shown) <= columns


@given(TEXTS, st.integers(0, 90))
def test_what_fits_is_left_alone_and_what_is_cut_says_so(text, columns):
    shown = fit(text, columns)
    assert shown == text if cells(text) <= columns else cells(shown) <= columns and (shown == "" or shown.endswith("…"))


BUSY = Live("task 2/5", "Write the configuration of the service", "Bash: pytest -q tests/test_config.py", 12.3, 45, 3.2, 2, 12_345, 0.0123)
WHOLE = "task 2/5: Write the configuration of the service · ██░░░░ 12/45 s · Bash: pytest -q tests/test_config.py (3 s) · attempt 2 · 12.3k tok · $0.012"
WAITING = BUSY._replace(doing="waiting for the usage limit: 4:10 left, until 14:05", limit=0.0, tokens=0)


@pytest.mark.parametrize("columns, line, shown", [
    (199, BUSY, WHOLE),
    (79, BUSY, "task 2/5: Write the… · ██░░░░ 12/45 s · Bash: pyt… (3 s) · attempt 2 · $0.012"),
    (79, BUSY._replace(attempt=1), "task 2/5: Write the… · ██░░░░ 12/45 s · Bash: pyt… (3 s) · 12.3k tok · $0.012"),
    (79, BUSY._replace(attempt=1, doing="thinking"), "task 2/5: Write the… · ██░░░░ 12/45 s · thinking 3 s · 12.3k tok · $0.012"),
    (79, WAITING, "task 2/5: Write the conf… · waiting for the usage limit: 4:10 left, until 14:05"),
    (40, BUSY, "task 2/5: Write… · 12/45 s · Bash… (3 s)"),
    (20, BUSY, "task 2/5:  · 12/45 …"),
    (199, Live("task 1", "Say hello", "starting", 754, 1200, 754, 1, 1_234_567),
     "task 1: Say hello · ████░░ 12:34/20:00 · starting 754 s · attempt 1 · 1.2M tok")])
def test_the_live_line_at_different_widths(columns, line, shown):
    assert "".join(text for text, _ in live_line(line, columns)) == shown


@pytest.mark.parametrize("elapsed, colour", [(10, "green"), (75, "yellow"), (96, "red"), (150, "red")])
def test_the_bar_warns_of_the_limit(elapsed, colour):
    bar, = [colour for text, colour in live_line(BUSY._replace(elapsed=elapsed, limit=100), 199) if "█" in text]
    assert bar == colour


# ---- Errors: a sentence each. ----

def lines_of(screen: Screen) -> list:
    """What stands on the screen, line by line, without the exit status."""
    return [line.rstrip() for line in screen.end().split("\n") if line.strip() and "exit status" not in line]


def test_a_bad_spec_is_one_sentence(show):
    screen = show("Task: Create a.txt\nTimeout: soon\n")
    said, = lines_of(screen)
    assert said.startswith("cc_execute: ") and "spec.txt" in said and "2" in said and "soon" in said and "45 seconds" in said
    assert "exit status 2" in screen.text()


def test_a_missing_claude_is_one_sentence_with_the_next_step(show):
    screen = show(SPEC, "--claude", "no-such-claude")
    said = re.findall(r"The agent's command 'no-such-claude' was not found .*\n(?:           .*\n)*", screen.end())
    assert len(said) == 1 and "--claude" in said[0] and "NOT MET" not in screen.text() and "exit status 3" in screen.text()


def test_no_spec_at_all_shows_the_first_step(workspace):
    done = subprocess.run([sys.executable, str(ROOT / "cc_execute.py")], capture_output=True, text=True, cwd=workspace, check=False)
    assert done.returncode == 2 and "Success Criteria:" in done.stderr and done.stdout == ""


# ---- Ctrl-C. ----

def test_ctrl_c_is_told_and_ends_it(show, stand_in):
    screen = show(SPEC, agent=stand_in([GO]))
    screen.wait_for("task 1.*Bash")
    screen.press("C-c")
    ended = screen.end()
    assert "exit status 130" in ended and "cancelled" in ended and "Traceback" not in ended and not LIVE.search(ended), ended


def test_under_json_only_the_document_stands_on_stdout(show, stand_in, workspace):
    """Progress is still seen: stderr is the terminal."""
    screen = show(SPEC, "--json", "--output", "../kept", agent=stand_in([GO, *WRITES]))
    screen.wait_for("task 1.*Bash")
    (workspace / "go").touch()
    ended = screen.end()
    assert '"schema": 1' in ended and "NOT MET" not in ended and not LIVE.search(ended) and "exit status 0" in ended
