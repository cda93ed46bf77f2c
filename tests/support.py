"""What several test files need and pytest does not bring: parts that may be missing, polling, processes found by their mark.

Sections: parts that may be missing, waiting, ports, signals, processes that carry a mark, namespaces.
"""
from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, NamedTuple, NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent
POLL_S = 0.02
DEADLINE_S = 30.0  # generous: the machine may be busy; what is waited for mostly happens within milliseconds


# ---- Parts that may be missing: skipped at home, failed where everything is required. ----

def missing(part: str, reason: str) -> NoReturn:
    """Skips the test for want of that part, or fails it with CC_REQUIRE_ALL=1."""
    message = f"{part} is missing: {reason}"
    if os.environ.get("CC_REQUIRE_ALL") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


# ---- Waiting: polling with a deadline. ----

def holds_in_time(claim: Callable[[], object], deadline_s: float = DEADLINE_S) -> bool:
    """Whether the claim became true before the deadline."""
    end = time.monotonic() + deadline_s
    while not claim():
        if time.monotonic() > end:
            return bool(claim())
        time.sleep(POLL_S)
    return True


def wait_until(claim: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Returns as soon as the claim is true; fails the test, naming what was waited for, if that takes too long."""
    if not holds_in_time(claim, deadline_s):
        pytest.fail(f"waited {deadline_s:g} s in vain: {what}")


# ---- Ports. ----

def free_port() -> int:
    """One of loopback on which nothing listened a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


# ---- Signals: for Popen's preexec_fn. ----

def heed_signals() -> None:
    """The tests may run under nohup or in the background, where these are ignored, and cc_execute.py respects that."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


# ---- Processes that carry a mark in their environment. Linux only: elsewhere none is ever found. ----

class MarkedProcess(NamedTuple):
    pid: int
    command: str


def marked_processes(*marks: str) -> list[MarkedProcess]:
    """All living processes but this one that were started with a mark (NAME=VALUE) in their environment; zombies have none."""
    wanted = {os.fsencode(mark) for mark in marks}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int(folder.name) != os.getpid() and not wanted.isdisjoint((folder / "environ").read_bytes().split(b"\0")):
                found.append(MarkedProcess(int(folder.name), read_command(folder)))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # gone meanwhile, or another user's
    return found


def read_command(folder: Path) -> str:
    return (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()


def send_signal(processes: list[MarkedProcess], number: signal.Signals) -> None:
    for process in processes:
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            continue  # gone meanwhile


def end_marked(*marks: str) -> list[str]:
    """Ends all processes with one of those marks and gives the faults: everything that had to be killed.

    Bridges may idle on after their clients, so they are asked to end. What else is left gets a moment to finish by itself."""
    def bridges() -> list[MarkedProcess]:
        return [process for process in marked_processes(*marks) if "ws_bridge.py" in process.command]

    def others() -> list[MarkedProcess]:
        return [process for process in marked_processes(*marks) if "ws_bridge.py" not in process.command]

    faults = []
    if not holds_in_time(lambda: not others(), deadline_s=3):
        faults += [f"left running: {process.pid} {process.command[:200]}" for process in others()]
        send_signal(others(), signal.SIGKILL)
    send_signal(bridges(), signal.SIGTERM)
    if not holds_in_time(lambda: not bridges()):
        faults += [f"bridge does not end on SIGTERM: {process.pid} {process.command[:200]}" for process in bridges()]
    send_signal(marked_processes(*marks), signal.SIGKILL)
    return faults


def own_mark() -> str:
    """The mark of everything that this test has started."""
    return f"CC_TEST_RUN={os.environ['CC_TEST_RUN']}"


def own_bridges() -> list[MarkedProcess]:
    """The bridges of this test. One that cc_execute.py has started keeps little of the environment, but the runtime folder."""
    mine = marked_processes(own_mark(), f"XDG_RUNTIME_DIR={os.environ['XDG_RUNTIME_DIR']}")
    return [process for process in mine if re.search(r"ws_bridge\.py( --|$)", process.command)]


# ---- Namespaces: a network or a file system view of a test's own. Linux. ----

def unshare(*kinds: str) -> list[str]:
    """The command that gives a program namespaces of its own; who is not root becomes root in a user namespace."""
    return ["unshare", *kinds, *([] if os.geteuid() == 0 else ["--map-root-user"]), "--"]


@contextmanager
def own_network() -> Iterator[list[str]]:
    """A network with nothing but loopback, in which port 8004 is free: the words to put before a command that is to run there."""
    command = [*unshare("--net"), "sh", "-c", "ip link set lo up && echo ready && read until_the_end"]
    try:
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError as error:
        missing("a network namespace", str(error))
    with holder:
        if holder.stdout.readline() != "ready\n":
            missing("a network namespace", holder.stderr.read().strip())
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        yield ["nsenter", f"--target={holder.pid}", "--net", *user, "--"]
