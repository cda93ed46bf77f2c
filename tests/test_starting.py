"""Who starts the bridge: found, started, or started beside a stranger; always in a network of the test's own, where 8004 is free.

Sections: fixtures, port 8004, strangers, the remembered bridge, named bridges, how a started bridge lives.
"""
from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

import pytest

import cc_execute as cc
import ws_bridge as wb
from bridging import Cable, start_bridge
from support import ROOT, own_bridges, own_network, wait_until

TESTS = ROOT / "tests"
SECRET = "s3cret-of-the-user"
STALE = "stale-token-of-a-bridge-that-has-gone"
STRANGERS = ("silent", "http", "websocket", "bridge", "garbage", "deaf")
SPEC = "Task: Say hello"


# ---- Fixtures: a network, runs in it, strangers in it. ----

class Network(NamedTuple):
    """Loopback of the test's own. `run` is run_cc in it with a stand-in agent that says hello."""
    prefix: list
    run: Callable
    folder: Path

    def popen(self, *command: str, **how) -> subprocess.Popen:
        return subprocess.Popen([*self.prefix, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, **how)

    @contextlib.contextmanager
    def serving(self, *command: str, env: dict = {}) -> Iterator[subprocess.Popen]:
        """A program that prints a line when it is ready; ended at the end."""
        with self.popen(*command, env={**os.environ, **env}) as program:
            try:
                assert program.stdout.readline(), f"{command} did not start"
                yield program
            finally:
                program.terminate()

    @contextlib.contextmanager
    def stranger(self, kind: str, port: int = 8004) -> Iterator[Path]:
        """A stranger at that port; the file with what it was sent."""
        record = self.folder / f"sent-to-{kind}"
        with self.serving(sys.executable, str(TESTS / "stranger.py"), kind, str(port), str(record)):
            yield record


@pytest.fixture
def network(run_cc, stand_in, tmp_path) -> Iterator[Network]:
    agent = stand_in([{"text": "hello"}])

    def run(*args: str, env: dict = {}, **how):
        variables = {**agent.environment, "ANTHROPIC_API_KEY": SECRET, **env}
        return run_cc("-", "--json", *args, input=SPEC, prefix=prefix, env=variables, **how)

    with own_network() as prefix:
        yield Network(prefix, run, tmp_path)


def runtime_folder() -> Path:
    return Path(os.environ["XDG_RUNTIME_DIR"]) / "cc_execute"


def leave_stale_token(port: int = 8004) -> None:
    """What a bridge that was killed leaves behind."""
    token = wb.runtime_dir() / f"bridge-{port}.token"
    token.write_text(STALE + "\n")
    token.chmod(0o600)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def port_of(process) -> int:
    """The port it was asked to take; 0 is a free one."""
    named = re.search(r"--port (\d+)", process.command)
    return int(named[1]) if named else wb.DEFAULT_PORT


def words_about_bridges(run) -> list:
    """The lines on stderr that say something about ports and bridges."""
    return [line for line in run.stderr.splitlines() if re.search("8004|bridge", line)]


def assert_passed(run) -> None:
    assert run.returncode == 0, run.stdout + run.stderr


# ---- Port 8004: free, or held by our own. ----

def test_a_free_port_gets_a_bridge_that_the_next_run_uses_again(network):
    first = network.run()
    before = own_bridges()
    second = network.run()
    assert_passed(first)
    assert_passed(second)
    assert [port_of(bridge) for bridge in before] == [8004] and own_bridges() == before
    assert words_about_bridges(first) == words_about_bridges(second) == []


def test_a_bridge_that_someone_started_by_hand_is_used(network):
    with network.serving(sys.executable, str(ROOT / "ws_bridge.py")):
        assert_passed(network.run())
        assert len(own_bridges()) == 1


@pytest.mark.parametrize("held", [False, True], ids=["free", "held by a stranger"])
def test_six_starts_at_once_end_with_one_bridge(network, stand_in, held):
    agent = stand_in([{"text": "hello"}])
    spec = network.folder / "spec.txt"
    spec.write_text(SPEC)
    command = [sys.executable, str(ROOT / "cc_execute.py"), str(spec), "--json"]
    with network.stranger("http") if held else contextlib.nullcontext():
        runs = [network.popen(*command, env={**os.environ, **agent.environment}, stderr=subprocess.PIPE) for _ in range(6)]
        ended = [(run.communicate(timeout=100), run.returncode) for run in runs]
    assert [status for _, status in ended] == [0] * 6, ended
    assert len(agent.starts()) == 6 and len(own_bridges()) == 1


@pytest.mark.parametrize("stranger", [None, "websocket", "bridge"])
def test_a_bridge_that_was_killed_is_replaced(network, stranger):
    """Its token file stays behind: with the port free, or taken by a stranger who would like the token."""
    assert_passed(network.run())
    killed, = own_bridges()
    token = (runtime_folder() / "bridge-8004.token").read_text().strip()
    os.kill(killed.pid, signal.SIGKILL)
    wait_until(lambda: not own_bridges(), "the bridge has gone")
    with network.stranger(stranger) if stranger else contextlib.nullcontext() as record:
        assert_passed(network.run())
    new, = own_bridges()
    assert (port_of(new) == 8004) == (stranger is None)
    if record:
        sent = record.read_bytes()
        assert token.encode() not in sent and SECRET.encode() not in sent


# ---- Strangers: whatever holds 8004, it gets nothing, and a bridge of our own stands on another port. ----

def assert_own_bridge_beside(network, record: Path) -> None:
    """Two runs with a stranger at 8004: one bridge on another port, said in one line, remembered, used again."""
    first = network.run()
    assert_passed(first)
    bridge, = own_bridges()
    said = words_about_bridges(first)
    assert len(said) == 1 and "8004" in said[0], first.stderr
    port = re.search(r"port (?!8004)(\d+)", said[0])[1]
    remembered = [path for path in runtime_folder().iterdir() if path.suffix != ".token" and port in path.read_text("utf-8", "replace").split()]
    assert remembered and {mode(path) for path in remembered} == {0o600}
    assert mode(runtime_folder() / f"bridge-{port}.token") == 0o600
    assert_passed(network.run())
    assert own_bridges() == [bridge]
    sent = record.read_bytes()
    assert STALE.encode() not in sent and SECRET.encode() not in sent


@pytest.mark.parametrize("stale", [False, True], ids=["no token", "stale token"])
@pytest.mark.parametrize("kind", STRANGERS)
def test_a_stranger_gets_nothing_and_is_gone_around(network, kind, stale):
    if stale:
        leave_stale_token()
    with network.stranger(kind) as record:
        assert_own_bridge_beside(network, record)


def test_another_users_bridge_is_gone_around(network, tmp_path):
    """To us it is a bridge whose token we can't read."""
    (tmp_path / "theirs").mkdir(mode=0o700)
    theirs = {"XDG_RUNTIME_DIR": str(tmp_path / "theirs")}
    with network.serving(sys.executable, str(ROOT / "ws_bridge.py"), env=theirs):
        done = network.run()
        assert_passed(done)
        assert len(words_about_bridges(done)) == 1
        assert [port_of(bridge) for bridge in own_bridges()].count(0) == 1


def test_an_old_copy_is_gone_around(network, tmp_path):
    """It proves that it knows the token, but speaks another protocol."""
    old, times = re.subn(r"(?m)^PROTOCOL = \d+", "PROTOCOL = 0", (ROOT / "ws_bridge.py").read_text())
    assert times == 1
    (tmp_path / "ws_bridge.py").write_text(old)
    with network.serving(sys.executable, str(tmp_path / "ws_bridge.py")) as copy:
        done = network.run()
        assert_passed(done)
        assert len(words_about_bridges(done)) == 1
        mine = [bridge.pid for bridge in own_bridges() if bridge.pid != copy.pid]
        assert_passed(network.run())
        assert len(mine) == 1 and mine == [bridge.pid for bridge in own_bridges() if bridge.pid != copy.pid]


@pytest.mark.parametrize("spoil", [lambda file: file.write_text("no port at all"), lambda file: file.write_text("99999999\n"),
                                   lambda file: file.unlink()], ids=["text", "too big", "gone"])
def test_a_state_file_that_says_nothing_costs_only_a_new_bridge(network, spoil):
    with network.stranger("http"):
        assert_passed(network.run())
        before = own_bridges()
        for file in runtime_folder().glob("*.port"):
            spoil(file)
        assert_passed(network.run())
        assert len(own_bridges()) == len(before) + 1


@pytest.mark.parametrize("stranger", [None, "bridge"])
def test_a_remembered_bridge_that_has_gone_is_replaced(network, stranger):
    with network.stranger("http"):
        first = network.run()
        killed, = own_bridges()
        port = int(re.search(r"port (?!8004)(\d+)", words_about_bridges(first)[0])[1])
        os.kill(killed.pid, signal.SIGKILL)
        wait_until(lambda: not own_bridges(), "the bridge has gone")
        with network.stranger(stranger, port) if stranger else contextlib.nullcontext() as record:
            assert_passed(network.run())
            assert len(own_bridges()) == 1
        if record:
            assert SECRET.encode() not in record.read_bytes()


def test_when_8004_is_free_again_it_is_used_again(network):
    with network.stranger("http"):
        assert_passed(network.run())
    assert_passed(network.run())
    assert sorted(map(port_of, own_bridges())) == [0, 8004]


# ---- Named bridges: --bridge and CC_EXECUTE_BRIDGE. ----

@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_named_loopback_port_where_nothing_listens_gets_a_bridge(network, host):
    address = f"ws://{host}:9123"
    assert_passed(network.run("--bridge", address))
    started = own_bridges()
    assert_passed(network.run(env={"CC_EXECUTE_BRIDGE": address}))
    assert [port_of(bridge) for bridge in started] == [9123] and own_bridges() == started


def test_a_named_bridge_is_used_with_the_token_that_is_given(network):
    with network.serving(sys.executable, str(ROOT / "ws_bridge.py"), "--port", "9123", env={"CC_BRIDGE_TOKEN": "given"}):
        assert_passed(network.run("--bridge", "ws://127.0.0.1:9123", env={"CC_BRIDGE_TOKEN": "given"}))
        assert_passed(network.run("--bridge", "ws://127.0.0.1:9123/?token=given"))
        for wrong in (network.run("--bridge", "ws://127.0.0.1:9123"), network.run("--bridge", "ws://127.0.0.1:9123/?token=wrong")):
            assert wrong.returncode == 3 and "token" in wrong.stderr + wrong.stdout


def test_a_named_bridge_without_a_token_is_used(network):
    with network.serving(sys.executable, str(ROOT / "ws_bridge.py"), "--port", "9123", "--no-token"):
        assert_passed(network.run("--bridge", "ws://127.0.0.1:9123/ws/mcp"))
        assert len(own_bridges()) == 1


def assert_bridge_error(run, port: str) -> None:
    assert run.returncode == 3, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    task, = run.json()["tasks"]
    attempt, = task["attempts"]
    assert (task["status"], attempt["error"]["kind"]) == ("error", "bridge")
    assert port in attempt["error"]["message"]


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_named_stranger_is_exit_3_and_gets_nothing(network, kind):
    leave_stale_token(9123)
    with network.stranger(kind, 9123) as record:
        assert_bridge_error(network.run("--bridge", "ws://127.0.0.1:9123", timeout=20), "9123")
        assert own_bridges() == []
    sent = record.read_bytes()
    assert STALE.encode() not in sent and SECRET.encode() not in sent


LISTEN = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"


@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/usr/bin/python3"), reason="only root can start a program as somebody else")
def test_another_users_listener_gets_nothing_even_where_no_token_is_known():
    with subprocess.Popen(["/usr/bin/python3", "-c", LISTEN], user=65534, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        port = int(other.stdout.readline())
        assert not cc.is_own_listener(cc.Address("127.0.0.1", port))
        with pytest.raises(cc.NotReady, match="does not know a token"):
            cc.connect_bridge(f"ws://127.0.0.1:{port}", print)
        other.stdin.write("\n")


def test_a_bridge_without_a_token_is_used_if_it_is_this_users():
    with start_bridge("--no-token") as bridge:
        assert cc.is_own_listener(cc.Address("127.0.0.1", bridge.port))
        for url in (bridge.url, bridge.url + "?token="):
            connected = cc.connect_bridge(url, print)
            assert connected.call("ping") == {}
            connected.close()


def test_a_challenge_that_is_passed_on_from_the_other_loopback_address_wins_no_token():
    """Who listens on the same port of ::1 can ask the real bridge; so a token file counts for 127.0.0.1 alone."""
    with start_bridge() as bridge:
        assert cc.own_tokens(cc.Address("127.0.0.1", bridge.port)) == [bridge.token]
        assert cc.own_tokens(cc.Address("::1", bridge.port)) == []


def test_a_stranger_who_has_another_bridge_prove_that_it_knows_the_token_is_not_shown_it(monkeypatch):
    """The proof is for the port where that bridge was reached. A tunnel is just such a stranger: the address has to name the token."""
    monkeypatch.setenv("CC_BRIDGE_TOKEN", SECRET)
    with start_bridge() as bridge, Cable(bridge.port) as stranger:
        with pytest.raises(cc.NotReady, match="does not know a token of yours"):
            cc.connect_bridge(f"ws://127.0.0.1:{stranger.port}", print)
        assert SECRET not in stranger.carried.decode("latin-1") and stranger.taken == 1
        connected = cc.connect_bridge(f"ws://127.0.0.1:{stranger.port}/?token={SECRET}", print)
        assert connected.call("ping") == {}
        connected.close()


@pytest.mark.parametrize("breaks", [1, 2])
def test_a_way_that_breaks_during_the_first_handshake_is_tried_again(breaks):
    with start_bridge() as bridge, Cable(bridge.port) as cable:
        cable.breaks = breaks
        connected = cc.connect_bridge(f"ws://127.0.0.1:{cable.port}/?token={bridge.token}", print)
        assert connected.call("ping") == {}
        connected.close()


def test_a_way_that_always_breaks_is_said_to_be_one():
    with start_bridge() as bridge, Cable(bridge.port) as cable:
        cable.breaks = 100
        with pytest.raises(cc.NotReady, match="hung up before it answered: it is no bridge, or the way to it broke"):
            cc.connect_bridge(f"ws://127.0.0.1:{cable.port}/?token={bridge.token}", print)


@pytest.mark.parametrize("address", ["ws://192.0.2.1:8004", "ws://no-such-host.invalid:8004"])
def test_a_named_address_that_cannot_be_reached_is_exit_3(network, address):
    assert_bridge_error(network.run("--bridge", address), "8004")
    assert own_bridges() == []


@pytest.mark.parametrize("address", ["http://127.0.0.1:8004", "127.0.0.1:8004", "ws://", "ws://127.0.0.1:port", "ws://127.0.0.1:99999"])
def test_an_address_that_is_none_is_exit_2(network, address):
    done = network.run("--bridge", address)
    assert done.returncode == 2, done.stdout + done.stderr
    assert set(done.json()) == {"error"} and "ws://127.0.0.1:8004" in done.stderr


# ---- How a started bridge lives. ----

def test_a_started_bridge_is_detached(network, tmp_path):
    """Own session, no descriptor of the caller's, cwd /, nothing of the environment that could be a secret, and it ends by itself."""
    reading, writing = os.pipe()
    inherited = os.readlink(f"/proc/self/fd/{writing}")
    agent = {**os.environ, "ANTHROPIC_API_KEY": SECRET, "CC_BRIDGE_TOKEN_OF_MINE": SECRET, "CC_EXECUTE_CLAUDE": f"{sys.executable} {TESTS / 'stand_in.py'}"}
    command = [*network.prefix, sys.executable, str(ROOT / "cc_execute.py"), "-", "--json"]
    with open(tmp_path / "out", "w+") as out, socket.socket() as listener:
        listener.set_inheritable(True)
        done = subprocess.run(command, input=SPEC, stdout=out, stderr=subprocess.STDOUT, text=True, env=agent, check=False,
                              pass_fds=(writing, listener.fileno()))
    os.close(reading)
    os.close(writing)
    assert done.returncode == 0, (tmp_path / "out").read_text()
    bridge, = own_bridges()
    proc = Path(f"/proc/{bridge.pid}")
    held = {os.readlink(link) for link in (proc / "fd").iterdir()}
    assert inherited not in held and str(tmp_path / "out") not in held
    assert sum(link.startswith("socket:") for link in held) <= 3  # it listens, and its event loop wakes itself through a pair
    assert os.getsid(bridge.pid) == bridge.pid and os.readlink(proc / "cwd") == "/"
    assert SECRET.encode() not in (proc / "environ").read_bytes()
    assert "--idle-exit 30" in bridge.command


def test_what_a_started_bridge_keeps_is_for_its_user_only(network):
    old = os.umask(0)
    try:
        assert_passed(network.run())
    finally:
        os.umask(old)
    assert mode(runtime_folder()) == 0o700
    assert {path.name: mode(path) for path in runtime_folder().iterdir()} == dict.fromkeys(os.listdir(runtime_folder()), 0o600)
    for log in runtime_folder().glob("*.log"):
        assert SECRET not in log.read_text() and "hello" not in log.read_text()


def test_without_a_runtime_folder_the_cache_of_the_user_is_taken(network):
    assert_passed(network.run(env={"XDG_RUNTIME_DIR": None}))
    assert mode(Path(os.environ["HOME"]) / ".cache" / "cc_execute" / "bridge-8004.token") == 0o600


@pytest.mark.parametrize("spoil", [lambda folder: folder.mkdir(mode=0o755), lambda folder: folder.symlink_to("/tmp"), lambda folder: folder.write_text("")],
                         ids=["open to others", "symbolic link", "file"])
def test_an_unsafe_runtime_folder_is_exit_3_and_named(network, spoil):
    spoil(runtime_folder())
    assert_bridge_error(network.run(), str(runtime_folder()))


def test_a_bridge_that_cannot_start_is_exit_3_with_its_own_words(network, tmp_path):
    (tmp_path / "cc_execute.py").write_text((ROOT / "cc_execute.py").read_text())
    broken, times = re.subn(r"sys\.exit\(main\(\)\)", "sys.exit('the reason')", (ROOT / "ws_bridge.py").read_text())
    assert times == 1
    (tmp_path / "ws_bridge.py").write_text(broken)
    command = [*network.prefix, sys.executable, str(tmp_path / "cc_execute.py"), "-", "--json"]
    done = subprocess.run(command, input=SPEC, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stdout + done.stderr
    error = json.loads(done.stdout)["tasks"][0]["attempts"][0]["error"]
    assert error["kind"] == "bridge" and "the reason" in error["message"]
