#!/usr/bin/env python3
# /// script
# requires-python = ">=3.9"
# dependencies = []
# ///
"""ws_bridge: runs commands for WebSocket clients, streams their output, keeps time limits, leaves no process behind.

    client  <- frames ->  Connection  <- messages ->  Process  <- pipes, signals ->  the command and all that it started
               (Codec)    (the pump)    (Kept, 8 MiB)          (a session and a marker of its own)

Run:        python3 ws_bridge.py [--port 8004] [--help]; prints `ws_bridge 1.0 listening on ws://127.0.0.1:8004/` when ready.
Speaks:     JSON-RPC 2.0 in text frames: execute, control, attach, list, ping; connected, process.output, process.completed.
Exit codes: 0 ended by SIGTERM, SIGINT, SIGHUP or --idle-exit; 2 usage; 3 could not start (one line on stderr says why).
Variables:  CC_BRIDGE_TOKEN sets the token; XDG_RUNTIME_DIR says where a random one is kept.
Sections:   policy and limits; data; codec; handshake; JSON-RPC (up to here without sockets, clocks, tasks); private files; processes:
            finding, starting, clocks and pipes, one process; connection; bridge; command line.

Policy, in words:
- One user, one machine. Who has the token may run anything as this user (less with --allow) and sees all processes of this bridge.
- Back-pressure: an unread socket stops the reading of the pipes, full pipes stop the process. Nothing is dropped to keep up.
- A process is ended with all that it started: its group, what carries its marker, and their descendants. What clears or hides its
  environment (ssh-agent hides it from all but root) and leaves both its session and its parent escapes. Without /proc (macOS) markers
  are found with `ps -E`, which shows the environments of the user's own programs, but not of those that the system protects.
- Whoever may connect may use the machine, but not the others' time: each client has its turn of some milliseconds, and what it makes the
  bridge hold has a bound.
- A client is sent no more than it could find again after a lost connection: pings tell how far it has read.
- What survives a normal end keeps its pipes: they are read and dropped, so that a broken pipe does not end it.
"""
from __future__ import annotations

import sys

if __name__ == "__main__" and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]  # a json.py or queue.py beside this script must not take the place of the standard library's
if __name__ == "__main__":
    sys.modules["ssl"] = None  # asyncio does without it where it is not there; loading it would take a tenth of the time of a start

import argparse
import base64
import codecs
import contextlib
import errno
import fcntl
import functools
import hashlib
import hmac
import ipaddress
import json
import logging
import os
import re
import resource
import shlex
import signal
import socket
import stat
import subprocess
import termios
import time
import traceback
from collections import deque
from enum import Enum, IntEnum
from pathlib import Path
from typing import (AbstractSet, Any, Awaitable, Callable, Dict, FrozenSet, Iterable, Iterator, List, Mapping, NamedTuple, NoReturn, Optional,
                    Sequence, Set, Tuple, Union)
from urllib.parse import parse_qs

asyncio: Any = sys.modules.get("asyncio")  # main() loads it: a client that imports this file for its codec does without, and saves 27 ms

# ---- Policy and limits: every number with its unit and its reason. ----

VERSION = "1.0"
PROTOCOL = 1
DEFAULT_PORT = 8004
MARKER_PREFIX = "CC_BRIDGE_PROCESS_"  # CC_BRIDGE_PROCESS_<process id>=1 in the environment of a process and of all that inherits it
TOKEN_VARIABLE = "CC_BRIDGE_TOKEN"
PATHS = ("/", "/ws/mcp")  # the second is what older clients ask for

MIB = 1024 * 1024
HANDSHAKE_S = 10.0  # a client on the same machine needs milliseconds
HANDSHAKE_BYTES = 16 * 1024  # as most HTTP servers take for a request's head
TOKEN_CHARS = 16  # 64 bits in hex: what is shorter can be found by trying, given one answer to a challenge
CHALLENGE_CHARS = 128  # a random challenge has 32 to 64
PENDING_HANDSHAKES = 64  # beyond it the oldest is dropped, so that silent connections keep nobody out
ACCEPTED_AT_ONCE = 16  # new connections in a turn of the loop
BACKLOG = 128  # those that the system holds ready meanwhile
TURN_S = 0.002  # how long what one client sent is dealt with before others have their turn
PIECE_BYTES = 4 * 1024  # ... and how much of it at least: 600 of the smallest frames, or a millisecond
MESSAGE_BYTES = 16 * MIB  # a message from a client; the largest that the Autobahn test suite sends
UNFINISHED_BYTES = 128 * MIB  # of messages that are still coming in, over all connections; beyond it the oldest is given up
WIDE_BYTES = 256 * 1024  # a longer message's values are counted before it is parsed, for nobody is served meanwhile
VALUES = 100_000  # in such a message; it takes 50 ms. What is long in real ones is one string
DIGITS = 1000  # of a number; a million of them take Python minutes
CONTROL_BYTES = 125  # RFC 6455, 5.5
BLOCK_BYTES = 64 * 1024  # read from a pipe at once, and so the longest output message; what a Linux pipe holds
WAITING_BYTES = 256 * 1024  # output that waits for a client that is there; beyond it neither pipes are read nor the socket filled
REPLY_BYTES = 4 * MIB  # a socket's buffer beyond which its client is not read from: it does not read our replies
KEPT_BYTES = 8 * MIB  # messages kept for `attach` once sent, and the most that waits for a client that is away
ENTRY_BYTES = 100  # counted for each of them besides its output: that of a message's frame is more, what it takes in memory less
UNREAD_BYTES = 6 * MIB  # output sent to a client that has not shown by a pong that it read it: less than is kept for its return
PING_BYTES = MIB  # of output from one ping to the next; before it, the first comes after a quarter of that
PONG_S = 5.0  # for the first pong; a client that answers no ping (RFC 6455, 5.5.2: it MUST) is sent output without waiting
FORGET_S = 1.0  # at least, between two looks whether a client has read what an ended process left
ENDED_BYTES = 64 * MIB  # messages of ended processes kept in all; beyond it the oldest that were delivered go first
ENDED = 4096  # and so many of these processes
AWAITED_BYTES = 128 * MIB  # messages of ended processes that no client has fetched yet; beyond it nothing is started
JOURNAL_BYTES = MIB  # of finished and unfinished runs; then it is begun anew
DESCRIPTORS = 4  # of a process: three pipes and a leash; what survives its end holds two of them for as long as it lives
LEASH_END = 1024  # above the descriptors of all processes that run at once
DESCRIPTORS_MAX = 16 * 1024  # taken when there are that many survivors, if it is allowed
OTHER_DESCRIPTORS = 32  # listener, log, journal, loop, leashes' pipe, what starting a process needs for a moment
DRAIN_S = 0.5  # after the end of a process, for what survivors that hold its pipes still write
LINGER_S = 2.0  # for a client to take our last bytes and to close its side; then the connection is cut
KILL_S = 5.0  # for processes to vanish after SIGKILL; what is there longer hangs in the kernel and is reported
LOOKS = 5  # at the process table before what still comes anew is left for the next time
EXEC_S = 0.001  # for a program that is being executed to show its environment
LOOK_S = (0.02, 0.16)  # between two looks at the process table: the first pause, doubled up to the last
SECONDS_MAX = 1e9  # the longest time limit: more is a mistake in units
LABEL_CHARS = 200  # a label goes into the log
COMMAND_CHARS = 64 * 1024  # of a command that is to be split, for that takes time by its square; longer ones come as a list
WORDS = 64 * 1024  # arguments or variables; with all of Linux' 2 MiB (execve(2)) it would be 32 bytes each
ARGUMENT_CHARS = 8 * MIB  # arguments and variables; no system takes more (Linux: 6 MiB, execve(2))
PLACES = 1000  # on a PATH: ten milliseconds to look at
PATH_CHARS = 4096  # PATH_MAX of Linux; macOS has 1024

log = logging.getLogger("ws_bridge")

# ---- Data: what crosses a boundary. ----

TextMessage = NamedTuple("TextMessage", [("text", str)])
BinaryMessage = NamedTuple("BinaryMessage", [("data", bytes)])
Ping = NamedTuple("Ping", [("data", bytes)])
Pong = NamedTuple("Pong", [("data", bytes)])
Closed = NamedTuple("Closed", [("code", int), ("reason", str)])  # the peer's code (1005: none), or ours after a violation
Event = Union[TextMessage, BinaryMessage, Ping, Pong, Closed]

Response = NamedTuple("Response", [("status", int), ("reason", str), ("headers", Dict[str, str])])  # header names in lower case
Gate = NamedTuple("Gate", [("token", Optional[str]), ("hosts", FrozenSet[str])])  # no token: all on this machine; more names for Host
Place = NamedTuple("Place", [("ip", str), ("port", int)])  # where a client reached the bridge
Request = NamedTuple("Request", [("method", str), ("params", Any), ("id", Any), ("wants_reply", bool)])  # one of JSON-RPC


class Refusal(NamedTuple):
    """What a client that is not let in is told; `level` is that of its line in the log."""

    status: int
    text: str
    headers: Sequence[Tuple[str, str]] = ()
    level: int = logging.WARNING


class HttpRequest(NamedTuple):
    """A client's handshake as it came; header names in lower case, the values of each in order."""

    method: str
    target: str
    headers: Dict[str, List[str]]

    def first(self, name: str) -> str:
        return self.headers.get(name, [""])[0]


class Order(NamedTuple):
    """What `execute` asks for, checked. Times in seconds, None: no limit; `env` None and `umask` -1: the bridge's own."""

    argv: Tuple[str, ...]
    cwd: Optional[str] = None
    env: Optional[Mapping[str, str]] = None
    stdin: Optional[bytes] = None
    timeout_s: Optional[float] = None
    idle_timeout_s: Optional[float] = None
    stop_signal: int = signal.SIGTERM
    label: str = ""
    umask: int = -1


class BridgeError(Exception):
    """Base of this file's errors; `exit_code` is what the program ends with when nobody else handles it."""

    exit_code = 3


class HandshakeError(BridgeError):
    """Not a good WebSocket handshake; `status` is the HTTP status that answers it."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Violation(BridgeError):
    """The peer broke the WebSocket protocol; `close_code` is what it is told."""

    def __init__(self, reason: str, close_code: int = 1002) -> None:
        super().__init__(reason)
        self.close_code = close_code


class RpcError(BridgeError):
    """What a request is answered with in the place of a result."""

    def __init__(self, code: int, message: str, data: Optional[Dict[str, Any]] = None, id: Any = None) -> None:
        super().__init__(message)
        self.code, self.data, self.id = code, data, id


# ---- Codec: bytes -> events, messages -> bytes (RFC 6455). Pure; the same for client and server. ----

Role = Enum("Role", "CLIENT SERVER")
State = Enum("State", "OPEN CLOSING CLOSED")  # CLOSING: our close frame is out, the peer's is awaited
Move = Enum("Move", {"SEND": "send", "SEND_CLOSE": "send a close frame", "RECEIVE_CLOSE": "take a close frame", "FAIL": "fail"})
Opcode = IntEnum("Opcode", {"CONTINUATION": 0, "TEXT": 1, "BINARY": 2, "CLOSE": 8, "PING": 9, "PONG": 10})

# A move that is not here is the caller's error: nothing is sent after a close frame (5.5.1), nothing read after the peer's.
MOVES = {
    (State.OPEN, Move.SEND): State.OPEN, (State.OPEN, Move.SEND_CLOSE): State.CLOSING, (State.OPEN, Move.RECEIVE_CLOSE): State.CLOSED,
    (State.OPEN, Move.FAIL): State.CLOSED, (State.CLOSING, Move.RECEIVE_CLOSE): State.CLOSED, (State.CLOSING, Move.FAIL): State.CLOSED,
}
OPCODES = frozenset(Opcode)
# 7.4.1 and the IANA registry (1012-1014), 7.4.2 (libraries, private use). 1004-1006 and 1015 never go over the wire.
CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})
NO_CODE = 1005


class Head(NamedTuple):
    """A frame's head; `length` is the payload's, `size` its own, in bytes; `mask` is empty if there is none."""

    fin: bool
    reserved: int
    opcode: int
    masked: bool
    short_length: int
    length: int = 0
    mask: bytes = b""
    size: int = 0

    @property
    def is_control(self) -> bool:
        return self.opcode >= Opcode.CLOSE


# What the first two bytes must not say, in the order of the RFC.
HEAD_RULES: Tuple[Tuple[Callable[[Head, Role], bool], str], ...] = (
    (lambda head, role: head.reserved != 0, "reserved bits set without an extension (5.2)"),
    (lambda head, role: head.opcode not in OPCODES, "reserved opcode (5.2)"),
    (lambda head, role: role is Role.SERVER and not head.masked, "a frame from a client must be masked (5.1)"),
    (lambda head, role: role is Role.CLIENT and head.masked, "a frame from a server must not be masked (5.1)"),
    (lambda head, role: head.is_control and not head.fin, "a control frame must not be fragmented (5.5)"),
    (lambda head, role: head.is_control and head.short_length > CONTROL_BYTES, "a control frame's payload is at most 125 bytes (5.5)"),
)
LONG_LENGTHS = {126: (2, 126), 127: (8, 1 << 16)}  # short length: bytes that follow, smallest length that needs them


def parse_head(data: Union[bytes, bytearray], role: Role) -> Optional[Head]:
    """The head at the beginning of `data`, None if more bytes are needed; `role` is the reader's. Raises Violation."""
    if len(data) < 2:
        return None
    head = Head(bool(data[0] & 0x80), data[0] & 0x70, data[0] & 0x0F, bool(data[1] & 0x80), data[1] & 0x7F)
    for is_broken, reason in HEAD_RULES:
        if is_broken(head, role):
            raise Violation(reason)
    extra, smallest = LONG_LENGTHS.get(head.short_length, (0, 0))
    size = 2 + extra + 4 * head.masked
    if len(data) < size:
        return None
    length = int.from_bytes(data[2:2 + extra], "big") if extra else head.short_length
    # 5.2: "the minimal number of bytes MUST be used to encode the length"; "the most significant bit MUST be 0"
    if length < smallest or length >> 63:
        raise Violation(f"length {length} is wrongly encoded (5.2)")
    return head._replace(length=length, mask=bytes(data[2 + extra:size]), size=size)


