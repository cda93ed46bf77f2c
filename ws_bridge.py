#!/usr/bin/env python3
# /// script
# requires-python = ">=3.9"
# dependencies = []
# ///
"""ws_bridge: runs commands for WebSocket clients, streams their output both ways, keeps time limits, leaves no process behind.

    client  <- frames ->  Connection  <- messages ->  Process  <- pipes, signals ->  the command and all that it started
               (Codec)    (the pump)    (Kept, 8 MiB)           (its own session, marked by an environment variable)

Run:        python3 ws_bridge.py [--port 8004] [--help]; prints `ws_bridge 1.0 listening on ws://127.0.0.1:8004/` when ready.
Speaks:     JSON-RPC 2.0 in text frames. execute, control, attach, list, ping; connected, process.output, process.completed.
Exit codes: 0 ended by SIGTERM, SIGINT, SIGHUP or --idle-exit; 2 usage; 3 could not listen (one line on stderr says why).
Variables:  CC_BRIDGE_TOKEN sets the token; XDG_RUNTIME_DIR says where a random one is kept.
Sections:   policy and limits; data; codec; handshake; JSON-RPC; files; processes (finding, spawning, clocks, pipes, one process);
            connection; bridge; command line. The codec, the handshake and JSON-RPC know no socket, clock or task: bytes in, events out.

Policy, in words:
- One user, one machine. Who has the token may run anything as this user (less with --allow), and may see all processes of this bridge.
- Back-pressure: an unread socket stops the reading of the pipes, full pipes stop the process. Nothing is dropped to keep up.
- A process is ended with everything it started: its process group, what carries its marker, and their descendants. What clears its
  environment and leaves both the session and its parent escapes. Without /proc (macOS), markers are found with `ps -E`, which shows
  the environments of the user's own programs only, not of those that the system protects.
- What survives a normal end keeps its pipes: they are read and dropped, so that it is not ended by a broken pipe.
"""
from __future__ import annotations

import sys

if __name__ == "__main__" and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]  # a json.py or queue.py beside this script must not take the place of the standard library's

import argparse
import asyncio
import base64
import binascii
import codecs
import contextlib
import errno
import fcntl
import hashlib
import hmac
import ipaddress
import json
import logging
import math
import os
import re
import secrets
import shlex
import signal
import socket
import stat
import subprocess
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any, Callable, Deque, Dict, FrozenSet, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, Union
from urllib.parse import parse_qs

# ---- Policy and limits: every number with its unit and its reason. ----

VERSION = "1.0"
PROTOCOL = 1
DEFAULT_PORT = 8004
MARKER_PREFIX = "CC_BRIDGE_PROCESS_"  # CC_BRIDGE_PROCESS_<process id>=1 in the environment of a process and of all that inherits it
TOKEN_VARIABLE = "CC_BRIDGE_TOKEN"
PATHS = ("/", "/ws/mcp")  # the second is what older clients ask for
LOOPBACK_NAMES = frozenset({"localhost"})  # besides every loopback address; other names can be rebound by their DNS

MIB = 1024 * 1024
HANDSHAKE_S = 10.0  # a client on the same machine needs milliseconds
HANDSHAKE_BYTES = 16 * 1024  # as most HTTP servers take for a request's head
CHALLENGE_CHARS = 128  # a random challenge has 32 to 64
PENDING_HANDSHAKES = 64  # beyond it the oldest is dropped, so that silent connections keep nobody out
MESSAGE_BYTES = 16 * MIB  # a message from a client; the largest that the Autobahn test suite sends
CONTROL_BYTES = 125  # RFC 6455, 5.5
WRITE_HIGH_BYTES = 256 * 1024  # a socket's buffer beyond which output waits; replies wait behind no more than this
REPLY_BYTES = 4 * MIB  # a socket's buffer beyond which nothing more is read from that client: it doesn't read its replies
BLOCK_BYTES = 64 * 1024  # read from a pipe at once, and so the longest output message; what a Linux pipe holds
PIPE_BYTES = MIB  # the most a pipe can hold (Linux, unprivileged): what a process wrote before its end is within it
WAITING_BYTES = 256 * 1024  # output that waits for a client that is there; beyond it the pipes are not read
KEPT_BYTES = 8 * MIB  # messages kept for `attach` once sent, and the most that waits for a client that is away
ENDED_BYTES = 64 * MIB  # messages of ended processes kept in all; beyond it the oldest that were delivered go first
DRAIN_S = 0.5  # after the end of a process, for what survivors that hold its pipes still write
LINGER_S = 2.0  # for a client to close its side after our close frame or refusal; then the connection is cut
FLUSH_S = 2.0  # at the bridge's end, for clients to take the last messages
KILL_S = 5.0  # for processes to vanish after SIGKILL; what is still there then hangs in the kernel and is reported
LOOK_S = (0.02, 0.25)  # between two looks at the process table: the first pause, growing to the last
SECONDS_MAX = 1e9  # the longest time limit: more is a mistake in units
LABEL_CHARS = 200  # a label goes into the log

# ---- Data: what crosses a boundary. ----


class BridgeError(Exception):
    """Base of this file's errors; `exit_code` is what the program ends with when nobody else handles it."""

    exit_code = 3


class HandshakeError(BridgeError):
    """A request or response that is no good WebSocket handshake; `status` is the HTTP status that answers it."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class UsageError(BridgeError):
    exit_code = 2


class TextMessage(NamedTuple):
    text: str


class BinaryMessage(NamedTuple):
    data: bytes


class Ping(NamedTuple):
    data: bytes


class Pong(NamedTuple):
    data: bytes


class Closed(NamedTuple):
    """The connection is over: the peer's close code (1005: it gave none), or ours after a violation."""

    code: int
    reason: str


Event = Union[TextMessage, BinaryMessage, Ping, Pong, Closed]


class Response(NamedTuple):
    """A server's answer to a handshake; header names are lower-case."""

    status: int
    reason: str
    headers: Dict[str, str]


class HttpRequest(NamedTuple):
    """A client's handshake as it came; header names are lower-case, values in order of appearance."""

    method: str
    target: str
    headers: Dict[str, List[str]]

    def first(self, name: str) -> str:
        return self.headers.get(name, [""])[0]


class Refusal(NamedTuple):
    """An HTTP answer other than 101."""

    status: int
    text: str
    headers: Tuple[Tuple[str, str], ...] = ()


class Gate(NamedTuple):
    """Who may come in: the token (None: anybody on this machine) and the names besides loopback's that `Host` may hold."""

    token: Optional[str]
    hosts: FrozenSet[str] = frozenset()


class Request(NamedTuple):
    """A valid JSON-RPC request; a notification (`wants_reply` false) is carried out and not answered."""

    method: str
    params: Dict[str, Any]
    id: Any
    wants_reply: bool


@dataclass(frozen=True)
class Order:
    """What `execute` asks for, checked. `env` None: the bridge's own; `umask` -1: the bridge's own; times in seconds, None: no limit."""

    argv: Tuple[str, ...]
    cwd: Optional[str] = None
    env: Optional[Mapping[str, str]] = field(default=None, repr=False)
    stdin: Optional[bytes] = field(default=None, repr=False)
    timeout_s: Optional[float] = None
    idle_timeout_s: Optional[float] = None
    stop_signal: signal.Signals = signal.SIGTERM
    label: str = ""
    umask: int = -1


