"""A way to the bridge that breaks 200 times, at random bytes of either direction: what arrives is what was written, once and in order.

The proxy gives every connection a number of bytes to live for, from one (in the middle of the handshake) to four megabytes, and then closes
or resets both its ends. The seeds are fixed; where exactly a stream is cut also depends on how the system divides it.
"""
from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import struct
import sys
import threading
from typing import Callable, Optional

import pytest

import cc_execute as cc
import ws_bridge as wb
from bridging import Cable, Client, RunningBridge, start_bridge

CUTS = 200
TO_LIVE = (1, 4 << 20)  # bytes, evenly in their logarithm
STREAM_BYTES = 100 * wb.MIB
# 100 MiB or, until the file that it is given exists, more; no two places are alike, characters of several bytes among them, both streams.
SCRIPT = f"""
import hashlib, os, sys
hashes, number, written = [hashlib.sha256(), hashlib.sha256()], 0, 0
while written < {STREAM_BYTES} or not os.path.exists(sys.argv[1]):
    block = "".join("%d äöü€𝄞 %s\\n" % (n, "x" * (n % 97)) for n in range(number, number + 1000)).encode()
    number += 1000
    stream = number // 1000 % 4 == 0
    hashes[stream].update(block)
    written += len(block)
    view = memoryview(block)
    while view:
        view = view[os.write(1 + stream, view):]
for one in hashes:
    os.write(1, ("\\n" + one.hexdigest()).encode())
"""


class FrailCable(Cable):
    """One whose connections do not live long, until there were enough cuts."""

    def __init__(self, port: int, seed: int, cuts: int) -> None:
        self.cuts, self._rng, self._enough = 0, random.Random(seed), cuts
        super().__init__(port)

    def join(self, near: socket.socket, far: socket.socket) -> None:
        low, high = TO_LIVE
        life = round(low * (high / low) ** self._rng.random()) if self.cuts < self._enough else None
        Connection(self, near, far, life, resets=self._rng.random() < 0.5)


class Connection:
    """Both ends of one connection through the cable and what it has left to live, in bytes; None: as long as it likes."""

    def __init__(self, cable: FrailCable, near: socket.socket, far: socket.socket, life: Optional[int], resets: bool) -> None:
        self._cable, self._life, self._resets, self._lock = cable, life, resets, threading.Lock()
        self._ends = (near, far)
        for source, target in ((near, far), (far, near)):
            threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while True:
                data = source.recv(1 << 16)
                with self._lock:
                    lasts = len(data) if self._life is None else min(len(data), self._life)
                    self._life = None if self._life is None else self._life - lasts
                target.sendall(data[:lasts])
                if lasts < len(data):
                    self._cable.cuts += 1
                    break
                if not data:
                    break
        except OSError:
            pass  # the other direction was cut
        for end in self._ends:
            with contextlib.suppress(OSError):  # the other direction has closed it already
                if self._resets:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def bridge():
    with start_bridge() as running:
        yield running


def connect(bridge: RunningBridge, port: int) -> Client:
    return bridge._replace(port=port).connect(token=bridge.token)


def check(text: dict[str, str]) -> None:
    """The process says at last what it wrote."""
    stdout, first, second = text["stdout"].rsplit("\n", 2)
    assert [hashlib.sha256(part.encode()).hexdigest() for part in (stdout, text["stderr"])] == [first, second]
    assert len(stdout.encode()) + len(text["stderr"].encode()) >= STREAM_BYTES


class Follower:
    """What has been heard of a process over all connections together."""

    def __init__(self, process_id: str) -> None:
        self.pieces: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self.completed: list[dict] = []
        self._process_id, self._seq = process_id, 0

    def follow(self, client: Client, after_each: Callable[[], None]) -> None:
        """Goes on where the last connection broke, until this one does (OSError) or the process has ended."""
        client.request("attach", process_id=self._process_id, after=self._seq)
        while not self.completed:
            client.read_once()
            assert [answer for answer in client.answers.values() if "error" in answer] == []
            for message in client.notifications:
                self._take(message["method"], message["params"])
            client.notifications.clear()
            after_each()

    def _take(self, method: str, params: dict) -> None:
        if method == "process.output":
            self._seq += 1
            assert params["seq"] == self._seq
            self.pieces[params["type"]].append(params["data"])
        elif method == "process.completed":
            self.completed.append(params)


@pytest.mark.parametrize("seed", [1, 2])
def test_200_cuts_in_a_stream_of_100_mib_lose_nothing_and_double_nothing(bridge, seed, tmp_path):
    with bridge.connect() as direct:
        process_id = direct.call("execute", command=[sys.executable, "-c", SCRIPT, str(tmp_path / "enough")])["process_id"]
        follower, cable = Follower(process_id), FrailCable(bridge.port, seed, CUTS)
        while not follower.completed:
            with contextlib.suppress(OSError), connect(bridge, cable.port) as client:  # cut: ConnectionError or a reset
                follower.follow(client, lambda: (tmp_path / "enough").touch() if cable.cuts >= CUTS else None)
        cable.unplug()
    assert cable.cuts >= CUTS and [end["exit_code"] for end in follower.completed] == [0]
    check({name: "".join(parts) for name, parts in follower.pieces.items()})


CHANNELS = {"built-in client": cc.BuiltinChannel, "websocket-client": cc.LibraryChannel}


@pytest.mark.parametrize("name", CHANNELS)
def test_cc_execute_s_own_client_takes_200_cuts_up_by_itself(bridge, name, monkeypatch, tmp_path):
    monkeypatch.setattr(cc, "open_channel", CHANNELS[name])
    cable, pieces = FrailCable(bridge.port, 3, CUTS), {"stdout": [], "stderr": []}
    address = cc.parse_address(f"ws://127.0.0.1:{cable.port}/?token={bridge.token}")

    def take(stream: str, data: str, seq: int) -> None:
        pieces[stream].append(data)
        if cable.cuts >= CUTS:
            (tmp_path / "enough").touch()

    try:
        client = cc.BridgeClient(cc.parse_address(f"{bridge.url}?token={bridge.token}"))
        started = client.start([sys.executable, "-c", SCRIPT, str(tmp_path / "enough")])
        client.address = address  # from now on over the cable
        client._channel.close()
        ended = client.follow(started, take)
        client.close()
    finally:
        cable.unplug()
    assert cable.cuts >= CUTS and (ended.status, ended.exit_code) == ("completed", 0)
    check({name: "".join(parts) for name, parts in pieces.items()})
