"""The two WebSocket clients of cc_execute.py, the built-in one and that over websocket-client, held to the same promises.

One class of tests over both channels, against a real bridge or the server side of the real codec; one over both for BridgeClient,
with a cable in between that can be cut; then whole runs where a proxy is set and where `localhost` is ::1 first.
"""
from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

import pytest

import cc_execute as cc
import ws_bridge as wb
from bridging import Cable, lives, start_bridge
from support import DEADLINE_S, ROOT, missing, unshare, wait_until

BUILT_IN, LIBRARY = "built-in", "websocket-client"
CHANNELS = {BUILT_IN: cc.BuiltinChannel, LIBRARY: cc.LibraryChannel}
PYTHONS = {BUILT_IN: (sys.executable, "-S"), LIBRARY: (sys.executable,)}  # without `site` nothing that was installed is there
MIB = 1024 * 1024
HELLO = '{"jsonrpc": "2.0", "method": "connected", "params": {"version": "1.0", "protocol": %s, "connection_id": "c", "capabilities": []}}'


@pytest.fixture(params=CHANNELS)
def client_kind(request, monkeypatch) -> str:
    """Which of the two clients is the one that cc_execute.py finds."""
    if request.param == BUILT_IN:
        monkeypatch.setitem(sys.modules, "websocket", None)  # an import fails, as where it is not installed
    else:
        need_library()
    return request.param


def need_library() -> None:
    try:
        import websocket  # noqa: F401
    except ImportError as error:
        missing("websocket-client", str(error))


def address_of(bridge, **changes) -> cc.Address:
    """It names its token: through a cable the bridge proves that it knows it for another port than ours."""
    return cc.Address(bridge.host, bridge.port, token=bridge.token, names_token=True)._replace(**changes)


# ---- Peers: the server side of the codec, and a cable. ----

class Peer(NamedTuple):
    """The other end of a client's connection, in the hands of a test."""
    sock: socket.socket
    codec: wb.Codec

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def wait_for(self, kind: type) -> object:
        """The next event of that kind."""
        while True:
            data = self.sock.recv(1 << 16)
            if not data:
                raise ConnectionError("end of stream")
            for event in self.codec.feed(data):
                if isinstance(event, kind):
                    return event


def accept_peer(listener: socket.socket) -> Peer:
    """The server's side of the opening handshake."""
    sock, _ = listener.accept()
    sock.settimeout(DEADLINE_S)
    head = b""
    while b"\r\n\r\n" not in head:
        head += sock.recv(4096)
    key = next(line.split(b":")[1].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
    sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
                 + wb.accept_key(key.decode()).encode() + b"\r\n\r\n")
    return Peer(sock, wb.Codec(wb.Role.SERVER, 64 * MIB))


@contextlib.contextmanager
def serving(act: Callable[[socket.socket], None]) -> Iterator[cc.Address]:
    """A listener on a free port whose one client is served by `act` in a thread; what goes wrong there fails the test."""
    faults: list[BaseException] = []

    def serve() -> None:
        try:
            act(listener)
        except ConnectionResetError:
            pass  # the client has hung up with bytes unread, as it may
        except BaseException as fault:  # a thread has no caller: it is raised below
            faults.append(fault)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_S)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield cc.Address("127.0.0.1", listener.getsockname()[1])
        thread.join(DEADLINE_S)
        assert not thread.is_alive() and not faults, faults


@contextlib.contextmanager
def open_peer(act: Callable[[Peer], None]) -> Iterator[cc.Channel]:
    """A channel and, at its other end, `act` with the peer."""
    def serve(listener: socket.socket) -> None:
        peer = accept_peer(listener)
        with peer.sock:
            act(peer)

    with serving(serve) as address:
        channel = cc.open_channel(address)
        try:
            yield channel
        finally:
            channel.close()


# ---- Channels: connect, send, receive, close. ----

