"""How fast the bridge is, and what it holds, beside the same work done with `websockets`, aiohttp and websocketd.

    python bridge.py [--rounds 5] [--only lines]

The same client for all, a small one on a bare socket; each workload in interleaved rounds, each with servers of its own; medians.
`of websockets` is the median of the ratios round by round; a ratio over 1 is slower, but for MB/s where it is faster. Server CPU is the
server process's own; memory is its peak RSS over what it had when it was ready, in MB of 1,000,000 bytes. Before the first round of
`lines` what comes is decoded and compared with what was written.

websocketd sends lines as they are, begins with the connection and ends with it; with "an envelope" a filter of its own makes each line
the notification that the others send.
"""
from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import json
import os
import random
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

HERE = Path(__file__).resolve().parent
BRIDGE = HERE.parents[1] / "ws_bridge.py"
LINES, LONG_EVERY, LONG_BYTES = 200_000, 2_000, 50_000
LONG_LINE_BYTES = 64 * 1024 * 1024
FLOOD_BYTES, ASLEEP_S = 500_000_000, 5.0
SESSIONS, PACE_S, SESSIONS_S = 100, 0.02, 4.0
GATHER_S, HELD_S = 5.0, 1.0  # until all have been started; from then until the memory is looked at
MB = 1e6


class Figures(NamedTuple):
    """Of one round: the workload's own figure, the server's CPU seconds, its peak of memory over the start in bytes; remarks."""
    value: float
    cpu_s: Optional[float] = None
    peak_bytes: Optional[float] = None
    remark: str = ""


# ---- Servers ----

class Server(NamedTuple):
    name: str
    process: subprocess.Popen
    port: int
    start_bytes: int = 0

    def takes_commands(self) -> bool:
        return not self.name.startswith("websocketd")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def command_of(name: str, port: int, command: Sequence[str]) -> List[str]:
    if name == "ws_bridge":
        return [sys.executable, str(BRIDGE), "--no-token", "--port", str(port), "--max-processes", "200",
                "--max-connections", "200"]
    if name in ("websockets", "aiohttp"):
        return [sys.executable, str(HERE / "peers.py"), name, str(port)]
    envelope = [sys.executable, str(HERE / "envelope.py")] if name == "websocketd with an envelope" else []
    return ["websocketd", "--loglevel=fatal", "--address=127.0.0.1", f"--port={port}", *envelope, *command]


@contextlib.contextmanager
def running(name: str, command: Sequence[str] = ()) -> Iterator[Server]:
    port = free_port()
    process = subprocess.Popen(command_of(name, port, command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        with contextlib.closing(connect(port)):
            pass
        time.sleep(0.2)  # the handshake's connection is gone, the server at rest
        yield Server(name, process, port, memory(process.pid, "VmRSS"))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM if name == "ws_bridge" else signal.SIGKILL)
        process.wait()


def memory(pid: int, field: str) -> int:
    """Bytes, from proc(5)."""
    line, = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(field + ":"))
    return 1024 * int(line.split()[1])


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- The client ----

