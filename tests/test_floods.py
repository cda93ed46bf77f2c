"""Too much, too long, too many: a flood costs nobody else anything, and the bridge's memory stays flat.

Nothing here is timed: while the bridge works on one client's flood another one asks and asks, and has to be answered many times before
that work is done. What the bridge holds afterwards is measured in bytes and descriptors.
"""
from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

import ws_bridge as wb
from bridging import DEADLINE_S, RpcFailure, RunningBridge, poll, start_bridge
from support import wait_until

MASK = b"\0\0\0\0"
TURNS = 30  # answers that another gets while there is still work on a flood; one that is dealt with in whole blocks has 16 of them
GROWTH_BYTES = 12 * wb.MIB


@pytest.fixture
def bridge():
    with start_bridge("--grace", "0.5", "--detach-grace", "1") as running:
        yield running


def descriptors(bridge: RunningBridge) -> int:
    return len(list(Path(f"/proc/{bridge.process.pid}/fd").iterdir()))


def frame(first: int, payload: bytes = b"") -> bytes:
    return bytes((first, 0x80 | len(payload))) + MASK + payload


def cpu_ticks(bridge: RunningBridge) -> int:
    fields = Path(f"/proc/{bridge.process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def ticks_until_idle(bridge: RunningBridge) -> int:
    """The processor time that the bridge has used when it has nothing to do any more."""
    seen = [cpu_ticks(bridge)]
    poll(lambda: seen.append(cpu_ticks(bridge)) or (len(seen) > 30 and seen[-1] == seen[-30]), "the bridge has done its work", 120)
    return seen[-1]


def send_in_background(sock: socket.socket, data: bytes, reads: bool) -> None:
    """Sends as fast as it is taken; what comes back is read and dropped, or left unread."""
    def send() -> None:
        with contextlib.suppress(OSError):  # the bridge takes no more from who does not read
            sock.sendall(data)

    def read() -> None:
        with contextlib.suppress(OSError):  # the test is over
            while sock.recv(1 << 16):
                pass

    sock.settimeout(DEADLINE_S)
    for work in (send, read)[:1 + reads]:
        threading.Thread(target=work, daemon=True).start()


PING_REQUEST = b'{"jsonrpc":"2.0","method":"ping","id":1}'
FLOODS = {
    "pings": frame(0x89) * 700_000,
    "pongs": frame(0x8A) * 700_000,
    "empty fragments": frame(0x01) + frame(0x00) * 700_000,
    "fragments of one byte": frame(0x01, b"a") + frame(0x00, b"a") * 600_000,
    "texts that are no JSON": frame(0x81, b"x") * 200_000,
    "requests": frame(0x81, PING_REQUEST) * 60_000,
    "notifications": frame(0x81, b'{"jsonrpc":"2.0","method":"ping"}') * 60_000,
}


@pytest.mark.parametrize("reads", [True, False], ids=["read", "unread"])
@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_small_frames_keeps_nobody_waiting(bridge, name, reads):
    with bridge.connect() as flooder, bridge.connect() as other:
        before, most = bridge.memory_bytes(), 0
        send_in_background(flooder.socket, FLOODS[name], reads)
        for _ in range(TURNS):
            assert other.call("ping") == {}
            most = max(most, bridge.memory_bytes())
        done = cpu_ticks(bridge)
        assert ticks_until_idle(bridge) > done + 10, "most of the flood was still to come"
        assert max(most, bridge.memory_bytes()) < before + GROWTH_BYTES
        with bridge.connect() as third:
            assert third.call("ping") == {}, "newcomers get in, too"


def test_replies_that_nobody_reads_do_not_fill_the_memory(bridge):
    with bridge.connect() as flooder, bridge.connect() as other:
        for _ in range(200):
            other.run(["true"], label="x" * 200)
        before = bridge.memory_bytes()
        send_in_background(flooder.socket, frame(0x81, b'{"jsonrpc":"2.0","method":"list","id":1}') * 20_000, reads=False)
        for _ in range(TURNS):
            assert other.call("ping") == {}
        ticks_until_idle(bridge)
        assert bridge.memory_bytes() < before + GROWTH_BYTES


# ---- Strangers. ----

def test_a_burst_of_silent_connections_leaves_no_more_than_are_allowed_and_keeps_nobody_out(bridge):
    before, strangers = descriptors(bridge), []
    for _ in range(600):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", bridge.port))
        strangers.append(sock)
    with bridge.connect() as client:
        assert client.call("ping") == {}
        wait_until(lambda: descriptors(bridge) <= before + wb.PENDING_HANDSHAKES + 1, "the surplus is let go")
    for sock in strangers:
        sock.close()


HEADS = {
    "a header of blanks": b"a:" + b" " * 16_000 + b"\x01",
    "a header of tabs and blanks": b"a:" + b"\t " * 8_000 + b"\x7f",
    "a name that never ends": b"a" * 16_000 + b"\x01",
    "a thousand headers": b"\r\n".join([b"a:b"] * 3_000 + [b"\x01"]),
    "an origin of dots": b"Origin: http://" + b"." * 16_000,
}


@pytest.mark.parametrize("name", HEADS)
def test_no_head_takes_long_to_refuse(bridge, name):
    """40 of them at once, each of which may take no more than its share of the deadline for all."""
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + HEADS[name] + b"\r\n\r\n"
    with bridge.connect() as client:
        sockets = [bridge.open_socket() for _ in range(40)]
        for sock in sockets:
            sock.sendall(head)
        client.socket.settimeout(10)
        assert client.call("ping") == {}
        for sock in sockets:
            assert sock.recv(1 << 16)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 403", b"HTTP/1.1 431")
            sock.close()


# ---- Big messages. ----

def text_of(value: str) -> str:
    return '{"jsonrpc":"2.0","id":1,"method":"execute","params":{"command":' + value + "}}"


WIDE = {
    "a list of millions": (text_of("[" + "1," * 7_000_000 + "1]"), -32600),
    "lists in a list": (text_of("[" + "[]," * 5_000_000 + "1]"), -32600),
    "millions of names": (text_of("{" + ",".join(f'"{i}":1' for i in range(1_000_000)) + "}"), -32600),
    "millions of strings": (text_of("[" + '"",' * 5_000_000 + '""]'), -32600),
    "strings that end with a backslash": (text_of("[" + r'"\\",' * 3_000_000 + '""]'), -32600),
    "brackets": ("[" * 16_000_000, -32600),
    "a number of millions of digits": (text_of("1" * 16_000_000), -32700),
    "many numbers of many digits": (text_of("[" + ("1" * 4_299 + ",") * 3_500 + "1]"), -32700),
    "a string that has everything": (text_of(json.dumps('[{,:\\"}]' * 1_000_000)), -32602),
    "a command that is one long word": (text_of(json.dumps("x" * 1_000_000)), -32602),
    "a PATH of millions of places": ('{"jsonrpc":"2.0","id":1,"method":"execute","params":{"command":["absent"],"env":{"PATH":"' + ":" * 7_000_000 + '"}}}', -32000),
    "a PATH of a million different places": ('{"jsonrpc":"2.0","id":1,"method":"execute","params":{"command":["absent"],"env":{"PATH":"'
                                             + ":".join(map(str, range(1_000_000))) + '"}}}', -32602),
    "a long folder": ('{"jsonrpc":"2.0","id":1,"method":"execute","params":{"command":["true"],"cwd":"' + "/.." * 5_000_000 + '"}}', -32000),
    "a long argument": (text_of(json.dumps(["true", "x" * 16_000_000])), -32000),
}


@pytest.mark.parametrize("name", WIDE)
def test_a_big_message_that_is_wrong_is_refused_by_the_right_code(bridge, name):
    text, code = WIDE[name]
    with bridge.connect() as client:
        for _ in range(3):
            client.send(text)
            with pytest.raises(RpcFailure) as failure:
                client.answer(None if code in (-32600, -32700) else 1)
            assert failure.value.code == code
        assert client.call("ping") == {}


def test_a_big_message_that_is_right_is_taken(bridge):
    text = json.dumps([{"a": 'x,y"[{\\'}] * 300_000)
    with bridge.connect() as client:
        assert client.run(["wc", "-c"], stdin=text).text() == f"{len(text)}\n"


def test_values_are_counted_as_they_are():
    for value in ([], [[]], {"a": [1, 2, {"b": None}]}, 'a"b,c[', ["\\", '"', "a,b"], {"x\\": ["{", "}"]}):
        text = json.dumps(value)
        exact = sum(map(lambda char: char in ",[{", "".join(json.dumps(value).replace("\\\\", "").replace('\\"', "").split('"')[::2]))) + 1
        assert wb.count_values(text) == exact
    assert wb.count_values(json.dumps(["a,b"] * 5)) == 1 + 1 + 4


def test_clients_that_vanish_in_the_middle_of_a_message_leave_nothing(bridge):
    """While the bridge is still busy with what they sent."""
    before = bridge.memory_bytes()
    unfinished = bytes((0x01, 0xFF)) + (10 * wb.MIB).to_bytes(8, "big") + MASK + b"x" * 10 * wb.MIB
    for _ in range(12):
        client = bridge.connect()
        client.socket.sendall(unfinished + frame(0x89, b"x") * 30_000)
        client.socket.recv(10)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.socket.close()
    with bridge.connect() as other:
        ticks_until_idle(bridge)
        assert other.call("ping") == {} and bridge.memory_bytes() < before + 40 * wb.MIB


def test_messages_that_are_never_finished_do_not_fill_the_memory(bridge):
    """Thirty times fifteen of sixteen megabytes: the oldest are given up, and say so."""
    before, clients = bridge.memory_bytes(), [bridge.connect() for _ in range(30)]
    head = bytes((0x81, 0xFF)) + (16 * wb.MIB).to_bytes(8, "big") + MASK
    for client in clients:
        send_in_background(client.socket, head + b"x" * 15 * wb.MIB, reads=False)
    given_up = 0
    for client in clients[:5]:
        assert client.wait_close().code == 1013
        given_up += 1
    assert given_up == 5 and bridge.memory_bytes() < before + wb.UNFINISHED_BYTES + 100 * wb.MIB
    with bridge.connect() as other:
        assert other.call("ping") == {}
    for client in clients:
        client.socket.close()


# ---- What ended processes leave. ----

def test_standard_input_is_not_kept_with_an_ended_process(bridge):
    with bridge.connect() as client:
        client.run(["true"], stdin="x" * 15_000_000)
        before = bridge.memory_bytes()
        for _ in range(20):
            client.run(["true"], stdin="x" * 15_000_000)
        assert bridge.memory_bytes() < before + 60 * wb.MIB


def test_output_of_ended_processes_that_nobody_fetches_is_bounded_and_none_of_it_is_lost():
    with start_bridge() as bridge:
        started: list[dict] = []
        with pytest.raises(RpcFailure, match="-32003: .* wait to be fetched"):
            while len(started) < 100:
                with bridge.connect() as client:
                    batch = [client.call("execute", command=["sh", "-c", "head -c 7000000 /dev/zero | tr '\\0' x"]) for _ in range(8)]
                    started += batch
                with bridge.connect() as client:
                    poll(lambda: all(p["state"] == "ended" for p in client.call("list")["processes"]), "all have ended")
        with bridge.connect() as client:
            first = started[0]
            client.call("attach", process_id=first["process_id"])
            assert len(client.finish(first).text()) == 7_000_000
            for each in started[1:12]:
                client.call("attach", process_id=each["process_id"])
                client.finish(each)
            assert client.run("echo hi").text() == "hi\n", "there is room again"


def test_forgotten_processes_give_their_memory_back():
    with start_bridge("--detach-grace", "0.1") as bridge, bridge.connect() as client:
        def work(times: int) -> int:
            for _ in range(times):
                client.run(["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x"])
                client.notifications.clear()
            return bridge.memory_bytes()

        assert work(60) < work(20) + 30 * wb.MIB



def test_a_waiting_client_costs_no_time(bridge):
    """An ended process whose client does not read is looked after now and then, not all the time, whatever the grace."""
    with start_bridge("--detach-grace", "0") as impatient, impatient.connect() as client, impatient.connect() as other:
        started = client.call("execute", command=["yes"], timeout=0.5)
        poll(lambda: other.call("list")["processes"][0]["state"] == "ended", "it has ended")
        before, until = cpu_ticks(impatient), time.monotonic() + 1
        poll(lambda: time.monotonic() > until, "a second")
        assert cpu_ticks(impatient) - before < 30
        assert client.finish(started).completed["status"] == "timeout"
