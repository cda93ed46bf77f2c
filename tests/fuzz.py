#!/usr/bin/env python3
"""Mutated handshakes, frames and JSON-RPC messages against a real bridge: whatever comes, it answers, and goes on as before.

    mutate --> socket --> the bridge --> a refusal, a close frame or a reply, in time --> still the same memory, descriptors, log

    python3 tests/fuzz.py                                   # 200,000 inputs, the same ones each time
    python3 tests/fuzz.py --count 5000000 --seed 7          # others
    python3 tests/fuzz.py --only frames --seed 1 --from 4711 --count 1    # the one that failed

After each input the bridge has to say what it made of it within ten seconds. At the end it must have grown by no more than
GROWTH_BYTES and no descriptor, hold no process, and have logged nothing but its own lines, none of them an error. The built-in
client meets the same mutations of what a server says, in memory. Every input is made from the seed, its kind and its number alone.

Why not Hypothesis: it takes fifty times as long for an input; what it is good at, finding the smallest, the tests of the codec use.
"""
from __future__ import annotations

import argparse
import copy
import json
import os
import random
import re
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, ContextManager, Iterator, NamedTuple, Optional

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

import ws_bridge as wb  # noqa: E402  (found by the line above)
from bridging import RunningBridge, start_bridge  # noqa: E402

ANSWER_S = 10.0
GROWTH_BYTES = 4 * wb.MIB
WARM_UP = 0.1  # of the inputs: what Python allocates once
BATCH = 50  # JSON-RPC messages that are sent at once
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]{12}Z (INFO|WARNING) ")
CODES = {-32700, -32600, -32601, -32602, -32000, -32001, -32002, -32003, -32004}  # all but the internal error
KEY, TOKEN = "dGhlIHNhbXBsZSBub25jZQ==", "the-token-of-the-fuzzer"


class Fault(Exception):
    """The bridge did what it must not."""


# ---- Mutations. ----

CRUMBS = (b"\0", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b":", b"%", b"\xff", b"\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc3",
          b"A" * 200, b"A" * 20_000, b"HTTP/1.1", b"HTTP/1.0", b"\x16\x03\x01", b"\x7f", b"\xfe", b"\x7e\x00\x7d", b"\x7f" + b"\xff" * 8)
VALUES = (None, True, False, 0, -1, 1, 1.5, -0.0, 1e308, 10**18, 10**400, 2**63, "", "x", "\0", "\ud800", "é", "A" * 5000, [], {}, [[]], [None],
          {"": ""}, ["true"], ["true", "\0"], ["true", 1], "PAUSE", "RESUME", "CANCEL", "SIGKILL", "0" * 16, "/", "NaN")
RAW_VALUES = ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 5000, "[" * 5000, '{"a":' * 5000, '"\\ud800"', "\\u0000", "0x1", "01", "'x'", "")


def mutate(rng: random.Random, data: bytes) -> bytes:
    """A few bytes changed, lost, doubled, swapped or put in."""
    draft = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        start = rng.randrange(len(draft) + 1)
        end = min(len(draft), start + rng.choice((1, 1, 2, 8, 64)))
        how = rng.randrange(6)
        if how == 0 and start < len(draft):
            draft[start] ^= 1 << rng.randrange(8)
        elif how == 1 and start < len(draft):
            draft[start] = rng.randrange(256)
        elif how == 2:
            del draft[start:end]
        elif how == 3:
            draft[start:start] = draft[start:end] * rng.choice((1, 2, 30))
        elif how == 4:
            draft[start:start] = rng.choice(CRUMBS)
        else:
            del draft[rng.randrange(len(draft) + 1):]
    return bytes(draft)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


def mutate_json(rng: random.Random, request: dict) -> bytes:
    """Values replaced, names changed, members lost or added, then perhaps the text itself spoilt; always UTF-8."""
    draft = copy.deepcopy(request)
    raw = None
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        container, key = rng.choice(list(places(draft)) or [(draft, "id")])
        how = rng.randrange(5)
        if how == 0 and isinstance(container, dict):
            container[rng.choice(("", "x", "id", "params", "command", "timeout"))] = container.pop(key, None)
        elif how == 1:
            container.pop(key, None) if isinstance(container, dict) else container.pop(key)
        elif how == 2:
            container[key], raw = "RAW", rng.choice(RAW_VALUES)
        else:
            container[key] = copy.deepcopy(rng.choice(VALUES))
    text = json.dumps(draft, ensure_ascii=rng.random() < 0.5).encode("utf-8", "backslashreplace")
    if raw is not None:
        text = text.replace(b'"RAW"', raw.encode("utf-8"))
    if rng.random() < 0.2:
        text = mutate(rng, text).decode("utf-8", "replace").encode("utf-8")
    return text