@dataclass(frozen=True)
class Settings:
    """The command line, checked. Times in seconds."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    token_file: Optional[Path] = None
    no_token: bool = False
    allow: Tuple[str, ...] = ()
    expose: bool = False
    allow_host: Tuple[str, ...] = ()
    detach_grace_s: float = 60.0
    grace_s: float = 5.0
    idle_exit_s: Optional[float] = None
    max_processes: int = 64
    max_connections: int = 64
    log_file: Optional[Path] = None


log = logging.getLogger("ws_bridge")

# ---- Codec: bytes -> events, messages -> bytes (RFC 6455). Pure; the same for client and server. ----


class Role(Enum):
    CLIENT = "client"
    SERVER = "server"


class State(Enum):
    OPEN = "open"
    CLOSING = "closing"  # our close frame is out, the peer's is awaited
    CLOSED = "closed"


class Move(Enum):
    SEND = "send a message"
    SEND_CLOSE = "send a close frame"
    RECEIVE_CLOSE = "receive a close frame"
    FAIL = "fail the connection"


# A move that is not here is a caller's error: nothing may be sent after a close frame (5.5.1), and nothing is read after the peer's.
MOVES = {
    (State.OPEN, Move.SEND): State.OPEN,
    (State.OPEN, Move.SEND_CLOSE): State.CLOSING,
    (State.OPEN, Move.RECEIVE_CLOSE): State.CLOSED,
    (State.OPEN, Move.FAIL): State.CLOSED,
    (State.CLOSING, Move.RECEIVE_CLOSE): State.CLOSED,
    (State.CLOSING, Move.FAIL): State.CLOSED,
}


class Opcode(IntEnum):
    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


OPCODES = frozenset(Opcode)
# 7.4.1 and the IANA registry (1012-1014), then 7.4.2: libraries and private use. 1004-1006 and 1015 never go over the wire.
CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})
NO_CODE = 1005
ABNORMAL = 1006


class Violation(BridgeError):
    """The peer broke the protocol; `close_code` is what it is told."""

    def __init__(self, reason: str, close_code: int = 1002) -> None:
        super().__init__(reason)
        self.close_code = close_code


class Head(NamedTuple):
    """A frame's head: `length` of the payload and `size` of the head itself in bytes; `mask` is empty when it isn't masked."""

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
LONG_LENGTHS = {126: (2, 126), 127: (8, 1 << 16)}  # short length: (bytes that follow, the smallest length that needs them)


def parse_head(data: Union[bytes, bytearray], role: Role) -> Optional[Head]:
    """The head at the beginning of `data`, None if more bytes are needed; `role` is the reader's. Raises Violation."""
    if len(data) < 2:
        return None
    head = Head(bool(data[0] & 0x80), data[0] & 0x70, data[0] & 0x0F, bool(data[1] & 0x80), data[1] & 0x7F)
    for broken, reason in HEAD_RULES:
        if broken(head, role):
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
    """`data` masked or unmasked (5.3); `offset` is its place in the payload. One XOR of two big integers: the fastest in plain Python."""
    turned = mask[offset % 4:] + mask[:offset % 4]
    stream = (turned * (len(data) // 4 + 1))[:len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(data), "big")


def encode_frame(opcode: int, payload: bytes, mask: bytes = b"") -> bytes:
    """One final frame, masked if a mask is given."""
    length, masked = len(payload), 0x80 if mask else 0
    if length < 126:
        head = bytes((0x80 | opcode, masked | length))
    elif length < 1 << 16:
        head = bytes((0x80 | opcode, masked | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, masked | 127)) + length.to_bytes(8, "big")
    return head + mask + (apply_mask(payload, mask) if mask else payload)


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
    # 5.5.1: "If there is a body, the first two bytes of the body MUST be a 2-byte unsigned integer"
    if len(payload) == 1:
        raise Violation("a close frame's payload of one byte (5.5.1)")
    code = int.from_bytes(payload[:2], "big")
    if code not in CLOSE_CODES:
        raise Violation(f"close code {code} (7.4)")
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
    """One end of a WebSocket connection after the handshake: `feed` it what comes, send what it gives back and what it `owed`."""

    def __init__(self, role: Role, max_message_bytes: int, new_mask: Callable[[], bytes] = lambda: os.urandom(4)) -> None:
        self.state = State.OPEN
        self._role = role
        self._max_message_bytes = max_message_bytes
        self._new_mask = new_mask
        self._inbox = bytearray()
        self._outbox = bytearray()
        self._head: Optional[Head] = None  # of the frame whose payload is awaited
        self._taken = 0  # bytes of that payload that were taken
        self._message: Optional[Incoming] = None

    def feed(self, data: bytes) -> List[Event]:
        """What these bytes complete. After Closed nothing more comes, and what is fed is dropped."""
        events: List[Event] = []
        self._inbox += data
        try:
            while self.state is not State.CLOSED and self._take_frame(events):
                pass
        except Violation as violation:
            events.append(self._fail(violation))
        if self.state is State.CLOSED:
            self._inbox.clear()
        return events

    def end_of_stream(self) -> List[Event]:
        """To be called when the transport has ended: Closed(1006) if no close frame came before."""
        if self.state is State.CLOSED:
            return []
        self._move(Move.FAIL)
        return [Closed(ABNORMAL, "the connection ended without a close frame")]

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
        payload = encode_close(code, reason)
        self._move(Move.SEND_CLOSE)
        return self._frame(Opcode.CLOSE, payload)

    def _send(self, opcode: Opcode, payload: bytes) -> bytes:
        self._move(Move.SEND)
        return self._frame(opcode, payload)

    def _frame(self, opcode: Opcode, payload: bytes) -> bytes:
        return encode_frame(opcode, payload, self._new_mask() if self._role is Role.CLIENT else b"")

    def _move(self, move: Move) -> None:
        if (self.state, move) not in MOVES:
            raise BridgeError(f"can't {move.value}: the connection is {self.state.value}")
        self.state = MOVES[self.state, move]

    def _fail(self, violation: Violation) -> Closed:
        if self.state is State.OPEN:
            self._outbox += self._frame(Opcode.CLOSE, encode_close(violation.close_code, str(violation)))
        self._move(Move.FAIL)
        return Closed(violation.close_code, str(violation))

    def _take_frame(self, events: List[Event]) -> bool:
        """Takes what is there of a frame; False: more bytes are needed."""
        if self._head is None:
            head = parse_head(self._inbox, self._role)
            if head is None:
                return False
            self._begin(head)
        return self._take_control(events) if self._head.is_control else self._take_data(events)

    def _begin(self, head: Head) -> None:
        if not head.is_control:
            # 5.4: fragments of one message are not interleaved with another's
            if (head.opcode == Opcode.CONTINUATION) != (self._message is not None):
                raise Violation("a continuation without a beginning, or a new message inside a fragmented one (5.4)")
            message = self._message or Incoming(head.opcode)
            if len(message.data) + head.length > self._max_message_bytes:
                raise Violation(f"a message of more than {self._max_message_bytes} bytes", 1009)
            self._message = message
        del self._inbox[:head.size]
        self._head, self._taken = head, 0

    def _take_data(self, events: List[Event]) -> bool:
        head, message = self._head, self._message
        block = bytes(self._inbox[:head.length - self._taken])
        del self._inbox[:len(block)]
        is_whole = self._taken + len(block) == head.length
        message.add(apply_mask(block, head.mask, self._taken) if head.mask else block, is_whole and head.fin)
        self._taken += len(block)
        if is_whole:
            self._head = None
            if head.fin:
                self._message = None
                events.append(message.event())
        return is_whole

    def _take_control(self, events: List[Event]) -> bool:
        head = self._head
        if len(self._inbox) < head.length:
            return False
        payload = bytes(self._inbox[:head.length])
        del self._inbox[:head.length]
        self._head = None
        payload = apply_mask(payload, head.mask) if head.mask else payload
        events.append({Opcode.CLOSE: self._on_close, Opcode.PING: self._on_ping, Opcode.PONG: Pong}[Opcode(head.opcode)](payload))
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
TOKEN_CHARS = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
REQUEST_LINE = re.compile(rf"({TOKEN_CHARS}) (/[\x21-\x7e]*) HTTP/1\.1")
STATUS_LINE = re.compile(r"HTTP/1\.[01] ([1-5][0-9]{2})(?: (.*))?")
HEADER_LINE = re.compile(rf"({TOKEN_CHARS}):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?", re.IGNORECASE)
ORIGIN = re.compile(rf"(https?)://{HOST.pattern}", re.IGNORECASE)
DEFAULT_PORTS = {"http": "80", "https": "443"}
REASONS = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
           426: "Upgrade Required", 431: "Request Header Fields Too Large", 503: "Service Unavailable"}


def new_key() -> str:
    return base64.b64encode(os.urandom(16)).decode("ascii")


def accept_key(key: str) -> str:
    return base64.b64encode(hashlib.sha1(key.encode("latin-1") + ACCEPT_GUID).digest()).decode("ascii")


def proof(token: str, challenge: str) -> str:
    """What a bridge answers to a challenge: it knows the token, and nobody learns it from this. Hex HMAC-SHA256."""
    return hmac.new(token.encode("utf-8"), challenge.encode("utf-8"), hashlib.sha256).hexdigest()


def handshake_request(host: str, target: str, key: str, headers: Sequence[Tuple[str, str]] = ()) -> bytes:
    """A client's request; `host` is what `Host` is to say, `target` path and query."""
    fixed = (("Host", host), ("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Key", key), ("Sec-WebSocket-Version", "13"))
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in (*fixed, *headers))]
    for line in lines:
        if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", line):
            raise BridgeError(f"a control character in the header line {line!r}")
    return "\r\n".join((*lines, "", "")).encode("latin-1", "replace")


def split_head(data: bytes) -> Optional[Tuple[str, Dict[str, List[str]], bytes]]:
    """First line, headers (names lower-case) and the bytes after them; None if more bytes are needed. Raises HandshakeError."""
    end = data.find(b"\r\n\r\n", 0, HANDSHAKE_BYTES)
    if end < 0:
        if len(data) >= HANDSHAKE_BYTES:
            raise HandshakeError(f"the head is longer than {HANDSHAKE_BYTES} bytes", 431)
        if re.match(rb"[^\r\n]*[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", data):
            raise HandshakeError("this is no HTTP: the first line holds control characters (is it TLS?)")
        return None
    first, *lines = data[:end].decode("latin-1").split("\r\n")
    headers: Dict[str, List[str]] = {}
    for line in lines:
        match = HEADER_LINE.fullmatch(line)
        if not match:
            raise HandshakeError(f"the header line {line[:80]!r} is not `Name: value`")
        headers.setdefault(match[1].lower(), []).append(match[2].rstrip(" \t"))
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
    """A server's answer to the request with `key`, and the bytes after its head; None if more bytes are needed.

    A status other than 101 is returned as it is; a 101 that is no WebSocket handshake raises HandshakeError (4.1).
    """
    parts = split_head(data)
    if parts is None:
        return None
    first, headers, rest = parts
    match = STATUS_LINE.fullmatch(first)
    if not match:
        raise HandshakeError(f"the status line {first[:80]!r} is not `HTTP/1.1 101 …`")
    response = Response(int(match[1]), match[2] or "", {name: ", ".join(values) for name, values in headers.items()})
    if response.status == 101:
        _check_switch(response.headers, key)
    return response, rest


