"""The bridge from outside: who gets in, what is answered to which message, how it starts and ends.

All against real bridge processes; what it does with the processes it runs is in test_processes.py.
"""
from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import ws_bridge as wb
from bridging import DEADLINE_S, SCRIPT, Client, RpcFailure, bridge_command, launch, lives, poll, read_response, start_bridge

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # the RFC's own example (1.3)


@pytest.fixture
def bridge():
    with start_bridge() as running:
        yield running


@pytest.fixture
def client(bridge):
    with bridge.connect() as connected:
        yield connected


# ---- The handshake as functions. ----

def test_the_rfc_s_example_key():
    assert wb.accept_key(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_request_and_response_of_both_sides_fit_byte_by_byte():
    key = wb.new_key()
    data = wb.handshake_request("localhost:8004", "/?token=x", key, [("X-A", "b")])
    request, rest = wb.parse_request(data + b"more")
    assert (request.method, request.target, request.first("x-a"), rest) == ("GET", "/?token=x", "b", b"more")
    assert all(wb.parse_request(data[:end]) is None for end in range(len(data)))
    answer = wb.accept_response(request)
    assert all(wb.parse_response(answer[:end], key) is None for end in range(len(answer)))
    response, rest = wb.parse_response(answer + b"\x81\x00", key)
    assert (response.status, response.headers["upgrade"], rest) == (101, "websocket", b"\x81\x00")


@pytest.mark.parametrize("old, new, named", [
    (b"Upgrade: websocket", b"Upgrade: h2c", "Upgrade"), (b"Connection: Upgrade", b"Connection: close", "Connection"),
    (b"Accept: s3p", b"Accept: S3p", "Sec-WebSocket-Accept"), (b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: x\r\n\r\n", "Extensions"),
    (b"HTTP/1.1", b"SSH-2.0", "status line")])
def test_a_wrong_switch_is_named(old, new, named):
    data = wb.accept_response(wb.HttpRequest("GET", "/", {"sec-websocket-key": [KEY]}))
    with pytest.raises(wb.HandshakeError, match=named):
        wb.parse_response(data.replace(old, new), KEY)


def test_a_refusal_is_a_response_and_no_error():
    response, rest = wb.parse_response(b"HTTP/1.1 401 Unauthorized\r\nX-Bridge-Proof: ab\r\n\r\nbody", KEY)
    assert response == wb.Response(401, "Unauthorized", {"x-bridge-proof": "ab"}) and rest == b"body"


def test_a_header_can_not_smuggle_a_line():
    with pytest.raises(wb.BridgeError, match="control character"):
        wb.handshake_request("localhost", "/", KEY, [("Authorization", "Bearer x\r\nHost: evil")])


# ---- The handshake against the bridge: who gets in. {port} and {token} stand for the bridge's own. ----

GOOD_HEADERS = {"Host": "127.0.0.1:{port}", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": KEY,
                "Sec-WebSocket-Version": "13", "Authorization": "Bearer {token}"}


def raw_request(running, line="GET / HTTP/1.1", **changes) -> bytes:
    headers = {**GOOD_HEADERS, **{name.replace("_", "-"): value for name, value in changes.items()}}
    lines = [line, *(f"{name}: {value}" for name, value in headers.items() if value is not None)]
    return "".join(text.format(port=running.port, token=running.token) + "\r\n" for text in (*lines, "")).encode("latin-1")


LET_IN = [
    {}, {"line": "GET /ws/mcp HTTP/1.1"}, {"Host": "localhost:{port}"}, {"Host": "LOCALHOST"}, {"Host": "[::1]:9000"}, {"Host": "127.8.9.1:1"},
    {"line": "GET /?token={token} HTTP/1.1", "Authorization": None}, {"line": "GET /ws/mcp?a=b&token={token} HTTP/1.1", "Authorization": None},
    {"Authorization": "bearer {token}"}, {"Origin": "http://127.0.0.1:{port}"}, {"Origin": "http://localhost:{port}"},
    {"Upgrade": "WebSocket", "Connection": "keep-alive, Upgrade"}, {"Sec_WebSocket_Extensions": "permessage-deflate"},
]
REFUSED = [
    (400, {"line": "GET HTTP/1.1"}), (400, {"line": "GET / HTTP/1.0"}), (400, {"line": "GET / HTTP/2"}), (400, {"line": "G\x01T / HTTP/1.1"}),
    (400, {"line": "GET http://127.0.0.1/ HTTP/1.1"}), (400, {"Host": None}), (400, {"X": "a\0b"}), (400, {"Bad name": "x"}), (400, {"X": "a\r\n folded"}),
    (403, {"Host": "example.com"}), (403, {"Host": "example.com:{port}"}), (403, {"Host": "127.0.0.1.example.com"}), (403, {"Host": ""}),
    (403, {"Host": "localhost.example.com:{port}"}), (403, {"Host": "user@localhost"}), (403, {"Host": "10.0.0.1:{port}"}), (403, {"Host": "0.0.0.0"}),
    (403, {"Origin": "http://example.com"}), (403, {"Origin": "null"}), (403, {"Origin": "http://localhost:1"}), (403, {"Origin": ""}),
    (403, {"Origin": "http://localhost"}), (403, {"Origin": "file://"}), (403, {"Origin": "http://localhost:{port}.example.com"}),
    (403, {"Origin": "http://127.0.0.2:{port}"}), (403, {"Origin": "http://[::1]:{port}"}), (403, {"Origin": "http://user@localhost:{port}"}),
    (403, {"Origin": "http://localhost:{port}/"}), (403, {"Origin": "http://localhost.:{port}"}), (403, {"Origin": "ws://localhost:{port}"}),
    (403, {"Origin": "http://127.0.0.1:{port}\r\nOrigin: http://example.com"}), (403, {"Origin": "http://127.1:{port}"}),
    (400, {"X": "a\nb: c"}), (400, {"X": "a\rb"}), (400, {"X": "a\r\n : b"}), (400, {"Host": "localhost\r\nHost: localhost"}),
    (404, {"line": "GET /x HTTP/1.1"}), (404, {"line": "GET //?token={token} HTTP/1.1"}), (405, {"line": "POST / HTTP/1.1"}), (405, {"line": "HEAD / HTTP/1.1"}),
    (401, {"Authorization": None}), (401, {"Authorization": "Bearer wrong"}), (401, {"Authorization": "Basic {token}"}), (401, {"Authorization": "Bearer"}),
    (401, {"line": "GET /?token= HTTP/1.1", "Authorization": None}), (401, {"Authorization": "Bearer \xff"}),
    (426, {"Upgrade": None}), (426, {"Connection": None}), (426, {"Sec_WebSocket_Version": "8"}), (426, {"Sec_WebSocket_Version": None}),
    (400, {"Sec_WebSocket_Key": None}), (400, {"Sec_WebSocket_Key": "c2hvcnQ="}), (400, {"Sec_WebSocket_Key": "###"}),
    # What is wrong first decides.
    (403, {"Host": "example.com", "Origin": "http://x", "line": "POST /x HTTP/1.1"}), (403, {"Origin": "http://x", "line": "POST /x HTTP/1.1"}),
    (404, {"line": "POST /x HTTP/1.1"}), (405, {"line": "POST / HTTP/1.1", "Authorization": None}), (401, {"Authorization": None, "Upgrade": None}),
]
REFUSAL_HEADERS = {401: ("www-authenticate", "Bearer"), 405: ("allow", "GET"), 426: ("sec-websocket-version", "13")}


def test_who_gets_in_and_who_does_not(bridge):
    for changes in LET_IN:
        response, rest = first_answer(bridge, raw_request(bridge, **changes))
        assert response.status == 101, (changes, response, rest)
    for status, changes in REFUSED:
        response, body = bridge.exchange(raw_request(bridge, **changes))
        assert response.status == status, (changes, response, body)
        assert int(response.headers["content-length"]) == len(body) > 10
        name, value = REFUSAL_HEADERS.get(status, ("connection", "close"))
        assert response.headers[name] == value
    assert bridge.token not in bridge.log()


def first_answer(bridge, data: bytes):
    with bridge.open_socket() as sock:
        sock.sendall(data)
        return read_response(sock, KEY)


def test_a_head_that_is_too_long_or_no_http_at_all(bridge):
    assert bridge.exchange(raw_request(bridge, X="x" * wb.HANDSHAKE_BYTES))[0].status == 431
    assert bridge.exchange(b"x" * wb.HANDSHAKE_BYTES)[0].status == 431
    assert bridge.exchange(bytes.fromhex("1603010200010001fc0303"))[0].status == 400, "a TLS client is told at once"


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\nHost: localhost\n\n", b"GET / HTTP/1.1\rHost: localhost\r\r", b"GET / HTTP/1.1\r\nHost: a\nb",
                                  b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"])
def test_what_cannot_become_a_good_head_is_refused_at_once(bridge, head):
    with bridge.open_socket() as sock:
        sock.settimeout(wb.HANDSHAKE_S / 2)
        sock.sendall(head)
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_a_challenge_proves_that_the_bridge_knows_the_token(bridge):
    response, _ = bridge.exchange(raw_request(bridge, Authorization=None, X_Bridge_Challenge="abc"))
    assert response.status == 401 and response.headers["x-bridge-proof"] == wb.proof(bridge.token, "abc", f"127.0.0.1:{bridge.port}")
    response, _ = bridge.exchange(raw_request(bridge, Authorization=None, X_Bridge_Challenge="x" * 129))
    assert response.status == 401 and "x-bridge-proof" not in response.headers


def test_a_handshake_has_to_be_finished_in_time(tmp_path):
    script = tmp_path / "impatient.py"  # the same bridge with less than ten seconds
    script.write_text(f"import sys\nsys.path.insert(0, {str(SCRIPT.parent)!r})\nimport ws_bridge\nws_bridge.HANDSHAKE_S = 0.2\nsys.exit(ws_bridge.main())")
    with start_bridge(script=script) as bridge, bridge.connect() as client, bridge.open_socket() as silent, bridge.open_socket() as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: loc")
        for sock in (silent, slow):
            assert sock.recv(1 << 16).startswith(b"HTTP/1.1 408 Request Timeout\r\n") and sock.recv(1) == b""
        assert client.call("ping") == {}


def test_silent_connections_keep_nobody_out(bridge):
    sockets = [bridge.open_socket() for _ in range(wb.PENDING_HANDSHAKES + 20)]
    for sock in sockets[20:]:
        sock.sendall(b"GET /")
    with bridge.connect() as client:
        assert client.call("ping") == {}
    for sock in sockets:
        sock.close()


def test_names_given_with_allow_host_are_its_own():
    with start_bridge("--allow-host", "Bridge.Example") as bridge:
        assert first_answer(bridge, raw_request(bridge, Host="bridge.example:80"))[0].status == 101
        assert first_answer(bridge, raw_request(bridge, Host="bridge.example", Origin="https://bridge.example"))[0].status == 101
        assert bridge.exchange(raw_request(bridge, Host="other.example"))[0].status == 403


def test_more_connections_than_allowed_get_503_until_one_goes():
    with start_bridge("--max-connections", "1") as bridge:
        with bridge.connect() as client:
            with pytest.raises(ConnectionError, match="503"):
                bridge.connect()
            assert client.call("ping") == {}
        poll(lambda: can_connect(bridge), "a place is free again")


def can_connect(bridge) -> bool:
    try:
        with bridge.connect() as client:
            return client.call("ping") == {}
    except ConnectionError:
        return False


# ---- The token and its file. ----

def test_the_token_file_is_private_and_goes_with_the_bridge(bridge):
    path = wb.token_path(bridge.port)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(bridge.token) >= 32
    bridge.stop()
    assert wb.read_token(bridge.port) is None and not path.exists()


def test_a_token_from_the_environment_is_used_and_reaches_no_agent():
    with start_bridge(env={"CC_BRIDGE_TOKEN": "s3cret"}) as bridge:
        assert bridge.token is None, "no file is written"
        with bridge.connect(token="s3cret") as client:
            assert "CC_BRIDGE_TOKEN" not in client.run(["env"]).text()
            assert "CC_BRIDGE_TOKEN" not in client.run(["env"], env={"PATH": os.environ["PATH"], "CC_BRIDGE_TOKEN": "s3cret"}).text()
        assert "s3cret" not in bridge.log()
        with pytest.raises(ConnectionError, match="401"):
            bridge.connect(token="other")


@pytest.mark.parametrize("token", ["with space", "tab\there", "h\u00fcte-und-schuhe-1234", "\udcff-no-utf8-in-here"])
def test_a_token_that_cannot_be_sent_is_said_at_the_start(token):
    done = run_to_end("--port", "0", env={**os.environ, "CC_BRIDGE_TOKEN": token})
    assert done.returncode == 3 and "printable ASCII" in done.stderr and token not in done.stderr


def test_blanks_around_a_token_do_not_count_and_a_short_one_is_warned_of():
    with start_bridge(env={"CC_BRIDGE_TOKEN": " short\n"}) as bridge:
        with bridge.connect(token="short") as client:
            assert client.call("ping") == {}
        assert "WARNING the token has 5 characters" in bridge.log()
    with start_bridge(env={"CC_BRIDGE_TOKEN": " "}) as bridge, bridge.connect() as client:
        assert len(bridge.token) > 40, "blank is none: a random one was made"


def test_a_token_file_of_ones_own(tmp_path):
    path = tmp_path / "token"
    with start_bridge("--token-file", str(path)) as bridge:
        token = path.read_text().strip()
        with bridge.connect(token=token) as client:
            assert client.call("ping") == {}
    assert not path.exists()
    path.write_text("chosen\n")
    path.chmod(0o600)
    with start_bridge("--token-file", str(path)) as bridge, bridge.connect(token="chosen") as client:
        assert client.call("ping") == {}
    assert path.read_text() == "chosen\n", "what was there before stays"


@pytest.mark.parametrize("spoil", [lambda path: path.chmod(0o644), lambda path: (path.rename(f"{path}.real"), path.symlink_to(f"{path}.real")),
                                   lambda path: path.write_text("")], ids=["readable by others", "a symbolic link", "empty"])
def test_a_token_file_of_ones_own_that_cannot_be_trusted_is_refused_and_stays(tmp_path, spoil):
    path = tmp_path / "token"
    path.write_text("chosen\n")
    path.chmod(0o600)
    spoil(path)
    before = path.read_text(), path.is_symlink()
    done = subprocess.run(bridge_command("--token-file", str(path)), capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 3 and str(path) in done.stderr and "0600" in done.stderr
    assert (path.read_text(), path.is_symlink()) == before


def test_a_stdout_that_nobody_reads_does_not_change_the_exit_status(tmp_path):
    """As `ws_bridge.py | true` has it: Python would end with 120 for what it could not flush."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(bridge_command("--port", "0", "--idle-exit", "0.2"), stdin=subprocess.DEVNULL, stdout=writing, stderr=log)
    os.close(writing)
    assert process.wait(DEADLINE_S) == 0, (tmp_path / "log").read_text()


def test_no_token_lets_in_everybody_on_this_machine():
    with start_bridge("--no-token") as bridge, bridge.connect() as client:
        assert bridge.token is None and client.call("ping") == {}


@pytest.mark.parametrize("spoil", [
    lambda path: path.chmod(0o640), lambda path: (path.rename(f"{path}.real"), path.symlink_to(f"{path}.real")),
    lambda path: (path.unlink(), os.mkfifo(path, 0o600)), lambda path: path.unlink(), lambda path: (path.unlink(), path.mkdir(0o700))],
    ids=["readable by others", "a symbolic link", "a fifo", "absent", "a folder"])
def test_a_token_file_that_others_could_have_made_is_not_read(spoil):
    path = wb.token_path(1)
    wb.write_private(path, "secret\n")
    assert wb.read_token(1) == "secret"
    spoil(path)
    assert wb.read_token(1) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_token_file_of_another_user_is_not_read():
    wb.write_private(wb.token_path(1), "secret\n")
    os.chown(wb.token_path(1), 12345, -1)
    assert wb.read_token(1) is None


@pytest.mark.parametrize("spoil, named", [
    (lambda folder: folder.chmod(0o755), "0755"), (lambda folder: (folder.rmdir(), folder.symlink_to("/tmp")), "symbolic link"),
    (lambda folder: (folder.rmdir(), folder.touch()), "can't be made")])
def test_a_runtime_folder_that_others_can_reach_is_an_error(spoil, named):
    folder = wb.runtime_dir()
    spoil(folder)
    with pytest.raises(wb.BridgeError, match=named) as error:
        wb.runtime_dir()
    assert str(folder) in str(error.value)


def test_without_xdg_runtime_dir_the_cache_folder_is_used(monkeypatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert wb.runtime_dir() == Path(os.environ["HOME"]) / ".cache" / "cc_execute"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert wb.runtime_dir() == Path(os.environ["HOME"]) / ".cache" / "cc_execute"


# ---- Messages. ----

def test_connected_comes_first(client):
    assert client.hello["version"] == "1.0" and client.hello["protocol"] == 1 and client.hello["connection_id"]
    assert set(client.hello["capabilities"]["methods"]) == {"execute", "control", "attach", "list", "ping"}
    assert client.notifications == []


def request(**changes) -> dict:
    return {key: value for key, value in {"jsonrpc": "2.0", "id": 1, "method": "ping", **changes}.items() if value is not ...}


MESSAGES = [
    ("", -32700, None), ("{", -32700, None), ("nonsense", -32700, None), ('{"a": NaN}', -32700, None), ("[" * 100_000, -32700, None),
    (f'{{"jsonrpc": "2.0", "id": {"9" * 5000}, "method": "ping"}}', -32700 if hasattr(sys, "set_int_max_str_digits") else None, None),
    ("1", -32600, None), ("null", -32600, None), ('"x"', -32600, None), ("[]", -32600, None), ("{}", -32600, None),
    (request(jsonrpc="1.0"), -32600, 1), (request(jsonrpc=...), -32600, 1), (request(method=...), -32600, 1), (request(method=1), -32600, 1),
    (request(id=True), -32600, None), (request(id=[1]), -32600, None), (request(params="x"), -32600, 1), (request(params=1), -32600, 1),
    (request(method="nothing"), -32601, 1), (request(method=""), -32601, 1), (request(method="__init__"), -32601, 1),
    (request(params=[1]), -32602, 1), (request(params={"x": 1}), -32602, 1), (request(method="execute"), -32602, 1),
    (request(id="text"), None, "text"), (request(id=1.5), None, 1.5), (request(params={}), None, 1), (request(id=None), None, None),
]


def test_each_message_gets_the_right_answer_and_the_connection_lives_on(client):
    for message, code, request_id in MESSAGES:
        answer = client.raw(message)
        assert answer["jsonrpc"] == "2.0" and answer.get("error", {}).get("code") == code, (str(message)[:80], answer)
        if code is not None or isinstance(message, dict):
            assert answer["id"] == request_id, (message, answer)
    assert client.call("ping") == {}


WRONG_PARAMS = [
    ("execute", {"command": value}, "command") for value in ([], "", "  ", [""], [1], 5, None, {}, ["a", None], ["a\0b"], "a\0b", ["\ud800"], "'open", '""')
] + [
    ("execute", {"command": ["true"], name: value}, name) for name, values in {
        "cwd": (5, "", None, "\0"), "env": ([], {"A": 1}, {"": "x"}, {"A=B": "x"}, {"A": "\0"}, None), "stdin": (5, None, ["x"], "\ud800"),
        "timeout": (0, -1, "5", True, [], 1e300, 10 ** 400), "idle_timeout": (0, -0.5, "x", False), "label": (5, None, "x" * 201),
        "stop_signal": ("SIGNOPE", 15, None, "SIGSTOP", []), "umask": (-1, 0o1000, "022", True, 1.5, None), "shell": (True,),
    }.items() for value in values
] + [
    ("control", {}, "type"), ("control", {"type": "STOP"}, "type"), ("control", {"type": []}, "type"), ("control", {"type": "PAUSE", "process_id": 1}, "process_id"),
    ("attach", {}, "process_id"), ("attach", {"process_id": None}, "process_id"), ("list", {"x": 1}, "x"), ("ping", {"x": 1}, "x"),
    *(("attach", {"process_id": "x", "after": value}, "after") for value in (-1, "1", True, 1.5, None)),
]


def test_each_wrong_parameter_is_32602_and_named(client):
    for method, params, named in WRONG_PARAMS:
        with pytest.raises(RpcFailure) as failure:
            client.call(method, **params)
        assert failure.value.code == -32602 and named in failure.value.message, (method, params, str(failure.value))
    assert client.call("list") == {"processes": []}


def test_unknown_processes_are_32002(client):
    for method, params in (("control", {"type": "CANCEL", "process_id": "nope"}), ("control", {"type": "PAUSE"}), ("attach", {"process_id": "nope"})):
        with pytest.raises(RpcFailure) as failure:
            client.call(method, **params)
        assert failure.value.code == -32002


def test_a_notification_is_carried_out_and_not_answered(client):
    client.send({"jsonrpc": "2.0", "method": "execute", "params": {"command": "echo hi"}})
    client.send({"jsonrpc": "2.0", "method": "nothing"})
    client.wait_for("process.completed")
    assert client.call("ping") == {} and client.answers == {}


def test_a_batch_is_refused_and_a_huge_one_keeps_nobody_waiting(client):
    for batch in ([request(id=1)], [1] * 1_000_000, []):
        client.send(batch)
        with pytest.raises(RpcFailure, match="-32600: .*batch"):
            client.answer(None)
    assert client.call("ping") == {}


def test_an_id_that_json_cannot_hold_is_refused(client):
    client.socket.sendall(client.codec.send_text('{"jsonrpc": "2.0", "id": 1e999, "method": "ping"}'))
    with pytest.raises(RpcFailure, match="-32600"):
        client.answer(None)
    assert client.call("ping") == {}


def test_a_binary_message_closes_with_1003(client):
    client.socket.sendall(client.codec.send_binary(b"{}"))
    assert client.wait_close().code == 1003


def test_nothing_is_carried_out_that_came_after_what_closed_the_connection(bridge, client):
    with bridge.connect() as other:
        execute = json.dumps(request(id=1, method="execute", params={"command": ["sleep", "100"]}))
        other.socket.sendall(client.codec.send_binary(b"{}") + client.codec.send_text(execute))
        assert other.wait_close().code == 1003
    assert client.call("list")["processes"] == []


def test_a_wrong_frame_closes_with_1002_and_costs_nobody_else_anything(bridge, client):
    with bridge.connect() as other:
        other.socket.sendall(b"\x81\x00")  # not masked
        assert other.wait_close().code == 1002
    with bridge.connect() as other:
        other.socket.sendall(b"\x81\xff" + (wb.MESSAGE_BYTES + 1).to_bytes(8, "big") + b"mask")
        assert other.wait_close().code == 1009
    assert client.call("ping") == {}


def test_a_message_of_16_mib_is_taken(client):
    assert client.raw('{"jsonrpc": "2.0", "id": 1, "method": "ping"' + " " * (wb.MESSAGE_BYTES - 45) + "}")["result"] == {}


def test_a_client_that_reads_no_answers_does_not_fill_the_memory(bridge):
    with bridge.connect() as client, bridge.connect() as other:
        before, flood = bridge.memory_bytes(), client.codec.send_text('{"jsonrpc": "2.0", "id": "' + "x" * 1000 + '", "method": "ping"}') * 100
        client.socket.settimeout(0.5)
        with pytest.raises(socket.timeout):
            for _ in range(1000):  # 100 MB
                client.socket.sendall(flood)
        assert other.call("ping") == {}
        assert bridge.memory_bytes() < before + 40 * wb.MIB


# ---- Start and end of the bridge. ----

def run_to_end(*options: str, **how) -> subprocess.CompletedProcess:
    return subprocess.run(bridge_command(*options), capture_output=True, text=True, timeout=DEADLINE_S, check=False, **how)


def test_the_ready_line(bridge):
    assert bridge.ready_line == f"ws_bridge 1.0 listening on ws://127.0.0.1:{bridge.port}/\n"


def test_a_taken_port_is_one_line_and_exit_3(bridge):
    done = run_to_end("--port", str(bridge.port))
    assert done.returncode == 3 and done.stdout == "" and done.stderr.count("\n") == 1
    assert f"port {bridge.port} on 127.0.0.1 is taken" in done.stderr
    assert bridge.token, "the token of the one that runs is left alone"


@pytest.mark.parametrize("options, named", [
    (["--port", "x"], "port"), (["--port", "70000"], "port"), (["--grace", "-1"], "grace"), (["--max-processes", "0"], "max-processes"),
    (["--host", "0.0.0.0"], "--expose"), (["--host", "::"], "--expose"), (["--host", "0.0.0.0", "--expose"], "--allow-host"),
    (["--expose", "--no-token", "--allow-host", "x"], "--no-token"), (["--nonsense"], "--nonsense"), (["--idle-exit", "nan"], "idle-exit"),
    (["--expose", "--allow-host", ""], "--allow-host"), (["--allow-host", "http://a"], "--allow-host"), (["--log-level", "loud"], "--log-level")])
def test_wrong_usage_is_exit_2(options, named):
    done = run_to_end("--port", "0", *options)
    assert done.returncode == 2 and named in done.stderr and done.stdout == ""


def test_an_exposed_bridge_needs_its_token_and_its_name():
    with start_bridge("--host", "0.0.0.0", "--expose", "--allow-host", "box.example") as bridge:
        assert first_answer(bridge, raw_request(bridge, Host="box.example"))[0].status == 101
        assert bridge.exchange(raw_request(bridge, Host="box.example", Authorization=None))[0].status == 401
        assert bridge.exchange(raw_request(bridge, Host="other.example"))[0].status == 403


def test_ipv6_loopback():
    with start_bridge("--host", "::1") as bridge, bridge.connect() as client:
        assert bridge.host == "[::1]" and client.call("ping") == {}


def test_help_and_version():
    page = run_to_end("--help")
    assert page.returncode == 0 and len(page.stdout.splitlines()) <= 75 and max(map(len, page.stdout.splitlines())) <= 120
    protocol = page.stdout.partition("\nprotocol: ")[2].partition("\n\n")[0]
    named = [*wb.PARAMS, *(name for params in wb.PARAMS.values() for name in params), "connected", "process.output", "process.completed",
             *map(str, (wb.NOT_STARTED, wb.NOT_ALLOWED, wb.NO_PROCESS, wb.LIMIT_REACHED, wb.NOT_KEPT))]
    assert [name for name in named if name not in protocol] == []
    assert all(f"\n{title}" in page.stdout for title in ("examples:", "environment:", "from a terminal", "from a browser", "exit codes:"))
    assert run_to_end("--version").stdout == "ws_bridge 1.0\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_processes_tells_clients_and_exits_0(number):
    with start_bridge("--grace", "0.3") as bridge, bridge.connect() as client:
        started = client.call("execute", command=["sh", "-c", "trap '' TERM; setsid sleep 100 & echo $!; while :; do sleep 100; done"])
        client.wait_output("\n")
        escaped = int(client.outputs()[0]["data"])
        bridge.process.send_signal(number)
        assert client.finish(started).completed["status"] == "cancelled"
        assert client.wait_close().code == 1001
        assert bridge.process.wait(DEADLINE_S) == 0
        assert not lives(escaped) and not lives(started["pid"])
        assert not list(wb.runtime_dir().iterdir())


def test_idle_exit_waits_for_the_last_client_and_the_last_process():
    with start_bridge("--idle-exit", "0.2", "--detach-grace", "0.5") as bridge:
        with bridge.connect() as client:
            client.call("execute", command=["sleep", "100"])
            with pytest.raises(socket.timeout):
                client.read_once(within_s=0.6)
            assert bridge.process.poll() is None
        assert bridge.process.wait(DEADLINE_S) == 0
        assert "did not come back" in bridge.log(), "the process was there longer than the client"


def test_after_the_ready_line_stdout_may_be_closed():
    with start_bridge() as bridge:
        bridge.process.stdout.close()
        with bridge.connect() as client:
            assert client.run("echo hi").text() == "hi\n"


def test_it_starts_beside_files_named_like_the_standard_library(tmp_path):
    script = tmp_path / "ws_bridge.py"
    script.write_bytes(SCRIPT.read_bytes())
    for name in ("queue", "json", "asyncio", "logging", "typing", "signal"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    with start_bridge(script=script) as bridge, bridge.connect() as client:
        assert client.run("echo hi").text() == "hi\n"


def test_the_log_has_the_program_and_the_label_and_nothing_more(tmp_path):
    path = tmp_path / "log"
    with start_bridge("--log-file", str(path)) as bridge:
        with bridge.connect() as client:
            client.run(["echo", "argument-secret"], stdin="stdin-secret", env={"A": "env-secret", "PATH": os.environ["PATH"]}, label="task 1")
            with pytest.raises(RpcFailure):
                client.call("execute", command=["absent-program", "argument-secret"])
            bridge.exchange(raw_request(bridge, line="GET /?token=wrong-secret HTTP/1.1", Authorization=None))
            bridge.exchange(raw_request(bridge, X=f"a\r\nAuthorization Bearer {bridge.token}"))
        token = bridge.token
    text = path.read_text()
    assert "echo" in text and "task 1" in text and bridge.log() == ""
    assert "secret" not in text and token not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


EVENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) [ -~]+")


def test_an_event_is_one_line_whatever_a_client_makes_up():
    evil = "a\r\n2026-01-01 00:00:00,000 INFO all is well\x1b[2J\u2028\x9b"
    with start_bridge("--log-level", "debug") as bridge, bridge.connect() as client:
        client.run(["true"], label=evil)
        for request in ({"method": evil, "id": 1}, {"method": "execute", "id": 2, "params": {"command": [evil]}}):
            client.send({"jsonrpc": "2.0", **request})
            with pytest.raises(RpcFailure):
                client.answer(request["id"])
        bridge.exchange(raw_request(bridge, line="GET /\x9b HTTP/1.1"))
        lines = bridge.log().splitlines()
    assert len(lines) >= 6 and [line for line in lines if not EVENT.fullmatch(line)] == []


def test_the_log_tells_how_a_process_ended_and_why():
    with start_bridge() as bridge, bridge.connect() as client:
        ended = client.run(["sh", "-c", "sleep 60 & exit 3"])
        client.call("control", type="CANCEL", process_id=ended.started["process_id"])
        stopped = client.run(["sleep", "60"], timeout=0.1)
        lines = [line.partition("process ")[2] for line in bridge.log().splitlines()]
    survivor, = ended.completed["survivors"]
    assert re.search(f"{ended.started['process_id']} ended: completed, exit code 3, signal None, [0-9.]+ s, survivors \\[{survivor}]", "\n".join(lines))
    assert f"{stopped.started['process_id']} is ended: timeout" in lines


@pytest.mark.parametrize("level, levels", [("debug", {"DEBUG", "INFO", "WARNING"}), ("info", {"INFO", "WARNING"}), ("warning", {"WARNING"}), ("error", set())])
def test_the_log_has_levels_and_a_client_s_asking_for_a_proof_is_none_to_warn_of(level, levels):
    with start_bridge("--log-level", level) as bridge, bridge.connect() as client:
        client.call("ping")
        bridge.exchange(raw_request(bridge, Authorization=None))
        bridge.exchange(raw_request(bridge, Authorization=None, X_Bridge_Challenge="abc"))
        found = [EVENT.fullmatch(line)[1] for line in bridge.log().splitlines()]
    assert set(found) == levels and found.count("WARNING") == (level != "error")


def test_a_log_file_is_rotated(tmp_path):
    path, method = tmp_path / "log", "x" * 500
    with start_bridge("--log-file", str(path), "--log-level", "debug") as bridge, bridge.connect() as client:
        for _ in range(60):
            for _ in range(1000):
                client.send({"jsonrpc": "2.0", "method": method})
            client.call("ping")
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["log", "log.1", "log.2", "log.3"]
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 and file.stat().st_size <= wb.MIB for file in files)
    assert all(EVENT.fullmatch(line) for file in files for line in file.read_text().splitlines())


def test_an_error_in_the_bridge_is_32603_and_one_line_with_the_place_but_not_what_was_sent(tmp_path):
    script, text = tmp_path / "ws_bridge.py", SCRIPT.read_text("utf-8")
    head = "    def _ping(self, connection: Connection, params: Dict[str, Any]) -> Dict[str, Any]:\n"
    assert head in text
    script.write_text(text.replace(head, head + "        open(params['secret'])\n").replace('"ping": {}', '"ping": {"secret": Param(_is_text, "", True)}'))
    with start_bridge(script=script) as bridge, bridge.connect() as client:
        with pytest.raises(RpcFailure, match="-32603: an error in the bridge; its log has the details"):
            client.call("ping", secret="the secret")
        assert client.run("echo hi").text() == "hi\n"
        line = bridge.log().splitlines()[2]
    assert re.search(r"ERROR connection \w+: ping failed: FileNotFoundError in _ping \(ws_bridge.py:\d+\) in _carry_out", line)
    assert "the secret" not in line and EVENT.fullmatch(line)


def test_what_a_killed_bridge_left_is_swept_when_the_next_one_starts():
    bridge, other = launch(), subprocess.Popen(["sleep", "100"])
    try:
        with bridge.connect() as client:
            client.call("execute", command=["sh", "-c", "setsid sleep 100 & echo $! $$; wait"])
            client.wait_output("\n")
            escaped, direct = map(int, client.outputs()[0]["data"].split())
            done = client.run(["sh", "-c", "setsid sleep 100 > /dev/null & echo $!"])
            survivor = done.completed["survivors"][0]
            bridge.process.kill()
            bridge.process.wait()
        poll(lambda: not lives(direct), "the agent itself ends with the bridge")
        assert lives(escaped)
        with start_bridge():
            assert not lives(escaped), "its run was unfinished"
            assert lives(survivor) and lives(other.pid), "a run that had ended, and what has nothing to do with it, are left alone"
        os.kill(survivor, signal.SIGKILL)
        assert not list(wb.runtime_dir().iterdir()), "its token file and its journal are gone too"
    finally:
        bridge.process.stdout.close()
        other.kill()
        other.wait()


def test_with_a_killed_bridge_the_whole_group_ends_at_once_but_not_what_a_run_left_that_had_ended():
    bridge = launch()
    try:
        with bridge.connect() as client:
            started = client.call("execute", command=["sh", "-c", "env -i sh -c 'trap \"\" TERM HUP INT; sleep 100' & sleep 100 & echo $! $$; wait"])
            client.wait_output("\n")
            group = [pid for pid, process in wb.look().items() if process.group == started["pid"]]
            survivor = client.run(["sh", "-c", "sleep 100 > /dev/null 2>&1 & echo $!"]).completed["survivors"][0]
            assert len(group) == 4 and os.getpgid(survivor) != survivor
            bridge.process.kill()
            bridge.process.wait()
        poll(lambda: not any(map(lives, group)), "the kernel ends the group, without any environment to know it by")
        assert lives(survivor)
        os.kill(survivor, signal.SIGKILL)
        with start_bridge():
            pass
    finally:
        bridge.process.stdout.close()


CLOSES_ALL = "import os, time; os.closerange(3, 1000); print(flush=True); time.sleep(100)"


def test_what_closes_all_that_it_inherits_ends_with_a_killed_bridge_too():
    bridge = launch()
    try:
        with bridge.connect() as client:
            started = [client.call("execute", command=[sys.executable, "-c", CLOSES_ALL]) for _ in range(5)]
            for each in started:
                client.wait_output("\n", each["process_id"])
            bridge.process.kill()
            bridge.process.wait()
        poll(lambda: not any(lives(each["pid"]) for each in started), "the kernel ends them")
        with start_bridge():
            pass
    finally:
        bridge.process.stdout.close()


def test_it_starts_without_a_stdout():
    process = subprocess.Popen(["sh", "-c", f"exec {shlex.join(map(str, bridge_command()))} >&-"], stderr=subprocess.PIPE, text=True,
                               env={name: value for name, value in os.environ.items() if name != "COLUMNS"})
    try:
        assert "listening on" in process.stderr.readline()
    finally:
        process.terminate()
        process.stderr.close()
        assert process.wait(DEADLINE_S) == 0


def test_a_process_inherits_its_streams_and_its_leash_and_nothing_else(client):
    run = client.run(["sh", "-c", "ls -l /proc/$$/fd"])
    numbers = sorted(int(row.split()[8]) for row in run.text().splitlines()[1:])
    assert numbers[:3] == [0, 1, 2] and len(numbers) == 4 and f" {numbers[3]} -> pipe:" in run.text()


def test_orphans_become_the_bridges_children_and_leave_no_zombie(bridge, client):
    orphan = int(client.run(["sh", "-c", "setsid sh -c 'sleep 0.3' > /dev/null 2>&1 & echo $!"]).text())
    assert parent_of(orphan) == bridge.process.pid, "seen at a glance by the bridge"
    poll(lambda: not Path(f"/proc/{orphan}").exists(), "it has ended, and is reaped")


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_of_more_ended_processes_than_are_kept_the_first_are_forgotten(monkeypatch, tmp_path):
    script = tmp_path / "few.py"
    script.write_text(Path(wb.__file__).read_text().replace("\nENDED = 4096", "\nENDED = 64"))
    with start_bridge(script=script) as bridge, bridge.connect() as client:
        runs = [client.run(["true"]) for _ in range(100)]
        poll(lambda: len(client.call("list")["processes"]) <= 64, "they are not too many")
        kept = [each["process_id"] for each in client.call("list")["processes"]]
        assert kept == [run.started["process_id"] for run in runs][-len(kept):] and len(kept) >= 60


def test_a_living_bridge_is_not_swept(client):
    started = client.call("execute", command=["sleep", "100"])
    with start_bridge():
        assert lives(started["pid"])
    client.cancel(started["process_id"])
    assert client.finish(started).completed["status"] == "cancelled"


def test_it_runs_on_every_python(pythons):
    for python in pythons.values():
        with start_bridge(python=str(python)) as bridge, bridge.connect() as client:
            assert client.run(["sh", "-c", "cat; setsid sleep 100 & sleep 100"], stdin="hi", timeout=0.2).completed["status"] == "timeout"


def test_a_client_that_is_gone_before_its_request_is_carried_out_leaves_a_process_that_is_cancelled():
    with start_bridge("--detach-grace", "0.2") as bridge, bridge.connect() as watcher:
        with bridge.connect() as client:
            frame = client.codec.send_text(json.dumps(request(method="execute", params={"command": ["sleep", "100"]})))
            client.socket.sendall(frame + client.codec.send_close())
        poll(lambda: "did not come back" in bridge.log(), "it is cancelled")
        poll(lambda: watcher.call("list")["processes"] == [], "and forgotten")


def test_several_clients_do_not_hear_each_other(bridge):
    with bridge.connect() as first, bridge.connect() as second:
        started = first.call("execute", command="echo one")
        assert second.run("echo two").text() == "two\n"
        assert first.finish(started).text() == "one\n"
        assert first.notifications == second.notifications == []


def test_a_close_is_answered_and_the_server_ends_the_connection(client: Client):
    client.socket.sendall(client.codec.send_close(1000, "done"))
    assert client.wait_close() == wb.Closed(1000, "")
    assert client.socket.recv(1) == b""
