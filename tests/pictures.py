"""The pictures of the README, from a real run: what the terminal showed, as an SVG that moves, and a screenshot of the report.

    scripted API <── the real Claude CLI <── ws_bridge.py <── cc_execute.py, in a real terminal (tmux)
                                                                │ the screen, four times a second     └─► report.html ─► Chromium
                                                                ▼                                                          ▼
                                                   .github/terminal.svg                                        .github/report.png

    make pictures        # needs tmux, Chromium with its driver, and the Claude CLI; .ci/run installs them all

Claude's answers are written below; all that they bring about is real. Nothing but loopback is used; the user's own files are not touched.

Sections: the run, the screen, the drawing, the report, main.
"""
from __future__ import annotations

import html
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import List, NamedTuple

from rich.console import Console
from rich.text import Text
from selenium import webdriver

from scripted_api import Request, ScriptedApi, prompts, tool_results, turn
from support import ROOT, free_port

PLACE = ROOT / ".github"
COLUMNS, ROWS = 108, 29
LIMIT_S = 120.0
FRAME_S = 0.25

# ---- The run: what Claude answers, and how cc_execute.py is started. ----

SETTINGS = 'import os\n\nDEBUG = False\nDATABASE_URL = os.environ.get("DATABASE_URL", "sqlite:///app.db")\n'
TESTS = ("import unittest\nimport settings\n\n\nclass TestSettings(unittest.TestCase):\n    def test_debug_is_off(self):\n        self.assertFalse(settings.DEBUG)\n\n"
         "    def test_the_database_is_a_file(self):\n        self.assertEqual(settings.DATABASE_URL, \"sqlite:///{}\")\n")
USAGE = {"usage": {"input_tokens": 4200, "output_tokens": 310}}


def use(tool: str, **given: str) -> dict:
    return {"tool": tool, "input": given, "sleep": 1.4, **USAGE}


def write(name: str, content: str) -> dict:
    return use("Write", file_path=name, content=content)


def bash(command: str) -> dict:
    return use("Bash", command=command)


def say(text: str) -> dict:
    return {"text": text, "sleep": 1.0, **USAGE}


ANSWERS = {
    "settings": [write("settings.py", SETTINGS), bash('python3 -c "import settings; print(settings.DATABASE_URL)"; sleep 1'), say("settings.py holds both settings.")],
    "tests": [write("test_settings.py", TESTS.format("test.db")), say("I have written both tests, and they pass.")],
    "again": [bash("python3 -m unittest -q test_settings"), use("Read", file_path="test_settings.py"),
              use("Edit", file_path="test_settings.py", old_string="test.db", new_string="app.db"), bash("python3 -m unittest -q test_settings"),
              say("The test looked for the wrong file; now both pass.")]}


def answer(request: Request) -> dict:
    """What Claude says next: the second task's first attempt only claims that its tests pass."""
    asked = prompts(request.body)[0]
    steps = ANSWERS["again" if "IMPORTANT" in asked else "tests" if "test_settings" in asked else "settings"]
    if "IMPORTANT" in asked and turn(request.body) == 1:
        assert tool_results(request.body)[0]["is_error"], "the failing tests are really run"
    return steps[min(turn(request.body), len(steps) - 1)]


def environment(folder: Path, api: ScriptedApi) -> dict:
    """Nothing of the user's own."""
    for name in ("home", "runtime"):
        (folder / name).mkdir(mode=0o700)
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {**kept, **api.environment, "HOME": str(folder / "home"), "XDG_RUNTIME_DIR": str(folder / "runtime"), "IS_SANDBOX": "1", "LC_ALL": "C.UTF-8",
            "SHELL": "/bin/sh", "CC_EXECUTE_CLAUDE": str(ROOT / ".tools/node_modules/.bin/claude"), "PYTHONDONTWRITEBYTECODE": "1"}


# ---- The screen: what a real terminal showed, and when. ----

class Frame(NamedTuple):
    at: float                         # seconds from the start
    text: str                         # the screen with its colours