class TestChannel:
    def test_it_is_the_one_that_is_meant(self, client_kind, bridge):
        channel = cc.open_channel(address_of(bridge))
        channel.close()
        assert type(channel) is CHANNELS[client_kind]

    def test_the_bridge_greets(self, client_kind, bridge):
        channel = cc.open_channel(address_of(bridge))
        assert '"connected"' in channel.receive(DEADLINE_S)
        channel.close()

    def test_big_messages_come_whole_both_ways(self, client_kind):
        text = "žluťoučký kůň 🐎 " * (MIB // 2)  # about 12 MiB
        got = []

        def act(peer: Peer) -> None:
            got.append(peer.wait_for(wb.TextMessage).text)
            peer.send(peer.codec.send_text(text[::-1]))

        with open_peer(act) as channel:
            channel.send(text)
            answer = channel.receive(DEADLINE_S)
        assert got == [text] and answer == text[::-1]

    def test_several_messages_in_one_block_come_one_by_one(self, client_kind):
        with open_peer(lambda peer: peer.send(b"".join(map(peer.codec.send_text, ("one", "two", ""))))) as channel:
            assert [channel.receive(DEADLINE_S) for _ in range(3)] == ["one", "two", ""]

    def test_silence_is_none_and_the_connection_still_works(self, client_kind):
        go = threading.Event()

        def act(peer: Peer) -> None:
            go.wait(DEADLINE_S)
            peer.send(peer.codec.send_text("late"))

        with open_peer(act) as channel:
            assert channel.receive(0.05) is None and channel.receive(0.001) is None
            go.set()
            assert channel.receive(DEADLINE_S) == "late"

    def test_a_message_that_is_half_there_is_waited_for_without_losing_a_byte(self, client_kind):
        """Time limits of `receive` pass inside the head, the length and the payload of a frame."""
        text = "é" * 40_000
        go = threading.Semaphore(0)
        cuts = (1, 5, 11, 30_000)

        def act(peer: Peer) -> None:
            frame = peer.codec.send_text(text)
            for start, end in zip((0, *cuts), (*cuts, len(frame))):
                peer.send(frame[start:end])
                go.acquire(timeout=DEADLINE_S)

        with open_peer(act) as channel:
            for _ in cuts:
                assert channel.receive(0.05) is None
                go.release()
            assert channel.receive(DEADLINE_S) == text
            go.release()

    def test_fragments_with_a_ping_between_are_one_message(self, client_kind):
        pongs = []

        def act(peer: Peer) -> None:
            peer.send(b"\x01\x02hi" + peer.codec.send_ping(b"there?") + b"\x80\x01!")
            pongs.append(peer.wait_for(wb.Pong).data)

        with open_peer(act) as channel:
            assert channel.receive(DEADLINE_S) == "hi!"
        assert pongs == [b"there?"]

    @pytest.mark.parametrize("close", [
        lambda peer: peer.send(peer.codec.send_close(1001, "ending")),  # the bridge ends
        lambda peer: None,                                              # the stream ends
        lambda peer: peer.send(b"\x81\x7f"),                            # in the middle of a frame
        lambda peer: peer.send(b"\x81\x01\xff"),                        # no UTF-8
        lambda peer: peer.send(b"\xf1\x00"),                            # no WebSocket
    ], ids=["close", "end", "half a frame", "no UTF-8", "garbage"])
    def test_the_end_is_said_after_what_came_before_it(self, client_kind, close):
        def act(peer: Peer) -> None:
            peer.send(peer.codec.send_text("last words"))
            close(peer)

        with open_peer(act) as channel:
            assert channel.receive(DEADLINE_S) == "last words"
            with pytest.raises(cc.BridgeLost):
                while channel.receive(DEADLINE_S) is None:
                    pass
            with pytest.raises(cc.BridgeLost):
                channel.receive(0.1)

    def test_a_bridge_that_ends_is_a_lost_bridge(self, client_kind, bridge):
        channel = cc.open_channel(address_of(bridge))
        channel.receive(DEADLINE_S)
        bridge.stop()
        with pytest.raises(cc.BridgeLost):
            channel.receive(DEADLINE_S)
        with pytest.raises(cc.BridgeLost):
            for _ in range(1000):  # the first ones may still be taken by the kernel
                channel.send("x" * 1000)
        channel.close()

    def test_a_wrong_token_is_said(self, client_kind, bridge):
        with pytest.raises(cc.NotReady, match="401"):
            cc.open_channel(address_of(bridge, token="wrong"))

    def test_a_host_that_refuses_is_said(self, client_kind):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            free = probe.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            cc.open_channel(cc.Address("127.0.0.1", free))

    @pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"",
                                        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                        b"Sec-WebSocket-Accept: wrong\r\n\r\n"], ids=["HTTP", "SSH", "nothing", "wrong key"])
    def test_what_is_no_bridge_is_named(self, client_kind, answer):
        def act(listener: socket.socket) -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(1 << 16)
                sock.sendall(answer)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(1 << 16):
                    pass

        with serving(act) as address:
            with pytest.raises((cc.NotReady, ConnectionError)) as caught:  # the answer may be overtaken by a reset
                cc.open_channel(address)
            assert isinstance(caught.value, ConnectionError) or f"ws://127.0.0.1:{address.port}/" in str(caught.value)


