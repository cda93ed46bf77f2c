#!/usr/bin/env python3
"""The Autobahn cases of RFC 6455 (those without compression) against both ends of our codec, by kosoku (PyPI).

    kosoku (fuzzing client) --> echo_server.py: the bridge's own connection class
    EchoClient: the built-in client of cc_execute.py --> kosoku (fuzzing server)

    python3 tests/conformance.py [--outdir FOLDER]      # or: make conformance; exit code 1 if a case is not passed

A case is passed when kosoku calls it OK or informational; NON-STRICT (right in the end, but in another order) is not.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Iterator, NamedTuple, Optional

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cc_execute as cc  # noqa: E402  (found by the line above)
import ws_bridge as wb  # noqa: E402
from support import free_port  # noqa: E402

NO_COMPRESSION = ("-x", "12.*", "-x", "13.*")
PASSED = {"OK", "INFORMATIONAL"}
LIMIT_S = 300


class Outcome(NamedTuple):
    """How many cases there were, and those that were not passed with what became of them."""
    cases: int
    failed: dict[str, str]


def find_kosoku() -> Optional[str]:
    """The program, beside this Python or on the PATH."""
    beside = Path(sys.executable).parent / "kosoku"
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("kosoku")


def read_outcome(outdir: Path) -> Outcome:
    cases, = json.loads((outdir / "index.json").read_text("utf-8")).values()
    told = {name: f"{case['behavior']}, close {case['behaviorClose']}" for name, case in cases.items()
            if not {case["behavior"], case["behaviorClose"]} <= PASSED}
    return Outcome(len(cases), told)


@contextlib.contextmanager
def listening(command: list[str], ready: str) -> Iterator[str]:
    """A program that listens: what its first line that matches `ready` says of where."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        found = next(filter(None, (re.search(ready, line) for line in process.stdout)), None)
        if not found:
            raise RuntimeError(f"{command[0]} did not start to listen")
        yield found[1]
    finally:
        process.terminate()
        process.communicate()


def check_server(kosoku: str, outdir: Path) -> Outcome:
    with listening([sys.executable, str(ROOT / "tests" / "echo_server.py"), "--port", "0"], r"(ws://\S+)") as url:
        subprocess.run([kosoku, "-m", "fuzzingclient", *NO_COMPRESSION, "-o", str(outdir), url], stdout=subprocess.DEVNULL, timeout=LIMIT_S, check=False)
    return read_outcome(outdir)


class EchoClient(cc.BuiltinChannel):
    """The built-in client, sending back every message until the other side closes; texts are also kept."""

    def echo(self) -> list[str]:
        """The texts that came until the end; a server that hangs up without waiting for our close is done too."""
        texts: list[str] = []
        with self._socket, contextlib.suppress(cc.BridgeLost, ConnectionError):
            while not self._echo_what_has_come(texts):
                self._socket.settimeout(LIMIT_S)
                data = self._socket.recv(1 << 18)
                if not data:
                    break
                self._events = self._codec.take(data)
        return texts

    def _echo_what_has_come(self, texts: list[str]) -> bool:
        """Whether the other side has closed."""
        for event in self._events:
            self._write(self._codec.owed())
            if isinstance(event, wb.Closed):
                return True
            self._answer(event, texts)
        return False

    def _answer(self, event: wb.Event, texts: list[str]) -> None:
        if isinstance(event, wb.TextMessage):
            texts.append(event.text)
            self._write(self._codec.send_text(event.text))
        elif isinstance(event, wb.BinaryMessage):
            self._write(self._codec.send_binary(event.data))


def wait_for_file(path: Path) -> None:
    """kosoku writes it a moment after it has closed the connection that asked for it."""
    deadline = time.monotonic() + 30
    while not is_json(path) and time.monotonic() < deadline:
        time.sleep(0.05)


def is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return True


def check_client(kosoku: str, outdir: Path) -> Outcome:
    port = free_port()

    def run(target: str) -> list[str]:
        return EchoClient(cc.Address("127.0.0.1", port, target)).echo()

    with listening([kosoku, "-m", "fuzzingserver", *NO_COMPRESSION, "-o", str(outdir), f"127.0.0.1:{port}"], r"(.)"):
        count = int(run("/getCaseCount")[0])
        for number in range(1, count + 1):
            run(f"/runCase?case={number}&agent=cc_execute")
        run("/updateReports?agent=cc_execute")
        wait_for_file(outdir / "index.json")
    return read_outcome(outdir)


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs the Autobahn cases against the codec's two ends.")
    parser.add_argument("--outdir", type=Path, help="where the reports are kept (default: nowhere)")
    given = parser.parse_args().outdir
    kosoku = find_kosoku()
    if not kosoku:
        print("kosoku is not installed: pip install kosoku", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        outdir = given or Path(folder)
        outcomes = {"server": check_server(kosoku, outdir / "server"), "client": check_client(kosoku, outdir / "client")}
    for name, outcome in outcomes.items():
        print(f"{name}: {outcome.cases - len(outcome.failed)} of {outcome.cases} cases passed")
        for case, told in outcome.failed.items():
            print(f"  {case}: {told}")
    return int(any(outcome.failed for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