def connect(port: int, within_s: float = 20.0) -> socket.socket:
    """A connection whose handshake was accepted; tries until somebody listens."""
    deadline = time.monotonic() + within_s
    while True:
        sock = socket.socket()
        try:
            sock.connect(("127.0.0.1", port))
            break
        except ConnectionRefusedError:
            sock.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.0005)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall((f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                  f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n").encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            raise ConnectionError(f"the handshake was not answered: {head!r}")
        head += byte
    if b" 101 " not in head:
        raise ConnectionError(f"the handshake was refused: {head!r}")
    return sock


class Wire:
    """A WebSocket connection after the handshake: `messages` gives each payload as a view that is good until the next; pings are answered."""

    def __init__(self, port: int, size: int = 1 << 20) -> None:
        self.sock = connect(port)
        self.is_last = True  # the last fragment of its message
        self._buffer, self._start, self._end = bytearray(size), 0, 0

    def send(self, message: dict, opcode: int = 1) -> None:
        self.send_frame(opcode, json.dumps(message).encode())

    def send_frame(self, opcode: int, payload: bytes) -> None:
        length = len(payload)
        head = bytes((0x80 | opcode, 0x80 | length)) if length < 126 else bytes((0x80 | opcode, 0xFE)) + length.to_bytes(2, "big")
        self.sock.sendall(head + bytes(4) + payload)  # masked with zeros

    def execute(self, *command: str) -> None:
        self.send({"jsonrpc": "2.0", "id": 1, "method": "execute", "params": {"command": list(command)}})

    def messages(self) -> Iterator[memoryview]:
        """Until the peer closes. Fragments come one by one."""
        while True:
            yield from self.arrived()
            if not self.fill():
                return

    def arrived(self) -> Iterator[memoryview]:
        buffer, view, start, end = self._buffer, memoryview(self._buffer), self._start, self._end
        while end - start >= 2:
            length, payload = buffer[start + 1], start + 2
            if length == 126:
                length, payload = int.from_bytes(buffer[start + 2:start + 4], "big"), start + 4
            elif length == 127:
                length, payload = int.from_bytes(buffer[start + 2:start + 10], "big"), start + 10
            if end - payload < length:
                self._make_room(payload - start + length)
                break
            head, opcode, start = start, buffer[start] & 15, payload + length
            self._start = start
            if opcode < 3:
                self.is_last = buffer[head] >= 128
                yield view[payload:start]
            elif opcode == 9:
                self.send_frame(10, bytes(view[payload:start]))

    def _make_room(self, size: int) -> None:
        """For a frame of so many bytes from the start of what is left."""
        if size > len(self._buffer):
            self._buffer = bytearray(self._buffer[self._start:self._end]) + bytes(size + (1 << 20))
            self._start, self._end = 0, self._end - self._start
        elif self._start + size > len(self._buffer):
            self._move()

    def _move(self) -> None:
        self._buffer[:self._end - self._start] = self._buffer[self._start:self._end]
        self._start, self._end = 0, self._end - self._start

    def fill(self) -> int:
        """Takes what there is to read, waiting for it; 0 at the end."""
        if self._start == self._end:
            self._start = self._end = 0
        if len(self._buffer) - self._end < 1 << 16:
            self._move()
        try:
            count = self.sock.recv_into(memoryview(self._buffer)[self._end:])
        except ConnectionResetError:
            count = 0
        self._end += count
        return count

    def until_completed(self) -> Iterator[memoryview]:
        """All messages up to the one that tells of the end, or to the end of the connection."""
        for payload in self.messages():
            if len(payload) < 1000 and b'"process.completed"' in bytes(payload):
                return
            yield payload


# ---- Workloads: server -> figures ----

def write_lines(path: Path) -> None:
    """What an agent writes: JSON with escapes, some of it not ASCII, and some lines of 50 KB."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(LINES):
            text = f'def step_{number}(value: "str") -> None:\n    print(f"{{value}}: {number}")\n' * (LONG_BYTES // 80 if number % LONG_EVERY == 0 else 6)
            block = {"type": "text", "text": text + ("žluťoučký kůň – 🐎" if number % 50 == 0 else "")}
            message = {"id": f"msg_{number:024}", "type": "message", "role": "assistant", "model": "claude", "content": [block]}
            file.write(json.dumps({"type": "assistant", "message": message, "session_id": "0f" * 16}, ensure_ascii=False, separators=(",", ":")) + "\n")


def digest_of(wire: Wire, has_envelope: bool) -> str:
    """SHA-256 of the output that came."""
    digest, fragments = hashlib.sha256(), []
    for payload in wire.until_completed():
        fragments.append(bytes(payload))
        if wire.is_last:
            text = b"".join(fragments)
            message = json.loads(text) if has_envelope else {"params": {"data": text.decode() + "\n"}}
            digest.update(message.get("params", {}).get("data", "").encode())
            fragments.clear()
    return digest.hexdigest()


def measured(server: Server, work: Callable[[], float]) -> Figures:
    before = cpu_s(server.process.pid)
    value = work()
    return Figures(value, cpu_s(server.process.pid) - before, memory(server.process.pid, "VmHWM") - server.start_bytes)


def stream(server: Server, path: Path) -> float:
    """MB/s of what was written, from the order to its end."""
    start, count = time.perf_counter(), 0
    wire = Wire(server.port)
    if server.takes_commands():
        wire.execute("cat", str(path))
    for payload in wire.until_completed():
        count += len(payload)
    seconds = time.perf_counter() - start
    wire.sock.close()
    if count < path.stat().st_size * 0.99:
        return 0.0  # lost
    return path.stat().st_size / MB / seconds


def check_stream(server: Server, path: Path) -> None:
    wire = Wire(server.port)
    if server.takes_commands():
        wire.execute("cat", str(path))
    found = digest_of(wire, server.name != "websocketd")
    wire.sock.close()
    if found != hashlib.sha256(path.read_bytes()).hexdigest():
        raise SystemExit(f"{server.name}: what came is not what was written")


def lines(name: str, folder: Path, is_first: bool) -> Figures:
    path = folder / "lines"
    with running(name, ["cat", str(path)]) as server:
        if is_first:
            check_stream(server, path)
        return measured(server, lambda: stream(server, path))


def long_line(name: str, folder: Path, is_first: bool) -> Figures:
    path = folder / "line"
    with running(name, ["cat", str(path)]) as server:
        figures = measured(server, lambda: stream(server, path))
        return figures._replace(value=path.stat().st_size / MB / figures.value if figures.value else float("nan"), remark="" if figures.value else "lost")


def repeated(times: int, once: Callable[[], float]) -> float:
    once()
    return statistics.median(once() for _ in range(times))


def time_to_line(server: Server, is_connected: bool) -> float:
    """Milliseconds until `echo` has been heard, from `execute` on or, unless it is connected before, from connecting on."""
    begun = time.perf_counter()
    wire = Wire(server.port, 1 << 16)
    begun = time.perf_counter() if is_connected else begun
    wire.execute("echo", "hello")
    next(payload for payload in wire.messages() if b"hello" in bytes(payload))
    seconds = time.perf_counter() - begun
    for _ in wire.until_completed():
        pass
    wire.sock.close()
    return seconds * 1000


def run_true(name: str, folder: Path, is_first: bool) -> Figures:
    def once() -> float:
        start = time.perf_counter()
        wire = Wire(server.port, 1 << 16)
        if server.takes_commands():
            wire.execute("true")
        for _ in wire.until_completed():
            pass
        wire.sock.close()
        return (time.perf_counter() - start) * 1000

    with running(name, ["true"]) as server:
        return measured(server, lambda: repeated(200, once))


def first_line(name: str, folder: Path, is_first: bool) -> Figures:
    with running(name) as server:
        return measured(server, lambda: repeated(200, lambda: time_to_line(server, is_connected=False)))


def first_line_connected(name: str, folder: Path, is_first: bool) -> Figures:
    with running(name) as server:
        return measured(server, lambda: repeated(200, lambda: time_to_line(server, is_connected=True)))


def start(name: str, folder: Path, is_first: bool) -> Figures:
    port = free_port()
    begun = time.perf_counter()
    process = subprocess.Popen(command_of(name, port, ["true"]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        connect(port).close()
        return Figures((time.perf_counter() - begun) * 1000, cpu_s(process.pid), None)
    finally:
        process.kill()
        process.wait()


def sleeper(name: str, folder: Path, is_first: bool) -> Figures:
    command = ["sh", "-c", f"yes '{'a line of a thousand characters ' * 30}' | head -c {FLOOD_BYTES}"]
    with running(name, command) as server:
        wire, count = Wire(server.port), 0
        if server.takes_commands():
            wire.execute(*command)
        time.sleep(ASLEEP_S)
        asleep = memory(server.process.pid, "VmHWM") - server.start_bytes
        for payload in wire.until_completed():
            count += len(payload)
        peak = memory(server.process.pid, "VmHWM") - server.start_bytes
        wire.sock.close()
        return Figures(asleep / MB, None, peak, "" if count >= FLOOD_BYTES * 0.98 else "lost")


def sessions(name: str, folder: Path, is_first: bool) -> Figures:
    """Each process writes the time by a clock of its own. The figure is the 99th percentile of the milliseconds from there to here."""
    latencies: List[float] = []
    with running(name) as server, selectors.DefaultSelector() as selector:
        time_to_line(server, is_connected=False)  # what a first session loads is none of a session's
        server = server._replace(start_bytes=memory(server.process.pid, "VmRSS"))
        begin = time.monotonic() + GATHER_S
        for number in range(SESSIONS):
            wire = Wire(server.port, 1 << 17)
            wire.execute(sys.executable, "-ISE", str(HERE / "pacer.py"), str(begin + PACE_S * random.random()), str(PACE_S), str(SESSIONS_S))
            wire.sock.setblocking(False)
            selector.register(wire.sock, selectors.EVENT_READ, wire)
        before, held = cpu_s(server.process.pid), 0
        while selector.get_map():
            for key, _ in selector.select(1.0):
                if not take_lines(key.data, latencies):
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
            if time.monotonic() < begin + HELD_S:
                held = memory(server.process.pid, "VmRSS") - server.start_bytes
        spent_s, peak = cpu_s(server.process.pid) - before, memory(server.process.pid, "VmHWM") - server.start_bytes
    missing = SESSIONS * round(SESSIONS_S / PACE_S) - len(latencies)
    remark = f"{held / SESSIONS / 1000:.1f} KB a session" + (f", {missing} LINES MISSING" if missing else "")
    return Figures(statistics.quantiles(latencies, n=100)[98], spent_s, peak, remark)


def take_lines(wire: Wire, latencies: List[float]) -> bool:
    """What a session has written by now; False at its end."""
    try:
        is_open = bool(wire.fill())
    except BlockingIOError:
        return True
    now_ns = time.monotonic_ns()
    for payload in wire.arrived():
        message = json.loads(bytes(payload))
        if message.get("method") == "process.output":
            latencies += [(now_ns - int(word)) / 1e6 for word in message["params"]["data"].split()]
        is_open = is_open and message.get("method") != "process.completed"
    return is_open


class Workload(NamedTuple):
    title: str
    unit: str
    work: Callable[[str, Path, bool], Figures]
    names: Tuple[str, ...]


ALL = ("ws_bridge", "websockets", "aiohttp", "websocketd", "websocketd with an envelope")
ORDERED = ("ws_bridge", "websockets", "aiohttp")
WORKLOADS: Dict[str, Workload] = {
    "lines": Workload("200,000 lines of stream-json, some of 50 KB", "MB/s", lines, ALL),
    "long": Workload("one line of 64 MiB", "s", long_line, ALL[:4]),
    "true": Workload("`true`, a new connection each time", "ms", run_true, ALL[:4]),
    "first": Workload("a new connection, `execute`, to the first line", "ms", first_line, ORDERED),
    "connected": Workload("the same, from `execute` on", "ms", first_line_connected, ORDERED),
    "sessions": Workload("100 sessions, a line each 20 ms: p99 from written to received", "ms", sessions, ORDERED),
    "start": Workload("from start to an accepted handshake", "ms", start, ALL[:4]),
    "sleeper": Workload("500 MB for a client that sleeps for 5 s: memory while it sleeps", "MB", sleeper, ALL[:4]),
}


# ---- Rounds and tables ----

def direct(path: Path) -> float:
    """MB/s through a pipe, without any server."""
    begun = time.perf_counter()
    with subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE, bufsize=0) as process:
        while os.read(process.stdout.fileno(), 1 << 16):
            pass
    return path.stat().st_size / MB / (time.perf_counter() - begun)


def median(values: Sequence[Optional[float]], form: str) -> str:
    known = [value for value in values if value is not None]
    return format(statistics.median(known), form) if known else "-"


def run_workload(workload: Workload, folder: Path, rounds: int) -> None:
    names = [name for name in workload.names if not name.startswith("websocketd") or shutil.which("websocketd")]
    if len(names) < len(workload.names):
        print("\nwebsocketd is left out: it is not installed")
    found: Dict[str, List[Figures]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names[number % len(names):] + names[:number % len(names)]:
            found[name].append(workload.work(name, folder, number == 0))
    print(f"\n{workload.title}\n{'':<30} {workload.unit:>9} {'of websockets':>14} {'server CPU s':>13} {'peak MB':>9}")
    for name, figures in found.items():
        ratios = [ours.value / theirs.value for ours, theirs in zip(figures, found["websockets"])]
        peaks = [one.peak_bytes / MB if one.peak_bytes is not None else None for one in figures]
        print(f"{name:<30} {median([one.value for one in figures], '9.3f')} {median(ratios, '13.2f')}x {median([one.cpu_s for one in figures], '13.2f'):>13} "
              f"{median(peaks, '9.1f'):>9}  {figures[-1].remark}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=WORKLOADS, action="append")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cc-bench-") as place:
        folder = Path(place)
        os.environ.update(HOME=place, XDG_RUNTIME_DIR=place)
        for name in options.only or WORKLOADS:
            if name == "lines":
                write_lines(folder / "lines")
                print(f"a pipe alone: {statistics.median(direct(folder / 'lines') for _ in range(5)):.0f} MB/s of {(folder / 'lines').stat().st_size / MB:.0f} MB")
            if name == "long":
                (folder / "line").write_bytes(b"x" * (LONG_LINE_BYTES - 1) + b"\n")
            run_workload(WORKLOADS[name], folder, options.rounds)


if __name__ == "__main__":
    main()