# ---- BridgeClient: processes over either channel. ----

WRITER = "import sys, time\nfor n in range(%d):\n    print(n, 'é' * %d, flush=True)\n    time.sleep(%s)"


class Output(list):
    """What a process wrote, as `follow` hands it out."""

    def __call__(self, stream: str, data: str, seq: int) -> None:
        self.append((stream, data))

    def text(self, stream: str = "stdout") -> str:
        return "".join(data for name, data in self if name == stream)


def expected(lines: int, width: int) -> str:
    return "".join(f"{n} {'é' * width}\n" for n in range(lines))


class TestBridgeClient:
    @pytest.fixture
    def client(self, client_kind, bridge) -> Iterator[cc.BridgeClient]:
        client = cc.BridgeClient(address_of(bridge))
        yield client
        client.close()

    def test_output_comes_whole_and_in_order(self, client):
        output = Output()
        ended = client.run([sys.executable, "-c", WRITER % (20_000, 3, 0)], output)
        assert output.text() == expected(20_000, 3)
        assert (ended.status, ended.exit_code, ended.signal, ended.survivors) == ("completed", 0, None, ())

    def test_both_streams_and_the_exit_code_arrive(self, client):
        output = Output()
        ended = client.run(["sh", "-c", "cat; echo oops >&2; exit 7"], output, stdin="what was sent\n")
        assert (output.text(), output.text("stderr"), ended.exit_code) == ("what was sent\n", "oops\n", 7)

    def test_a_line_of_5_mb_comes_whole(self, client):
        output = Output()
        client.run([sys.executable, "-c", "print('ž' * 2_500_000)"], output)
        assert output.text() == "ž" * 2_500_000 + "\n"

    def test_two_processes_one_after_the_other(self, client):
        first, second = Output(), Output()
        client.run(["echo", "one"], first)
        client.run(["echo", "two"], second)
        assert (first.text(), second.text()) == ("one\n", "two\n")

    def test_a_program_that_is_not_there_is_refused_with_the_reason(self, client):
        with pytest.raises(cc.CallError) as caught:
            client.run(["/no/such/program"], Output())
        assert (caught.value.code, caught.value.data["reason"]) == (-32000, "not_found")
        assert client.run(["true"], Output()).exit_code == 0

    def test_a_time_limit_ends_it(self, client):
        ended = client.run(["sleep", "600"], Output(), timeout=0.3)
        assert (ended.status, ended.exit_code) == ("timeout", None)

    def test_a_cancel_ends_it_with_all_it_started(self, client):
        output = Output()
        started = client.start(["sh", "-c", "setsid sleep 600 & echo $!; sleep 600"])
        ended = client.follow(started, output, lambda: int("\n" in output.text()))
        assert ended.status == "cancelled"
        wait_until(lambda: not lives(started.pid) and not lives(int(output.text())), "both have ended")

    def test_a_second_cancel_kills_what_ignores_the_first(self, client_kind):
        output = Output()
        program = ("import signal, time\nfor s in (signal.SIGINT, signal.SIGTERM): signal.signal(s, lambda *_: print('no', flush=True))\n"
                   "print('ready', flush=True)\nwhile True: time.sleep(1)")
        with start_bridge("--grace", "600") as bridge:
            client = cc.BridgeClient(address_of(bridge))
            started = client.start([sys.executable, "-c", program], stop_signal="SIGINT")
            ended = client.follow(started, output, lambda: ("ready" in output.text()) + ("no" in output.text()))
            client.close()
        assert (ended.status, ended.signal) == ("cancelled", "SIGKILL")

    def test_a_cable_that_is_cut_loses_and_doubles_nothing(self, client_kind, bridge):
        output = Output()
        with Cable(bridge.port) as cable:
            client = cc.BridgeClient(address_of(bridge, port=cable.port))
            started = client.start([sys.executable, "-c", WRITER % (60, 5000, 0.02)])

            def take(stream: str, data: str, seq: int) -> None:
                output(stream, data, seq)
                if len(output.text()) > cable.taken * 50_000:
                    cable.cut()

            ended = client.follow(started, take)
            client.close()
            connections = cable.taken
        assert output.text() == expected(60, 5000)
        assert (ended.status, ended.exit_code) == ("completed", 0) and connections > 3

    def test_what_came_while_a_cancel_was_lost_is_not_doubled_and_the_cancel_is_sent_again(self, client_kind, bridge):
        output = Output()
        with Cable(bridge.port) as cable:
            client = cc.BridgeClient(address_of(bridge, port=cable.port))
            started = client.start([sys.executable, "-c", WRITER % (600, 500, 0.02)])

            def cancels() -> int:
                if output.text() and cable.taken == 1:
                    before = client.call("list")["processes"][0]["output_bytes"]
                    wait_until(lambda: client.call("list")["processes"][0]["output_bytes"] > before + 2000, "more output has come")
                    cable.cut()
                return int(bool(output.text()))

            ended = client.follow(started, output, cancels)
            client.close()
        assert expected(600, 500).startswith(output.text()) and len(output.text()) > 2500
        assert ended.status == "cancelled"

    def test_a_cancel_whose_answer_was_lost_is_not_repeated_as_that_would_kill_at_once(self, client_kind, bridge):
        output = Output()
        program = ("import signal, sys, time\ndef end(*_):\n    time.sleep(1)\n    print('result', flush=True)\n    sys.exit(5)\n"
                   "signal.signal(signal.SIGINT, end)\nprint('ready', flush=True)\nwhile True: time.sleep(1)")
        with Cable(bridge.port) as cable:
            client = cc.BridgeClient(address_of(bridge, port=cable.port))
            started = client.start([sys.executable, "-c", program], stop_signal="SIGINT")

            def cancels() -> int:
                if "ready" in output.text() and cable.taken == 1:
                    with bridge.connect() as other:   # as if this client's own request had arrived, and the answer not
                        other.call("control", type="CANCEL", process_id=started.process_id)
                    cable.cut()
                return int("ready" in output.text())

            ended = client.follow(started, output, cancels)
            client.close()
        assert (ended.status, ended.exit_code) == ("cancelled", 5) and output.text() == "ready\nresult\n"

    def test_a_process_that_ended_while_the_cable_was_cut_is_told_of(self, client_kind, bridge, tmp_path):
        output = Output()
        with Cable(bridge.port) as cable:
            client = cc.BridgeClient(address_of(bridge, port=cable.port))
            started = client.start(["sh", "-c", "echo before; while [ ! -e go ]; do sleep 0.02; done; echo after; exit 3"], cwd=str(tmp_path))

            def take(stream: str, data: str, seq: int) -> None:
                output(stream, data, seq)
                if output.text() == "before\n":
                    cable.cut()
                    (tmp_path / "go").touch()
                    wait_until(lambda: not lives(started.pid), "the process has ended")

            ended = client.follow(started, take)
            client.close()
        assert (output.text(), ended.status, ended.exit_code) == ("before\nafter\n", "completed", 3)

    def test_a_cable_that_is_dead_for_a_while_is_waited_for(self, client_kind, bridge):
        output = Output()
        with Cable(bridge.port) as cable:
            client = cc.BridgeClient(address_of(bridge, port=cable.port))
            started = client.start([sys.executable, "-c", WRITER % (60, 500, 0.02)])

            def take(stream: str, data: str, seq: int) -> None:
                output(stream, data, seq)
                if cable.taken == 1 and not cable.is_dead:
                    cable.is_dead = True
                    cable.cut()
                    threading.Timer(1.0, setattr, (cable, "is_dead", False)).start()

            ended = client.follow(started, take)
            client.close()
        assert (output.text(), ended.status, ended.exit_code) == (expected(60, 500), "completed", 0)

    def test_an_idle_connection_that_broke_is_made_again_for_the_next_start(self, client_kind, bridge):
        output = Output()
        with Cable(bridge.port) as cable:
            client = cc.BridgeClient(address_of(bridge, port=cable.port))
            client.run(["true"], Output())
            cable.cut()
            client.run(["echo", "again"], output)
            client.close()
        assert output.text() == "again\n"

    def test_a_process_whose_start_was_not_answered_is_found_and_not_started_twice(self, client_kind, bridge, tmp_path):
        output = Output()
        with Cable(bridge.port) as cable:
            client = cc.BridgeClient(address_of(bridge, port=cable.port))
            client._wake()
            client._wake = lambda: None
            receive = client._receive

            def lose(timeout: float):
                """The bridge has carried it out, and the answer is lost with the connection."""
                wait_until((tmp_path / "starts").exists, "it was started")
                client._receive = receive
                cable.cut()
                return receive(timeout)

            client._receive = lose
            ended = client.run(["sh", "-c", "echo x >>starts; sleep 0.5; cat starts"], output, cwd=str(tmp_path))
            client.close()
            connections = cable.taken
        assert (output.text(), ended.exit_code, connections) == ("x\n", 0, 3)

    def test_a_start_of_which_nobody_knows_is_not_tried_again(self, client_kind, bridge, tmp_path):
        """The request may still be on its way."""
        with Cable(bridge.port) as cable:
            client = cc.BridgeClient(address_of(bridge, port=cable.port))
            client.FIND_S = 0.5
            client._wake()
            client._wake = lambda: None
            client._channel.send = lambda text: cable.cut()
            with pytest.raises(cc.StartLost):
                client.start(["touch", "started"], cwd=str(tmp_path))
            assert client.call("list") == {"processes": []} and not (tmp_path / "started").exists()
            client.close()

    def test_who_is_in_a_hurry_does_not_wait_for_a_connection(self, client_kind, bridge):
        with Cable(bridge.port) as cable:
            client = cc.BridgeClient(address_of(bridge, port=cable.port), hurry=lambda: cable.is_dead)
            started = client.start(["sleep", "600"])
            cable.is_dead = True
            cable.cut()
            began = time.monotonic()
            with pytest.raises(cc.BridgeLost):
                client.follow(started, Output())
            assert time.monotonic() - began < client.TAKE_UP_S / 2
        bridge.process.terminate()

    def test_a_bridge_that_is_killed_is_lost_for_good(self, client_kind, bridge):
        client = cc.BridgeClient(address_of(bridge))
        client.TAKE_UP_S = 0.5
        started = client.start(["sh", "-c", "echo ready; exec sleep 600"])

        def take(stream: str, data: str, seq: int) -> None:
            bridge.process.kill()
            bridge.process.wait()

        with pytest.raises(cc.BridgeLost):
            client.follow(started, take)
        wait_until(lambda: not lives(started.pid), "the process has ended with its bridge")

    @pytest.mark.parametrize("protocol", ["2", "null"])
    def test_a_bridge_of_another_protocol_is_named(self, client_kind, protocol):
        def serve(listener: socket.socket) -> None:
            with accept_peer(listener).sock as sock:
                sock.sendall(wb.Codec(wb.Role.SERVER, MIB).send_text(HELLO % protocol))
                while sock.recv(1 << 16):
                    pass

        with serving(serve) as address:
            with pytest.raises(cc.NotReady, match=str(address.port)):
                cc.BridgeClient(address)

    @pytest.mark.parametrize("greeting", ["[1, 2]", "no JSON", '"text"', "{}"])
    def test_a_server_of_something_else_is_named(self, client_kind, greeting):
        def serve(listener: socket.socket) -> None:
            with accept_peer(listener).sock as sock:
                sock.sendall(wb.Codec(wb.Role.SERVER, MIB).send_text(greeting))
                while sock.recv(1 << 16):
                    pass

        with serving(serve) as address:
            with pytest.raises(cc.NotReady, match=str(address.port)):
                cc.BridgeClient(address)


