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

from support import ROOT, missing, wait_until

pytestmark = pytest.mark.usefixtures("bridge")

SPEC = "Task: Create config.py with DEBUG\nTimeout: 47\nSuccess Criteria:\n1) File config.py exists\n2) Contains DEBUG\n"
LIVE = re.compile(r"task \d+ .*\d+ s of 47 s")  # no line of the end looks like that
WRITES = [{"write": {"path": "config.py", "content": "DEBUG=1\n"}}, {"text": "Created config.py."}]
GO = {"bash": "while [ ! -e go ]; do sleep 0.02; done"}
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


# ---- A screen. ----

class Screen:
    """A terminal of that many columns with one program in it, which stays on the screen after its end with "exit status N"."""

    def __init__(self, folder: Path, columns: int, *command: str, env: dict, cwd: Path) -> None:
        self._tmux = ["tmux", "-u", "-S", str(folder / "tmux"), "-f", os.devnull]
        self.columns = columns
        program = ["sh", "-c", 'trap : INT; "$@"; echo "exit status $?"; read until_the_end', "sh", *command]
        environment = {**{name: value for name, value in os.environ.items() if name != "TMUX"}, "LC_ALL": "C.UTF-8", "SHELL": "/bin/sh", **env}
        self._call("new-session", "-d", "-x", str(columns), "-y", "30", shlex.join(program), cwd=cwd, env=environment)

    def _call(self, *words: str, **how) -> str:
        return subprocess.run([*self._tmux, *words], capture_output=True, encoding="utf-8", check=True, **how).stdout

    def text(self, *options: str) -> str:
        """Everything that is and was on the screen; "-e": with colours, "-J": lines that were wrapped as one."""
        return self._call("capture-pane", "-p", "-S", "-", *options)

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
    """show(spec text, *options, agent=…, columns=…, setting=NAME=VALUE words): cc_execute.py on a screen."""
    if not shutil.which("tmux"):
        missing("tmux", "not found on PATH")
    screens = []

    def start(spec: str, *options: str, agent=None, columns: int = 100, setting: tuple = ()) -> Screen:
        (workspace.parent / "spec.txt").write_text(spec)
        command = ["env", *setting, sys.executable, str(ROOT / "cc_execute.py"), "../spec.txt", *options]
        screens.append(Screen(tmp_path, columns, *command, cwd=workspace, env=agent.environment if agent else {}))
        return screens[-1]

    yield start
    for screen in screens:
        screen.close()


def too_wide(screen: Screen) -> list:
    """Progress that needs more than one line of the screen."""
    shown = screen.text().split("\n")
    return [line for line in screen.text("-J").split("\n") if "s of 47 s" in line and "passed" not in line and line.rstrip() not in map(str.rstrip, shown)]


# ---- The live line. ----

def test_the_live_line_tells_what_claude_does_and_goes_again(show, stand_in, workspace):
    screen = show(SPEC, agent=stand_in([{"text": "Let me look around."}, GO, *WRITES]))
    line = screen.wait_for("task 1.*Bash.*")
    assert LIVE.search(line) and "while [ ! -e go ]" in line
    screen.wait_for(r"task 1.* [2-9] s of 47 s")
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


def test_what_the_agent_says_cannot_move_the_cursor_or_colour_the_screen(show, stand_in, workspace):
    evil = "\x1b[2J\x1b[Hgone \x1b]0;title\x07 \x1b[41mred \x9b31m \r back \x08\x08 \x07"
    spec = SPEC.replace("2) Contains DEBUG", "2) Contains DEBUG\n3) The answer mentions nothing of the kind")
    screen = show(spec, agent=stand_in([{"text": evil}, GO, {"write": {"path": "config.py", "content": f"DEBUG=1 {evil}\n"}}, {"text": evil}]))
    screen.wait_for("Bash")
    assert "Create config.py" in screen.text() and "\x1b[41m" not in screen.text("-e")
    (workspace / "go").touch()
    assert "Create config.py" in screen.end() and "\x1b[41m" not in screen.text("-e")


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

@pytest.mark.parametrize("setting, coloured", [((), True), (("NO_COLOR=1",), False), (("TERM=dumb",), False)], ids=["terminal", "NO_COLOR", "dumb"])
def test_colours_are_for_terminals_that_want_them(show, stand_in, setting, coloured):
    screen = show(SPEC, agent=stand_in(WRITES), setting=setting)
    assert "2 proved" in screen.end()
    assert bool(COLOUR.search(screen.text("-e"))) is coloured


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
    said = [line for line in lines_of(screen) if "no-such-claude" in line]
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