def record(folder: Path, variables: dict) -> List[Frame]:
    """Run it in tmux and look at the screen until it has ended."""
    tmux = ["tmux", "-u", "-S", str(folder / "tmux"), "-f", os.devnull]
    command = f"python3 cc_execute.py release.md --bridge ws://127.0.0.1:{free_port()} --report report.html"
    shown = "python3 cc_execute.py release.md --report report.html"
    program = f"printf '$ %s\\n' {shlex.quote(shown)}; {command}; touch ended; read until_the_end"
    subprocess.run([*tmux, "new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS), shlex.join(["sh", "-c", program])], env=variables, cwd=folder / "work", check=True)
    frames, began = [], time.monotonic()
    try:
        while time.monotonic() - began < LIMIT_S:
            ended = (folder / "work" / "ended").exists()
            text = subprocess.run([*tmux, "capture-pane", "-p", "-e"], capture_output=True, encoding="utf-8", check=True).stdout
            if not frames or text != frames[-1].text:
                frames.append(Frame(time.monotonic() - began, text))
            if ended:
                return frames
            time.sleep(FRAME_S)
        sys.exit(f"pictures: the run had not ended after {LIMIT_S:g} s; its screen:\n{frames[-1].text}")
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)


# ---- The drawing: frames -> one SVG, in which each is seen as long as it was, the last for some seconds. ----

CELL, LINE = 8.4, 18
LAST_S = 8.0
COLOURS = {1: "#ff7b72", 2: "#7ee787", 3: "#e3b341"}   # by the numbers of ECMA-48: red, green, yellow
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,monospace" font-size="14">
<title>cc_execute at work: a live line while Claude works, then the verdict on each criterion with its evidence</title>
<style>text{{fill:#c9d1d9;white-space:pre}}.f{{visibility:hidden;animation:{total:.2f}s steps(1) infinite}}
{rules}@media (prefers-reduced-motion:reduce){{.f{{animation:none}}.f:last-of-type{{visibility:visible}}}}</style>
<rect width="100%" height="100%" rx="8" fill="#0d1117"/>
"""


def draw(frames: List[Frame], folder: Path) -> str:
    """The folder's name is none of the picture's."""
    began = frames[0].at
    starts = [frame.at - began for frame in frames]
    total = starts[-1] + LAST_S
    rules, groups = [], []
    for number, (frame, start, end) in enumerate(zip(frames, starts, [*starts[1:], total])):
        rules.append(f"@keyframes k{number}{{0%{{visibility:{'visible' if start == 0 else 'hidden'}}}{100 * start / total:.3f}%{{visibility:visible}}"
                     + (f"{100 * end / total:.3f}%{{visibility:hidden}}" if end < total else "") + f"}}.f{number}{{animation-name:k{number}}}\n")
        rows = Text.from_ansi(frame.text.replace(str(folder / "home"), "~")).split("\n")   # as a whole: a colour may go on over the end of a line
        groups.append(f'<g class="f f{number}">' + "".join(draw_row(row, at) for at, row in enumerate(rows) if row.plain.strip()) + "</g>\n")
    size = {"width": round(COLUMNS * CELL + 24), "height": ROWS * LINE + 24}
    return HEAD.format(total=total, rules="".join(rules), **size) + "".join(groups) + "</svg>\n"


def draw_row(row: Text, at: int) -> str:
    """A row of the screen, piece by piece in its colours."""
    pieces = row.render(Console(color_system="standard"))
    spans = "".join(f"<tspan{look(piece.style)}>{html.escape(piece.text)}</tspan>" for piece in pieces if piece.text.strip("\n"))
    return f'<text x="12" y="{12 + LINE * at + 14}">{spans}</text>'


def look(style) -> str:
    fill = COLOURS.get(style.color.number, "") if style and style.color else ""
    return (f' fill="{fill}"' if fill else "") + (' font-weight="bold"' if style and style.bold else "") + (' opacity="0.6"' if style and style.dim else "")


# ---- The report: as a browser shows it. ----

def photograph(page: Path, picture: Path, folder: Path) -> None:
    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server",
                 "--hide-scrollbars", f"--user-data-dir={folder / 'chromium'}"):
        options.add_argument(word)
    options.binary_location = shutil.which("chromium")
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 1000, "height": 1250, "deviceScaleFactor": 1, "mobile": False})
        driver.get(page.as_uri())
        driver.save_screenshot(str(picture))
    finally:
        driver.quit()


# ---- Main. ----

def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="cc-pictures-"))
    work = folder / "work"
    try:
        work.mkdir()
        for name in ("cc_execute.py", "ws_bridge.py"):
            shutil.copy(ROOT / name, work)
        shutil.copy(ROOT / "tests" / "specs" / "pictures.md", work / "release.md")
        with ScriptedApi(answer) as api:
            frames = record(folder, environment(folder, api))
        if "2 of 2 tasks passed" not in frames[-1].text:
            sys.exit(f"pictures: the run did not pass; its screen:\n{frames[-1].text}")
        PLACE.mkdir(exist_ok=True)
        (PLACE / "terminal.svg").write_text(draw(frames, folder), encoding="utf-8")
        photograph(work / "report.html", PLACE / "report.png", folder)
        print(f"{PLACE / 'terminal.svg'} ({len(frames)} frames), {PLACE / 'report.png'}")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