def test_a_listener_that_says_nothing_is_named(client_kind):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(cc.NotReady, match=str(silent.getsockname()[1])):
            cc.connect_bridge(f"ws://127.0.0.1:{silent.getsockname()[1]}", print)


# ---- Whole runs in real processes with either client. ----

@pytest.fixture(params=CHANNELS)
def python(request) -> tuple:
    """An interpreter that has websocket-client, or has not."""
    found = subprocess.run([*PYTHONS[request.param], "-c", "import websocket"], capture_output=True, check=False).returncode == 0
    if found != (request.param == LIBRARY):
        missing(f"a Python for the {request.param} client", f"{PYTHONS[request.param]} {'has' if found else 'has not'} websocket-client")
    return PYTHONS[request.param]


def test_loopback_is_not_reached_through_a_proxy(python, bridge, run_cc, workspace, stand_in):
    """A proxy that hangs up on everyone, under every name that is in use."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        dead = f"http://127.0.0.1:{probe.getsockname()[1]}"
    proxies = {name: dead for word in ("http", "https", "all", "ws") for name in (f"{word}_proxy", f"{word.upper()}_PROXY")}
    agent = stand_in([{"write": {"path": "a.txt", "content": "hi"}}])
    done = run_cc("-", "--json", input="Task: Create a.txt\nSuccess Criteria: a.txt exists\n", python=python, env={**agent.environment, **proxies})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.json()["confidence"] == "proved"
    assert agent.starts()[0]["environment"]["http_proxy"] == dead  # it is the agent's to use


IPV6_FIRST = "::1 localhost\n127.0.0.1 localhost\n"
ASK = ("import json, sys; sys.path.insert(0, sys.argv[1]); import cc_execute; "
       "print(json.dumps(cc_execute.WebSocketClient(port=int(sys.argv[2])).execute_command(['echo', 'hello'])))")


@pytest.fixture
def ipv6_first(tmp_path) -> list:
    """The words before a command that make `localhost` ::1 first for it."""
    (tmp_path / "hosts").write_text(IPV6_FIRST)
    prefix = [*unshare("--mount"), "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(tmp_path / "hosts")]
    look = "import socket; print(socket.getaddrinfo('localhost', 1)[0][4][0])"
    try:
        done = subprocess.run([*prefix, sys.executable, "-c", look], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        missing("a mount namespace", str(error))
    if done.stdout.strip() != "::1":
        missing("a mount namespace in which localhost is ::1 first", done.stdout + done.stderr)
    return prefix


def test_localhost_is_where_the_bridge_listens_even_if_it_is_ipv6_first(python, bridge, ipv6_first, run_cc, stand_in):
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a machine without IPv6 has no stranger there
            stack.enter_context(socket.create_server(("::1", bridge.port), family=socket.AF_INET6))
        asked = subprocess.run([*ipv6_first, *python, "-c", ASK, str(ROOT), str(bridge.port)], capture_output=True, text=True, check=False)
        run = run_cc("-", "--json", "--bridge", f"ws://localhost:{bridge.port}", input="Task: Say hello", prefix=ipv6_first, python=python,
                     env=stand_in([{"text": "hello"}]).environment)
    assert '"output_data": ["hello"]' in asked.stdout, asked.stdout + asked.stderr
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_two_pythons_differ_in_the_client_only():
    """What the tests above rest on: a Python without `site` still runs cc_execute.py."""
    done = subprocess.run([*PYTHONS[BUILT_IN], str(Path(cc.__file__)), "--version"], capture_output=True, text=True, check=False)
    assert done.stdout == f"cc_execute {cc.VERSION}\n"