# ---- The way to the bridge. ----

def handshake(target: str = "/") -> bytes:
    """The same each time: a port or a random token in it would make other inputs of the same numbers."""
    return wb.handshake_request("localhost", target, KEY, [("Authorization", f"Bearer {TOKEN}")])


def frame(rng: random.Random, mask: bytes = b"") -> bytes:
    """One good frame, perhaps without its FIN bit."""
    data = bytearray(wb.encode_frame(*rng.choice(FRAMES), mask=mask))
    data[0] &= rng.choice((0xFF, 0xFF, 0x7F))
    return bytes(data)


def closing_code(data: bytes) -> Optional[int]:
    """With which code the bridge has to answer these bytes: the codec's own when it gets them whole; binary messages are not taken."""
    codec = wb.Codec(wb.Role.SERVER, wb.MESSAGE_BYTES)
    ends = [event for event in codec.feed(data) if isinstance(event, (wb.Closed, wb.BinaryMessage))]
    return None if not ends else 1003 if isinstance(ends[0], wb.BinaryMessage) else ends[0].code


def open_socket(bridge: RunningBridge) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", bridge.port), timeout=ANSWER_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def send_all(sock: socket.socket, data: bytes) -> None:
    """What the bridge has refused already it need not read to the end."""
    try:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    except (BrokenPipeError, ConnectionResetError, OSError):
        pass


def read_to_end(sock: socket.socket) -> bytes:
    data, deadline = bytearray(), time.monotonic() + ANSWER_S
    try:
        while time.monotonic() < deadline:
            block = sock.recv(1 << 16)
            if not block:
                return bytes(data)
            data += block
    except ConnectionResetError:
        return bytes(data)
    except socket.timeout:
        pass
    raise Fault(f"no end of the connection within {ANSWER_S:g} s")


# ---- The kinds of inputs: each sends number `n` and looks at what comes back. ----

class Fuzzer:
    """One bridge and everything that is thrown at it."""

    def __init__(self, bridge: RunningBridge, seed: int) -> None:
        self.bridge, self.seed, self.talk = bridge, seed, Talk(bridge)
        self.tally: dict[str, int] = {}  # what came back, to show that the inputs reach all there is

    def rng(self, kind: str, number: int) -> random.Random:
        return random.Random(f"{self.seed} {kind} {number}")

    def count(self, outcome: object) -> None:
        self.tally[str(outcome)] = self.tally.get(str(outcome), 0) + 1

    def handshakes(self, number: int) -> None:
        rng = self.rng("handshakes", number)
        good = handshake(rng.choice(("/", "/ws/mcp", f"/?token={TOKEN}", "/%00?token=%ff&token=", "/?" + "a=b&" * 50)))
        extra = rng.choice((b"", b"", b"Origin: http://localhost\r\n", b"X-Bridge-Challenge: abc\r\n", b"Host: localhost\r\n", b"Cookie: a\r\n"))
        data = mutate(rng, good[:-2] + extra + b"\r\n")
        with open_socket(self.bridge) as sock:
            send_all(sock, data)
            answer = read_to_end(sock)
        match = re.match(rb"HTTP/1\.1 (101|400|401|403|404|405|426|431) [A-Z][^\r]*\r\n", answer)
        if not match and (answer or b"\r\n\r\n" in data):
            raise Fault(f"{data!r} was answered by {answer[:200]!r}")
        self.count(match[1].decode() if match else "unanswered")  # an unfinished head has no answer

    def frames(self, number: int) -> None:
        rng = self.rng("frames", number)
        mask = rng.getrandbits(32).to_bytes(4, "big")
        sequence = mutate(rng, b"".join(frame(rng, mask) for _ in range(rng.randrange(1, 5))))
        with open_socket(self.bridge) as sock:
            send_all(sock, handshake() + sequence)
            answer = read_to_end(sock)
        head, _, rest = answer.partition(b"\r\n\r\n")
        events = wb.Codec(wb.Role.CLIENT, wb.MESSAGE_BYTES).feed(rest)
        code = next((event.code for event in events if isinstance(event, wb.Closed)), None)
        if not head.startswith(b"HTTP/1.1 101 ") or code != closing_code(sequence):
            raise Fault(f"{sequence!r:.1000} was answered by {answer[-300:]!r}, not with {closing_code(sequence)}")
        self.count(code or "open to the end")

    def messages(self, number: int) -> None:
        rng = self.rng("messages", number)
        self.talk.say(mutate_json(rng, rng.choice(REQUESTS)))
        if self.talk.said == BATCH:
            self.finish_messages()

    def finish_messages(self) -> None:
        for outcome in self.talk.hear():
            self.count(outcome)

    def answers(self, number: int) -> None:
        """What a server might say to the built-in client."""
        rng = self.rng("answers", number)
        head = wb.accept_response(wb.HttpRequest("GET", "/", {"sec-websocket-key": [KEY]}))
        frames = b"".join(frame(rng) for _ in range(3))
        head, frames = (mutate(rng, part) if rng.random() < 0.6 else part for part in (head, frames))
        try:
            parsed = wb.parse_response(head, KEY)
            self.count("unfinished" if parsed is None else parsed[0].status if 99 < parsed[0].status < 600 else "no status")
        except wb.HandshakeError:
            self.count("no handshake")
        codec, rest = wb.Codec(wb.Role.CLIENT, 1 << 20), frames
        while rest:
            size = rng.randrange(1, 300)
            codec.feed(rest[:size])
            codec.owed()
            rest = rest[size:]
        self.count(codec.state.name)