def apply_mask(data: bytes, mask: bytes, offset: int = 0) -> bytes:
    """`data` masked or unmasked (5.3); `offset` is its place in the payload. One XOR of big integers, the fastest in plain Python."""
    turned = mask[offset % 4:] + mask[:offset % 4]
    stream = (turned * (len(data) // 4 + 1))[:len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(data), "big")


def encode_frame(opcode: int, *parts: bytes, mask: bytes = b"") -> bytes:
    """One final frame, masked if a mask is given; the payload may come in parts."""
    length = sum(map(len, parts))
    short, extra = (length, 0) if length < 126 else (126, 2) if length < 1 << 16 else (127, 8)
    head = bytes((0x80 | opcode, (0x80 if mask else 0) | short)) + (length.to_bytes(extra, "big") if extra else b"")
    return b"".join((head, mask, apply_mask(b"".join(parts), mask)) if mask else (head, *parts))


def encode_close(code: int, reason: str) -> bytes:
    """A close frame's payload; the reason is cut to what fits, between two characters."""
    if code == NO_CODE:
        return b""
    if code not in CLOSE_CODES:
        raise BridgeError(f"close code {code} can't be sent; 1000-1003, 1007-1014 and 3000-4999 can")
    cut = reason.encode("utf-8", "replace")[:CONTROL_BYTES - 2].decode("utf-8", "ignore")
    return code.to_bytes(2, "big") + cut.encode("utf-8")


def decode_close(payload: bytes) -> Closed:
    """What a close frame says. Raises Violation."""
    if not payload:
        return Closed(NO_CODE, "")
    code = int.from_bytes(payload[:2], "big")
    # 5.5.1: "If there is a body, the first two bytes of the body MUST be a 2-byte unsigned integer"
    if len(payload) == 1 or code not in CLOSE_CODES:
        raise Violation(f"close code {code} in {len(payload)} bytes (5.5.1, 7.4)")
    try:
        return Closed(code, payload[2:].decode("utf-8"))
    except UnicodeDecodeError:
        raise Violation("a close reason that is not UTF-8 (5.5.1)", 1007) from None


class Incoming:
    """A message that is still coming in. Text is checked as it comes, so that a wrong byte fails at once (8.1)."""

    def __init__(self, opcode: int) -> None:
        self.data = bytearray()
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict") if opcode == Opcode.TEXT else None

    def add(self, block: bytes, is_last: bool) -> None:
        self.data += block
        try:
            if self._decoder:
                self._decoder.decode(block, is_last)
        except UnicodeDecodeError:
            raise Violation("text that is not UTF-8 (8.1)", 1007) from None

    def event(self) -> Event:
        return TextMessage(self.data.decode("utf-8")) if self._decoder else BinaryMessage(bytes(self.data))


class Codec:
    """One end of a WebSocket connection after the handshake: `feed` it what comes, send what it gives back and what is `owed`."""

    def __init__(self, role: Role, max_message_bytes: int, new_mask: Callable[[], bytes] = lambda: os.urandom(4)) -> None:
        self.state = State.OPEN
        self._role, self._max_message_bytes, self._new_mask = role, max_message_bytes, new_mask
        self._inbox, self._outbox = bytearray(), bytearray()
        self._head: Optional[Head] = None  # of the frame whose payload is awaited
        self._taken = 0  # bytes of that payload that were taken
        self._message: Optional[Incoming] = None

    def feed(self, data: bytes) -> List[Event]:
        """What these bytes complete. After Closed nothing more comes, and what is fed is dropped."""
        return list(self.take(data))

    def take(self, data: bytes) -> Iterator[Event]:
        """The same one by one: no frame is looked at before all before it were handed out, so that what is owed, and what is said
        to a message, can be sent in the order of the frames, and before a later frame fails the connection."""
        self._inbox += data
        try:
            events, is_whole = [], True
            while is_whole and self.state is not State.CLOSED:
                is_whole = self._take_frame(events)
                yield from events
                events.clear()
        except Violation as violation:
            self._outbox += self.fail(violation.close_code, str(violation))
            yield Closed(violation.close_code, str(violation))
        if self.state is State.CLOSED:
            self._inbox.clear()

    def unfinished_bytes(self) -> int:
        """What is held of a message that is still coming in."""
        return len(self._inbox) + (len(self._message.data) if self._message else 0)

    def owed(self) -> bytes:
        """What must be sent now: answers to pings and close frames, a close frame after a violation. Asking clears it."""
        data = bytes(self._outbox)
        self._outbox.clear()
        return data

    def send_text(self, text: Union[str, bytes]) -> bytes:
        return self._send(Opcode.TEXT, text.encode("utf-8") if isinstance(text, str) else text)

    def send_binary(self, data: bytes) -> bytes:
        return self._send(Opcode.BINARY, data)

    def send_ping(self, data: bytes = b"") -> bytes:
        if len(data) > CONTROL_BYTES:
            raise BridgeError(f"a ping carries at most {CONTROL_BYTES} bytes, not {len(data)}")
        return self._send(Opcode.PING, data)

    def send_close(self, code: int = 1000, reason: str = "") -> bytes:
        return self._send(Opcode.CLOSE, encode_close(code, reason), Move.SEND_CLOSE)

    def fail(self, code: int, reason: str) -> bytes:
        """The close frame, if one may still be sent, with which the connection ends at once: what has come is dropped (7.1.7)."""
        frame = self._frame(Opcode.CLOSE, encode_close(code, reason)) if self.state is State.OPEN else b""
        self._move(Move.FAIL)
        self._message, self._head = None, None
        self._inbox.clear()
        return frame

    def _send(self, opcode: Opcode, payload: bytes, move: Move = Move.SEND) -> bytes:
        self._move(move)
        return self._frame(opcode, payload)

    def _frame(self, opcode: Opcode, payload: bytes) -> bytes:
        return encode_frame(opcode, payload, mask=self._new_mask() if self._role is Role.CLIENT else b"")

    def _move(self, move: Move) -> None:
        if (self.state, move) not in MOVES:
            raise BridgeError(f"can't {move.value}: the connection is {self.state.name.lower()}")
        self.state = MOVES[self.state, move]

    def _take_frame(self, events: List[Event]) -> bool:
        """Takes what is there of a frame; False: more bytes are needed."""
        if self._head is None:
            head = parse_head(self._inbox, self._role)
            if head is None:
                return False
            if not head.is_control:
                self._begin_data(head)
            del self._inbox[:head.size]
            self._head, self._taken = head, 0
        return self._take_control(self._head, events) if self._head.is_control else self._take_data(self._head, events)

    def _begin_data(self, head: Head) -> None:
        # 5.4: the fragments of a message follow each other, only the first has its opcode
        if (head.opcode == Opcode.CONTINUATION) != (self._message is not None):
            raise Violation("a continuation of nothing, or a new message inside a fragmented one (5.4)")
        self._message = self._message or Incoming(head.opcode)
        if len(self._message.data) + head.length > self._max_message_bytes:
            raise Violation(f"a message of more than {self._max_message_bytes} bytes", 1009)

    def _take_data(self, head: Head, events: List[Event]) -> bool:
        block = bytes(self._inbox[:head.length - self._taken])
        del self._inbox[:len(block)]
        is_whole = self._taken + len(block) == head.length
        self._message.add(apply_mask(block, head.mask, self._taken) if head.mask else block, is_whole and head.fin)
        self._taken += len(block)
        if is_whole:
            self._head = None
        if is_whole and head.fin:
            events.append(self._message.event())
            self._message = None
        return is_whole

    def _take_control(self, head: Head, events: List[Event]) -> bool:
        if len(self._inbox) < head.length:
            return False
        payload = bytes(self._inbox[:head.length])
        del self._inbox[:head.length]
        self._head = None
        handle = {Opcode.CLOSE: self._on_close, Opcode.PING: self._on_ping, Opcode.PONG: Pong}[Opcode(head.opcode)]
        events.append(handle(apply_mask(payload, head.mask) if head.mask else payload))
        return True

    def _on_ping(self, payload: bytes) -> Ping:
        if self.state is State.OPEN:
            self._outbox += self._frame(Opcode.PONG, payload)
        return Ping(payload)

    def _on_close(self, payload: bytes) -> Closed:
        closed = decode_close(payload)
        if self.state is State.OPEN:
            self._outbox += self._frame(Opcode.CLOSE, payload[:2])
        self._move(Move.RECEIVE_CLOSE)
        return closed


# ---- Handshake: HTTP heads -> requests, responses, refusals (RFC 6455, 4). Pure. ----

ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTROLS = r"\x00-\x08\x0a-\x1f\x7f"
NAME = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
REQUEST_LINE = re.compile(rf"({NAME}) (/[\x21-\x7e]*) HTTP/1\.1")
STATUS_LINE = re.compile(r"HTTP/1\.[01] ([1-5][0-9]{2})(?: (.*))?")
HEADER_LINE = re.compile(rf"({NAME}):([^{CONTROLS}]*)")
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?", re.IGNORECASE)
ORIGIN = re.compile(rf"(https?)://{HOST.pattern}", re.IGNORECASE)
DEFAULT_PORTS = {"http": "80", "https": "443"}
REASONS = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
           408: "Request Timeout", 426: "Upgrade Required", 431: "Request Header Fields Too Large", 503: "Service Unavailable"}


def new_id(size: int) -> str:
    """Hexadecimal, of so many random bytes; the module `secrets` would load four others for it."""
    return os.urandom(size).hex()


def new_key() -> str:
    return base64.b64encode(os.urandom(16)).decode("ascii")


def accept_key(key: str) -> str:
    return base64.b64encode(hashlib.sha1(key.encode("latin-1") + ACCEPT_GUID).digest()).decode("ascii")


def proof(token: str, challenge: str, address: str) -> str:
    """What a bridge answers to a challenge: it knows the token, and nobody learns it from this. Hex HMAC-SHA256.

    `address` is where the bridge was reached (`127.0.0.1:8004`): who passes a challenge on to another port gets a proof for that one.
    """
    return hmac.new(token.encode("utf-8"), f"{challenge} {address}".encode("utf-8"), hashlib.sha256).hexdigest()


def encode_head(first_line: str, headers: Sequence[Tuple[str, str]]) -> bytes:
    lines = [first_line, *(f"{name}: {value}" for name, value in headers)]
    wrong = [line for line in lines if re.search(f"[{CONTROLS}]", line)]
    if wrong:
        raise BridgeError(f"a control character in the header line {wrong[0]!r}")
    return "\r\n".join((*lines, "", "")).encode("latin-1", "replace")


def handshake_request(host: str, target: str, key: str, headers: Sequence[Tuple[str, str]] = ()) -> bytes:
    """A client's request; `host` is what `Host` is to say, `target` path and query."""
    return encode_head(f"GET {target} HTTP/1.1", (
        ("Host", host), ("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", "13"), *headers))


def split_head(data: bytes) -> Optional[Tuple[str, Dict[str, List[str]], bytes]]:
    """First line, headers (names in lower case) and the bytes after them; None if more bytes are needed. Raises HandshakeError."""
    end = data.find(b"\r\n\r\n", 0, HANDSHAKE_BYTES)
    if end < 0 and len(data) >= HANDSHAKE_BYTES:
        raise HandshakeError(f"the head is longer than {HANDSHAKE_BYTES} bytes", 431)
    if end < 0:
        if re.match(rb"[^\r\n]*[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", data):
            raise HandshakeError("this is no HTTP: the first line holds control characters (is it TLS?)")
        # RFC 9112, 2.2: a lone CR must not be taken for an end of line, a lone LF need not be.
        if not data.count(b"\n") == data.count(b"\r\n") == data.count(b"\r") - data.endswith(b"\r"):
            raise HandshakeError("a line of the head ends with a lone CR or LF, not with both")
        return None
    first, *lines = data[:end].decode("latin-1").split("\r\n")
    headers: Dict[str, List[str]] = {}
    for number, line in enumerate(lines, 2):
        match = HEADER_LINE.fullmatch(line)
        if not match:
            raise HandshakeError(f"line {number} of the head is not `Name: value`")  # without the line: it may hold the token
        headers.setdefault(match[1].lower(), []).append(match[2].strip(" \t"))
    return first, headers, data[end + 4:]


def parse_request(data: bytes) -> Optional[Tuple[HttpRequest, bytes]]:
    """A client's request and the bytes after it; None if more bytes are needed. Raises HandshakeError."""
    parts = split_head(data)
    if parts is None:
        return None
    first, headers, rest = parts
    match = REQUEST_LINE.fullmatch(first)
    if not match:
        raise HandshakeError(f"the request line {first[:80].split('?')[0]!r} is not `GET /path HTTP/1.1`")
    if len(headers.get("host", ())) != 1:
        raise HandshakeError("a request has exactly one Host header")
    return HttpRequest(match[1], match[2], headers), rest


def parse_response(data: bytes, key: str) -> Optional[Tuple[Response, bytes]]:
    """The server's answer to the request with `key`, and the bytes after its head; None if more bytes are needed.

    A status other than 101 is returned as it is; a 101 that is no WebSocket handshake raises HandshakeError (4.1).
    """
    parts = split_head(data)
    if parts is None:
        return None
    first, fields, rest = parts
    match = STATUS_LINE.fullmatch(first)
    if not match:
        raise HandshakeError(f"the status line {first[:80]!r} is not `HTTP/1.1 101 …`")
    headers = {name: ", ".join(values) for name, values in fields.items()}
    for name, is_right in (
        ("Upgrade", headers.get("upgrade", "").lower() == "websocket"),
        ("Connection", "upgrade" in _words(headers.get("connection", ""))),
        ("Sec-WebSocket-Accept", headers.get("sec-websocket-accept") == accept_key(key)),
        ("Sec-WebSocket-Extensions", "sec-websocket-extensions" not in headers),
    ):
        if match[1] == "101" and not is_right:
            raise HandshakeError(f"the server's {name} is {headers.get(name.lower())!r}: that is no answer to this handshake")
    return Response(int(match[1]), match[2] or "", headers), rest


def _words(value: str) -> Set[str]:
    return {word.strip().lower() for word in value.split(",")}


def is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def is_own_name(name: str, gate: Gate) -> bool:
    """Whether a name in `Host` or `Origin` means this bridge. No other name counts: its DNS could be rebound to this machine."""
    name = name.lower().rstrip(".")
    return name == "localhost" or name in gate.hosts or is_loopback(name.strip("[]"))


def is_own_origin(origin: str, host: str, place: Place) -> bool:
    """Whether a page from there was served by this very bridge. A page in a browser always sends its Origin.

    Another loopback address is none of its names: another program may listen there on the same port.
    """
    match, reached = ORIGIN.fullmatch(origin), HOST.fullmatch(host)
    if not match or match[2].lower().strip("[]") not in (reached[1].lower().strip("[]"), "localhost", place.ip):
        return False
    default = DEFAULT_PORTS[match[1].lower()]
    return (match[3] or default) == (reached[2] or default)


def has_token(request: HttpRequest, token: str) -> bool:
    scheme, _, given = request.first("authorization").partition(" ")
    offered = [given.strip(" \t").encode("latin-1") if scheme.lower() == "bearer" else b""]
    offered += [value.encode("utf-8", "surrogateescape") for value in
                parse_qs(request.target.partition("?")[2], errors="surrogateescape").get("token", [])[:1]]
    return any([hmac.compare_digest(one, token.encode("utf-8")) for one in offered])


def is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except ValueError:
        return False


def find_refusal(request: HttpRequest, gate: Gate, place: Place) -> Optional[Refusal]:
    """The first reason not to let this request in, None if there is none. In this order: a stranger learns as little as can be."""
    first, path, host = request.first, request.target.partition("?")[0], HOST.fullmatch(request.first("host"))
    if not (host and is_own_name(host[1], gate)):
        return Refusal(403, f"Host {first('host')[:80]!r} is not this bridge: use localhost, or start it with --allow-host")
    if not all(is_own_origin(origin, first("host"), place) for origin in request.headers.get("origin", [])):
        return Refusal(403, f"Origin {first('origin')[:80]!r} is not this bridge's own: web pages are not let in")
    if path not in PATHS:
        return Refusal(404, f"no {path[:80]!r} here: the paths are {' and '.join(PATHS)}")
    if request.method != "GET":
        return Refusal(405, f"{request.method[:20]} is not GET", (("Allow", "GET"),))
    if gate.token is not None and not has_token(request, gate.token):
        challenge = first("x-bridge-challenge")
        refusal = Refusal(401, "the token is wrong or missing: send `Authorization: Bearer TOKEN` or `?token=TOKEN`",
                          (("WWW-Authenticate", "Bearer"),))
        if not 0 < len(challenge) <= CHALLENGE_CHARS:
            return refusal
        # Who asks for a proof before showing the token is a client of ours, and nothing to warn of.
        address = f"{place.ip}:{place.port}"
        proven = (("X-Bridge-Address", address), ("X-Bridge-Proof", proof(gate.token, challenge, address)))
        return refusal._replace(headers=(*refusal.headers, *proven), level=logging.DEBUG)
    upgrade, connection = (_words(",".join(request.headers.get(name, ()))) for name in ("upgrade", "connection"))
    if not ("websocket" in upgrade and "upgrade" in connection and request.headers.get("sec-websocket-version") == ["13"]):
        return Refusal(426, "this is a WebSocket server (version 13)", (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")))
    if len(request.headers.get("sec-websocket-key", ())) != 1 or not is_key(first("sec-websocket-key")):
        return Refusal(400, "Sec-WebSocket-Key is not 16 bytes in base64")
    return None


def accept_response(request: HttpRequest) -> bytes:
    return encode_head("HTTP/1.1 101 Switching Protocols", (
        ("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept_key(request.first("sec-websocket-key")))))


def refusal_response(refusal: Refusal) -> bytes:
    body = (refusal.text + "\n").encode("utf-8")
    return encode_head(f"HTTP/1.1 {refusal.status} {REASONS[refusal.status]}", (
        ("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body))), ("Connection", "close"),
        *refusal.headers)) + body


# ---- JSON-RPC: text -> checked requests or errors; results -> text. Pure. ----

PARSE_ERROR, INVALID_REQUEST, NO_METHOD, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603
NOT_STARTED, NOT_ALLOWED, NO_PROCESS, LIMIT_REACHED, NOT_KEPT = -32000, -32001, -32002, -32003, -32004
STOP_SIGNALS = {f"SIG{name}": getattr(signal, f"SIG{name}") for name in "TERM INT HUP QUIT USR1 USR2 KILL".split()}

# What a parameter may be: whether a value is right, and that in words.
Param = NamedTuple("Param", [("is_right", Callable[[Any], bool]), ("wanted", str), ("is_required", bool)])


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)  # a lone surrogate has no UTF-8


def _is_word(value: Any) -> bool:
    """What can be handed to a program: no NUL; bytes that are not UTF-8 come as the surrogates U+DC80 to U+DCFF (PEP 383)."""
    return isinstance(value, str) and "\0" not in value and not re.search("[\ud800-\udc7f\udd00-\udfff]", value)


def _is_command(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= COMMAND_CHARS and _is_word(value)
    return isinstance(value, list) and len(value) <= WORDS and all(map(_is_word, value))


def _is_environment(value: Any) -> bool:
    return isinstance(value, dict) and len(value) <= WORDS and all(
        _is_word(k) and _is_word(v) and k and "=" not in k for k, v in value.items())


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_limit(value: Any) -> bool:
    return value is None or ((_is_integer(value) or isinstance(value, float)) and 0 < value <= SECONDS_MAX)


LIMIT = Param(_is_limit, "a positive number of seconds or null", False)
PARAMS: Dict[str, Dict[str, Param]] = {
    "execute": {
        "command": Param(_is_command, f"a list of a program and at most {WORDS} strings in all, or a string of at most {COMMAND_CHARS}", True),
        "cwd": Param(lambda value: _is_word(value) and value != "", "a folder, a string", False),
        "env": Param(_is_environment, f"an object of at most {WORDS} strings", False),
        "stdin": Param(_is_text, "a string", False),
        "timeout": LIMIT,
        "idle_timeout": LIMIT,
        "stop_signal": Param(lambda value: value in list(STOP_SIGNALS), "one of " + ", ".join(STOP_SIGNALS), False),
        "label": Param(lambda value: isinstance(value, str) and len(value) <= LABEL_CHARS, f"at most {LABEL_CHARS} characters", False),
        "umask": Param(lambda value: _is_integer(value) and 0 <= value <= 0o777, "an integer from 0 to 511 (0o777)", False),
    },
    "control": {
        "type": Param(lambda value: value in ("PAUSE", "RESUME", "CANCEL"), "PAUSE, RESUME or CANCEL", True),
        "process_id": Param(_is_text, "a process's id, a string", False),
    },
    "attach": {
        "process_id": Param(_is_text, "a process's id, a string", True),
        "after": Param(lambda value: _is_integer(value) and value >= 0, "an integer of at least 0", False),
    },
    "list": {},
    "ping": {},
}


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _read_integer(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a number of {len(digits)} digits; at most {DIGITS} are taken")
    return int(digits)


DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_int=_read_integer)


def count_values(text: str) -> int:
    """About how many values a JSON text holds, without parsing it; more than VALUES as soon as it has that many strings.

    Without escapes, quotes only stand around strings: what is between an even and an odd one is outside.
    """
    plain = text.replace("\\\\", "").replace('\\"', "")
    if plain.count('"') > 2 * VALUES:
        return plain.count('"')
    outside = "".join(plain.split('"')[::2])
    return 1 + sum(map(outside.count, ",[{"))


def parse_message(text: str) -> Union[Request, RpcError]:
    """The request in a message, or the error to answer it with. Batches are not taken: one of millions would keep all others waiting."""
    if len(text) > WIDE_BYTES and count_values(text) > VALUES:
        return RpcError(INVALID_REQUEST, f"a message of more than {VALUES} values; batches are not taken")
    try:
        message = DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        return RpcError(PARSE_ERROR, f"not JSON: {error}")
    return parse_request_object(message)


def parse_request_object(item: Any) -> Union[Request, RpcError]:
    if not isinstance(item, dict):
        return RpcError(INVALID_REQUEST, "a request is an object with jsonrpc, id, method and params; batches are not taken")
    request_id, params = item.get("id"), item.get("params", {})
    if isinstance(request_id, (bool, list, dict)) or request_id in (float("inf"), float("-inf")):
        return RpcError(INVALID_REQUEST, "id must be a string, a number (below 1e309) or null")
    for name, is_right, wanted in (
        ("jsonrpc", item.get("jsonrpc") == "2.0", '"2.0"'), ("method", isinstance(item.get("method"), str), "a string"),
        ("params", isinstance(params, (dict, list)), "an object"),
    ):
        if not is_right:
            return RpcError(INVALID_REQUEST, f"{name} must be {wanted}", id=request_id)
    return Request(item["method"], params, request_id, "id" in item)


def check_params(request: Request) -> None:
    """Raises RpcError -32601 for an unknown method, -32602, naming the parameter, for one that is missing, unknown or wrong."""
    table, params = PARAMS.get(request.method), request.params
    if table is None:
        raise RpcError(NO_METHOD, f"no method {request.method[:80]!r}; there are {', '.join(PARAMS)}")
    if not isinstance(params, dict):
        raise RpcError(INVALID_PARAMS, "params must be an object: parameters are given by name")
    for name in params:
        if name not in table:
            raise RpcError(INVALID_PARAMS, f"{request.method} has no parameter {name[:80]!r}; it has {', '.join(table) or 'none'}")
    for name, param in table.items():
        if name in params and not param.is_right(params[name]) or name not in params and param.is_required:
            raise RpcError(INVALID_PARAMS, f"{name} must be {param.wanted}")


def read_order(params: Mapping[str, Any]) -> Order:
    """The order in checked parameters of `execute`. A string is split as a shell would; no shell ever sees it."""
    command = params["command"]
    try:
        argv = tuple(shlex.split(command) if isinstance(command, str) else command)
    except ValueError as error:
        raise RpcError(INVALID_PARAMS, f"command can't be split: {error}") from None
    if not argv or not argv[0]:
        raise RpcError(INVALID_PARAMS, "command must begin with a program")
    stdin = params["stdin"].encode("utf-8") if "stdin" in params else None
    return Order(argv, params.get("cwd"), params.get("env"), stdin, params.get("timeout"), params.get("idle_timeout"),
                 STOP_SIGNALS[params.get("stop_signal", "SIGTERM")], params.get("label", ""), params.get("umask", -1))


json_string = json.JSONEncoder(ensure_ascii=False).encode


def encode_json(message: Any) -> bytes:
    """UTF-8; a lone surrogate (from a client's id or label) becomes the escape that JSON has for it."""
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def quote(data: bytes) -> bytes:
    """UTF-8 as a JSON string. It is escaped as if it were Latin-1: what JSON wants escaped is ASCII, and a single character beyond Latin-1
    makes a string of Python's two to four times as wide, and so as slow."""
    return json_string(data.decode("latin-1")).encode("latin-1")


def error_message(error: RpcError, request_id: Any) -> Dict[str, Any]:
    content = {"code": error.code, "message": str(error), **({"data": error.data} if error.data else {})}
    return {"jsonrpc": "2.0", "id": request_id, "error": content}


def notification(method: str, params: Mapping[str, Any]) -> bytes:
    """A whole text frame, as a server sends it."""
    return encode_frame(Opcode.TEXT, encode_json({"jsonrpc": "2.0", "method": method, "params": params}))


def output_notification(process_id: str, stream: str, seq: int, data: bytes) -> bytes:
    """The same for `process.output`, of which there are many, with whole characters in UTF-8: nothing is looked at but these."""
    head = f'{{"jsonrpc":"2.0","method":"process.output","params":{{"process_id":"{process_id}","type":"{stream}","seq":{seq},"data":'
    return encode_frame(Opcode.TEXT, head.encode("ascii"), quote(data), b"}}")


# ---- Private files: the runtime folder, the token, the journal of unfinished runs. Only this user can reach them. ----


def runtime_dir() -> Path:
    """`$XDG_RUNTIME_DIR/cc_execute`, else `~/.cache/cc_execute`; made if need be. Raises BridgeError if others can reach into it."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    folder = (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "cc_execute"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        problem = find_privacy_problem(folder.lstat(), stat.S_IFDIR)
    except OSError as error:
        raise BridgeError(f"{folder} can't be made: {error.strerror}; set XDG_RUNTIME_DIR to a folder of yours") from None
    if problem:
        raise BridgeError(f"{folder} {problem}; it must be a folder of yours with mode 0700")
    return folder


def find_privacy_problem(found: os.stat_result, kind: int) -> Optional[str]:
    """What is wrong with a file or folder that must be this user's alone, None if nothing is."""
    if stat.S_IFMT(found.st_mode) != kind:
        return "is a symbolic link" if stat.S_ISLNK(found.st_mode) else "is of the wrong kind"
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}"
    return f"can be reached by others (mode {stat.S_IMODE(found.st_mode):04o})" if found.st_mode & 0o077 else None


def token_path(port: int) -> Path:
    return runtime_dir() / f"bridge-{port}.token"


def read_token(port: int) -> Optional[str]:
    """The token that the bridge on `port` left for its own user; None if there is none or others could have written or read it."""
    return read_private(token_path(port)) or None


def read_private(path: Path) -> Optional[str]:
    """The text of a small file that only this user can reach, stripped; None if it is absent or anything else."""
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        stack.callback(os.close, descriptor)
        is_private = find_privacy_problem(os.fstat(descriptor), stat.S_IFREG) is None
        return os.read(descriptor, HANDSHAKE_BYTES).decode("utf-8", "replace").strip() if is_private else None


def write_private(path: Path, text: str) -> int:
    """Puts a 0600 file in the place of whatever is there; a reader sees the old one or the whole new one.

    What comes back is its descriptor. As long as that is open the file is locked, so that others see that its bridge lives.
    """
    draft = path.with_name(f".{path.name}.{new_id(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # before others can find it
    try:
        if os.write(descriptor, text.encode("utf-8")) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.replace(draft, path)
    except OSError:
        draft.unlink(missing_ok=True)
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def take_over(path: Path) -> Iterator[Optional[bytes]]:
    """The content of a private file that a bridge left which is gone: locked meanwhile. None if its bridge lives, or it is none."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_private = find_privacy_problem(os.fstat(file.fileno()), stat.S_IFREG) is None
            content = file.read() if is_private else None
        except OSError:
            content = None
        yield content


class Journal:
    """The ids of unfinished runs, in a file that is locked as long as the bridge lives.

    A journal that nobody locks was left by a bridge that was killed: what carries its markers is to be swept.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self._stem, self._number, self._unfinished = f"{folder}/bridge-{port}-{os.getpid()}", 0, set()
        self._open()

    def _open(self) -> None:
        path, text = Path(f"{self._stem}-{self._number}.runs"), "".join(f"\n+{process_id}" for process_id in self._unfinished)
        self._descriptor = write_private(path, text)
        self._path, self._size, self._number = path, len(text), self._number + 1

    def begin(self, process_id: str) -> None:
        """Raises OSError when it can't be written: nothing may be started that could not be swept."""
        self._write(f"\n+{process_id}")
        self._unfinished.add(process_id)

    def finish(self, process_id: str) -> None:
        self._unfinished.discard(process_id)
        try:
            if not self._unfinished:
                os.ftruncate(self._descriptor, 0)
                self._size = 0
            elif self._size > JOURNAL_BYTES:
                self._renew()
            else:
                self._write(f"\n-{process_id}")
        except OSError as error:  # the next bridge will look for processes of a run that is over, and find none
            log.error("the journal %s can't be written: %s", self._path, error.strerror)

    def _write(self, line: str) -> None:
        """The line break comes first: on a full disk a line may end anywhere."""
        count = os.write(self._descriptor, line.encode("ascii"))
        self._size += count
        if count < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _renew(self) -> None:
        """A new file with what is unfinished, then the old one goes: at no moment is an unfinished run in neither."""
        old_path, old_descriptor = self._path, self._descriptor
        self._open()
        old_path.unlink(missing_ok=True)
        os.close(old_descriptor)

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def take_abandoned(folder: Path) -> Iterator[FrozenSet[str]]:
    """The ids of unfinished runs in each journal that a killed bridge left; a journal goes when the next one is asked for."""
    for path in sorted(folder.glob("bridge-*.runs")):
        with take_over(path) as content:
            if content is not None:
                lines = frozenset(content.decode("ascii", "replace").split())
                yield frozenset(line[1:] for line in lines if re.fullmatch("[+][0-9a-f]+", line) and "-" + line[1:] not in lines)
                path.unlink(missing_ok=True)


def remove_abandoned_token(path: Path) -> None:
    with take_over(path) as content:
        if content is not None or path.is_symlink():
            path.unlink(missing_ok=True)


# ---- Processes, finding: the process table -> what belongs to a run. ----

class Seen(NamedTuple):
    """A process of this user; `started` tells it from a later one with the same number: clock ticks since the machine's start, without
    /proc the text of `ps`."""

    pid: int
    parent: int
    group: int
    session: int
    started: Union[int, str]
    markers: Optional[FrozenSet[str]] = frozenset()


PS_TABLE = ("ps", "-axo", "pid=,ppid=,pgid=,uid=,stat=,lstart=")
PS_ENVIRONMENTS = ("ps", "-axwwE", "-o", "pid=,command=")  # macOS; -E adds the environment to the command
PR_SET_CHILD_SUBREAPER = 36
HAS_PROC = os.path.exists("/proc/self/environ")
GONE = frozenset({errno.ENOENT, errno.ESRCH})  # a process that ended while it was looked at
HIDDEN = frozenset({errno.EACCES, errno.EPERM})  # an environment that its process does not show, as ssh-agent's
MARKER = re.compile(f"({MARKER_PREFIX}[0-9a-f]+)=1".encode("ascii"))


def look(since: int = 0, blank: Optional[Set[Tuple[int, int]]] = None) -> Dict[int, Seen]:
    """This user's living processes, without the bridge itself. What started before `since` is only looked at for what it is, not for
    markers: a marker is inherited, so that none is older than the run that it stands for. `blank` remembers from one look to the next
    which processes have no environment. Raises OSError if it can't look."""
    if HAS_PROC:
        seen = look_in_proc(since, set() if blank is None else blank)
    else:
        seen = read_ps(output_of(PS_TABLE), output_of(PS_ENVIRONMENTS))
    seen.pop(os.getpid(), None)
    return seen


def look_in_proc(since: int, blank: Set[Tuple[int, int]]) -> Dict[int, Seen]:
    """Looks again for what began meanwhile, so that a chain of short processes does not slip through, and at what is executing."""
    seen: Dict[int, Seen] = {}
    looked: Set[str] = set()
    for is_last in (False,) * LOOKS + (True,):
        names = set(filter(str.isdigit, os.listdir("/proc"))) - looked
        if not names:
            break
        for name in names:
            looked.add(name)
            seen.pop(int(name), None)
            process = read_process(name, since)
            if process:
                seen[process.pid] = process
            if process and process.markers is None and (process.pid, process.started) not in blank:
                blank.add((process.pid, process.started)) if is_last else looked.discard(name)
        if names - looked:
            time.sleep(EXEC_S)
    blank &= {(process.pid, process.started) for process in seen.values()}
    return {pid: process._replace(markers=process.markers or frozenset()) for pid, process in seen.items()}


def read_process(name: str, since: int = 0) -> Optional[Seen]:
    """Process `name` by proc(5), None if it is another user's or a zombie; its markers are None if its environment is empty."""
    try:
        if os.stat(f"/proc/{name}").st_uid != os.geteuid():
            return None
        state, parent, group, session, *more = read_whole(f"/proc/{name}/stat").rpartition(b")")[2].split()
        threads, started = int(more[13]), int(more[15])
        if state in b"ZX" and threads < 2:
            return None
        process = Seen(int(name), int(parent), int(group), int(session), started)
        if started < since:
            return process
        # Whose main thread has ended looks like a zombie; the other threads show the environment.
        places = [f"/proc/{name}/environ"] if state not in b"ZX" else [f"/proc/{name}/task/{i}/environ" for i in os.listdir(f"/proc/{name}/task")]
        return process._replace(markers=read_markers(places))
    except OSError as error:
        if error.errno in GONE:
            return None
        raise


def read_markers(places: Sequence[str]) -> Optional[FrozenSet[str]]:
    """The markers in the first of these files that is not empty. None: all are, as that of a program that is just being executed."""
    for place in places:
        try:
            environment = read_whole(place)
        except OSError as error:
            if error.errno in HIDDEN:
                return frozenset()
            if error.errno not in GONE:  # a thread; if it was the process, the next look shows that
                raise
            environment = b""
        if environment:
            return markers_in(environment.split(b"\0"))
    return None


def markers_in(words: Iterable[bytes]) -> FrozenSet[str]:
    return frozenset(match[1].decode("ascii") for match in map(MARKER.fullmatch, words) if match)


def read_whole(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_all(descriptor)
    finally:
        os.close(descriptor)


def read_all(descriptor: int) -> bytes:
    return b"".join(iter(lambda: os.read(descriptor, BLOCK_BYTES), b""))


def read_ps(table: str, environments: str) -> Dict[int, Seen]:
    """What PS_TABLE and PS_ENVIRONMENTS printed. `ps` shows no session everywhere, so the group stands in its place."""
    markers = {int(pid): markers_in(word.encode("utf-8") for word in words) for pid, *words in map(str.split, environments.splitlines())}
    rows = [line.split(None, 5) for line in table.splitlines()]
    return {int(pid): Seen(int(pid), int(parent), int(group), int(group), started.strip(), markers.get(int(pid), frozenset()))
            for pid, parent, group, uid, state, started in rows if int(uid) == os.geteuid() and not state.startswith("Z")}


def output_of(command: Sequence[str]) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False).stdout.decode("utf-8", "replace")


def find_family(seen: Mapping[int, Seen], markers: FrozenSet[str], leader: Optional[int] = None,
                known: FrozenSet[Tuple[int, Union[int, str]]] = frozenset()) -> List[Seen]:
    """What belongs to a run: the group and session of its `leader`, what carries a marker, what is `known` to belong, their descendants.

    `leader` may be given only as long as that process is not reaped: afterwards its number can be another's.
    """
    found = more = {p.pid for p in seen.values() if p.markers & markers or leader in (p.group, p.session) or (p.pid, p.started) in known}
    while more:
        more = {p.pid for p in seen.values() if p.parent in more} - found
        found = found | more
    return [seen[pid] for pid in sorted(found)]


def adopt_orphans() -> Optional[int]:
    """Makes this process, which has one thread, the parent of all its descendants that lose theirs (prctl(2): PR_SET_CHILD_SUBREAPER). What
    comes back is the descriptor in which its children can be read (proc(5); exact, since nobody else reaps them); None where that is not
    possible (macOS, Linux without CONFIG_PROC_CHILDREN)."""
    try:
        import ctypes
        is_done = ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
        return os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC) if is_done else None
    except (ImportError, OSError, AttributeError):
        return None


def now_ticks() -> int:
    """Now in the clock ticks of `Seen.started`; 0 where there is no /proc."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")) if HAS_PROC else 0


class Table:
    """The process table, looked at once for all that ask in the same turn of the loop: all that happened before it was over by then.

    `since` tells when the first of the processes began that are not forgotten, `leaders` the numbers of those that are not reaped.
    Two descriptors are kept for looking, so that it is possible also when there are no others.
    """

    def __init__(self, since: Callable[[], int], leaders: Callable[[], AbstractSet[int]]) -> None:
        self._since, self._leaders, self._seen, self._spare = since, leaders, None, []
        self._blank: Set[Tuple[int, int]] = set()
        self._children: Optional[int] = None  # where the bridge's own children can be read
        self._reserve()

    def adopt(self) -> None:
        """To be called before a process is started whose orphans are to be seen."""
        if self._children is None and HAS_PROC:
            self._children = adopt_orphans()

    def has_orphans(self) -> bool:
        """Whether anything is left of a process that has ended: then it has become the bridge's child. That costs a hundredth of a look
        at the whole table. True where it can't be told."""
        if self._children is None:
            return True
        os.lseek(self._children, 0, os.SEEK_SET)
        return not {int(child) for child in read_all(self._children).split()} <= self._leaders()

    def look(self, is_fresh: bool = False) -> Mapping[int, Seen]:
        if self._seen is None or is_fresh:
            with self._room():
                self._seen = look(self._since(), self._blank)
            asyncio.get_running_loop().call_soon(self.refresh)
        return self._seen

    def refresh(self) -> None:
        """Whoever asks from now on gets to see what happened up to now."""
        self._seen = None

    def _reserve(self) -> None:
        self._spare = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(2)]

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        while self._spare:
            os.close(self._spare.pop())
        try:
            yield
        finally:
            self._reserve()


def send_signal(send: Callable[[int, int], None], pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it has just ended; it became another user's
        send(pid, number)


async def until(is_so: Callable[[], bool], within_s: float) -> bool:
    """Waits until something is so, with growing pauses between the looks; False if it isn't when the time is over.

    The looks come at multiples of the pause, so that those who wait at the same time look at the same moments.
    """
    deadline, pause_s = time.monotonic() + within_s, LOOK_S[0]
    while not is_so():
        now = time.monotonic()
        if now >= deadline:
            return False
        await asyncio.sleep(min((now // pause_s + 1) * pause_s, deadline) - now)
        pause_s = min(pause_s * 2, LOOK_S[1])
    return True


async def kill_all(find: Callable[[], List[Seen]]) -> None:
    """SIGKILL to all that is found, until two looks in a row find nothing: a fork can hide from one."""
    empty_looks = 0

    def is_clear() -> bool:
        nonlocal empty_looks
        found = find()
        for process in found:
            send_signal(os.kill, process.pid, signal.SIGKILL)
        empty_looks = 0 if found else empty_looks + 1
        return empty_looks == 2

    await until(is_clear, KILL_S)


async def sweep(folder: Path) -> None:
    """Ends what killed bridges left of their unfinished runs; nothing but what carries their markers."""
    for ids in take_abandoned(folder):
        if ids:
            log.warning("ending what is left of %d runs of a bridge that was killed", len(ids))
            await kill_all(lambda: find_family(look(), frozenset(MARKER_PREFIX + i for i in ids)))
    for path in folder.glob("bridge-[0-9]*.token"):
        remove_abandoned_token(path)


# ---- Processes, starting: an order -> a running program. ----

START_REASONS = {errno.ENOENT: "not_found", errno.ENOTDIR: "not_found", errno.EACCES: "not_executable", errno.EPERM: "not_executable",
                 errno.ENOEXEC: "not_executable", errno.E2BIG: "too_long", errno.ENAMETOOLONG: "too_long"}
START_TEXTS = {"not_found": "is not there, or the interpreter that it names is not", "not_executable": "can't be executed",
               "directory": "is no folder that can be entered", "too_long": "can't be started: arguments and environment are too long",
               "other": "can't be started"}


def start_error(thing: str, number: Optional[int], reason: Optional[str] = None) -> RpcError:
    reason = reason or START_REASONS.get(number, "other")
    return RpcError(NOT_STARTED, f"{thing[:200]!r} {START_TEXTS[reason]}" + (f" ({os.strerror(number)})" if number else ""),
                    {"reason": reason, "errno": errno.errorcode.get(number)})


def find_program(order: Order) -> str:
    """The file that this order would run, looked for from its folder and on its PATH. Raises RpcError -32000, -32602 for a PATH without end."""
    folder, program = find_folder(order.cwd), order.argv[0]
    if sum(map(len, order.argv)) + sum(len(name) + len(value) for name, value in (order.env or {}).items()) > ARGUMENT_CHARS:
        raise start_error(program, errno.E2BIG)
    path = (os.environ if order.env is None else order.env).get("PATH", os.defpath)
    places = dict.fromkeys([""] if "/" in program else path.split(os.pathsep))
    if len(places) > PLACES:
        raise RpcError(INVALID_PARAMS, f"env: PATH names {len(places)} folders; at most {PLACES} are looked at")
    paths = [os.path.join(folder, place, program) for place in places]
    for candidate in paths:
        if os.access(candidate, os.X_OK) and os.path.isfile(candidate):
            return candidate
    raise start_error(program, errno.EACCES if any(map(os.path.exists, paths)) else errno.ENOENT)


def find_folder(cwd: Optional[str]) -> str:
    """The folder to start in, the bridge's own if none is given. Raises RpcError -32000 if it can't be entered."""
    if len(cwd or "") > PATH_CHARS:
        raise start_error(cwd, errno.ENAMETOOLONG, "directory")
    try:
        folder = os.path.join(os.getcwd(), cwd or "") if not os.path.isabs(cwd or "") else cwd
    except FileNotFoundError:
        raise start_error("the bridge's own folder", errno.ENOENT, "directory") from None
    if not os.path.isdir(folder) or not os.access(folder, os.X_OK):
        number = errno.ENOENT if not os.path.exists(folder) else errno.EACCES if os.path.isdir(folder) else errno.ENOTDIR
        raise start_error(cwd or folder, number, "directory")
    return folder


def is_allowed(path: str, allow: Sequence[str]) -> bool:
    """Whether this file is one of the allowed programs'. They are looked up anew: an update may move them."""
    for name in allow:
        with contextlib.suppress(RpcError):  # an allowed program that isn't there allows nothing
            cwd = None if "/" in name else "/"  # looked for on the PATH, as long as it is not a path itself
            if os.path.realpath(find_program(Order((name,), cwd=cwd))) == path:
                return True
    return False


def count_other_descriptors(max_connections: int) -> int:
    """How many descriptors the bridge needs for all but processes."""
    return max_connections + PENDING_HANDSHAKES + ACCEPTED_AT_ONCE + OTHER_DESCRIPTORS


def raise_descriptor_limit(wanted: int) -> Tuple[int, Optional[Callable[[], None]]]:
    """Takes as many descriptors as are wanted and allowed: how many that is and, if that is more than before, what gives a child the limit
    that was there. Mostly there are enough: a child that has to do something of its own takes ten times as long to start, being forked."""
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < wanted:  # RLIM_INFINITY is -1
        with contextlib.suppress(ValueError, OSError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    now = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return now if now >= 0 else DESCRIPTORS_MAX, None if now == soft else lambda: resource.setrlimit(resource.RLIMIT_NOFILE, before)


def pass_over(number: int, frame: Any) -> None:
    """A handler that does nothing: other than what is ignored, what is handled is not inherited by a program (execve(2))."""


def heed_signals() -> None:
    """Whatever this bridge was started with, its processes heed what may be sent to stop them."""
    for number in STOP_SIGNALS.values():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, pass_over)


class Leash:
    """Has the kernel end a process's whole group when the bridge is gone, however it ends (Linux).

    The group inherits an opening of the reading end of a pipe that nobody writes into, whose writing end the bridge alone holds. When that
    closes, the kernel tells the owner of each opening by a signal, here SIGKILL to the group (fcntl(2): F_SETOWN, F_SETSIG; pipe(7)).
    A program that closes what it inherits (ssh) has the bridge's own copy of the opening: Linux closes a dead process's descriptors from
    the last to the first, and the writing end is the last. PR_SET_PDEATHSIG would do it for one process only, and only from within a
    forked child, which takes ten times as long to start. Whose bridge is killed within the millisecond of its start is only swept.
    """

    def __init__(self) -> None:
        self.ends: Tuple[int, ...] = ()

    def take(self, pipe: Sequence[int]) -> None:
        self.ends = tuple(os.open(f"/proc/self/fd/{end}", os.O_RDONLY | os.O_CLOEXEC) for end in pipe[:1])

    def fasten(self, group: int) -> None:
        for end in self.ends:
            fcntl.fcntl(end, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(end, fcntl.F_SETOWN, -group)
            fcntl.fcntl(end, fcntl.F_SETFL, os.O_ASYNC)

    def loosen(self) -> None:
        """What is left of the group, and holds its opening, lives on without the bridge."""
        for end in self.ends:
            fcntl.fcntl(end, fcntl.F_SETFL, 0)
            os.close(end)
        self.ends = ()


def leash_pipe() -> Sequence[int]:
    """The pipe that all leashes are openings of, its writing end with a number above theirs; none where the kernel knows no such signal
    (macOS). The number is no higher than need be: a child gets a copy of the whole table."""
    if not HAS_PROC or not hasattr(fcntl, "F_SETSIG"):
        return ()
    reading, writing = os.pipe()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    last = fcntl.fcntl(writing, fcntl.F_DUPFD_CLOEXEC, min(limit if limit > 0 else LEASH_END, LEASH_END) - 1)
    os.close(writing)
    return reading, last


def _as_bytes(word: str) -> bytes:
    """A word from a client as the bytes that it stood for there, whatever the bridge's own locale."""
    return word.encode("utf-8", "surrogateescape")


@functools.lru_cache(maxsize=1)
def own_environment() -> Dict[bytes, bytes]:
    """The bridge's, which stays as it is; os.environb encodes every name and value each time."""
    return dict(os.environb)


def child_environment(order: Order, process_id: str) -> Dict[bytes, bytes]:
    """The order's environment, else the bridge's own, with the marker and without the token."""
    given = own_environment() if order.env is None else {_as_bytes(name): _as_bytes(value) for name, value in order.env.items()}
    environment = {**given, _as_bytes(MARKER_PREFIX + process_id): b"1"}
    environment.pop(_as_bytes(TOKEN_VARIABLE), None)
    return environment


def spawn(order: Order, program: str, process_id: str, umask: int, prepare: Optional[Callable[[], None]], leash: Leash) -> subprocess.Popen:
    """Starts the program in a session of its own, its output in pipes. Raises RpcError -32000."""
    try:
        return subprocess.Popen(
            [_as_bytes(word) for word in order.argv], executable=program, cwd=order.cwd, env=child_environment(order, process_id),
            umask=umask if order.umask < 0 else order.umask, bufsize=0,
            stdin=subprocess.DEVNULL if order.stdin is None else subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True, preexec_fn=prepare, pass_fds=leash.ends)
    except (OSError, subprocess.SubprocessError) as error:
        raise start_error(order.argv[0], getattr(error, "errno", None)) from None


# ---- Processes, clocks and pipes. ----


class Clock:
    """A stopwatch that can stand still; when it has run for `limit_s` (None: never) it calls `on_limit`."""

    __slots__ = ("_loop", "_limit_s", "_on_limit", "_spent_s", "_since", "_timer")  # with those below: a fifth of a session's memory

    def __init__(self, limit_s: Optional[float], on_limit: Callable[[], None]) -> None:
        self._loop, self._limit_s, self._on_limit = asyncio.get_running_loop(), limit_s, on_limit
        self._spent_s = 0.0
        self._since: Optional[float] = None  # loop time, None while it stands
        self._timer: Optional[asyncio.TimerHandle] = None

    def spent_s(self) -> float:
        return self._spent_s + (0.0 if self._since is None else self._loop.time() - self._since)

    def run(self, is_running: bool = True) -> None:
        if is_running != (self._since is not None):
            self._spent_s, self._since = self.spent_s(), self._loop.time() if is_running else None
            self._arm()

    def restart(self) -> None:
        """Back to zero. The timer stays: when it rings it sees how much is left, so that a block of output costs no timer."""
        self._spent_s, self._since = 0.0, None if self._since is None else self._loop.time()

    def _arm(self) -> None:
        if self._timer:
            self._timer.cancel()
        is_needed = self._since is not None and self._limit_s is not None
        self._timer = self._loop.call_later(max(0.0, self._limit_s - self.spent_s()), self._ring) if is_needed else None

    def _ring(self) -> None:
        if self.spent_s() < self._limit_s:
            self._arm()
        else:
            self._on_limit()


class Characters:
    """Cuts a stream of bytes between characters, and replaces what is not UTF-8 as `bytes.decode(errors="replace")` would."""

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder: Optional[codecs.IncrementalDecoder] = None  # while it is inside a character

    def take(self, block: bytes, is_last: bool) -> bytes:
        if self._decoder is None and is_utf8(block):  # as nearly always: nothing to be done
            return block
        decoder = self._decoder or codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(block, is_last)
        self._decoder = decoder if decoder.getstate()[0] else None
        return text.encode("utf-8")


def is_utf8(block: bytes) -> bool:
    try:
        return block.isascii() or bool(block.decode("utf-8"))
    except UnicodeDecodeError:
        return False


class Stream:
    """An output pipe of a process, read in blocks as they come. `on_output` gets its name, whole characters in UTF-8, and how many bytes
    were read."""

    __slots__ = ("is_open", "_loop", "_name", "_pipe", "_on_output", "_on_end", "_is_listening", "_characters")

    def __init__(self, name: str, pipe: Any, on_output: Callable[[str, bytes, int], None], on_end: Callable[[], None]) -> None:
        self.is_open = True
        self._loop, self._name, self._pipe, self._on_output, self._on_end = asyncio.get_running_loop(), name, pipe, on_output, on_end
        self._is_listening, self._characters = False, Characters()
        os.set_blocking(pipe.fileno(), False)

    def listen(self, is_wanted: bool) -> None:
        if is_wanted != self._is_listening and self.is_open:
            self._is_listening = is_wanted
            if is_wanted:
                self._loop.add_reader(self._pipe.fileno(), self._read)
            else:
                self._loop.remove_reader(self._pipe.fileno())

    def drain(self) -> None:
        """Reads what is in the pipe now; not for ever, as a survivor may be writing without end."""
        left = self._count_waiting() if self.is_open else 0
        while left > 0 and self.is_open:
            count = self._read()
            left -= count or left  # none: another has read from it meanwhile
        if self.is_open:
            self._read()  # the end, if it is there

    def _count_waiting(self) -> int:
        """Bytes in the pipe (FIONREAD): they need not come in whole blocks."""
        return int.from_bytes(fcntl.ioctl(self._pipe.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)

    def drop(self) -> None:
        """The process has ended: its text too, and what a survivor still writes is read for that survivor's sake only."""
        self._give(b"", is_last=True)
        self._on_output = self._on_end = lambda *output: None  # a survivor must not keep the process and its messages here
        self.listen(True)

    def _read(self) -> int:
        """Takes one block; its size, 0 if there is none now or none will come."""
        try:
            block = os.read(self._pipe.fileno(), BLOCK_BYTES)
        except BlockingIOError:
            return 0
        self._give(block, is_last=not block)
        if not block:
            self.listen(False)
            self.is_open = False
            self._pipe.close()
            self._on_end()
        return len(block)

    def _give(self, block: bytes, is_last: bool) -> None:
        self._on_output(self._name, self._characters.take(block, is_last), len(block))


class Feed:
    """Writes the whole standard input into a process's pipe, as fast as it takes it, and closes it."""

    def __init__(self, pipe: Any, data: bytes) -> None:
        self._loop, self._pipe, self._data = asyncio.get_running_loop(), pipe, memoryview(data)
        os.set_blocking(pipe.fileno(), False)
        self._loop.add_writer(pipe.fileno(), self._write)

    def _write(self) -> None:
        try:
            self._data = self._data[os.write(self._pipe.fileno(), self._data[:BLOCK_BYTES]):]
        except BlockingIOError:
            return
        except OSError:
            self._data = memoryview(b"")  # nobody reads it any more: that is the process's affair
        if not self._data:
            self.close()

    def close(self) -> None:
        self._data = memoryview(b"")  # a piece of the old one would hold all of it
        if not self._pipe.closed:
            self._loop.remove_writer(self._pipe.fileno())
            self._pipe.close()


class Errors(bytes):
    """Output that came on stderr."""


class Ending(bytes):
    """A process's last message, as it is sent."""


class Kept:
    """What a process wrote, in order: the last of what was sent, then what waits. Numbered from 1 without a gap.

    A message is made when it is sent: what is kept of a short line takes a third of its memory. Sizes are those of the output, with
    ENTRY_BYTES for what surrounds it: never more than those of the messages.
    """

    __slots__ = ("waiting_bytes", "sent_bytes", "last", "_process_id", "_limit_bytes", "_sent", "_waiting")

    def __init__(self, process_id: str, limit_bytes: int) -> None:
        self.waiting_bytes = self.sent_bytes = self.last = 0  # last: the number of the newest
        self._process_id, self._limit_bytes, self._sent, self._waiting = process_id, limit_bytes, deque(), deque()

    def add(self, entry: bytes) -> None:
        self._waiting.append(entry)
        self.waiting_bytes += len(entry) + ENTRY_BYTES
        self.last += 1

    def take(self) -> bytes:
        """The next message to send; it counts as sent."""
        entry = self._take()
        if isinstance(entry, Ending):
            return entry
        return output_notification(self._process_id, "stderr" if isinstance(entry, Errors) else "stdout", self.last - len(self._waiting), entry)

    def _take(self) -> bytes:
        entry = self._waiting.popleft()
        self._sent.append(entry)
        self.waiting_bytes -= len(entry) + ENTRY_BYTES
        self.sent_bytes += len(entry) + ENTRY_BYTES
        while self.sent_bytes > self._limit_bytes:
            self.sent_bytes -= len(self._sent.popleft()) + ENTRY_BYTES
        return entry

    def oldest(self) -> int:
        """The number of the last message before those that are kept."""
        return self.last - len(self._waiting) - len(self._sent)

    def rewind(self, after: int) -> bool:
        """Makes message `after` the last one sent; False if what follows it is no longer kept."""
        newest_sent = self.last - len(self._waiting)
        if after < self.oldest():
            return False
        for _ in range(newest_sent - after):
            entry = self._sent.pop()
            self._waiting.appendleft(entry)
            self.sent_bytes -= len(entry) + ENTRY_BYTES
            self.waiting_bytes += len(entry) + ENTRY_BYTES
        for _ in range(after - newest_sent):
            self._take()
        return True


# ---- Processes, one of them: from its start to exactly one `completed`. ----

Phase = Enum("Phase", {"RUNNING": "running", "PAUSED": "paused", "ENDED": "ended"})


class Process:
    """A started order. What it writes goes into `kept`; the `viewer`, if there is one, is told to fetch it from there. `started`: in clock
    ticks, when it did not run yet."""

    def __init__(self, process_id: str, order: Order, popen: subprocess.Popen, leash: Leash, started: int, grace_s: float, table: Table,
                 on_end: Callable[[Process], None]) -> None:
        self.id, self.label, self.pid, self.phase = process_id, order.label, popen.pid, Phase.RUNNING
        self.kept, self.outputs, self.output_bytes = Kept(process_id, KEPT_BYTES), 0, 0  # outputs: the newest `seq`
        self.viewer: Optional[Connection] = None
        self.is_complete = False  # `completed` is among its messages
        self.mark = 0  # where its newest message ends in what the viewer was sent
        self.left_bytes = 0  # the bridge's: what it kept at its end
        self.expiry: Optional[asyncio.TimerHandle] = None  # the bridge's: for a client to come (back) to it
        self.started = started
        self._stop_signal, self._popen, self._leash, self._grace_s = order.stop_signal, popen, leash, grace_s
        self._table, self._on_end = table, on_end
        self._marker, self._known = frozenset({MARKER_PREFIX + process_id}), frozenset()
        self._status, self._ending = "completed", None  # _ending: the task that ends it
        self._is_cancelled = self._hurry = False
        self._started_at = time.time()
        self._life = Clock(order.timeout_s, lambda: self.end("timeout"))
        self._idle = Clock(order.idle_timeout_s, lambda: self.end("stalled"))
        self._feed = Feed(popen.stdin, order.stdin) if popen.stdin else None
        self._streams = [Stream(name, getattr(popen, name), self._on_output, self._on_pipe_end) for name in ("stdout", "stderr")]
        self._life.run()
        self.regulate()

    def describe(self) -> Dict[str, Any]:
        started_at = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(self._started_at))}.{int(self._started_at % 1 * 1000):03}Z"
        return {"process_id": self.id, "label": self.label, "pid": self.pid, "state": self.phase.value, "started_at": started_at,
                "elapsed": round(self._life.spent_s(), 3), "output_bytes": self.output_bytes}

    def count_descriptors(self) -> int:
        """How many are in use for it, at most; for survivors' sake also when it has ended."""
        return DESCRIPTORS if self.phase is not Phase.ENDED else sum(stream.is_open for stream in self._streams)

    def holds_pipes(self) -> bool:
        return any(stream.is_open for stream in self._streams)

    def release(self) -> None:
        """Gives its memory back, though the pipes of survivors may still be read."""
        self.kept = Kept(self.id, 0)

    def regulate(self) -> None:
        """Back-pressure: reads the pipes only while little enough waits. The idle clock stands while the bridge doesn't listen."""
        is_held = self.kept.waiting_bytes >= (WAITING_BYTES if self.viewer else KEPT_BYTES)
        for stream in self._streams:
            stream.listen(self.phase is Phase.ENDED or not is_held)
        self._idle.run(self.phase is Phase.RUNNING and not is_held and not self.is_over())

    def _on_output(self, name: str, data: bytes, count: int) -> None:
        self.output_bytes += count
        self._idle.restart()
        if data:
            self.outputs += 1
            self._publish(Errors(data) if name == "stderr" else data)

    def _publish(self, entry: bytes) -> None:
        self.kept.add(entry)
        if self.viewer:
            self.viewer.pump()
        self.regulate()

    # From here on: how it ends.

    def is_being_ended(self) -> bool:
        """Whether its processes, or those that it left, are being ended just now."""
        return self._ending is not None

    def is_over(self) -> bool:
        """Whether it has ended or is ending."""
        return self.phase is Phase.ENDED or self._popen.returncode is not None or self._ending is not None

    def is_to_reap(self) -> bool:
        return self._popen.returncode is None and has_ended(self._popen)

    def reap(self) -> None:
        """To be called when it is to reap, with a look at the process table that came after."""
        self._life.run(False)
        self._remember()  # as long as it is not reaped, the number of its group and session is its own
        self._popen.poll()
        for stream in self._streams:
            stream.drain()
        if self._ending is None:
            self._on_pipe_end()  # the pipes may have ended first
        if self._ending is None and self.phase is not Phase.ENDED:
            asyncio.get_running_loop().call_later(DRAIN_S, self._complete)

    def _remember(self) -> None:
        try:
            if self._table.has_orphans():
                self.family()
        except OSError as error:
            log.error("what process %s leaves can't be looked for: %s", self.id, error.strerror)

    def _on_pipe_end(self) -> None:
        if self._popen.returncode is None or self._ending is not None or self.holds_pipes():
            return
        if self._table.has_orphans():
            # In the next turn, with a new look: what held the pipe has ended after the last one.
            asyncio.get_running_loop().call_soon(self._complete)
        else:
            self._complete()

    def _complete(self) -> None:
        if self.phase is Phase.ENDED:
            return
        was_paused, self.phase = self.phase is Phase.PAUSED, Phase.ENDED
        for step in (Stream.drain, Stream.drop):
            for stream in self._streams:
                step(stream)
        if self._feed:
            self._feed.close()
        self._leash.loosen()
        self._life.run(False)
        if was_paused:
            self._signal(signal.SIGCONT)  # it was ended by another's hand; nobody could resume what is left
        completed = self._describe_end()
        log.info("process %(process_id)s ended: %(status)s, exit code %(exit_code)s, signal %(signal)s, %(duration)s s, "
                 "survivors %(survivors)s", completed)
        self._on_end(self)
        self.is_complete = True
        self._publish(Ending(notification("process.completed", completed)))

    def _describe_end(self) -> Dict[str, Any]:
        code, survivors = self._popen.returncode, {self.pid} if self._popen.returncode is None else set()
        try:
            if survivors or self._table.has_orphans():
                survivors |= {p.pid for p in self.family()}
        except OSError as error:
            log.error("what process %s left can't be looked for: %s", self.id, error.strerror)
        return {"process_id": self.id, "status": self._status, "exit_code": code if code is None or code >= 0 else None,
                "signal": name_signal(-code) if code is not None and code < 0 else None, "duration": round(self._life.spent_s(), 3),
                "survivors": sorted(survivors)}

    def end(self, status: str) -> None:
        """Ends the process and all that belongs to it, unless that is under way or over."""
        if not self.is_over():
            log.info("process %s is ended: %s", self.id, status)
            self._status, self._ending = status, asyncio.ensure_future(self._end())

    def cancel(self) -> None:
        """Ends the process or, if it has ended, its survivors; `wait` tells when they are gone. Asked twice, it kills at once."""
        self._is_cancelled, self._hurry = True, self._is_cancelled
        self.end("cancelled")
        if self._ending is None:
            self._complete()
            self._ending = asyncio.ensure_future(self._end())

    async def wait(self) -> None:
        """Returns when an ending that is under way is over."""
        if self._ending:
            await asyncio.wait([self._ending])

    async def _end(self) -> None:
        """Signal, grace, SIGKILL: until nothing is left that belongs to this process. Then `completed`, if that was not before."""
        try:
            self._signal(self._stop_signal)
            self._signal(signal.SIGCONT)  # a stopped process acts on a signal only when it goes on
            await until(lambda: self._hurry or not self.family(), self._grace_s)
            self._signal(signal.SIGKILL)  # the group as one: what forks without end hides from looks at single processes
            await kill_all(self.family)
        except OSError as error:
            log.error("what process %s started can't be looked for: %s", self.id, error.strerror)
            self._signal_group(signal.SIGKILL)
        finally:
            await until(lambda: self._popen.returncode is not None, KILL_S)
            self._complete()
            self._ending, self._is_cancelled = None, False

    def family(self, is_fresh: bool = False) -> List[Seen]:
        """What belongs to this process, also what was once seen to: an orphan has lost the parent by which it was found."""
        leader = self.pid if self._popen.returncode is None else None
        found = find_family(self._table.look(is_fresh), self._marker, leader, self._known)
        self._known |= {(process.pid, process.started) for process in found}
        return found

    def _signal(self, number: int, is_fresh: bool = False) -> List[Seen]:
        """To the group as one, then to what left it; returns whom it went to."""
        family, has_leader = self.family(is_fresh), self._popen.returncode is None
        self._signal_group(number)
        for process in family:
            if not has_leader or process.group != self.pid:
                send_signal(os.kill, process.pid, number)
        return family

    def _signal_group(self, number: int) -> None:
        if self._popen.returncode is None:
            send_signal(os.killpg, self.pid, number)

    def pause(self) -> None:
        stopped: Set[int] = set()
        while True:
            found = {p.pid for p in self._signal(signal.SIGSTOP, is_fresh=True)}
            if found <= stopped:
                break
            stopped |= found  # once more, for what was just being started
        self._set_phase(Phase.PAUSED)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)
        self._set_phase(Phase.RUNNING)

    def _set_phase(self, phase: Phase) -> None:
        self.phase = phase
        self._life.run(phase is Phase.RUNNING)
        self.regulate()


def has_ended(popen: subprocess.Popen) -> bool:
    """Whether a child is dead. Where it can be told without reaping it (not on macOS), its number stays its own until `poll`."""
    if not hasattr(os, "waitid"):
        return popen.poll() is not None
    with contextlib.suppress(ChildProcessError):  # reaped by another hand: `poll` finds that out
        return os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return True


def name_signal(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"SIG{number}"  # a real-time signal has no name


# ---- Connection: the pump between one socket, the codec and the processes that it views. ----


class Connection:  # an asyncio.Protocol in all but the base class, which would load asyncio
    """Read, feed, hand out messages, send what is owed. The only writer on its socket.

    What has come is dealt with for TURN_S at a time: a flood of tiny frames or requests keeps nobody else waiting, and what is said to
    it goes out in one piece. Back-pressure comes from `pause_writing`: while the socket's buffer is full no output is fetched, and
    processes are held by their own `regulate`. Replies are written past it; a client that does not read those either is not heard.
    """

    def __init__(self, bridge: Bridge) -> None:
        self.id, self.processes = new_id(4), {}  # those that it views, by their ids
        self.views: Set[Process] = set()  # those of them that have, or will have, something to send
        self._bridge, self._inbox, self._outbox = bridge, b"", []  # _outbox: what is to be written in one piece
        self._is_choked = self._is_working = self._is_closing = False  # closing: our close frame went first
        self._codec: Optional[Codec] = None  # from the end of the handshake
        self._take: Callable[[bytes], None] = self._take_handshake
        self._arrivals: Iterator[Optional[Event]] = iter(())  # in what has come; None where others may have their turn
        self._timer: Optional[asyncio.TimerHandle] = None
        # Bytes of output: sent, sent before the last ping, and read as the last pong shows (None: none came yet).
        self._sent, self._pinged, self._read = 0, -PING_BYTES * 3 // 4, None
        self._patience: Optional[asyncio.TimerHandle] = None  # for the first pong
        self._is_deaf = False  # it answers no pings

    @property
    def is_open(self) -> bool:
        return self._codec is not None and self._codec.state is State.OPEN

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=WAITING_BYTES)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio forgets it for a socket that it did not bind itself
        self._after(HANDSHAKE_S, self._give_up_handshake)
        self._bridge.on_connect(self)

    def data_received(self, data: bytes) -> None:
        self._take(data)

    def eof_received(self) -> None:
        self._let_go()
        self._linger()  # what is in the buffer is still sent, then the transport closes

    def connection_lost(self, error: Optional[Exception]) -> None:
        if self.is_open:
            log.info("connection %s lost", self.id)
        self._after(None)
        self._arrivals = iter(())
        if self._patience:
            self._patience.cancel()
        self._let_go()
        self._bridge.on_disconnect(self)
        self._codec = None  # a turn may still be waiting

    def pause_writing(self) -> None:
        self._is_choked = True

    def resume_writing(self) -> None:
        self._is_choked = False
        asyncio.get_running_loop().call_soon(self._go_on)  # not from within the transport's own writing: it may break just now

    def _go_on(self) -> None:
        self.pump()
        self._work()

    # What comes in.

    def _take_handshake(self, data: bytes) -> None:
        self._inbox += data
        try:
            parsed = parse_request(self._inbox)
            if parsed is None:
                return
            place = Place(*self._transport.get_extra_info("sockname")[:2])
            refusal = find_refusal(parsed[0], self._bridge.gate, place) or self._bridge.find_full()
        except HandshakeError as error:
            refusal = Refusal(error.status, str(error))
        if refusal:
            self._refuse(refusal)
        else:
            self._open(*parsed)

    def _refuse(self, refusal: Refusal) -> None:
        log.log(refusal.level, "connection %s refused: %d %s", self.id, refusal.status, refusal.text)
        self._write(refusal_response(refusal))
        self._linger()

    def _give_up_handshake(self) -> None:
        self._refuse(Refusal(408, f"a handshake has {HANDSHAKE_S:g} s", level=logging.INFO))

    def _open(self, request: HttpRequest, rest: bytes) -> None:
        self._after(None)
        self._inbox, self._codec, self._take = b"", Codec(Role.SERVER, MESSAGE_BYTES), self._take_frames
        self._write(accept_response(request) + self.greeting())
        self._take_frames(rest)

    def greeting(self) -> bytes:
        return notification("connected", self._bridge.greet(self))

    def _take_frames(self, data: bytes) -> None:
        self._arrivals = self._unpack(data)
        self._work()

    def _unpack(self, data: bytes) -> Iterator[Optional[Event]]:
        for start in range(0, len(data), PIECE_BYTES):
            yield from self._codec.take(data[start:start + PIECE_BYTES])
            yield None

    def _work(self) -> None:
        """Deals with what has come: the rest in the next turn, or when the client has read what was said to it."""
        end, is_done, self._is_working = time.monotonic() + TURN_S, True, True
        try:
            for event in self._arrivals:
                self._outbox.append(self._codec.owed())
                self._handle(event)
                if time.monotonic() >= end:
                    is_done = False
                    break
        except Exception:  # whatever it is: the log has the place, and no other connection is lost
            log.exception("connection %s failed", self.id)
            self.cut()
        self._is_working = False
        if self._codec:
            self._finish_turn(is_done)

    def _handle(self, event: Optional[Event]) -> None:
        if isinstance(event, Closed):
            log.info("connection %s closed: %d %r", self.id, event.code, event.reason)
            self._let_go()
        elif isinstance(event, Pong):
            self._on_pong(event.data)
        elif event is not None and self.is_open:
            self.hear(event)

    def _on_pong(self, data: bytes) -> None:
        read = int.from_bytes(data, "big")
        if len(data) == 8 and (self._read or 0) < read <= self._sent:  # an answer to a ping of `ask`, with news
            self._read, self._is_deaf = read, False
            asyncio.get_running_loop().call_soon(self.pump)

    def _finish_turn(self, is_done: bool) -> None:
        self._outbox.append(self._codec.owed())
        self._flush()
        self._bridge.on_unfinished(self, self._codec.unfinished_bytes())
        is_unread = self._transport.get_write_buffer_size() > REPLY_BYTES
        if self._codec.state is State.CLOSED:
            self._transport.close() if self._is_closing else self._linger()
        elif is_done and not is_unread:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()
            if not is_unread:  # else `resume_writing` goes on
                asyncio.get_running_loop().call_soon(self._work)

    def hear(self, event: Event) -> None:
        """A message; pings are answered already."""
        if isinstance(event, TextMessage):
            self._bridge.serve(self, event.text)
        elif isinstance(event, BinaryMessage):
            self.close(1003, "requests are sent as text")

    # What goes out.

    def send(self, message: Any) -> None:
        """A reply. It overtakes output that waits, not output that was sent."""
        if self.is_open:
            self._write(self._codec.send_text(encode_json(message)))

    def pump(self) -> None:
        """Sends what waits, a message of each process in turn, as long as the socket takes it and the client reads it."""
        turn, size = [True], 0
        while turn and self.is_open and not (self._is_choked or self._transport.is_closing() or self._is_ahead()):
            turn = [process for process in self.views if process.kept.waiting_bytes]
            for process in turn:
                message = process.kept.take()
                self._outbox.append(message)
                size += len(message)
                self._sent += len(message)
                process.mark = self._sent
            if self._sent - self._pinged >= PING_BYTES:
                self.ask()
            if size >= WAITING_BYTES:
                self._flush()
                size = 0
        self._flush()
        for process in list(self.views):
            if process.is_complete and not process.kept.waiting_bytes:
                self.views.discard(process)
                self._bridge.on_delivered(process)
            else:
                process.regulate()

    def _is_ahead(self) -> bool:
        """Whether more was sent than is kept for the case that the client has not got it: sockets on the way may hold much."""
        is_ahead = not self._is_deaf and self._sent - (self._read or 0) >= UNREAD_BYTES
        if is_ahead and self._read is None and not self._patience:
            self._patience = asyncio.get_running_loop().call_later(PONG_S, self._lose_patience)
        return is_ahead

    def _lose_patience(self) -> None:
        self._is_deaf = self._read is None
        self.pump()

    def ask(self) -> None:
        """Asks for a sign that the client has read what it was sent up to now."""
        if self.is_open and self._pinged < self._sent:
            self._pinged = self._sent
            self._write(self._codec.send_ping(self._sent.to_bytes(8, "big")))

    def has_read(self, mark: int) -> bool:
        """Whether the client has read what it was sent up to there, as far as that can be known: it may be asleep."""
        return self._is_deaf or (self._read or 0) >= mark

    def close(self, code: int, reason: str) -> None:
        if self.is_open:
            self._is_closing = True
            self._write(self._codec.send_close(code, reason))
            self._let_go()
            self._after(LINGER_S, self.cut)

    def give_up(self, code: int, reason: str) -> None:
        """Ends the connection at once, without hearing the peer out."""
        if self.is_open:
            log.warning("connection %s given up: %d %s", self.id, code, reason)
            self._write(self._codec.fail(code, reason))
            self._let_go()
            self._linger()

    def cut(self) -> None:
        self._transport.abort()

    def _write(self, data: bytes) -> None:
        self._outbox.append(data)
        if not self._is_working:
            self._flush()

    def _flush(self) -> None:
        data = self._outbox[0] if len(self._outbox) == 1 else b"".join(self._outbox)  # a single message, mostly a long one, is not copied
        self._outbox.clear()
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def _let_go(self) -> None:
        self._bridge.on_leave(self)

    def _linger(self) -> None:
        """Our side is done: what is in the buffer is sent, what still comes is dropped, until the peer closes or the time is over."""
        self._take, self._arrivals = lambda data: None, iter(())
        self._after(LINGER_S, self.cut)
        self._transport.resume_reading()
        if not self._transport.is_closing():
            self._transport.write_eof()

    def _after(self, seconds: Optional[float], then: Callable[[], None] = lambda: None) -> None:
        """The one thing that this connection has a time limit for; None: nothing."""
        if self._timer:
            self._timer.cancel()
        self._timer = None if seconds is None else asyncio.get_running_loop().call_later(seconds, then)


# ---- Bridge: all connections and processes, and the methods that clients call. ----


Outcome = Union[Dict[str, Any], RpcError, Awaitable[Dict[str, Any]]]  # what came of a request: its result or error, or that later


class Bridge:
    """`options` are the command line's; `gate` says who may come in; `prepare` is what a child does first, if anything; so many `descriptors`
    are there for processes; `is_ending` is set when the bridge is to end."""

    def __init__(self, options: argparse.Namespace, gate: Gate, journal: Journal, prepare: Optional[Callable[[], None]], descriptors: int,
                 is_ending: asyncio.Event) -> None:
        self.gate, self.is_ending = gate, is_ending
        self._options, self._journal, self._prepare, self._descriptors = options, journal, prepare, descriptors
        self._has_raised = False  # the limit of descriptors, as far as it goes
        self._processes: Dict[str, Process] = {}
        self._ended: Dict[str, Process] = {}  # those of them that have ended, in that order
        self._ended_bytes = 0  # what these keep, at most
        self._awaited: Dict[str, Process] = {}  # those of these whose messages were not all sent
        self._piped: List[Process] = []  # those that hold pipes, also if they are forgotten
        self._leaders: Dict[int, Process] = {}  # those of them whose leader is not reaped, by its number
        self._table = Table(lambda: next(iter(self._processes.values())).started if self._processes else 0, self._leaders.keys)
        self._connections: Dict[Connection, bool] = {}  # in order of arrival; True when the handshake is done
        self._unfinished: Dict[Connection, int] = {}  # bytes held of messages that are still coming in, the oldest first
        self._leash_pipe = leash_pipe()  # closed by the kernel
        self._tasks: Set[asyncio.Task] = set()
        self._quiet = Clock(options.idle_exit, self.is_ending.set)
        self._methods = {name: getattr(self, f"_{name}") for name in PARAMS}
        self._note_quiet()

    # Connections.

    def on_connect(self, connection: Connection) -> None:
        self._connections[connection] = False
        pending = [c for c, is_open in self._connections.items() if not is_open]
        for oldest in pending[:-PENDING_HANDSHAKES]:
            del self._connections[oldest]  # at once: many may come before the loop lets it go
            oldest.cut()
        self._note_quiet()

    def on_disconnect(self, connection: Connection) -> None:
        self._connections.pop(connection, None)
        self._unfinished.pop(connection, None)
        self._note_quiet()

    def on_unfinished(self, connection: Connection, size: int) -> None:
        """Holds what unfinished messages take within UNFINISHED_BYTES: beyond it the one that began first is given up."""
        if size < self._unfinished.get(connection, 0) or size <= PIECE_BYTES:
            self._unfinished.pop(connection, None)  # another message has begun
        if size > PIECE_BYTES:
            self._unfinished[connection] = size
        while sum(self._unfinished.values()) > UNFINISHED_BYTES:
            oldest = next(iter(self._unfinished))
            del self._unfinished[oldest]
            oldest.give_up(1013, f"unfinished messages of more than {UNFINISHED_BYTES} bytes in all: try again later")

    def find_full(self) -> Optional[Refusal]:
        if sum(self._connections.values()) >= self._options.max_connections:
            return Refusal(503, f"{self._options.max_connections} connections are open already (--max-connections)")
        return Refusal(503, "the bridge is ending") if self.is_ending.is_set() else None

    def greet(self, connection: Connection) -> Dict[str, Any]:
        """The parameters of `connected`; from now on it counts as open."""
        self._connections[connection] = True
        log.info("connection %s open", connection.id)
        capabilities = {"methods": list(PARAMS), "stop_signals": list(STOP_SIGNALS), "max_message_bytes": MESSAGE_BYTES,
                        "kept_bytes": KEPT_BYTES, "detach_grace": self._options.detach_grace}
        return {"version": VERSION, "protocol": PROTOCOL, "connection_id": connection.id, "capabilities": capabilities}

    def on_leave(self, connection: Connection) -> None:
        for process in list(connection.processes.values()):
            self.view(process, None)

    def view(self, process: Process, viewer: Optional[Connection]) -> None:
        """Gives a process's output to this connection, or to none; whoever had it hears no more of it."""
        self._take_away(process)
        process.viewer = viewer if viewer and viewer.is_open else None  # it may have gone before its request was carried out
        if process.viewer:
            viewer.processes[process.id] = process
            viewer.views.add(process)
        self._await_client(process)
        process.regulate()

    def _take_away(self, process: Process) -> None:
        if process.viewer:
            process.viewer.processes.pop(process.id, None)
            process.viewer.views.discard(process)

    def on_delivered(self, process: Process) -> None:
        """All that an ended process left was sent."""
        self._awaited.pop(process.id, None)

    def _count_running(self) -> int:
        return len(self._processes) - len(self._ended)

    def _note_quiet(self) -> None:
        """Lets the clock of --idle-exit run while there is no connection, no process, and no end that a client has yet to hear of."""
        is_quiet = not self._connections and not self._count_running() and not self._awaited
        self._quiet.run(is_quiet)
        if not is_quiet:
            self._quiet.restart()

    # Messages.

    def serve(self, connection: Connection, text: str) -> None:
        """Carries out a message and answers it; what has to be waited for is answered when it is there."""
        request = parse_message(text)
        if isinstance(request, RpcError):
            connection.send(error_message(request, request.id))
            return
        outcome = self._carry_out(connection, request)
        if asyncio.iscoroutine(outcome):
            task = asyncio.ensure_future(self._answer_later(connection, request, outcome))
            self._tasks.add(task)  # a task that nobody holds may be collected before its end
            task.add_done_callback(self._tasks.discard)
        else:
            self._answer(connection, request, outcome)

    def _carry_out(self, connection: Connection, request: Request) -> Outcome:
        try:
            check_params(request)
            return self._methods[request.method](connection, request.params)
        except RpcError as error:
            return error
        except Exception:  # whatever it is, it must not cost others anything; the log has the place, without the parameters
            log.exception("connection %s: %s failed", connection.id, request.method)
            return RpcError(INTERNAL_ERROR, "an error in the bridge; its log has the details")

    async def _answer_later(self, connection: Connection, request: Request, outcome: Awaitable[Dict[str, Any]]) -> None:
        self._answer(connection, request, await outcome)

    def _answer(self, connection: Connection, request: Request, outcome: Outcome) -> None:
        is_error = isinstance(outcome, RpcError)
        log.debug("connection %s: %.80r answered with %s", connection.id, request.method, outcome.code if is_error else "a result")
        if request.wants_reply:
            connection.send(error_message(outcome, request.id) if is_error else {"jsonrpc": "2.0", "id": request.id, "result": outcome})

    # Methods: (connection, checked parameters) -> result, or a coroutine that gives it. They raise RpcError.

    def _execute(self, connection: Connection, params: Dict[str, Any]) -> Dict[str, Any]:
        order = read_order(params)
        self._check_room()
        program = find_program(order)
        if self._options.allow:
            program = os.path.realpath(program)  # what is compared is what is started: a link may change meanwhile
        if self._options.allow and not is_allowed(program, self._options.allow):
            raise RpcError(NOT_ALLOWED, f"{order.argv[0][:200]!r} is not an allowed command: {', '.join(self._options.allow)}")
        process = self._start(order, program)
        log.info("process %s started by connection %s: %.200r, pid %d, label %r", process.id, connection.id, order.argv[0], process.pid,
                 order.label)
        self.view(process, connection)
        return {"status": "started", "process_id": process.id, "pid": process.pid, "pgid": process.pid}

    def _check_room(self) -> None:
        """Raises RpcError -32003 when one more process would be one too many."""
        running = self._count_running()
        self._piped = [process for process in self._piped if process.count_descriptors()]
        awaited = [process.kept.waiting_bytes for process in self._awaited.values()]
        for is_over, problem in (
            (self.is_ending.is_set(), "the bridge is ending"),
            (running >= self._options.max_processes, f"{running} processes are running (--max-processes)"),
            (not self._ensure_descriptors(),
             f"{len(self._piped)} processes, or what survives them, hold pipes; there are descriptors for no more (ulimit -n)"),
            (sum(awaited) > AWAITED_BYTES or len(awaited) > ENDED,
             f"{sum(awaited)} bytes of output of {len(awaited)} ended processes wait to be fetched (attach)"),
        ):
            if is_over:
                raise RpcError(LIMIT_REACHED, problem)

    def _ensure_descriptors(self) -> bool:
        """Whether there are enough for one more process, if need be after more were taken, which is done once."""
        needed = sum(process.count_descriptors() for process in self._piped) + DESCRIPTORS
        if needed > self._descriptors and not self._has_raised:
            self._has_raised = True
            limit, prepare = raise_descriptor_limit(DESCRIPTORS_MAX)
            self._prepare = self._prepare or prepare  # the first one knows the limit that was there
            self._descriptors = limit - count_other_descriptors(self._options.max_connections)
        return needed <= self._descriptors

    def _start(self, order: Order, program: str) -> Process:
        process_id = new_id(8)
        try:
            self._journal.begin(process_id)
        except OSError as error:
            raise start_error("the bridge's journal", error.errno) from None
        with contextlib.ExitStack() as undo:
            undo.callback(self._journal.finish, process_id)
            try:
                process = self._watch(process_id, order, program, undo)
            except OSError as error:
                raise start_error(order.argv[0], error.errno) from None
            undo.pop_all()
        self._processes[process_id] = self._leaders[process.pid] = process
        self._piped.append(process)
        return process

    def _watch(self, process_id: str, order: Order, program: str, undo: contextlib.ExitStack) -> Process:
        """Starts the program and everything that watches it; nothing may run that nobody watches."""
        self._table.adopt()
        leash, started = Leash(), now_ticks()
        undo.callback(leash.loosen)
        leash.take(self._leash_pipe)
        popen = spawn(order, program, process_id, self._options.umask, self._prepare, leash)
        undo.callback(popen.communicate)
        undo.callback(send_signal, os.killpg, popen.pid, signal.SIGKILL)  # undone first
        leash.fasten(popen.pid)
        return Process(process_id, order, popen, leash, started, self._options.grace, self._table, self._on_process_end)

    def _control(self, connection: Connection, params: Dict[str, Any]) -> Outcome:
        process, wanted = self._find(connection, params.get("process_id")), params["type"]
        if wanted == "CANCEL":
            log.info("process %s cancelled by connection %s", process.id, connection.id)
            process.cancel()
            return self._await_survivors(process) if process.phase is Phase.ENDED else {"status": "cancelled"}
        self.reap()  # it may just have ended
        if process.is_over():
            raise RpcError(NO_PROCESS, f"process {process.id} has ended or is ending: it can't be paused or resumed")
        change, status = {"PAUSE": (process.pause, "paused"), "RESUME": (process.resume, "resumed")}[wanted]
        change()
        return {"status": status}

    async def _await_survivors(self, process: Process) -> Dict[str, Any]:
        await process.wait()
        return {"status": "cancelled"}

    def _find(self, connection: Connection, process_id: Optional[str]) -> Process:
        own = list(connection.processes.values())
        chosen = [p for p in own if p.phase is not Phase.ENDED] or own
        if process_id is not None:
            chosen = [self._processes[process_id]] if process_id in self._processes else []
        if len(chosen) > 1:
            raise RpcError(INVALID_PARAMS, f"process_id must be given: this connection has {len(chosen)} processes")
        if not chosen:
            raise RpcError(NO_PROCESS, f"no process {process_id or 'of this connection'!r:.80}; ended ones are kept for --detach-grace")
        return chosen[0]

    def _attach(self, connection: Connection, params: Dict[str, Any]) -> Dict[str, Any]:
        process, after = self._find(connection, params["process_id"]), params.get("after", 0)
        if after > process.outputs:
            raise RpcError(INVALID_PARAMS, f"after must be at most {process.outputs}, the newest message's seq")
        if not process.kept.rewind(after):
            oldest = min(process.kept.oldest(), process.outputs)
            problem = f"what follows message {after} is no longer kept in full, only what follows {oldest}"
            raise RpcError(NOT_KEPT, problem, {"after": oldest})
        log.info("process %s taken over by connection %s", process.id, connection.id)
        self._await_delivery(process)
        self.view(process, connection)
        asyncio.get_running_loop().call_soon(connection.pump)  # after the answer
        return {"status": process.phase.value, "pid": process.pid, "label": process.label, "ending": process.is_over()}

    def _list(self, connection: Connection, params: Dict[str, Any]) -> Dict[str, Any]:
        return {"processes": [process.describe() for process in self._processes.values()]}

    def _ping(self, connection: Connection, params: Dict[str, Any]) -> Dict[str, Any]:
        return {}

    # Processes.

    def reap(self) -> None:
        """To be called when a child has ended: finds out which, and what they leave with one look at the process table."""
        ended = [process for process in self._leaders.values() if process.is_to_reap()]
        if ended:
            self._table.refresh()
        for process in ended:
            process.reap()
            del self._leaders[process.pid]
        if hasattr(os, "waitid"):
            self._reap_orphans()

    def _reap_orphans(self) -> None:
        """Those that lost their parent have become this process's children: by `adopt_orphans`, or since it is the first of a container."""
        with contextlib.suppress(ChildProcessError):  # there are no more
            while True:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if found is None or found.si_pid in self._leaders:
                    break  # one of ours that has ended since: its signal is on its way
                os.waitpid(found.si_pid, os.WNOHANG)

    def _on_process_end(self, process: Process) -> None:
        """Comes before the client hears of it: once it knows, nothing may be swept any more."""
        self._journal.finish(process.id)
        self._ended[process.id] = process
        process.left_bytes = process.kept.waiting_bytes + process.kept.sent_bytes
        self._ended_bytes += process.left_bytes
        self._await_delivery(process)
        self._await_client(process)
        asyncio.get_running_loop().call_soon(self._prune)

    def _await_delivery(self, process: Process) -> None:
        if process.id in self._ended:
            self._awaited[process.id] = process

    def _prune(self) -> None:
        if self._ended_bytes > ENDED_BYTES or len(self._ended) > ENDED:
            self._forget_some()
        self._note_quiet()

    def _forget_some(self) -> None:
        """Forgets the first to have ended, as far as their messages were sent; first those that were read. So many that it is not needed
        again at the next end."""
        sent = [process for process in self._ended.values() if not process.kept.waiting_bytes and not process.is_being_ended()]
        sent.sort(key=lambda process: not (process.viewer and process.viewer.has_read(process.mark)))
        surplus_bytes, surplus = sum(process.kept.sent_bytes for process in sent) - ENDED_BYTES, len(sent) - ENDED
        surplus += ENDED // 16 if surplus > 0 else 0
        for oldest in sent:
            if surplus_bytes > 0 or surplus > 0:
                surplus_bytes, surplus = surplus_bytes - oldest.kept.sent_bytes, surplus - 1
                self._forget(oldest)

    def _await_client(self, process: Process) -> None:
        """Begins the time in which a process without its client, or one that has ended, can be attached."""
        if process.expiry:
            process.expiry.cancel()
        seconds = max(self._options.detach_grace, FORGET_S) if process.viewer else self._options.detach_grace
        process.expiry = asyncio.get_running_loop().call_later(seconds, self._expire, process)

    def _expire(self, process: Process) -> None:
        viewer = process.viewer
        if process.phase is not Phase.ENDED:
            if viewer is None:
                log.warning("process %s cancelled: its client did not come back", process.id)
                process.end("cancelled")
        elif process.is_being_ended() or viewer and (process.kept.waiting_bytes or not viewer.has_read(process.mark)):
            if viewer:
                viewer.ask()
            self._await_client(process)
        else:
            self._forget(process)
            self._note_quiet()

    def _forget(self, process: Process) -> None:
        self._processes.pop(process.id, None)
        self._awaited.pop(process.id, None)
        if self._ended.pop(process.id, None):
            self._ended_bytes -= process.left_bytes
        process.expiry.cancel()
        self._take_away(process)
        process.release()

    async def shut_down(self) -> None:
        """Ends all processes, tells the clients, waits until they have gone."""
        for process in self._processes.values():
            process.end("cancelled")
        await asyncio.gather(*(process.wait() for process in self._processes.values()))
        await until(lambda: all(p.phase is Phase.ENDED and not (p.viewer and p.kept.waiting_bytes) for p in self._processes.values()), LINGER_S)
        for connection in self._connections:
            connection.close(1001, "the bridge is ending")
        await until(lambda: not any(self._connections.values()), LINGER_S)
        for connection in list(self._connections):
            connection.cut()


# ---- Command line: options -> socket, token, signals, the ready line. ----

PAGE = """
examples:
  ws_bridge.py                            on port 8004, for this user only
  ws_bridge.py --port 0 --idle-exit 30    on a free port, until nobody has needed it for 30 s
  ws_bridge.py --allow claude             runs nothing but claude
  ssh -L 8004:127.0.0.1:8004 HOST         how another machine reaches it, with the token from HOST

environment:
  CC_BRIDGE_TOKEN   the token; without it a random one is made and kept in the token file
  XDG_RUNTIME_DIR   the token file is $XDG_RUNTIME_DIR/cc_execute/bridge-PORT.token, without it in ~/.cache/cc_execute

protocol: JSON-RPC 2.0, an object in each text frame, at ws://HOST:PORT/ and /ws/mcp; times in seconds
  execute {command, cwd?, env?, stdin?, timeout?, idle_timeout?, stop_signal?, label?, umask?}
    -> {status: "started", process_id, pid, pgid}; `command` is a list, or a string that is split (no shell)
  control {type: "PAUSE" | "RESUME" | "CANCEL", process_id?} -> {status}; a second CANCEL kills at once
  attach {process_id, after?} -> {status, pid, label}, the output after message `after`, then what comes
  list {} -> {processes: [{process_id, label, pid, state, ...}]}; ping {} -> {}
  by itself: first connected {version, protocol, connection_id, capabilities}, then, as it comes,
    process.output {process_id, type: "stdout" | "stderr", seq: 1, 2, 3 ..., data}, last, once,
    process.completed {process_id, status: "completed" | "timeout" | "stalled" | "cancelled", exit_code, ...}
  errors: as in JSON-RPC; -32000 not started, -32001 not allowed, -32002 no such process, -32003 too many,
    -32004 no longer kept

from a terminal (on a machine with other users, mind that they see a program's arguments):
  TOKEN=$(cat "${XDG_RUNTIME_DIR:-$HOME/.cache}/cc_execute/bridge-8004.token")
  websocat -n -B 500000 --jsonrpc -H="Authorization: Bearer $TOKEN" ws://127.0.0.1:8004/
  execute {"command": ["echo", "hello"], "timeout": 60}

from a browser: open http://127.0.0.1:8004/ (other pages are not let in; this one says 401) and in its console
  socket = new WebSocket("ws://127.0.0.1:8004/?token=TOKEN")
  socket.onmessage = (event) => console.log(event.data)
  socket.send(JSON.stringify({jsonrpc: "2.0", id: 1, method: "execute", params: {command: ["echo", "hello"]}}))

exit codes:
  0 ended by SIGTERM, SIGINT, SIGHUP or --idle-exit   2 usage   3 could not start: port, token or log file
"""


def in_range(kind: Callable[[str], Any], name: str, lowest: float, highest: float) -> Callable[[str], Any]:
    """A type for argparse, which shows its name when a value is wrong."""
    def read(text: str) -> Any:
        value = kind(text)
        if not lowest <= value <= highest:
            raise ValueError(text)
        return value

    read.__name__ = f"{name} ({lowest} to {highest:.0f})"
    return read


LOG_LEVELS = ("debug", "info", "warning", "error")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Asks for the width itself: argparse would load shutil, and with it four libraries for compression, at every start."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=terminal_columns() - 2)


def terminal_columns() -> int:
    with contextlib.suppress(ValueError, OSError, AttributeError):  # stdout may be closed
        return int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size(sys.__stdout__.fileno()).columns or 80
    return 80


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(f"{message}; see --help")


def make_parser() -> argparse.ArgumentParser:
    seconds, count = in_range(float, "seconds", 0, SECONDS_MAX), in_range(int, "count", 1, 1_000_000)
    parser = Parser(
        prog="ws_bridge.py", usage="ws_bridge.py [options]", epilog=PAGE,
        description="Runs commands for WebSocket clients on this machine and streams their output.",
        formatter_class=HelpFormatter)
    add = parser.add_argument_group("where it listens").add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default %(default)s); any but loopback needs --expose")
    add("--port", type=in_range(int, "port", 0, 65535), default=DEFAULT_PORT, help="port (default %(default)s); 0 takes a free one")
    add = parser.add_argument_group("who gets in, and what they may run").add_argument
    add("--token-file", type=Path, metavar="F", help="where the token is kept; if F holds one already, that is the token")
    add("--no-token", action="store_true", help="let in everybody on this machine")
    add("--allow", action="append", default=[], metavar="CMD",
        help="run only this program, under whatever name (repeatable); no sandbox: its arguments and environment are free")
    add("--expose", action="store_true", help="listen on an address that other machines can reach; needs a token and --allow-host")
    add("--allow-host", action="append", default=[], metavar="NAME", help="a name by which clients elsewhere call this machine (repeatable)")
    add = parser.add_argument_group("how long, how many").add_argument
    add("--detach-grace", type=seconds, default=60, metavar="S",
        help="how long a process goes on without its client, and can be attached after its end (default %(default)s)")
    add("--grace", type=seconds, default=5, metavar="S", help="between the stop signal and SIGKILL (default %(default)s)")
    add("--idle-exit", type=seconds, metavar="S", help="end S seconds after the last connection and process (default: never)")
    add("--max-processes", type=count, default=64, metavar="N", help="running at once (default %(default)s)")
    add("--max-connections", type=count, default=64, metavar="N", help="open at once (default %(default)s)")
    add = parser.add_argument_group("what it tells").add_argument
    add("--log-file", type=Path, metavar="F", help="log to F instead of stderr; at 1 MiB it becomes F.1; three such are kept")
    add("--log-level", choices=LOG_LEVELS, default="info", help="the least that is logged (default %(default)s)")
    add("--version", action="version", version=f"ws_bridge {VERSION}")
    return parser


def parse_options(arguments: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = make_parser()
    options = parser.parse_args(arguments)
    with_port = [name for name in options.allow_host if ":" in name.rpartition("]")[2] or not HOST.fullmatch(name)]
    for is_wrong, problem in (
        (options.expose and options.no_token, "--expose needs a token: leave out --no-token"),
        (options.expose and not options.allow_host, "--expose needs --allow-host NAME: what clients on other machines call this one"),
        (options.no_token and options.token_file, "--no-token and --token-file exclude each other: leave out one"),
        (with_port, f"--allow-host {''.join(with_port[:1])!r}: a host's name without port is wanted"),
    ):
        if is_wrong:
            parser.error(problem)
    options.address = resolve(options, parser.error)
    return options


def resolve(options: argparse.Namespace, refuse: Callable[[str], Any]) -> Tuple[int, Tuple[str, int]]:
    """Family and address to listen on, IPv4 first. What is not loopback is refused without --expose."""
    try:
        found = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        refuse(f"--host {options.host!r} is no address: {error.strerror or error}")
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    if not options.expose and not is_loopback(address[0]):
        refuse(f"--host {options.host!r} can be reached from other machines: use 127.0.0.1, or add --expose")
    return family, address[:2]


class OneLine(logging.Formatter):
    """One line an event, whatever names a client makes up. Of an exception type and place: its message may quote what a client sent."""

    converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        def escape(match: re.Match) -> str:
            return ": " if match[0] == "\n" else ascii(match[0])[1:-1]  # the line break stands before an exception

        return re.sub(f"[{CONTROLS}\x80-\x9f\u2028\u2029]", escape, super().format(record))

    def formatException(self, ei: Any) -> str:
        places = [f"{frame.name} ({os.path.basename(frame.filename)}:{frame.lineno})" for frame in traceback.extract_tb(ei[2])]
        return " in ".join((ei[0].__name__, *reversed(places)))


def start_log(path: Optional[Path], level: str) -> None:
    handler: logging.Handler = logging.StreamHandler()
    if path:
        from logging.handlers import RotatingFileHandler
        try:
            handler = RotatingFileHandler(path, maxBytes=MIB, backupCount=3, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise BridgeError(f"--log-file {path} can't be written: {error.strerror}; name another file, or leave it out") from None
    # What no line shows need not be found out for each (Python's logging HOWTO, "Optimization").
    logging._srcfile, logging.logThreads, logging.logProcesses, logging.logMultiprocessing = None, False, False, False
    handler.setFormatter(OneLine("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
    logging.getLogger().addHandler(handler)
    log.setLevel(level.upper())


def log_loop_error(loop: asyncio.AbstractEventLoop, context: Dict[str, Any]) -> None:
    """Instead of asyncio's own, which shows arguments."""
    log.error("%s", context["message"], exc_info=context.get("exception"))


def listen(family: int, address: Tuple[str, int]) -> socket.socket:
    try:
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        problem = ("is taken by another program; name another with --port, where 0 takes a free one" if error.errno == errno.EADDRINUSE else
                   f"can't be used: {os.strerror(error.errno)}; name others with --port and --host")
        raise BridgeError(f"port {address[1]} on {address[0]} {problem}") from None


@contextlib.contextmanager
def keep_token(options: argparse.Namespace, port: int) -> Iterator[Optional[str]]:
    """The token, from the environment or its file. A file that was made for it goes again at the end, if it is still ours."""
    path = options.token_file or token_path(port)
    kept = options.token_file and read_private(path)
    for _ in range(20 if not options.token_file else 0):
        remove_abandoned_token(path)  # what an earlier bridge on this port left is not this one's token
        if not os.path.lexists(path):
            break
        time.sleep(0.01)  # another bridge that is starting may just be looking at it
    if options.no_token or options.token or kept:
        yield None if options.no_token else check_token(options.token or kept)
        return
    if os.path.lexists(path):
        raise BridgeError(f"the token file {path} holds no token, or others can reach it; it must be a file of yours with mode 0600 (chmod 600)"
                          if options.token_file else
                          f"the token file {path} is in use by your bridge on this port of another address: give this one a --token-file")
    token = base64.urlsafe_b64encode(os.urandom(32)).decode("ascii").rstrip("=")
    try:
        descriptor = write_private(path, token + "\n")
    except OSError as error:
        raise BridgeError(f"the token file {path} can't be written: {error.strerror}; name another with --token-file F") from None
    try:
        yield token
    finally:
        if read_private(path) == token:
            path.unlink(missing_ok=True)
        os.close(descriptor)


def check_token(token: str) -> str:
    """The token itself. Raises BridgeError if it can't be sent as it is."""
    if not re.fullmatch("[!-~]+", token):
        raise BridgeError(f"the token in {TOKEN_VARIABLE} or the token file must be printable ASCII without spaces: 20 random "
                          "letters and digits, say")
    if len(token) < TOKEN_CHARS:
        log.warning("the token has %d characters: with fewer than %d it can be guessed", len(token), TOKEN_CHARS)
    return token


def count_for_processes(descriptors: int, max_connections: int) -> int:
    """How many descriptors are left for processes. Raises BridgeError if there are none."""
    left = descriptors - count_other_descriptors(max_connections)
    if left < DESCRIPTORS:
        raise BridgeError(f"{descriptors} descriptors (ulimit -n) are {DESCRIPTORS - left} too few for --max-connections {max_connections}; "
                          "lower that, or raise ulimit -n")
    return left


def announce(host: str, port: int) -> None:
    """The ready line. Whoever waited for it may be gone; nothing is written to stdout later, nor kept open there."""
    url = f"ws://[{host}]:{port}/" if ":" in host else f"ws://{host}:{port}/"
    log.info("ws_bridge %s listening on %s, pid %d", VERSION, url, os.getpid())
    if sys.stdout is not None:
        with contextlib.suppress(OSError):
            print(f"ws_bridge {VERSION} listening on {url}", flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def run(options: argparse.Namespace, listener: socket.socket, prepare: Optional[Callable[[], None]], descriptors: int) -> None:
    """From the bound socket to the end of the last process."""
    loop, (host, port), folder = asyncio.get_running_loop(), listener.getsockname()[:2], runtime_dir()
    is_ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not pass_over:  # nohup
            loop.add_signal_handler(number, is_ending.set)
    loop.set_exception_handler(log_loop_error)
    await sweep(folder)
    with contextlib.closing(Journal(folder, port)) as journal:
        with keep_token(options, port) as token:
            names = frozenset(name.lower().rstrip(".") for name in options.allow_host)
            bridge = Bridge(options, Gate(token, names), journal, prepare, descriptors, is_ending)
            loop.add_signal_handler(signal.SIGCHLD, bridge.reap)
            server = await loop.create_server(lambda: Connection(bridge), sock=listener, backlog=ACCEPTED_AT_ONCE)
            listener.listen(BACKLOG)
            announce(host, port)
            await is_ending.wait()
        server.close()  # the token file went before the port is free, so that the next bridge's is not touched
        log.info("ending")
        await bridge.shut_down()
        loop.remove_signal_handler(signal.SIGCHLD)  # orphans end now too, while the loop closes: it would complain of each


def keep_freed_memory() -> None:
    """Has glibc keep up to two MiB that were freed, where by default it gives back to the system what is over 128 KiB and gets it anew for
    the next block of output: that takes a quarter of the time. It adapts to the largest allocation that was freed (mallopt(3))."""
    bytearray(MIB)


def in_words(error: Exception) -> str:
    """Why the bridge does not start; of a system's error without its number."""
    if not isinstance(error, OSError):
        return str(error)
    return (f"{error.filename}: " if error.filename else "") + f"{error.strerror}; mend that first"


def main(arguments: Optional[Sequence[str]] = None) -> int:
    global asyncio
    import asyncio
    keep_freed_memory()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what was blocked by whoever started this would never be heard of, here nor in a child
    options = parse_options(arguments)
    options.token = os.environ.pop(TOKEN_VARIABLE, "").strip(" \t\r\n")
    options.umask = os.umask(0o077)  # what the bridge writes is for its user only; processes get the umask that was there
    descriptors, prepare = raise_descriptor_limit(count_other_descriptors(options.max_connections) + DESCRIPTORS * options.max_processes)
    heed_signals()
    try:
        start_log(options.log_file, options.log_level)
        with listen(*options.address) as listener:
            asyncio.run(run(options, listener, prepare, count_for_processes(descriptors, options.max_connections)))
    except (BridgeError, OSError) as error:
        print(f"ws_bridge: {in_words(error)}", file=sys.stderr)
        return BridgeError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
