"""The worked example, all of it real but the agent: cc_execute.py, the bridge, and tests/stand_in.py in Claude's place.

    demo -- starts --> ws_bridge.py (free port, private state) <-- WebSocket -- cc_execute.py --> stand_in.py writes config.py

    python3 -B tests/demo.py        # or: make demo

Needs nothing but Python 3.9. Everything is written to one temporary folder; nothing of it and no process is left. The exit code is
that of cc_execute.py, or 1 if the bridge does not start.
"""
from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

ROOT = Path(__file__).resolve().parent.parent
SPEC = Path("tests") / "specs" / "worked_example.txt"
SETTINGS = re.compile(r"CC_EXECUTE_|CC_BRIDGE_|STAND_IN_|XDG_")  # without XDG_… all state goes below HOME
READY = re.compile(r"listening on (ws://\S+?)/?\s*$")
BRIDGE_END_S = 15  # it ends its processes first


def private_environment(folder: Path) -> dict[str, str]:
    """The user's environment with all state in that folder, without settings of ours, and with the stand-in as the agent."""
    kept = {name: value for name, value in os.environ.items() if not SETTINGS.match(name)}
    for place in ("home", "runtime"):
        (folder / place).mkdir(mode=0o700)
    private = {"HOME": str(folder / "home"), "XDG_RUNTIME_DIR": str(folder / "runtime"), "PYTHONDONTWRITEBYTECODE": "1"}
    return {**kept, **private, "CC_EXECUTE_CLAUDE": shlex.join([sys.executable, str(ROOT / "tests" / "stand_in.py")])}


@contextmanager
def running_bridge(environment: dict[str, str]) -> Iterator[str]:
    """A bridge on a free port, its address; ended at the end. In a session of its own: Ctrl-C is for cc_execute.py, which needs it."""
    command = [sys.executable, "-B", str(ROOT / "ws_bridge.py"), "--port", "0"]
    with tempfile.TemporaryFile("w+") as log:
        bridge = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                                  text=True, start_new_session=True)
        try:
            ready = READY.search(bridge.stdout.readline())
            if ready is None:
                log.seek(0)
                sys.exit(f"demo: the bridge did not start: {shlex.join(command)}\n{log.read()}")
            yield ready[1]
        finally:
            end(bridge)


def end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(BRIDGE_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def wait_for(process: subprocess.Popen) -> int:
    """Its exit status. Ctrl-C reaches it too and it ends by itself, so it is still waited for."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue
        except SystemExit:
            process.terminate()
            process.wait()
            raise


def show(title: str, text: str = "") -> None:
    print(f"\n--- {title}\n{text}", end="" if text else "\n", flush=True)


def run(folder: Path) -> int:
    workspace = folder / "workspace"
    workspace.mkdir()
    environment = private_environment(folder)
    print("In this demo the agent is tests/stand_in.py, not Claude: it needs no account and costs nothing.\n"
          "The bridge, the process, the file and the verdicts are real.")
    show(str(SPEC), (ROOT / SPEC).read_text(encoding="utf-8"))
    with running_bridge(environment) as address:
        show(f"python3 cc_execute.py {SPEC} --cwd {workspace} --bridge {address}")
        command = [sys.executable, "-B", str(ROOT / "cc_execute.py"), str(SPEC), "--cwd", str(workspace), "--bridge", address]
        status = wait_for(subprocess.Popen(command, cwd=ROOT, env=environment))
    for written in sorted(path for path in workspace.rglob("*") if path.is_file()):
        show(str(written.relative_to(workspace)), written.read_text(encoding="utf-8"))
    print(f"\nThe demo's folder {folder} is removed now.")
    print(f'\nThe same with Claude:\n\n    python3 cc_execute.py {SPEC} --cwd "$(mktemp -d)"')
    return status


def main() -> int:
    if sys.version_info < (3, 9):
        sys.exit(f"demo: Python 3.9 or newer is needed, this is {sys.version.split()[0]}: make demo PYTHON=python3.x")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    folder = Path(tempfile.mkdtemp(prefix="cc_execute-demo-"))
    try:
        return run(folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