FRAMES = (
    (1, b'{"jsonrpc":"2.0","id":1,"method":"ping"}'), (1, b'{"jsonrpc":"2.0","id":1,"method":"list"}'), (1, b""), (1, "é😀".encode()),
    (2, b"\0\1"), (8, b""), (8, b"\x03\xe8bye"), (9, b"ping"), (9, b"x" * 125), (10, b""), (1, b"x" * 126), (1, b"[" * 70_000), (0, b"rest"),
)
EXECUTE = {"command": ["true", "a"], "cwd": "/", "env": {"PATH": "/usr/bin:/bin", "A": "b"}, "stdin": "text", "timeout": 5, "idle_timeout": 5.5,
           "stop_signal": "SIGINT", "label": "fuzz", "umask": 18}
REQUESTS = [{"jsonrpc": "2.0", "id": number, "method": method, "params": params} for number, (method, params) in enumerate((
    ("execute", EXECUTE), ("execute", {"command": "true 'a b'"}), ("control", {"type": "CANCEL", "process_id": "0" * 16}), ("control", {"type": "PAUSE"}),
    ("attach", {"process_id": "0" * 16, "after": 0}), ("list", {}), ("ping", {}), ("connected", {}), ("ping", {"a": [1, {"b": "c"}]})))]


class Talk:
    """A connection that is kept: messages go out many at once, then all their replies are awaited."""

    def __init__(self, bridge: RunningBridge) -> None:
        self.said = self._owed = self._rounds = 0  # owed: how many of what was said must be answered
        self._socket, self._codec, self._out = open_socket(bridge), wb.Codec(wb.Role.CLIENT, wb.MESSAGE_BYTES), bytearray()
        self._socket.sendall(handshake())
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._socket.recv(1)

    def say(self, text: bytes) -> None:
        self._out += self._codec.send_text(text)
        self.said += 1
        request = wb.parse_message(text.decode("utf-8"))
        self._owed += isinstance(request, wb.RpcError) or request.wants_reply

    def hear(self) -> list[str]:
        """What was made of each message that was answered."""
        self._rounds += 1
        sync = f"sync {self._rounds}"
        self._out += self._codec.send_text(json.dumps({"jsonrpc": "2.0", "id": sync, "method": "ping", "params": {}}))
        self._socket.sendall(self._out)
        said, owed, self.said, self._owed = self.said, self._owed, 0, 0
        self._out.clear()
        replies: list[dict] = []
        while len(replies) <= owed or sync not in [reply.get("id") for reply in replies]:  # a CANCEL may be answered later than what follows
            try:
                data = self._socket.recv(1 << 16)
            except socket.timeout:
                raise Fault(f"{len(replies)} replies to {said + 1} messages, {owed + 1} of them with an id") from None
            events = self._codec.feed(data)
            self._socket.sendall(self._codec.owed())  # pongs, by which the bridge knows what was read
            if not data or any(isinstance(event, wb.Closed) for event in events):
                raise Fault(f"one of the last {said} messages ended the connection: {events[-1:]}")
            messages = (json.loads(event.text) for event in events if isinstance(event, wb.TextMessage))
            replies += [message for message in messages if "method" not in message]
        if len(replies) != owed + 1:
            raise Fault(f"{len(replies) - 1} replies to {said} messages, {owed} of them with an id")
        return [self._check(reply) for reply in replies if reply.get("id") != sync]

    @staticmethod
    def _check(reply: dict) -> str:
        code = reply.get("error", {}).get("code")
        if set(reply) not in ({"jsonrpc", "id", "result"}, {"jsonrpc", "id", "error"}) or code not in {None, *CODES}:
            raise Fault(f"a reply that must not be: {reply!r:.300}")
        return f"{code}" if code else "result"

    def close(self) -> None:
        self._socket.close()