def _check_switch(headers: Mapping[str, str], key: str) -> None:
    for name, found, is_right, wanted in (
        ("Upgrade", headers.get("upgrade"), (headers.get("upgrade") or "").lower() == "websocket", "websocket"),
        ("Connection", headers.get("connection"), "upgrade" in _words(headers.get("connection", "")), "Upgrade"),
        ("Sec-WebSocket-Accept", headers.get("sec-websocket-accept"), headers.get("sec-websocket-accept") == accept_key(key), accept_key(key)),
        ("Sec-WebSocket-Extensions", headers.get("sec-websocket-extensions"), not headers.get("sec-websocket-extensions"), "nothing"),
    ):
        if not is_right:
            raise HandshakeError(f"the server's {name} is {found!r}, not {wanted!r}")


def _words(value: str) -> Set[str]:
    return {word.strip().lower() for word in value.split(",")}


def is_own_name(name: str, gate: Gate) -> bool:
    """Whether a name from `Host` or `Origin` means this bridge: a loopback name or address, or one given with --allow-host."""
    name = name.lower().rstrip(".")
    if name in LOOPBACK_NAMES or name in gate.hosts:
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _check_host(request: HttpRequest, gate: Gate) -> Optional[Refusal]:
    match = HOST.fullmatch(request.first("host"))
    if match and is_own_name(match[1], gate):
        return None
    return Refusal(403, f"Host {request.first('host')[:80]!r} is not this bridge: use localhost or 127.0.0.1, or start it with --allow-host")


def _check_origin(request: HttpRequest, gate: Gate) -> Optional[Refusal]:
    """A page in a browser always sends its Origin; only one that this very host and port served would be let in, and there is none."""
    if "origin" not in request.headers:
        return None
    match = ORIGIN.fullmatch(request.first("origin")) if len(request.headers["origin"]) == 1 else None
    if match and is_own_name(match[2], gate):
        default = DEFAULT_PORTS[match[1].lower()]
        if (match[3] or default) == (HOST.fullmatch(request.first("host"))[2] or default):
            return None
    return Refusal(403, f"Origin {request.first('origin')[:80]!r} is not this bridge's own: web pages are not let in")


def _check_path(request: HttpRequest, gate: Gate) -> Optional[Refusal]:
    path = request.target.partition("?")[0]
    return None if path in PATHS else Refusal(404, f"no {path[:80]!r} here: the paths are {' and '.join(PATHS)}")


def _check_method(request: HttpRequest, gate: Gate) -> Optional[Refusal]:
    return None if request.method == "GET" else Refusal(405, f"{request.method[:20]} is not GET", (("Allow", "GET"),))


def _check_token(request: HttpRequest, gate: Gate) -> Optional[Refusal]:
    if gate.token is None:
        return None
    scheme, _, given = request.first("authorization").partition(" ")
    candidates = parse_qs(request.target.partition("?")[2], errors="surrogateescape").get("token", [])[:1]
    offered = [token.encode("utf-8", "surrogateescape") for token in candidates]
    if scheme.lower() == "bearer":
        offered.append(given.strip().encode("latin-1"))
    if any([hmac.compare_digest(token, gate.token.encode("utf-8")) for token in offered]):
        return None
    challenge = request.first("x-bridge-challenge")
    headers = (("WWW-Authenticate", "Bearer"),)
    if 0 < len(challenge) <= CHALLENGE_CHARS:
        headers += (("X-Bridge-Proof", proof(gate.token, challenge)),)
    return Refusal(401, "the token is wrong or missing: send `Authorization: Bearer TOKEN` or `?token=TOKEN`", headers)


