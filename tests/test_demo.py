"""`make demo`: shows the worked example with real verdicts, and leaves no file in the clone, no state and no process."""
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from support import ROOT, heed_signals, marked_processes, missing, own_bridges, own_mark, own_network, wait_until

DEMO = [sys.executable, "-B", str(ROOT / "tests" / "demo.py")]


def files_of_the_clone() -> set:
    return {path for path in ROOT.rglob("*") if not {".git", ".tools", "__pycache__", ".pytest_cache"} & set(path.parts)}


def start_demo(folder: Path) -> subprocess.Popen:
    """In a session of its own, so that a signal for all of it reaches only the demo; its temporary folder is made below `folder`."""
    return subprocess.Popen(DEMO, env={**os.environ, "TMPDIR": str(folder)}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, encoding="utf-8", start_new_session=True, preexec_fn=heed_signals)


def test_the_demo_shows_what_happened_and_leaves_nothing(tmp_path):
    before = files_of_the_clone()
    with start_demo(tmp_path) as demo:
        shown, progress = demo.communicate(timeout=60)
    assert demo.returncode == 0, shown + progress
    spec = (ROOT / "tests" / "specs" / "worked_example.txt").read_text(encoding="utf-8")
    for expected in ("not Claude", spec, 'DATABASE_URL="sqlite:///test.db"\n', "2 proved",
                     'python3 cc_execute.py tests/specs/worked_example.txt --cwd "$(mktemp -d)"'):
        assert expected in shown
    assert not list(tmp_path.iterdir()) and files_of_the_clone() == before


def test_make_demo_leaves_a_clone_clean_even_where_port_8004_is_held(tmp_path):
    """As a user sees it: a clone, `make demo`, a stranger at the default port; nothing of it stays, not even a __pycache__."""
    clone = make_clone(tmp_path / "clone")
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    del environment["PYTHONDONTWRITEBYTECODE"]
    with own_network() as prefix:
        stranger = [*prefix, sys.executable, str(ROOT / "tests" / "stranger.py"), "bridge", "8004", str(tmp_path / "record")]
        with subprocess.Popen(stranger, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout.readline() == "ready\n"
            done = subprocess.run([*prefix, "make", "demo", f"PYTHON={sys.executable}"], cwd=clone, env=environment, stdin=subprocess.DEVNULL,
                                  capture_output=True, encoding="utf-8", timeout=100, check=False)
            holder.terminate()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stand_in" in done.stdout and "not Claude" in done.stdout and "2 proved" in done.stdout
    assert (tmp_path / "record").read_bytes() == b""
    status = subprocess.run(["git", "status", "--porcelain", "--ignored"], cwd=clone, capture_output=True, text=True, check=True)
    assert status.stdout == "" and not list(clone.rglob("__pycache__")) and not list((tmp_path / "tmp").iterdir())
    assert marked_processes(own_mark()) == [] and own_bridges() == []


def make_clone(folder: Path) -> Path:
    """The files of this project as they are now, committed."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False)
    if not shutil.which("git") or listed.returncode:
        missing("git, or a clone", listed.stderr)
    for name in filter(None, listed.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    author = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    for words in (["init", "-q"], ["add", "-A"], [*author, "commit", "-q", "-m", "All"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def test_an_unfit_bridge_of_the_user_does_not_matter(tmp_path):
    """Settings of the user's own are not the demo's."""
    settings = {"CC_EXECUTE_BRIDGE": "ws://127.0.0.1:1", "CC_EXECUTE_CLAUDE": "no-such-claude", "CC_BRIDGE_TOKEN": "x", "XDG_RUNTIME_DIR": "/no/such/folder"}
    done = subprocess.run(DEMO, env={**os.environ, "TMPDIR": str(tmp_path), **settings}, stdin=subprocess.DEVNULL, capture_output=True,
                          encoding="utf-8", timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ctrl_c_ends_the_demo_and_all_it_started(tmp_path):
    with start_demo(tmp_path) as demo:
        mark = f"CC_TEST_RUN={os.environ['CC_TEST_RUN']}"
        wait_until(lambda: any("stand_in.py -p" in process.command for process in marked_processes(mark)), "the agent works")
        os.killpg(demo.pid, signal.SIGINT)  # what the terminal does: the bridge has a session of its own
        shown, progress = demo.communicate(timeout=60)
    assert demo.returncode == 130, shown + progress
    assert not marked_processes(mark) and not list(tmp_path.iterdir())