# ---- A run: all kinds, and what the bridge must be like afterwards. ----

class Kind(NamedTuple):
    name: str
    share: float  # of all inputs
    send: Callable[[Fuzzer, int], None]


KINDS = (Kind("handshakes", 0.15, Fuzzer.handshakes), Kind("frames", 0.15, Fuzzer.frames), Kind("messages", 0.5, Fuzzer.messages),
         Kind("answers", 0.2, Fuzzer.answers))


def descriptors(bridge: RunningBridge) -> int:
    return len(list(Path(f"/proc/{bridge.process.pid}/fd").iterdir()))


def run_kind(fuzzer: Fuzzer, kind: Kind, numbers: range) -> None:
    """Sends these inputs; raises Fault, naming the input, when one isn't taken as it must be."""
    number = numbers.start
    try:
        for number in numbers:
            kind.send(fuzzer, number)
        if kind.name == "messages" and fuzzer.talk.said:
            fuzzer.finish_messages()
    except Exception as error:
        first = number - (BATCH - 1 if kind.name == "messages" else 0)
        raise Fault(f"{kind.name} {max(first, numbers.start)} to {number}, seed {fuzzer.seed}: {type(error).__name__}: {error}") from error


def check_rest(bridge: RunningBridge) -> None:
    """At the end: no process is left, and the log holds nothing but lines of the bridge's own, none of them an error."""
    with bridge.connect(token=TOKEN) as client:
        deadline = time.monotonic() + ANSWER_S
        while any(process["state"] != "ended" for process in client.call("list")["processes"]):
            if time.monotonic() > deadline:
                raise Fault("processes that do not end")
            time.sleep(0.05)
    wrong = [line for line in bridge.log().splitlines() if not LOG_LINE.match(line)]
    if wrong:
        raise Fault(f"{len(wrong)} wrong lines in the log, the first: {wrong[0]!r}")


def a_bridge(**how: Any) -> ContextManager[RunningBridge]:
    """It may run nothing but `true`: a mutated request must do no harm."""
    return start_bridge("--allow", "true", "--max-processes", "16", "--detach-grace", "0.2", env={wb.TOKEN_VARIABLE: TOKEN}, **how)


def fuzz(count: int, seed: int, say: Callable[[str], None], **how: Any) -> None:
    """`count` inputs of all kinds against a bridge of its own, started `how` it is said. Raises Fault."""
    with a_bridge(**how) as bridge:
        fuzzer, before = Fuzzer(bridge, seed), (0, 0)
        for is_warm, (start, end) in enumerate(((0.0, WARM_UP), (WARM_UP, 1.0))):
            for kind in KINDS:
                fuzzer.tally.clear()
                began, numbers = time.monotonic(), range(round(count * kind.share * start), round(count * kind.share * end))
                run_kind(fuzzer, kind, numbers)
                tally = ", ".join(f"{outcome}: {times:,}" for outcome, times in sorted(fuzzer.tally.items(), key=lambda item: -item[1]))
                say(f"{kind.name:10} {len(numbers):9,} in {time.monotonic() - began:5.1f} s   {tally}")
            if not is_warm:
                before = bridge.memory_bytes(), descriptors(bridge)
        after = bridge.memory_bytes(), descriptors(bridge)
        say(f"memory {before[0] / wb.MIB:.1f} -> {after[0] / wb.MIB:.1f} MiB, descriptors {before[1]} -> {after[1]}")
        if after[0] - before[0] > GROWTH_BYTES:
            raise Fault(f"the bridge grew by {after[0] - before[0]} bytes")
        fuzzer.talk.close()
        check_rest(bridge)


def run(options: argparse.Namespace) -> None:
    if options.only:
        kind = next(kind for kind in KINDS if kind.name == options.only)
        with a_bridge() as bridge:
            run_kind(Fuzzer(bridge, options.seed), kind, range(options.first, options.first + options.count))
    else:
        fuzz(options.count, options.seed, print)


def main() -> None:
    parser = argparse.ArgumentParser(description="Mutated handshakes, frames and JSON-RPC messages against a real bridge.")
    parser.add_argument("--count", type=int, default=200_000, help="inputs in all (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default %(default)s)")
    parser.add_argument("--only", choices=[kind.name for kind in KINDS], help="only this kind, `count` of them")
    parser.add_argument("--from", type=int, default=0, dest="first", help="with --only: the number of the first (default %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:  # nothing of the user's own is touched
        os.environ.update(HOME=folder, XDG_RUNTIME_DIR=folder)
        run(options)


if __name__ == "__main__":
    main()
