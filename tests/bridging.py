"""Real bridges and a small client for them.

    with start_bridge("--grace", "1") as bridge, bridge.connect() as client:
        run = client.run(["echo", "hello"])          # execute, everything it wrote, its `completed`

The client is blocking and made of the codec and handshake of ws_bridge itself; other clients have tests of their own.
Sections: messages and runs, the client, the bridge, the way to the bridge.
"""
from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Optional, Sequence

import ws_bridge as wb

SCRIPT = Path(wb.__file__)
DEADLINE_S = 30.0  # for anything to happen; mostly it takes milliseconds
READY = re.compile(r"ws_bridge (\S+) listening on ws://(.+):(\d+)/\n")


# ---- Messages and runs. ----

class RpcFailure(Exception):
    """An error response; `code`, `data` and the message as they came."""

    def __init__(self, error: dict) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code, self.message, self.data = error["code"], error["message"], error.get("data")


class Run(NamedTuple):
    """A process that has ended: the answer to `execute`, its output messages and the parameters of `completed`."""

    started: dict
    outputs: list[dict]
    completed: dict

    def text(self, stream: str = "stdout") -> str:
        return "".join(output["data"] for output in self.outputs if output["type"] == stream)


def lives(pid: int) -> bool:
    """Whether this process is there and not just a zombie (Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# ---- The client. ----

class Client:
    """One connection. What is not the answer that is waited for is kept in `notifications`."""

    def __init__(self, sock: socket.socket, first_bytes: bytes = b"") -> None:
        self.socket = sock
        self.codec = wb.Codec(wb.Role.CLIENT, 64 * wb.MIB)
        self.notifications: list[dict] = []
        self.answers: dict[Any, dict] = {}
        self.closed: Optional[wb.Closed] = None
        self._last_id = 0
        self._feed(first_bytes)
        self.hello = self.wait_for("connected")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def _feed(self, data: bytes) -> None:
        for event in self.codec.feed(data):
            if isinstance(event, wb.TextMessage):
                self._sort(json.loads(event.text))
            elif isinstance(event, wb.Closed):
                self.closed = event
        owed = self.codec.owed()
        if owed:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError) if self.closed else contextlib.nullcontext():
                self.socket.sendall(owed)   # to its close; it may not have waited for that

    def _sort(self, message: Any) -> None:
        if isinstance(message, dict) and "method" in message:
            self.notifications.append(message)
        else:
            self.answers[message["id"] if isinstance(message, dict) else "batch"] = message

    def read_once(self, within_s: float = DEADLINE_S) -> None:
        """Takes in what comes next; socket.timeout if nothing does, ConnectionError at the end."""
        if self.closed:
            raise ConnectionError(f"closed: {self.closed}")
        self.socket.settimeout(within_s)
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError("end of stream")
        self._feed(data)

    def send(self, message: Any) -> None:
        text = message if isinstance(message, str) else json.dumps(message)
        self.socket.settimeout(DEADLINE_S)
        self.socket.sendall(self.codec.send_text(text))

    def request(self, method: str, **params: Any) -> int:
        self._last_id += 1
        self.send({"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params})
        return self._last_id

    def answer(self, request_id: Any) -> Any:
        while request_id not in self.answers:
            self.read_once()
        message = self.answers.pop(request_id)
        if isinstance(message, dict) and "error" in message:
            raise RpcFailure(message["error"])
        return message["result"] if isinstance(message, dict) else message

    def call(self, method: str, **params: Any) -> Any:
        return self.answer(self.request(method, **params))

    def raw(self, message: Any) -> dict:
        """The whole answer to a message of any kind; for those that have one with id null."""
        self.send(message)
        while not self.answers:
            self.read_once()
        return self.answers.popitem()[1]

    def wait_for(self, method: str, is_it: Callable[[dict], bool] = lambda params: True) -> dict:
        """The parameters of the first such notification; it is taken out, those before it stay."""
        looked_at = 0
        while True:
            for index, message in enumerate(self.notifications[looked_at:], looked_at):
                if message["method"] == method and is_it(message["params"]):
                    return self.notifications.pop(index)["params"]
            looked_at = len(self.notifications)
            self.read_once()

    def wait_output(self, text: str, process_id: Optional[str] = None) -> None:
        """Returns when this text has come, in whatever pieces; the messages stay."""
        while text not in "".join(output["data"] for output in self.outputs(process_id)):
            self.read_once()

    def outputs(self, process_id: Optional[str] = None) -> list[dict]:
        found = [m["params"] for m in self.notifications if m["method"] == "process.output"]
        return [params for params in found if process_id in (None, params["process_id"])]

    def finish(self, started: dict) -> Run:
        completed = self.wait_for("process.completed", lambda params: params["process_id"] == started["process_id"])
        outputs = self.outputs(started["process_id"])
        self.notifications = [m for m in self.notifications if m["params"].get("process_id") != started["process_id"]]
        return Run(started, outputs, completed)

    def run(self, command: Any, **params: Any) -> Run:
        return self.finish(self.call("execute", command=command, **params))

    def wait_close(self) -> wb.Closed:
        """How the other side ended the connection; what came before it is taken in."""
        while not self.closed:
            self.read_once()
        return self.closed

    def cancel(self, process_id: str) -> dict:
        return self.call("control", type="CANCEL", process_id=process_id)


# ---- The bridge. ----

class RunningBridge(NamedTuple):
    process: subprocess.Popen
    ready_line: str
    host: str
    port: int
    log_path: Path

    @property
    def token(self) -> Optional[str]:
        return wb.read_token(self.port)

    @property
    def url(self) -> str:
        return f"ws://{self.host}:{self.port}/"

    def log(self) -> str:
        return self.log_path.read_text("utf-8")

    def open_socket(self) -> socket.socket:
        return socket.create_connection((self.host.strip("[]"), self.port), timeout=DEADLINE_S)

    def exchange(self, data: bytes) -> tuple[wb.Response, bytes]:
        """The answer to a raw request, with what follows its head up to the end of the stream (unless it is a 101)."""
        with self.open_socket() as sock:
            sock.sendall(data)
            return read_response(sock, "")

    def connect(self, target: str = "/", headers: Sequence[tuple[str, str]] = (), token: Optional[str] = None) -> Client:
        key, sock = wb.new_key(), self.open_socket()
        given = token or self.token
        authorization = [("Authorization", f"Bearer {given}")] if given else []
        sock.sendall(wb.handshake_request(f"{self.host}:{self.port}", target, key, [*authorization, *headers]))
        response, rest = read_response(sock, key)
        if response.status != 101:
            sock.close()
            raise ConnectionError(f"{response.status} {response.reason}: {rest.decode()}")
        return Client(sock, rest)

    def memory_bytes(self) -> int:
        """Resident memory (Linux)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(DEADLINE_S)