def _check_upgrade(request: HttpRequest, gate: Gate) -> Optional[Refusal]:
    upgrades = _words(",".join(request.headers.get("upgrade", ())))
    connection = _words(",".join(request.headers.get("connection", ())))
    if "websocket" in upgrades and "upgrade" in connection and request.headers.get("sec-websocket-version") == ["13"]:
        return None
    return Refusal(426, "this is a WebSocket server (version 13)", (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")))


def _check_key(request: HttpRequest, gate: Gate) -> Optional[Refusal]:
    keys = request.headers.get("sec-websocket-key", [])
    try:
        if len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == 16:
            return None
    except (binascii.Error, ValueError):
        pass  # refused below
    return Refusal(400, "Sec-WebSocket-Key is not 16 bytes in base64")


# In this order: what a stranger may learn comes last.
CHECKS = (_check_host, _check_origin, _check_path, _check_method, _check_token, _check_upgrade, _check_key)


def find_refusal(request: HttpRequest, gate: Gate) -> Optional[Refusal]:
    """The first reason not to let this request in, None if there is none."""
    return next((refusal for check in CHECKS for refusal in [check(request, gate)] if refusal), None)


def accept_response(request: HttpRequest) -> bytes:
    lines = ("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade",
             f"Sec-WebSocket-Accept: {accept_key(request.first('sec-websocket-key'))}", "", "")
    return "\r\n".join(lines).encode("ascii")


def refusal_response(refusal: Refusal) -> bytes:
    body = (refusal.text + "\n").encode("utf-8")
    fixed = (("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body))), ("Connection", "close"))
    lines = [f"HTTP/1.1 {refusal.status} {REASONS[refusal.status]}", *(f"{name}: {value}" for name, value in (*fixed, *refusal.headers)), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


# ---- JSON-RPC: text -> checked requests or errors; results -> text. Pure. ----

PARSE_ERROR, INVALID_REQUEST, NO_METHOD, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603
NOT_STARTED, NOT_ALLOWED, NO_PROCESS, LIMIT_REACHED, NOT_KEPT = -32000, -32001, -32002, -32003, -32004

STOP_SIGNALS = {s.name: s for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGKILL)}


class RpcError(BridgeError):
    def __init__(self, code: int, message: str, data: Optional[Dict[str, Any]] = None, id: Any = None) -> None:
        super().__init__(message)
        self.code, self.data, self.id = code, data, id


class Param(NamedTuple):
    """What a parameter may be: `check` says whether a value is right, `wanted` says it in words."""

    check: Callable[[Any], bool]
    wanted: str
    is_required: bool = False


def _is_word(value: Any) -> bool:
    """A string that can be handed to a program: no NUL, and nothing that UTF-8 can't hold."""
    return isinstance(value, str) and "\0" not in value and not re.search("[\ud800-\udfff]", value)


def _is_command(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(map(_is_word, value)) and value[0] != ""
    return _is_word(value) and value.strip() != ""


def _is_environment(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_word(k) and _is_word(v) and k and "=" not in k for k, v in value.items())


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_limit(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= SECONDS_MAX)


LIMIT = Param(_is_limit, "a positive number of seconds or null")
PROCESS_ID = Param(lambda value: isinstance(value, str), "a process's id, a string")
PARAMS: Dict[str, Dict[str, Param]] = {
    "execute": {
        "command": Param(_is_command, "a list of strings that begins with a program, or a string", is_required=True),
        "cwd": Param(lambda value: _is_word(value) and value != "", "a folder, a string"),
        "env": Param(_is_environment, "an object of strings"),
        "stdin": Param(lambda value: isinstance(value, str) and not re.search("[\ud800-\udfff]", value), "a string"),
        "timeout": LIMIT,
        "idle_timeout": LIMIT,
        "stop_signal": Param(lambda value: isinstance(value, str) and value in STOP_SIGNALS, "one of " + ", ".join(STOP_SIGNALS)),
        "label": Param(lambda value: isinstance(value, str) and len(value) <= LABEL_CHARS, f"a string of at most {LABEL_CHARS} characters"),
        "umask": Param(lambda value: _is_integer(value) and 0 <= value <= 0o777, "an integer from 0 to 511 (0o777)"),
    },
    "control": {
        "type": Param(lambda value: value in ("PAUSE", "RESUME", "CANCEL"), "PAUSE, RESUME or CANCEL", is_required=True),
        "process_id": PROCESS_ID,
    },
    "attach": {
        "process_id": PROCESS_ID._replace(is_required=True),
        "after": Param(lambda value: _is_integer(value) and value >= 0, "an integer of at least 0"),
    },
    "list": {},
    "ping": {},
}


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def parse_message(text: str) -> Tuple[List[Union[Request, RpcError]], bool]:
    """The requests in a message, or the error in the place of one; True if they came as a batch. Raises RpcError for no JSON."""
    try:
        message = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RpcError(PARSE_ERROR, f"not JSON: {error}") from None
    is_batch = isinstance(message, list) and bool(message)
    return [_parse_request_or_error(item) for item in (message if is_batch else [message])], is_batch


def _parse_request_or_error(item: Any) -> Union[Request, RpcError]:
    try:
        return _parse_one(item)
    except RpcError as error:
        return error


def _parse_one(item: Any) -> Request:
    if not isinstance(item, dict):
        raise RpcError(INVALID_REQUEST, "a request is an object with jsonrpc, id, method and params")
    request_id = item.get("id")
    if isinstance(request_id, (bool, list, dict)):
        raise RpcError(INVALID_REQUEST, "id is a string, a number or null")
    if item.get("jsonrpc") != "2.0":
        raise RpcError(INVALID_REQUEST, 'jsonrpc is "2.0"', id=request_id)
    if not isinstance(item.get("method"), str):
        raise RpcError(INVALID_REQUEST, "method is a string", id=request_id)
    params = item.get("params", {})
    if not isinstance(params, (dict, list)):
        raise RpcError(INVALID_REQUEST, "params is an object", id=request_id)
    return Request(item["method"], params, request_id, "id" in item)


def check_params(request: Request) -> Dict[str, Any]:
    """The request's parameters, all known and right. Raises RpcError -32601 or -32602, naming the parameter."""
    table = PARAMS.get(request.method)
    if table is None:
        raise RpcError(NO_METHOD, f"no method {request.method[:80]!r}; there are {', '.join(PARAMS)}")
    if not isinstance(request.params, dict):
        raise RpcError(INVALID_PARAMS, "parameters are given by name, in an object")
    unknown = [name for name in request.params if name not in table]
    if unknown:
        raise RpcError(INVALID_PARAMS, f"{request.method} has no parameter {unknown[0][:80]!r}; it has {', '.join(table) or 'none'}")
    for name, param in table.items():
        if name in request.params and not param.check(request.params[name]):
            raise RpcError(INVALID_PARAMS, f"{name} must be {param.wanted}")
        if param.is_required and name not in request.params:
            raise RpcError(INVALID_PARAMS, f"{request.method} needs {name}: {param.wanted}")
    return request.params


def read_order(params: Mapping[str, Any]) -> Order:
    """The order in checked parameters of `execute`. A string is split as a shell would; no shell ever sees it."""
    command = params["command"]
    try:
        argv = tuple(shlex.split(command) if isinstance(command, str) else command)
    except ValueError as error:
        raise RpcError(INVALID_PARAMS, f"command can't be split: {error}") from None
    if not argv or not argv[0]:
        raise RpcError(INVALID_PARAMS, "command names no program")
    return Order(
        argv, params.get("cwd"), params.get("env"), params["stdin"].encode("utf-8") if "stdin" in params else None, params.get("timeout"),
        params.get("idle_timeout"), STOP_SIGNALS[params.get("stop_signal", "SIGTERM")], params.get("label", ""), params.get("umask", -1))


def encode_json(message: Any) -> bytes:
    """UTF-8; a lone surrogate (from a client's id or label) becomes the escape that JSON has for it."""
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def result_message(request_id: Any, result: Any) -> Dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def error_message(error: RpcError, request_id: Any) -> Dict[str, Any]:
    content = {"code": error.code, "message": str(error), **({"data": error.data} if error.data else {})}
    return {"jsonrpc": "2.0", "id": request_id, "error": content}


def notification(method: str, params: Mapping[str, Any]) -> bytes:
    """A whole text frame, as a server sends it."""
    return encode_frame(Opcode.TEXT, encode_json({"jsonrpc": "2.0", "method": method, "params": params}))


# ---- Files: the runtime folder, the token, the journal of unfinished runs. Only this user can read them. ----


def runtime_dir() -> Path:
    """`$XDG_RUNTIME_DIR/cc_execute`, else `~/.cache/cc_execute`; made if need be. Raises BridgeError if others could reach into it."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    folder = (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "cc_execute"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise BridgeError(f"{folder} can't be made: {error.strerror}") from error
    problem = _privacy_problem(found, stat.S_ISDIR, "folder")
    if problem:
        raise BridgeError(f"{folder} {problem}; it must be a folder of yours with mode 0700")
    return folder


def _privacy_problem(found: os.stat_result, is_kind: Callable[[int], bool], kind: str) -> Optional[str]:
    if stat.S_ISLNK(found.st_mode):
        return "is a symbolic link"
    if not is_kind(found.st_mode):
        return f"is no {kind}"
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}"
    if found.st_mode & 0o077:
        return f"can be reached by others (mode {stat.S_IMODE(found.st_mode):04o})"
    return None


def token_path(port: int) -> Path:
    return runtime_dir() / f"bridge-{port}.token"


def read_token(port: int) -> Optional[str]:
    """The token that the bridge on `port` left for its own user; None if there is none or others could have written or read it."""
    return read_private(token_path(port)) or None


def read_private(path: Path) -> Optional[str]:
    """The text of a file that only this user can reach, without white space around it; None if it is absent or anything else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if _privacy_problem(os.fstat(descriptor), stat.S_ISREG, "file"):
            return None
        return os.read(descriptor, HANDSHAKE_BYTES).decode("utf-8", "replace").strip()
    finally:
        os.close(descriptor)


def write_private(path: Path, text: str) -> None:
    """Puts a 0600 file in the place of whatever is there; a reader sees the old one or the whole new one."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(draft, path)


class Journal:
    """The markers of unfinished runs, in a file that is locked as long as the bridge lives.

    A journal that nobody locks was left by a bridge that was killed: what carries its markers is to be swept.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self._path = folder / f"bridge-{port}-{os.getpid()}.runs"
        self._unfinished: Set[str] = set()
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def begin(self, process_id: str) -> None:
        self._unfinished.add(process_id)
        os.write(self._descriptor, f"+{process_id}\n".encode("ascii"))

    def finish(self, process_id: str) -> None:
        self._unfinished.discard(process_id)
        if self._unfinished:
            os.write(self._descriptor, f"-{process_id}\n".encode("ascii"))
        else:
            os.ftruncate(self._descriptor, 0)

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def take_abandoned(folder: Path) -> Iterator[FrozenSet[str]]:
    """The ids of unfinished runs in each journal that a killed bridge left; a journal goes when the next one is asked for."""
    for path in sorted(folder.glob("bridge-*.runs")):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue  # gone already, or no file of ours
        with os.fdopen(descriptor, "r") as file:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue  # its bridge lives
            if _privacy_problem(os.fstat(descriptor), stat.S_ISREG, "file") is None:
                lines = file.read().split()
                yield frozenset(line[1:] for line in lines if re.fullmatch("[+][0-9a-f]+", line) and "-" + line[1:] not in lines)
                path.unlink(missing_ok=True)


# ---- Processes, finding: the process table -> what belongs to a run. ----


class Seen(NamedTuple):
    """A process of this user in the process table; `started` tells it from a later one with the same number."""

    pid: int
    parent: int
    group: int
    session: int
    started: str


PS_TABLE = ("ps", "-axo", "pid=,ppid=,pgid=,uid=,stat=,lstart=")
PS_ENVIRONMENTS = ("ps", "-axwwE", "-o", "pid=,command=")  # macOS; -E adds the environment to the command


def look() -> Dict[int, Seen]:
    """This user's living processes, without the bridge itself."""
    seen = _look_in_proc() if os.path.exists("/proc/self/stat") else read_ps_table(_output_of(PS_TABLE))
    seen.pop(os.getpid(), None)
    return seen


def _look_in_proc() -> Dict[int, Seen]:
    seen, own = {}, os.geteuid()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            if os.stat(f"/proc/{name}").st_uid != own:
                continue
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue  # it has just ended
        if fields[0] not in (b"Z", b"X"):
            seen[int(name)] = Seen(int(name), int(fields[1]), int(fields[2]), int(fields[3]), fields[19].decode("ascii"))
    return seen


def read_ps_table(output: str) -> Dict[int, Seen]:
    """Where there is no /proc: what PS_TABLE printed. `ps` shows no usable session, so the group stands in its place."""
    seen, own = {}, os.geteuid()
    for line in output.splitlines():
        pid, parent, group, uid, state, started = line.split(None, 5)
        if int(uid) == own and not state.startswith("Z"):
            seen[int(pid)] = Seen(int(pid), int(parent), int(group), int(group), started.strip())
    return seen


def _output_of(command: Sequence[str]) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False).stdout.decode("utf-8", "replace")


def find_marked(seen: Mapping[int, Seen], markers: FrozenSet[str]) -> Set[int]:
    """The processes whose environment holds one of these variables."""
    if os.path.exists("/proc/self/environ"):
        return {pid for pid in seen if _carries(pid, markers)}
    return find_marked_in_ps(_output_of(PS_ENVIRONMENTS), markers) & set(seen)


def _carries(pid: int, markers: FrozenSet[str]) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environment = file.read()
    except OSError:
        return False  # it has just ended, or it hides its environment
    return any(b"\0" + marker.encode("ascii") + b"=1\0" in b"\0" + environment + b"\0" for marker in markers)


def find_marked_in_ps(output: str, markers: FrozenSet[str]) -> Set[int]:
    lines = (line.split() for line in output.splitlines() if line.strip())
    return {int(words[0]) for words in lines if any(marker + "=1" in words[1:] for marker in markers)}


def find_family(markers: FrozenSet[str], leader: Optional[int] = None, known: FrozenSet[Tuple[int, str]] = frozenset()) -> List[Seen]:
    """What belongs to a run: the group and session of its `leader`, what carries a marker, what is `known` to belong, their descendants.

    `leader` may be given only as long as that process is not reaped: afterwards its number can be another's.
    """
    seen = look()
    found = find_marked(seen, markers)
    found |= {p.pid for p in seen.values() if leader in (p.group, p.session) or (p.pid, p.started) in known}
    more = found
    while more:
        more = {p.pid for p in seen.values() if p.parent in more} - found
        found = found | more
    return [seen[pid] for pid in sorted(found)]


def send_signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it has just ended; it became another user's
        os.kill(pid, number)


async def until(is_so: Callable[[], bool], within_s: float) -> bool:
    """Waits until something is so, with growing pauses between the looks; False if it isn't when the time is over."""
    deadline, pause_s = time.monotonic() + within_s, LOOK_S[0]
    while not is_so():
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return False
        await asyncio.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * 1.5, LOOK_S[1])
    return True


async def kill_all(find: Callable[[], List[Seen]]) -> None:
    """SIGKILL to all that is found, until two looks in a row find nothing: a fork can hide from one."""
    empty_looks = 0

    def is_clear() -> bool:
        nonlocal empty_looks
        found = find()
        for process in found:
            send_signal(process.pid, signal.SIGKILL)
        empty_looks = 0 if found else empty_looks + 1
        return empty_looks == 2

    await until(is_clear, KILL_S)


async def sweep(folder: Path) -> None:
    """Ends what killed bridges left of their unfinished runs; nothing but what carries their markers."""
    for ids in take_abandoned(folder):
        if ids:
            log.warning("ending what is left of %d runs of a bridge that was killed", len(ids))
            await kill_all(lambda: find_family(frozenset(MARKER_PREFIX + i for i in ids)))


# ---- Processes, spawning: an order -> a running program. ----

START_REASONS = {errno.ENOENT: "not_found", errno.ENOTDIR: "not_found", errno.EACCES: "not_executable", errno.EPERM: "not_executable",
                 errno.ENOEXEC: "not_executable", errno.E2BIG: "too_long", errno.ENAMETOOLONG: "too_long"}
START_TEXTS = {"not_found": "is not there (or the interpreter that it names)", "not_executable": "can't be executed",
               "directory": "is no folder that can be entered", "too_long": "can't be started: its arguments and environment are too long"}
PR_SET_PDEATHSIG = 1


def start_error(thing: str, number: Optional[int], reason: Optional[str] = None) -> RpcError:
    reason = reason or START_REASONS.get(number, "other")
    text = START_TEXTS.get(reason) or f"can't be started: {os.strerror(number) if number else 'the system refused'}"
    return RpcError(NOT_STARTED, f"{thing[:200]!r} {text}", {"reason": reason, "errno": errno.errorcode.get(number)})


def find_program(order: Order) -> str:
    """The file that this order would run, found as a shell in its folder and environment would. Raises RpcError -32000."""
    folder = os.path.abspath(order.cwd or os.curdir)
    if not os.path.isdir(folder) or not os.access(folder, os.X_OK):
        number = errno.ENOENT if not os.path.exists(folder) else errno.EACCES if os.path.isdir(folder) else errno.ENOTDIR
        raise start_error(order.cwd or folder, number, "directory")
    program = order.argv[0]
    places = [""] if "/" in program else os.get_exec_path(order.env)
    there = [path for path in (os.path.join(folder, place, program) for place in places) if os.path.isfile(path)]
    runnable = [path for path in there if os.access(path, os.X_OK)]
    if not runnable:
        raise start_error(program, errno.EACCES if there or (places == [""] and os.path.exists(os.path.join(folder, program))) else errno.ENOENT)
    return runnable[0]


def is_allowed(path: str, allow: Sequence[str]) -> bool:
    """Whether this is one of the allowed programs' files, whatever name led to it. They are looked up anew: an update may move them."""
    for name in allow:
        with contextlib.suppress(RpcError):  # an allowed program that isn't there allows nothing
            if os.path.realpath(find_program(Order((name,)))) == os.path.realpath(path):
                return True
    return not allow


def child_environment(order: Order, process_id: str) -> Dict[str, str]:
    environment = dict(os.environ if order.env is None else order.env)
    environment.pop(TOKEN_VARIABLE, None)
    environment[MARKER_PREFIX + process_id] = "1"
    return environment


def _death_signal() -> Optional[Callable[[], None]]:
    """On Linux, what a child does before it executes its program, so that it is killed when the bridge dies. Else None."""
    if sys.platform != "linux":
        return None
    try:
        import ctypes
        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return None
    bridge = os.getpid()

    def prepare() -> None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != bridge:
            os._exit(1)  # the bridge died before the line above took effect

    return prepare


def spawn(order: Order, program: str, process_id: str, umask: int, prepare: Optional[Callable[[], None]]) -> subprocess.Popen:
    """Starts the program in a session of its own, its output in pipes. Raises RpcError -32000."""
    stdin = subprocess.DEVNULL if order.stdin is None else subprocess.PIPE
    try:
        return subprocess.Popen(
            order.argv, executable=program, cwd=order.cwd, env=child_environment(order, process_id), bufsize=0, stdin=stdin,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, umask=umask if order.umask < 0 else order.umask,
            preexec_fn=prepare)
    except OSError as error:
        raise start_error(order.argv[0], error.errno) from None
    except subprocess.SubprocessError:
        raise start_error(order.argv[0], None) from None


# ---- Processes, clocks and pipes. ----


class Clock:
    """A stopwatch that can stand still; when it has run for `limit_s` (None: never) it calls `on_limit`."""

    def __init__(self, limit_s: Optional[float], on_limit: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit_s, self._on_limit = limit_s, on_limit
        self._spent_s = 0.0
        self._since: Optional[float] = None  # loop time, None while it stands
        self._timer: Optional[asyncio.TimerHandle] = None

    def spent_s(self) -> float:
        return self._spent_s + (0.0 if self._since is None else self._loop.time() - self._since)

    def run(self, is_running: bool = True) -> None:
        if is_running != (self._since is not None):
            self._spent_s = self.spent_s()
            self._since = self._loop.time() if is_running else None
            self._arm()

    def restart(self) -> None:
        """Back to zero. The timer stays: when it rings it sees how much is left (a block of output costs no timer)."""
        self._spent_s = 0.0
        if self._since is not None:
            self._since = self._loop.time()

    def _arm(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._since is not None and self._limit_s is not None:
            self._timer = self._loop.call_later(max(0.0, self._limit_s - self.spent_s()), self._ring)

    def _ring(self) -> None:
        if self.spent_s() < self._limit_s:
            self._arm()
        else:
            self._on_limit()


class Stream:
    """An output pipe of a process: read in blocks as they come, decoded so that no character is cut."""

    def __init__(self, name: str, pipe: Any, on_text: Callable[[str, str, int], None], on_end: Callable[[], None]) -> None:
        self.is_open = True
        self._loop = asyncio.get_running_loop()
        self._name, self._pipe, self._on_text, self._on_end = name, pipe, on_text, on_end
        self._is_listening = self._is_dropped = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
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
        for _ in range(PIPE_BYTES // BLOCK_BYTES):
            if not self.is_open or not self._read():
                break

    def drop(self) -> None:
        """The process has ended: ends the text, and what a survivor still writes is read for its sake only."""
        self._give(b"", is_last=True)
        self._is_dropped = True
        self.listen(True)

    def _read(self) -> bool:
        try:
            block = os.read(self._pipe.fileno(), BLOCK_BYTES)
        except BlockingIOError:
            return False
        if block:
            self._give(block)
        else:
            self._close()
        return bool(block)

    def _give(self, block: bytes, is_last: bool = False) -> None:
        if not self._is_dropped:
            self._on_text(self._name, self._decoder.decode(block, is_last), len(block))

    def _close(self) -> None:
        self._give(b"", is_last=True)
        self.listen(False)
        self.is_open = False
        self._pipe.close()
        self._on_end()


class Feed:
    """Writes the whole standard input into a process's pipe, as fast as it takes it, and closes it."""

    def __init__(self, pipe: Any, data: bytes) -> None:
        self._loop = asyncio.get_running_loop()
        self._pipe, self._data = pipe, memoryview(data)
        os.set_blocking(pipe.fileno(), False)
        self._loop.add_writer(pipe.fileno(), self._write)

    def _write(self) -> None:
        try:
            self._data = self._data[os.write(self._pipe.fileno(), self._data[:BLOCK_BYTES]):] if self._data else self._data
        except BlockingIOError:
            return
        except OSError:
            self.close()  # nobody reads it any more: that is the process's affair
            return
        if not self._data:
            self.close()

    def close(self) -> None:
        if not self._pipe.closed:
            self._loop.remove_writer(self._pipe.fileno())
            self._pipe.close()


class Kept:
    """A process's messages in order: the last of those that were sent, then those that wait. Numbered from 1 without a gap."""

    def __init__(self, limit_bytes: int) -> None:
        self.waiting_bytes = self.sent_bytes = 0
        self.last = 0  # number of the newest message
        self._limit_bytes = limit_bytes
        self._sent: Deque[bytes] = deque()
        self._waiting: Deque[bytes] = deque()

    def add(self, message: bytes) -> None:
        self._waiting.append(message)
        self.waiting_bytes += len(message)
        self.last += 1

    def take(self) -> bytes:
        """The next message to send; it counts as sent."""
        message = self._waiting.popleft()
        self._sent.append(message)
        self.waiting_bytes -= len(message)
        self.sent_bytes += len(message)
        while self.sent_bytes > self._limit_bytes:
            self.sent_bytes -= len(self._sent.popleft())
        return message

    def rewind(self, after: int) -> bool:
        """Makes message `after` the last one sent; False if what follows it is no longer kept."""
        newest_sent = self.last - len(self._waiting)
        if after + 1 <= newest_sent - len(self._sent):
            return False
        for _ in range(newest_sent - after):
            message = self._sent.pop()
            self._waiting.appendleft(message)
            self.sent_bytes -= len(message)
            self.waiting_bytes += len(message)
        for _ in range(after - newest_sent):
            self.take()
        return True


# ---- Processes, one of them: from its start to exactly one `completed`. ----


class Phase(Enum):
    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"


class Process:
    """A started order. Output goes into `kept`; the `viewer`, if there is one, is told to fetch it from there."""

    def __init__(self, process_id: str, order: Order, popen: subprocess.Popen, grace_s: float, on_end: Callable[[Process], None]) -> None:
        self.id, self.label, self.program, self.pid = process_id, order.label, order.argv[0], popen.pid
        self.phase = Phase.RUNNING
        self.kept = Kept(KEPT_BYTES)
        self.outputs = 0  # output messages so far: the newest `seq`
        self.output_bytes = 0
        self.started_at = datetime.now(timezone.utc)
        self.viewer: Optional[Connection] = None
        self._order, self._popen, self._grace_s, self._on_end = order, popen, grace_s, on_end
        self._marker = frozenset({MARKER_PREFIX + process_id})
        self._known: FrozenSet[Tuple[int, str]] = frozenset()
        self._status = "completed"
        self._ending: Optional[asyncio.Task] = None
        self._hurry = False
        self._life = Clock(order.timeout_s, lambda: self.end("timeout"))
        self._idle = Clock(order.idle_timeout_s, lambda: self.end("stalled"))
        self._feed = Feed(popen.stdin, order.stdin) if popen.stdin else None
        self._streams = [Stream(name, pipe, self._on_text, self._on_pipe_end) for name, pipe in (("stdout", popen.stdout), ("stderr", popen.stderr))]
        self._life.run()
        self.regulate()

    # -- output

    def regulate(self) -> None:
        """Back-pressure: reads the pipes only while little enough waits. The idle clock stands while the bridge doesn't listen."""
        is_held = self.kept.waiting_bytes >= (WAITING_BYTES if self.viewer else KEPT_BYTES)
        for stream in self._streams:
            stream.listen(self.phase is Phase.ENDED or not is_held)
        self._idle.run(self.phase is Phase.RUNNING and not is_held and not self._is_over())

    def _on_text(self, name: str, text: str, count: int) -> None:
        self.output_bytes += count
        self._idle.restart()
        if text:
            self.outputs += 1
            self._publish(notification("process.output", {"process_id": self.id, "type": name, "seq": self.outputs, "data": text}))

    def _publish(self, message: bytes) -> None:
        self.kept.add(message)
        if self.viewer:
            self.viewer.pump()
        self.regulate()

    # -- the end

    def _is_over(self) -> bool:
        return self._popen.returncode is not None or self._ending is not None

    def reap(self) -> None:
        """To be called when a child of the bridge has ended: looks whether it was this one."""
        if self._popen.returncode is not None or self._popen.poll() is None:
            return
        self._life.run(False)
        # The number of a group stays its own as long as it has members: this look is the last that may rely on it.
        self._known = frozenset((p.pid, p.started) for p in find_family(self._marker, self.pid))
        for stream in self._streams:
            stream.drain()
        if self._ending is None:
            asyncio.get_running_loop().call_later(DRAIN_S, self._complete)
            self._on_pipe_end()

    def _on_pipe_end(self) -> None:
        if self._popen.returncode is not None and self._ending is None and not any(stream.is_open for stream in self._streams):
            self._complete()

    def _complete(self) -> None:
        if self.phase is Phase.ENDED:
            return
        for stream in self._streams:
            stream.drain()
        for stream in self._streams:
            stream.drop()
        if self._feed:
            self._feed.close()
        self.phase = Phase.ENDED
        self._life.run(False)
        code = self._popen.returncode
        self._publish(notification("process.completed", {
            "process_id": self.id, "status": self._status, "exit_code": code if code is None or code >= 0 else None,
            "signal": signal_name(-code) if code is not None and code < 0 else None, "duration": round(self._life.spent_s(), 3),
            "survivors": [p.pid for p in self.family()]}))
        self._on_end(self)

    def end(self, status: str) -> None:
        """Ends the process and all that belongs to it, unless that is under way or over."""
        if self.phase is not Phase.ENDED and self._ending is None and self._popen.returncode is None:
            self._status = status
            self._ending = asyncio.ensure_future(self._end())

    async def cancel(self) -> None:
        """Ends the process, or, if it has ended, its survivors: then it returns when they are gone. Asked twice, it kills at once."""
        if self.phase is not Phase.ENDED and self._popen.returncode is None:
            self._hurry = self._ending is not None
            self.end("cancelled")
        else:
            self._complete()
            self._hurry, self._ending = self._ending is not None, self._ending or asyncio.ensure_future(self._clear())
            await asyncio.shield(self._ending)
            self._ending = None

    async def wait(self) -> None:
        """Returns when an ending that is under way is over."""
        if self._ending:
            await asyncio.wait([self._ending])

    async def _end(self) -> None:
        await self._clear()
        await until(lambda: self._popen.returncode is not None, KILL_S)
        self._complete()
        self._ending = None

    async def _clear(self) -> None:
        """Signal, grace, SIGKILL: until nothing is left that belongs to this process."""
        self._signal(self._order.stop_signal)
        self._signal(signal.SIGCONT)  # a stopped process acts on a signal only when it goes on
        await until(lambda: self._hurry or not self.family(), self._grace_s)
        await kill_all(self.family)

    def family(self) -> List[Seen]:
        return find_family(self._marker, self.pid if self._popen.returncode is None else None, self._known)

    def _signal(self, number: int) -> List[Seen]:
        """To the group as one, then to what left it; returns whom it went to."""
        family, is_leader_there = self.family(), self._popen.returncode is None
        if is_leader_there:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)
        for process in family:
            if not is_leader_there or process.group != self.pid:
                send_signal(process.pid, number)
        return family

    # -- pause

    def pause(self) -> None:
        stopped: Set[int] = set()
        while True:
            found = {p.pid for p in self._signal(signal.SIGSTOP)}
            if found <= stopped:
                break
            stopped |= found  # once more: what was just being started
        self.phase = Phase.PAUSED
        self._life.run(False)
        self.regulate()

    def resume(self) -> None:
        self._signal(signal.SIGCONT)
        self.phase = Phase.RUNNING
        self._life.run(not self._is_over())
        self.regulate()

    def is_ending(self) -> bool:
        return self.phase is not Phase.ENDED and self._is_over()

    def describe(self) -> Dict[str, Any]:
        return {"process_id": self.id, "label": self.label, "pid": self.pid, "state": self.phase.value,
                "started_at": self.started_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "elapsed": round(self._life.spent_s(), 3), "output_bytes": self.output_bytes}


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"  # a real-time signal


# ---- Connection: the pump between one socket, the codec and the processes it views. ----


class Connection(asyncio.Protocol):
    """Read, feed, send what is owed, hand out messages. The only writer on its socket.

    Back-pressure comes from `pause_writing`: while the socket's buffer is full no output is fetched, and processes are held by their
    own `regulate`. Replies are written past it; a client that doesn't read those either is not read from.
    """

    def __init__(self, bridge: Bridge) -> None:
        self.id = secrets.token_hex(4)
        self.views: Set[Process] = set()
        self._bridge = bridge
        self._codec: Optional[Codec] = None  # from the end of the handshake
        self._inbox = b""
        self._is_choked = False
        self._take: Callable[[bytes], None] = self._take_handshake
        self._timer: Optional[asyncio.TimerHandle] = None
        self._handlers = {TextMessage: self._on_text, BinaryMessage: self._on_binary, Closed: self._on_closed}

    @property
    def is_open(self) -> bool:
        return self._codec is not None and self._codec.state is State.OPEN

    # -- the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._timer = asyncio.get_running_loop().call_later(HANDSHAKE_S, self.cut)
        self._bridge.on_connect(self)

    def data_received(self, data: bytes) -> None:
        self._take(data)

    def eof_received(self) -> bool:
        self._linger()
        return False  # what is in the buffer is still sent, then the transport closes

    def connection_lost(self, error: Optional[Exception]) -> None:
        self._stop_timer()
        self._let_go()
        self._bridge.on_disconnect(self)

    def pause_writing(self) -> None:
        self._is_choked = True

    def resume_writing(self) -> None:
        self._is_choked = False
        self._transport.resume_reading()
        self.pump()

    # -- coming in

    def _take_handshake(self, data: bytes) -> None:
        self._inbox += data
        try:
            parsed = parse_request(self._inbox)
        except HandshakeError as error:
            self._refuse(Refusal(error.status, str(error)))
            return
        if parsed:
            request, rest = parsed
            refusal = find_refusal(request, self._bridge.gate) or self._bridge.find_full()
            if refusal:
                self._refuse(refusal)
            else:
                self._open(request, rest)

    def _refuse(self, refusal: Refusal) -> None:
        log.warning("connection %s refused: %d %s", self.id, refusal.status, refusal.text)
        self._transport.write(refusal_response(refusal))
        self._linger()

    def _open(self, request: HttpRequest, rest: bytes) -> None:
        self._stop_timer()
        self._inbox = b""
        self._codec = Codec(Role.SERVER, MESSAGE_BYTES)
        self._take = self._take_frames
        self._transport.write(accept_response(request) + notification("connected", self._bridge.greeting(self)))
        self._bridge.on_open(self)
        self._take_frames(rest)

    def _take_frames(self, data: bytes) -> None:
        for event in self._codec.feed(data):
            handler = self._handlers.get(type(event))
            if handler:
                handler(event)
        self._write(self._codec.owed())
        if self._codec.state is State.CLOSED:
            self._linger()

    def _on_text(self, message: TextMessage) -> None:
        self._bridge.start_task(self._bridge.serve(self, message.text))

    def _on_binary(self, message: BinaryMessage) -> None:
        self.close(1003, "requests are sent as text")

    def _on_closed(self, closed: Closed) -> None:
        log.info("connection %s closed: %d %r", self.id, closed.code, closed.reason)
        self._let_go()

    # -- going out

    def send(self, message: Any) -> None:
        """A reply. It overtakes output that waits, not output that was sent."""
        if self.is_open:
            self._write(self._codec.send_text(encode_json(message)))

    def pump(self) -> None:
        """Sends what waits, one message of each process in turn, as long as the socket takes it."""
        while self.is_open and not self._is_choked:
            turn = [process for process in self.views if process.kept.waiting_bytes]
            for process in turn:
                self._write(process.kept.take())
            if not turn:
                break
        for process in self.views:
            process.regulate()

    def close(self, code: int, reason: str) -> None:
        if self.is_open:
            self._write(self._codec.send_close(code, reason))
            self._let_go()
        self._linger()

    def cut(self) -> None:
        self._transport.abort()

    def _write(self, data: bytes) -> None:
        if data and not self._transport.is_closing():
            self._transport.write(data)
            if self._transport.get_write_buffer_size() > REPLY_BYTES:
                self._transport.pause_reading()

    # -- the end

    def _let_go(self) -> None:
        for process in list(self.views):
            self._bridge.view(process, None)

    def _linger(self) -> None:
        """Our side is done: what is in the buffer is sent, what still comes is dropped, until the peer closes or the time is over."""
        self._take = lambda data: None
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(LINGER_S, self.cut)
        self._transport.resume_reading()
        if not self._transport.is_closing():
            self._transport.write_eof()

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None


# ---- Bridge: all connections and processes, and the methods that clients call. ----


class Bridge:
    def __init__(self, settings: Settings, gate: Gate, journal: Journal, umask: int) -> None:
        self.gate = gate
        self.processes: Dict[str, Process] = {}
        self.is_ending = asyncio.Event()
        self._settings, self._journal, self._umask = settings, journal, umask
        self._connections: Dict[Connection, bool] = {}  # in order of arrival; True when the handshake is done
        self._tasks: Set[asyncio.Task] = set()
        self._prepare = _death_signal()
        self._quiet = Clock(settings.idle_exit_s, self.is_ending.set)
        self._methods = {"execute": self._execute, "control": self._control, "attach": self._attach, "list": self._list, "ping": self._ping}
        self.note_quiet()

    # -- connections

    def on_connect(self, connection: Connection) -> None:
        self._connections[connection] = False
        pending = [c for c, is_open in self._connections.items() if not is_open]
        if len(pending) > PENDING_HANDSHAKES:
            pending[0].cut()
        self.note_quiet()

    def on_open(self, connection: Connection) -> None:
        self._connections[connection] = True
        log.info("connection %s open", connection.id)

    def on_disconnect(self, connection: Connection) -> None:
        self._connections.pop(connection, None)
        self.note_quiet()

    def find_full(self) -> Optional[Refusal]:
        if self.is_ending.is_set():
            return Refusal(503, "the bridge is ending")
        if sum(self._connections.values()) >= self._settings.max_connections:
            return Refusal(503, f"{self._settings.max_connections} connections are open already (--max-connections)")
        return None

    def greeting(self, connection: Connection) -> Dict[str, Any]:
        capabilities = {"methods": list(PARAMS), "controls": ["PAUSE", "RESUME", "CANCEL"], "stop_signals": list(STOP_SIGNALS),
                        "max_message_bytes": MESSAGE_BYTES, "kept_bytes": KEPT_BYTES, "detach_grace": self._settings.detach_grace_s}
        return {"version": VERSION, "protocol": PROTOCOL, "connection_id": connection.id, "capabilities": capabilities}

    def view(self, process: Process, viewer: Optional[Connection]) -> None:
        """Gives a process's output to this connection, or to none; whoever had it hears no more of it."""
        if process.viewer:
            process.viewer.views.discard(process)
        process.viewer = viewer
        if viewer:
            viewer.views.add(process)
        else:
            self._start_expiry(process)
        process.regulate()

    def note_quiet(self) -> None:
        """Lets the clock of --idle-exit run while there is no connection, no process, and no end that a client has yet to hear of."""
        is_busy = self._connections or any(p.phase is not Phase.ENDED or p.kept.waiting_bytes for p in self.processes.values())
        if is_busy:
            self._quiet.run(False)
            self._quiet.restart()
        else:
            self._quiet.run()

    # -- messages

    def start_task(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)  # a task that nobody holds may be collected before its end
        task.add_done_callback(self._tasks.discard)

    async def serve(self, connection: Connection, text: str) -> None:
        try:
            requests, is_batch = parse_message(text)
        except RpcError as error:
            connection.send(error_message(error, None))
            return
        answers = [await self._answer(connection, request) for request in requests]
        replies = [answer for answer in answers if answer is not None]
        if replies:
            connection.send(replies if is_batch else replies[0])

    async def _answer(self, connection: Connection, request: Union[Request, RpcError]) -> Optional[Dict[str, Any]]:
        if isinstance(request, RpcError):
            return error_message(request, request.id)
        try:
            answer = result_message(request.id, await self._methods_of(request)(connection, request.params))
        except RpcError as error:
            answer = error_message(error, request.id)
        except Exception:  # whatever it is, it must not cost others anything; the log has the place, without the parameters
            log.exception("%s failed", request.method)
            answer = error_message(RpcError(INTERNAL_ERROR, "an error in the bridge; its log has the details"), request.id)
        return answer if request.wants_reply else None

    def _methods_of(self, request: Request) -> Callable[..., Any]:
        check_params(request)
        return self._methods[request.method]

    # -- methods: (connection, checked parameters) -> result

    async def _execute(self, connection: Connection, params: Dict[str, Any]) -> Dict[str, Any]:
        order = read_order(params)
        if self.is_ending.is_set():
            raise RpcError(LIMIT_REACHED, "the bridge is ending")
        running = sum(process.phase is not Phase.ENDED for process in self.processes.values())
        if running >= self._settings.max_processes:
            raise RpcError(LIMIT_REACHED, f"{running} processes are running already (--max-processes)")
        program = find_program(order)
        if not is_allowed(program, self._settings.allow):
            raise RpcError(NOT_ALLOWED, f"{order.argv[0][:200]!r} is not one of the allowed commands: {', '.join(self._settings.allow)}")
        process = self._start(order, program)
        self.view(process, connection)
        return {"status": "started", "process_id": process.id, "pid": process.pid, "pgid": process.pid}

    def _start(self, order: Order, program: str) -> Process:
        process_id = secrets.token_hex(8)
        self._journal.begin(process_id)
        try:
            popen = spawn(order, program, process_id, self._umask, self._prepare)
        except RpcError:
            self._journal.finish(process_id)
            raise
        process = self.processes[process_id] = Process(process_id, order, popen, self._settings.grace_s, self._on_process_end)
        log.info("process %s started: %s, pid %d, label %r", process_id, order.argv[0], popen.pid, order.label)
        self.note_quiet()
        return process

    async def _control(self, connection: Connection, params: Dict[str, Any]) -> Dict[str, Any]:
        process, wanted = self._find(connection, params.get("process_id")), params["type"]
        if wanted == "CANCEL":
            await process.cancel()
            return {"status": "cancelled"}
        if process.phase is Phase.ENDED or process.is_ending():
            raise RpcError(NO_PROCESS, f"process {process.id} has ended or is ending: it can't be paused or resumed")
        if wanted == "PAUSE":
            process.pause()
            return {"status": "paused"}
        process.resume()
        return {"status": "resumed"}

    def _find(self, connection: Connection, process_id: Optional[str]) -> Process:
        if process_id is not None:
            if process_id not in self.processes:
                raise RpcError(NO_PROCESS, f"no process {process_id[:80]!r}: it never was, or ended longer than the kept time ago")
            return self.processes[process_id]
        own = [p for p in self.processes.values() if p.viewer is connection]
        chosen = [p for p in own if p.phase is not Phase.ENDED] or own
        if len(chosen) > 1:
            raise RpcError(INVALID_PARAMS, f"process_id must be given: this connection has {len(chosen)} processes")
        if not chosen:
            raise RpcError(NO_PROCESS, "this connection has no process")
        return chosen[0]

    async def _attach(self, connection: Connection, params: Dict[str, Any]) -> Dict[str, Any]:
        process, after = self._find(connection, params["process_id"]), params.get("after", 0)
        if after > process.outputs:
            raise RpcError(INVALID_PARAMS, f"after must be at most {process.outputs}, the newest message's seq")
        if not process.kept.rewind(after):
            raise RpcError(NOT_KEPT, f"what follows message {after} is no longer kept in full")
        self.view(process, connection)
        asyncio.get_running_loop().call_soon(connection.pump)  # after the answer
        return {"status": process.phase.value, "pid": process.pid, "label": process.label}

    async def _list(self, connection: Connection, params: Dict[str, Any]) -> Dict[str, Any]:
        return {"processes": [process.describe() for process in self.processes.values()]}

    async def _ping(self, connection: Connection, params: Dict[str, Any]) -> Dict[str, Any]:
        return {}

    # -- processes

    def reap(self) -> None:
        for process in list(self.processes.values()):
            process.reap()

    def _on_process_end(self, process: Process) -> None:
        log.info("process %s ended", process.id)
        self._journal.finish(process.id)
        self._start_expiry(process)
        self._forget_surplus()
        self.note_quiet()

    def _start_expiry(self, process: Process) -> None:
        asyncio.get_running_loop().call_later(self._settings.detach_grace_s, self._expire, process, process.viewer)

    def _expire(self, process: Process, viewer: Optional[Connection]) -> None:
        """The grace is over: cancels a process that nobody came back to, forgets an ended one."""
        if process.viewer is not viewer:
            return  # it was taken over meanwhile; a later loss started a grace of its own
        if process.phase is Phase.ENDED and not (viewer and process.kept.waiting_bytes):
            self._forget(process)
        elif viewer is None:
            log.warning("process %s cancelled: its client did not come back", process.id)
            process.end("cancelled")

    def _forget(self, process: Process) -> None:
        self.processes.pop(process.id, None)
        if process.viewer:
            process.viewer.views.discard(process)
        self.note_quiet()

    def _forget_surplus(self) -> None:
        ended = [p for p in self.processes.values() if p.phase is Phase.ENDED and not p.kept.waiting_bytes]
        surplus = sum(p.kept.sent_bytes for p in ended) - ENDED_BYTES
        for process in ended:
            if surplus > 0:
                surplus -= process.kept.sent_bytes
                self._forget(process)

    # -- the end

    async def shut_down(self) -> None:
        """Ends all processes, tells the clients, waits until they have gone."""
        running = [process for process in self.processes.values() if process.phase is not Phase.ENDED]
        for process in running:
            process.end("cancelled")
        await asyncio.gather(*(process.wait() for process in self.processes.values()))
        await until(lambda: not any(p.kept.waiting_bytes for c in self._connections for p in c.views), FLUSH_S)
        for connection in list(self._connections):
            connection.close(1001, "the bridge is ending")
        if not await until(lambda: not self._connections, LINGER_S):
            for connection in list(self._connections):
                connection.cut()


# ---- Command line: options -> settings, socket, token, signals, the ready line. ----

EXAMPLES = """
examples:
  ws_bridge.py                            on port 8004, for this user only
  ws_bridge.py --port 0 --idle-exit 30    on a free port, until nobody has needed it for 30 s
  ws_bridge.py --allow claude             runs nothing but claude
  ssh -L 8004:127.0.0.1:8004 HOST         how another machine reaches it, with the token from HOST

environment:
  CC_BRIDGE_TOKEN   the token; without it a random one is made and kept in the token file
  XDG_RUNTIME_DIR   the token file is $XDG_RUNTIME_DIR/cc_execute/bridge-PORT.token, without it in ~/.cache/cc_execute

exit codes:
  0 ended by SIGTERM, SIGINT, SIGHUP or --idle-exit   2 usage   3 could not listen
"""


def _seconds(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and 0 <= value <= SECONDS_MAX):
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise ValueError(text)
    return value


# argparse names the type in its message: `argument --grace: invalid seconds value: 'x'`
_seconds.__name__, _count.__name__, _port.__name__ = "seconds (0 or more)", "count (1 or more)", "port (0 to 65535)"


def make_parser() -> argparse.ArgumentParser:
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="ws_bridge.py", description="Runs commands for WebSocket clients on this machine and streams their output.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--host", default=default.host, help="address to listen on (default %(default)s); any but loopback needs --expose")
    add("--port", type=_port, default=default.port, help="port to listen on (default %(default)s); 0 takes a free one")
    add("--token-file", type=Path, metavar="F", help="where the token is kept; if F holds one already, that is the token")
    add("--no-token", action="store_true", help="let in everybody on this machine")
    add("--allow", action="append", default=[], metavar="CMD", help="run only this program (repeatable); what counts is the file that would run")
    add("--expose", action="store_true", help="listen on an address that other machines can reach; needs a token and --allow-host")
    add("--allow-host", action="append", default=[], metavar="NAME", help="a further name that clients may use for this bridge (repeatable)")
    add("--detach-grace", type=_seconds, default=default.detach_grace_s, metavar="S",
        help="how long a process goes on without its client, and can be attached after its end (default %(default)s)")
    add("--grace", type=_seconds, default=default.grace_s, metavar="S", help="between the signal that asks to end and SIGKILL (default %(default)s)")
    add("--idle-exit", type=_seconds, metavar="S", help="end S seconds after the last connection and process are gone (default: never)")
    add("--max-processes", type=_count, default=default.max_processes, metavar="N", help="running at once (default %(default)s)")
    add("--max-connections", type=_count, default=default.max_connections, metavar="N", help="open at once (default %(default)s)")
    add("--log-file", type=Path, metavar="F", help="log to F instead of stderr; 1 MiB, three older ones are kept")
    add("--version", action="version", version=f"ws_bridge {VERSION}")
    return parser


def read_settings(arguments: Optional[Sequence[str]]) -> Settings:
    options = make_parser().parse_args(arguments)
    settings = Settings(
        options.host, options.port, options.token_file, options.no_token, tuple(options.allow), options.expose,
        tuple(name.lower().rstrip(".") for name in options.allow_host), options.detach_grace, options.grace, options.idle_exit,
        options.max_processes, options.max_connections, options.log_file)
    if settings.expose and settings.no_token:
        raise UsageError("--expose needs a token: leave out --no-token")
    if settings.expose and not settings.allow_host:
        raise UsageError("--expose needs --allow-host NAME: the names that clients on other machines use for this one")
    if settings.no_token and settings.token_file:
        raise UsageError("--no-token and --token-file exclude each other")
    return settings


def start_log(path: Optional[Path]) -> None:
    handler: logging.Handler = logging.StreamHandler()
    if path:
        from logging.handlers import RotatingFileHandler
        handler = RotatingFileHandler(path, maxBytes=MIB, backupCount=3, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.WARNING)
    log.setLevel(logging.INFO)


def listen(settings: Settings) -> socket.socket:
    """A bound, listening socket. An address that is not loopback is refused without --expose."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise BridgeError(f"--host {settings.host!r} is no address: {error.strerror or error}") from None
    family, _, _, _, address = sorted(found, key=lambda entry: entry[0] != socket.AF_INET)[0]
    if not settings.expose and not ipaddress.ip_address(address[0].partition("%")[0]).is_loopback:
        raise UsageError(f"--host {settings.host!r} can be reached from other machines: use 127.0.0.1, or add --expose")
    try:
        return socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        taken = "is taken by another program" if error.errno == errno.EADDRINUSE else f"can't be used: {os.strerror(error.errno)}"
        raise BridgeError(f"port {settings.port} on {settings.host} {taken}") from None


@contextlib.contextmanager
def keep_token(settings: Settings, port: int) -> Iterator[Optional[str]]:
    """The token, from the environment or from its file; a file that was made for it goes again at the end, if it is still ours."""
    given = os.environ.pop(TOKEN_VARIABLE, "")
    if settings.no_token or given:
        yield None if settings.no_token else given
        return
    path = settings.token_file or token_path(port)
    token = (read_private(path) or "") if settings.token_file else ""
    if token:
        yield token
        return
    token = secrets.token_urlsafe(32)
    try:
        write_private(path, token + "\n")
    except OSError as error:
        raise BridgeError(f"the token file {path} can't be written: {error.strerror}") from None
    try:
        yield token
    finally:
        if read_private(path) == token:
            path.unlink(missing_ok=True)


def announce(host: str, port: int) -> None:
    """The ready line. Whoever waited for it may be gone, and later nothing is written to stdout."""
    name = f"[{host}]" if ":" in host else host
    log.info("listening on ws://%s:%d/", name, port)
    with contextlib.suppress(OSError, AttributeError):  # AttributeError: started without a stdout
        print(f"ws_bridge {VERSION} listening on ws://{name}:{port}/", flush=True)


async def run(settings: Settings, listener: socket.socket, umask: int) -> None:
    """From the bound socket to the end of the last process."""
    loop = asyncio.get_running_loop()
    host, port = listener.getsockname()[:2]
    folder = runtime_dir()
    await sweep(folder)
    with contextlib.ExitStack() as stack:
        journal = Journal(folder, port)
        stack.callback(journal.close)
        with keep_token(settings, port) as token:
            bridge = Bridge(settings, Gate(token, frozenset(settings.allow_host)), journal, umask)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.add_signal_handler(number, bridge.is_ending.set)
            loop.add_signal_handler(signal.SIGCHLD, bridge.reap)
            server = await loop.create_server(lambda: Connection(bridge), sock=listener)
            announce(host, port)
            await bridge.is_ending.wait()
        # The token file is gone before the port is free: the next bridge's is not touched.
        server.close()
        log.info("ending")
        await bridge.shut_down()


def main(arguments: Optional[Sequence[str]] = None) -> int:
    try:
        settings = read_settings(arguments)
        umask = os.umask(0o077)  # what the bridge writes is for its user only; agents get the umask that was there
        start_log(settings.log_file)
        with listen(settings) as listener:
            asyncio.run(run(settings, listener, umask))
    except BridgeError as error:
        print(f"ws_bridge: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