def read_response(sock: socket.socket, key: str) -> tuple[wb.Response, bytes]:
    data = b""
    while True:
        block = sock.recv(1 << 16)
        data += block
        parsed = wb.parse_response(data, key)
        if not block or (parsed and parsed[0].status == 101):
            if parsed is None:
                raise ConnectionError(f"end of stream after {data!r}")
            return parsed


def bridge_command(*options: str, python: str = sys.executable, script: Path = SCRIPT) -> list[str]:
    return [python, "-B", str(script), *options]


def launch(*options: str, env: Optional[dict[str, str]] = None, **how: Any) -> RunningBridge:
    """A bridge on a free port, ready; the caller ends it."""
    command = bridge_command("--port", "0", *options, **how)
    with tempfile.NamedTemporaryFile(dir=os.environ["HOME"], prefix="log-", delete=False) as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **(env or {})})
    line = process.stdout.readline()
    match = READY.fullmatch(line)
    if not match:
        process.kill()
        process.wait()
        raise AssertionError(f"no ready line but {line!r}; the log: {Path(log.name).read_text()}")
    return RunningBridge(process, line, match[2], int(match[3]), Path(log.name))


@contextlib.contextmanager
def start_bridge(*options: str, env: Optional[dict[str, str]] = None, **how: Any) -> Iterator[RunningBridge]:
    """A real bridge on a free port. At the end it must exit with 0 on SIGTERM, unless the test has ended it, and leave no file."""
    bridge = launch(*options, env=env, **how)
    try:
        yield bridge
        if bridge.process.poll() is None:
            assert bridge.stop() == 0
            assert "Traceback" not in bridge.log(), bridge.log()
            assert not list(wb.runtime_dir().glob(f"*{bridge.port}*"))
    finally:
        if bridge.process.poll() is None:
            bridge.process.kill()
        bridge.process.wait()
        bridge.process.stdout.close()


def wrapped(tmp_path: Path, before: str) -> Path:
    """The bridge's script with some lines that are carried out before it."""
    script = tmp_path / "wrapped.py"
    script.write_text(f"import os, resource, runpy, signal, sys\n{before}\nsys.path[0] = {str(SCRIPT.parent)!r}\n"
                      f"sys.argv[0] = {str(SCRIPT)!r}\nrunpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n")
    return script


def poll(is_so: Callable[[], Any], what: str, within_s: float = DEADLINE_S) -> Any:
    """The first true value of `is_so`; fails when it takes too long."""
    deadline = time.monotonic() + within_s
    while True:
        value = is_so()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what}: not within {within_s:g} s"
        time.sleep(0.01)


# ---- The way to the bridge. ----

class Cable:
    """A port that leads to another one; `cut` breaks all connections through it, new ones are taken as before."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._ends: list[socket.socket] = []
        self.taken = 0
        self.is_dead = False  # whoever comes is hung up on
        self.breaks = 0  # so many of the next connections end at the first byte
        self.carried = bytearray()  # from those who came
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # unplugged
            if self.is_dead:
                near.close()
                continue
            if self.breaks:
                self.breaks -= 1
                near.recv(1)
                near.close()
                continue
            self.taken += 1
            self.join(near, socket.create_connection(("127.0.0.1", self._port)))

    def join(self, near: socket.socket, far: socket.socket) -> None:
        """Begins to carry what comes, both ways, in threads of its own."""
        self._ends += [near, far]
        for source, target, record in ((near, far, self.carried), (far, near, bytearray())):
            threading.Thread(target=self._carry, args=(source, target, record), daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket, record: bytearray) -> None:
        with contextlib.suppress(OSError):  # cut
            while True:
                data = source.recv(1 << 16)
                record += data[:1 << 12]
                if not data:
                    return target.shutdown(socket.SHUT_WR)
                target.sendall(data)

    def cut(self) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):  # the other end has gone already
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends.clear()

    def __enter__(self) -> Cable:
        return self

    def __exit__(self, *error: object) -> None:
        self.unplug()

    def unplug(self) -> None:
        """Takes no more connections and breaks those that are there."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
