"""What the bridge does with the processes it runs: output, standard input, time limits, pause, ending, survivors, attach.

Real bridges, real processes; nothing sleeps to wait, and no test measures speed.
"""
from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ws_bridge as wb
from bridging import Cable, Client, RpcFailure, Run, lives, poll, start_bridge

PYTHON = sys.executable
# A process that left its group and session, and one that ignores SIGTERM; both say their numbers first.
ESCAPE = "setsid sh -c 'echo $$; exec sleep 100 > /dev/null 2>&1' & "
STUBBORN = "trap '' TERM; echo $$; while :; do sleep 100; done"


@pytest.fixture
def bridge():
    with start_bridge("--grace", "0.5", "--detach-grace", "1") as running:
        yield running


@pytest.fixture
def client(bridge):
    with bridge.connect() as connected:
        yield connected


def python(code: str) -> list[str]:
    return [PYTHON, "-c", code]


def first_number(client: Client, started: dict) -> int:
    client.wait_output("\n", started["process_id"])
    return int(client.outputs(started["process_id"])[0]["data"].split()[0])


# ---- Output. ----

OUTPUT = [
    ("both streams", ["sh", "-c", "echo out; echo err >&2"], "out\n", "err\n"),
    ("nothing", ["true"], "", ""),
    ("no newline at the end", ["printf", "abc"], "abc", ""),
    ("a line of 5 MB", python("print('x' * 5_000_000)"), "x" * 5_000_000 + "\n", ""),
    ("5 MB on both", python("import sys; [print(i, 'y' * 90, file=f) for i in range(50_000) for f in (sys.stdout, sys.stderr)]"),
     *["".join(f"{i} {'y' * 90}\n" for i in range(50_000))] * 2),
    ("characters of two to four bytes", python("print('äöü€𝄞' * 100_000)"), "äöü€𝄞" * 100_000 + "\n", ""),
    ("bytes that are no UTF-8", python(r"import os; os.write(1, b'a\xff\xc3b\xf0\x9d\x84')"), b"a\xff\xc3b\xf0\x9d\x84".decode(errors="replace"), ""),
    ("all control characters", python("print(''.join(map(chr, range(32))) + '\\u2028\\x7f')"), "".join(map(chr, range(32))) + "\u2028\x7f\n", ""),
    ("written by what is still running for a moment", ["sh", "-c", "(sleep 0.1; echo late) &"], "late\n", ""),
]


@pytest.mark.parametrize("name, command, out, err", OUTPUT, ids=[row[0] for row in OUTPUT])
def test_output_arrives_whole_and_in_order(client, name, command, out, err):
    run = client.run(command)
    assert (run.text("stdout") == out, run.text("stderr") == err) == (True, True)
    assert [output["seq"] for output in run.outputs] == list(range(1, len(run.outputs) + 1))
    assert run.completed["exit_code"] == 0 and run.completed["status"] == "completed" and run.completed["survivors"] == []
    assert all(len(output["data"]) <= wb.BLOCK_BYTES for output in run.outputs)


@given(st.binary(max_size=60), st.integers(0, 60), st.integers(0, 60))
def test_a_character_cut_by_a_block_is_not_lost(data, first, second):
    decoder = wb.codecs.getincrementaldecoder("utf-8")("replace")
    first, second = sorted((first, second))
    text = decoder.decode(data[:first]) + decoder.decode(data[first:second]) + decoder.decode(data[second:]) + decoder.decode(b"", True)
    assert text == data.decode(errors="replace")


def test_output_is_streamed_as_it_comes_without_waiting_for_a_newline(client, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    started = client.call("execute", command=["sh", "-c", f"printf first; cat {fifo}"])
    client.wait_output("first")
    fifo.write_text("second")
    assert client.finish(started).text() == "firstsecond"


def test_a_slow_client_slows_the_process_and_not_the_memory(bridge):
    with bridge.connect() as slow, bridge.connect() as other:
        started = slow.call("execute", command=["yes"], idle_timeout=0.3)
        before = bridge.memory_bytes()
        written = lambda: other.call("list")["processes"][0]["output_bytes"]  # noqa: E731
        seen: list[int] = []
        poll(lambda: seen.append(written()) or (len(seen) > 50 and seen[-1] == seen[-50]), "the process is held")
        assert bridge.memory_bytes() < before + 30 * wb.MIB
        assert other.call("list")["processes"][0]["state"] == "running", "idle time does not run while the bridge doesn't read"
        assert other.cancel(started["process_id"]) == {"status": "cancelled"}
        run = slow.finish(started)
        assert run.completed["status"] == "cancelled"
        text = run.text()
        assert text == ("y\n" * (len(text) // 2 + 1))[:len(text)] and len(text) >= seen[-1]


def test_what_waits_in_a_pipe_of_packets_at_the_end_is_not_lost(client):
    """A pipe with O_DIRECT gives one packet for each read, however small: a full one takes hundreds of reads."""
    code = """import fcntl, os, signal
fcntl.fcntl(1, 1031, 1 << 20)  # F_SETPIPE_SZ
fcntl.fcntl(1, fcntl.F_SETFL, os.O_DIRECT | os.O_NONBLOCK)
written = misses = 0
while misses < 20:
    try:
        written += os.write(1, b'x' * 3000)
        misses = 0
    except BlockingIOError:
        misses += 1
        signal.sigtimedwait([], 0.02)
os.write(2, str(written).encode())"""
    started = client.call("execute", command=python(code))
    poll(lambda: not lives(started["pid"]), "it has written until nobody read any more, and ended")
    run = client.finish(started)
    assert len(run.text()) == int(run.text("stderr")) > 2_000_000


THIEF = """import fcntl, os, sys, termios, time
fcntl.fcntl(1, 1031, 1 << 20)  # F_SETPIPE_SZ
leader = os.getpid()
if os.fork() == 0:
    reading = os.open("/proc/self/fd/1", os.O_RDONLY | os.O_NONBLOCK)
    waiting = lambda: int.from_bytes(fcntl.ioctl(reading, termios.FIONREAD, bytes(4)), "little")
    while os.getppid() == leader:
        pass
    full = waiting()
    while waiting() >= full and not os.path.exists(sys.argv[1]):
        pass  # until the bridge begins to read what it has counted
    while not os.path.exists(sys.argv[1]):
        try:
            os.read(reading, 1 << 20)
        except BlockingIOError:
            pass
    sys.exit()
os.set_blocking(1, False)
end = time.monotonic() + 1
while time.monotonic() < end:
    try:
        os.write(1, b"x" * 65536)
    except BlockingIOError:
        time.sleep(0.01)
os._exit(0)"""


def test_a_pipe_that_another_reads_from_too_holds_nobody_up(bridge, client, tmp_path):
    """What was in it when it was counted is gone when it is read, and a survivor keeps it open."""
    started = client.call("execute", command=[*python(THIEF), str(tmp_path / "enough")])
    poll(lambda: not lives(started["pid"]), "the leader has ended; its client does not read, so its pipe is full")
    with bridge.connect() as other:
        poll(lambda: other.call("list")["processes"][0]["state"] == "ended", "the end is seen", within_s=10)
        (tmp_path / "enough").touch()


def test_a_choked_client_gets_one_completed_when_a_survivor_lets_the_pipe_go_just_then(client):
    started = client.call("execute", command=["sh", "-c", "(timeout 0.9 yes; exit) & sleep 0.7"])
    poll(lambda: not lives(started["pid"]), "the leader has ended")
    with pytest.raises(socket.timeout):
        while True:
            client.read_once(within_s=1.5)
    assert [message["method"] for message in client.notifications if message["method"] != "process.output"] == ["connected", "process.completed"][1:]


def test_control_does_not_wait_behind_output(client):
    started = client.call("execute", command=["yes"])
    client.wait_output("y\n")
    assert client.cancel(started["process_id"]) == {"status": "cancelled"}
    assert client.finish(started).completed["signal"] == "SIGTERM"


def test_several_processes_at_once_on_one_connection(client):
    started = [client.call("execute", command=["sh", "-c", f"seq {n} 20000"]) for n in range(1, 6)]
    for n, each in enumerate(started, 1):
        assert client.finish(each).text() == "".join(f"{i}\n" for i in range(n, 20001))


# ---- Start: command, folder, environment, standard input, umask. ----

def test_a_string_is_split_and_no_shell_runs(client):
    assert client.run("echo 'a b' $HOME *").text() == "a b $HOME *\n"


def test_standard_input_arrives_whole_and_ends(client):
    text = "zeile ä\n" * 300_000
    assert client.run(["cat"], stdin=text).text() == text
    assert client.run(["cat"]).text() == "", "without stdin it ends at once"
    assert client.run(["true"], stdin=text).completed["exit_code"] == 0, "it need not be read"


def test_folder_environment_and_umask(client, tmp_path):
    run = client.run(["sh", "-c", "pwd; umask; echo $A; env | grep -c ^CC_BRIDGE_PROCESS_"], cwd=str(tmp_path), umask=0o027,
                     env={"A": "b c", "PATH": os.environ["PATH"], "CC_BRIDGE_PROCESS_0123": "1"})
    assert run.text() == f"{tmp_path}\n0027\nb c\n2\n", "a marker that was there is kept"
    assert client.run(["sh", "-c", "umask"]).text().strip() == f"{current_umask():04o}"


def test_bytes_that_are_not_utf8_reach_the_process_as_they_were(client):
    """As cc_execute.py sends an environment or argument with such bytes: each as a lone surrogate (PEP 383)."""
    run = client.run(["sh", "-c", "printf %s \"$A$1\" | od -An -tx1", "sh", "\udcfc"], env={"A": "\udce9ä", "PATH": os.environ["PATH"]})
    assert run.text().split() == ["e9", "c3", "a4", "fc"]


def current_umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value


def test_a_process_has_a_session_of_its_own(client):
    run = client.run(python("import os; print(os.getpid() == os.getsid(0) == os.getpgrp())"))
    assert run.text() == "True\n" and run.started["pid"] == run.started["pgid"]


def make_file(path: Path, text: str, mode: int) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


NOT_STARTED = [
    ("an absent program", lambda d: {"command": ["no-such-program"]}, "not_found", "ENOENT"),
    ("an absent path", lambda d: {"command": [str(d / "x")]}, "not_found", "ENOENT"),
    ("an interpreter that is absent", lambda d: {"command": [make_file(d / "s", "#!/no/such\n", 0o700)]}, "not_found", "ENOENT"),
    ("a file that is no program", lambda d: {"command": [make_file(d / "s", "text", 0o600)]}, "not_executable", "EACCES"),
    ("text without #!", lambda d: {"command": [make_file(d / "s", "text", 0o700)]}, "not_executable", "ENOEXEC"),
    ("a folder as program", lambda d: {"command": [str(d)]}, "not_executable", "EACCES"),
    ("an absent folder", lambda d: {"command": ["true"], "cwd": str(d / "x")}, "directory", "ENOENT"),
    ("a file as folder", lambda d: {"command": ["true"], "cwd": make_file(d / "f", "", 0o600)}, "directory", "ENOTDIR"),
    ("an argument of 200 kB", lambda d: {"command": ["echo", "x" * 200_000]}, "too_long", "E2BIG"),
    ("a program that is not on the given PATH", lambda d: {"command": ["true"], "env": {"PATH": str(d)}}, "not_found", "ENOENT"),
]


@pytest.mark.parametrize("name, make, reason, number", NOT_STARTED, ids=[row[0] for row in NOT_STARTED])
def test_a_start_that_fails_is_an_error_and_nothing_else(client, tmp_path, name, make, reason, number):
    with pytest.raises(RpcFailure) as failure:
        client.call("execute", **make(tmp_path))
    assert failure.value.code == -32000 and failure.value.data == {"reason": reason, "errno": number}
    assert client.call("list") == {"processes": []} and client.notifications == []


def test_a_relative_program_is_found_from_the_given_folder(client, tmp_path):
    make_file(tmp_path / "tool", "#!/bin/sh\necho $0 here\n", 0o700)
    assert client.run(["./tool"], cwd=str(tmp_path)).text() == f"{tmp_path}/./tool here\n"


def test_only_allowed_programs_by_the_file_that_would_run(tmp_path):
    fake = tmp_path / "fake"
    fake.mkdir()
    make_file(fake / "echo", "#!/bin/sh\necho fake\n", 0o700)
    (tmp_path / "alias").symlink_to("/bin/echo")
    with start_bridge("--allow", "echo", "--allow", "absent-program") as bridge, bridge.connect() as client:
        assert client.run(["echo", "hi"]).text() == "hi\n"
        assert client.run([str(tmp_path / "alias"), "hi"]).text() == "hi\n"
        for params in ({"command": ["sleep", "1"]}, {"command": ["echo"], "env": {"PATH": str(fake)}}, {"command": [str(fake / "echo")]}):
            with pytest.raises(RpcFailure) as failure:
                client.call("execute", **params)
            assert failure.value.code == -32001


def test_a_link_that_changes_while_it_is_looked_at_runs_nothing_but_the_allowed_program(tmp_path):
    link, done = tmp_path / "link", threading.Event()

    def flip() -> None:
        while not done.is_set():
            for target in ("true", "false"):
                draft = tmp_path / "draft"
                draft.symlink_to(shutil.which(target))
                draft.replace(link)

    with start_bridge("--allow", "true") as bridge, bridge.connect() as client:
        flipping = threading.Thread(target=flip)
        flipping.start()
        poll(link.exists, "the link is there")
        codes: set = set()
        while len(codes) < 300:
            try:
                codes.add((client.run([str(link)]).completed["exit_code"], len(codes)))
            except RpcFailure as refused:
                codes.add((refused.code, len(codes)))
        done.set()
        flipping.join()
    assert {code for code, _ in codes} == {0, -32001}, "1 would be `false`"


def test_without_its_own_folder_the_bridge_runs_what_has_one(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    with start_bridge("--allow", "true", script=in_folder(tmp_path, folder)) as bridge, bridge.connect() as client:
        folder.rmdir()
        assert client.run(["true"], cwd="/").completed["exit_code"] == 0
        for params in ({"command": ["true"]}, {"command": ["true"], "cwd": "sub"}):
            with pytest.raises(RpcFailure, match="-32000: .*folder"):
                client.call("execute", **params)


def in_folder(tmp_path: Path, folder: Path) -> Path:
    script = tmp_path / "elsewhere.py"
    script.write_text(f"import os, runpy, sys\nsys.path[0] = {str(tmp_path)!r}\nos.chdir({str(folder)!r})\nrunpy.run_path({wb.__file__!r}, run_name='__main__')\n")
    return script


def test_a_folder_is_taken_as_the_system_takes_it(client, tmp_path):
    """`link/..` is the folder above the one that the link leads to."""
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "sub")
    tool = tmp_path / "real" / "tool"
    tool.write_text("#!/bin/sh\npwd -P\n")
    tool.chmod(0o755)
    assert client.run(["./tool"], cwd=f"{tmp_path}/link/..").text() == f"{tmp_path}/real\n"


def test_more_processes_than_allowed_are_32003_until_one_ends():
    with start_bridge("--max-processes", "1") as bridge, bridge.connect() as client:
        started = client.call("execute", command=["sleep", "100"])
        with pytest.raises(RpcFailure) as failure:
            client.call("execute", command=["true"])
        assert failure.value.code == -32003
        client.cancel(started["process_id"])
        client.finish(started)
        assert client.run(["true"]).completed["exit_code"] == 0


# ---- The end: exit codes, limits, cancel; nothing is left. ----

@pytest.mark.parametrize("command, code, name", [
    ("exit 0", 0, None), ("exit 7", 7, None), ("kill -9 $$", None, "SIGKILL"), ("kill -TERM $$", None, "SIGTERM"), ("exit 143", 143, None)])
def test_exit_codes_and_signals(client, command, code, name):
    completed = client.run(["sh", "-c", command]).completed
    assert (completed["status"], completed["exit_code"], completed["signal"]) == ("completed", code, name)


ENDINGS = [
    ("the group", "sleep 100 & echo $!; wait", "SIGTERM"),
    ("what left the session", ESCAPE + "wait", "SIGTERM"),
    ("what left the session and whose parent is gone", f"sh -c \"{ESCAPE}\"; sleep 100", "SIGTERM"),
    ("what ignores SIGTERM", STUBBORN, "SIGKILL"),
    ("what left the session and ignores SIGTERM", f"setsid sh -c {shlex.quote(STUBBORN)} & wait", "SIGTERM"),
    ("what cleared its environment in the group", "env -i sleep 100 & echo $!; wait", "SIGTERM"),
    ("a child without environment in a session of its own", f"{PYTHON} -c \"import os, subprocess as s; p = s.Popen(['sleep', '100'], "
     "env={}, start_new_session=True); print(p.pid, flush=True); p.wait()\"", "SIGTERM"),
    ("a stubborn child without environment in a session of its own, once its parent is gone",
     "setsid env -i sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' & wait", "SIGTERM"),
]


@pytest.mark.parametrize("why", ["timeout", "stalled", "cancelled"])
@pytest.mark.parametrize("name, script, signal_name", ENDINGS, ids=[row[0] for row in ENDINGS])
def test_everything_is_ended(client, name, script, signal_name, why):
    limits = {"timeout": {"timeout": 0.4}, "stalled": {"idle_timeout": 0.4}, "cancelled": {}}[why]
    started = client.call("execute", command=["sh", "-c", script], **limits)
    inner = first_number(client, started)
    assert lives(inner)
    if why == "cancelled":
        assert client.cancel(started["process_id"]) == {"status": "cancelled"}
    completed = client.finish(started).completed
    assert (completed["status"], completed["signal"], completed["survivors"]) == (why, signal_name, [])
    assert not lives(inner) and not lives(started["pid"])


def test_a_stop_signal_of_ones_own_and_what_is_written_during_the_grace(client):
    script = "trap 'echo result; exit 3' INT; echo ready; while :; do sleep 0.01; done"
    started = client.call("execute", command=["sh", "-c", script], stop_signal="SIGINT")
    client.wait_output("ready\n")
    client.cancel(started["process_id"])
    run = client.finish(started)
    assert run.text() == "ready\nresult\n" and run.completed["exit_code"] == 3 and run.completed["status"] == "cancelled"


def test_a_second_cancel_kills_at_once():
    with start_bridge("--grace", "1000") as bridge, bridge.connect() as client:
        started = client.call("execute", command=["sh", "-c", STUBBORN])
        first_number(client, started)
        assert client.cancel(started["process_id"]) == client.cancel(started["process_id"]) == {"status": "cancelled"}
        completed = client.finish(started).completed
        assert (completed["status"], completed["signal"]) == ("cancelled", "SIGKILL")


def test_output_keeps_the_idle_limit_away(client):
    run = client.run(["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.25; done"], idle_timeout=1.5)
    assert run.completed["status"] == "completed"


def test_an_inherited_marker_ends_a_nested_run(bridge, client):
    """The outer process's environment goes along to the inner one, as cc_execute.py sends it."""
    outer = client.call("execute", command=["sh", "-c", "env | grep ^CC_BRIDGE_PROCESS_; exec sleep 100"])
    client.wait_output("=1\n")
    marker = client.outputs(outer["process_id"])[0]["data"].split("=")[0]
    inner = client.call("execute", command=["sleep", "100"], env={**os.environ, marker: "1"})
    client.cancel(outer["process_id"])
    assert client.finish(outer).completed["status"] == "cancelled"
    assert client.finish(inner).completed["status"] == "completed"
    assert not lives(inner["pid"])


# ---- Survivors of a normal end. ----

def test_survivors_are_left_and_reported_and_ended_by_cancel(client):
    run = client.run(["sh", "-c", ESCAPE + "sleep 100 > /dev/null 2>&1 & echo $!; wait $!x 2>/dev/null"])
    pids = sorted(int(line) for line in run.text().split())
    assert run.completed["status"] == "completed" and run.completed["survivors"] == pids and len(pids) == 2
    assert all(map(lives, pids))
    assert client.cancel(run.started["process_id"]) == {"status": "cancelled"}
    assert not any(map(lives, pids)), "when the answer comes they are gone"
    assert client.cancel(run.started["process_id"]) == {"status": "cancelled"}, "once more does no harm"


def test_a_survivor_whose_main_thread_has_ended_is_one_all_the_same(client):
    """/proc shows it as a zombie, with an empty environment."""
    code = """import ctypes, os, threading, time
threading.Thread(target=time.sleep, args=(100,)).start()
os.setsid()
print(os.getpid(), flush=True)
os.dup2(os.open(os.devnull, os.O_RDWR), 1), os.dup2(1, 2)
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)  # exit, of this thread alone"""
    started = client.call("execute", command=["sh", "-c", f"{shlex.join(python(code))} & sleep 0.5"])
    run = client.finish(started)
    survivor = int(run.text())
    assert run.completed["survivors"] == [survivor] and state_of(survivor) == "Z"
    client.cancel(started["process_id"])
    poll(lambda: not Path(f"/proc/{survivor}/task").exists() or len(list(Path(f"/proc/{survivor}/task").iterdir())) < 2, "no thread is left")


def test_survivors_that_are_being_ended_are_ended_also_when_the_bridge_is_told_to_go():
    """The process that left them would be forgotten by then."""
    with start_bridge("--detach-grace", "0.5", "--grace", "3") as bridge, bridge.connect() as other:
        with bridge.connect() as client:
            run = client.run(["sh", "-c", f"setsid sh -c {shlex.quote(STUBBORN)} &"])
        survivor = int(run.text())
        other.request("control", type="CANCEL", process_id=run.started["process_id"])
        until = time.monotonic() + 1.5
        poll(lambda: time.monotonic() > until, "several times the time after which it would be forgotten")
        assert lives(survivor) and len(other.call("list")["processes"]) == 1
        assert bridge.stop() == 0 and not lives(survivor)


def test_a_survivor_that_ignores_sigterm_is_killed(client):
    run = client.run(["sh", "-c", f"setsid sh -c {shlex.quote(STUBBORN)} &"])
    pid = int(run.text())
    assert pid in run.completed["survivors"] and lives(pid)
    client.cancel(run.started["process_id"])
    assert not any(map(lives, run.completed["survivors"]))


def test_a_survivor_that_holds_the_pipes_does_not_delay_completed_and_is_not_broken_by_it(client, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    started = client.call("execute", command=["sh", "-c", f"echo done; (cat {fifo}; seq 100000; echo alive > {tmp_path}/proof; sleep 100) & exit 4"])
    run = client.finish(started)
    assert run.text() == "done\n" and run.completed["exit_code"] == 4 and run.completed["survivors"]
    fifo.write_text("something")
    poll(lambda: (tmp_path / "proof").exists(), "it can still write more than a pipe holds")
    client.cancel(started["process_id"])
    assert client.notifications == [], "nothing follows completed"


def test_a_survivor_that_writes_without_end_does_not_delay_completed(client):
    run = client.run(["sh", "-c", "yes & echo $!"])
    assert run.completed["status"] == "completed" and len(run.completed["survivors"]) == 1
    client.cancel(run.started["process_id"])
    assert not lives(run.completed["survivors"][0])


def test_pause_and_resume_of_an_ended_process_are_32002(client):
    run = client.run(["true"])
    for kind in ("PAUSE", "RESUME"):
        with pytest.raises(RpcFailure) as failure:
            client.call("control", type=kind, process_id=run.started["process_id"])
        assert failure.value.code == -32002


# ---- Pause. ----

def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def is_stopped(pid: int) -> bool:
    """Stopped, or in vfork(2) and so waiting without a signal being heeded (D) for a child that is, as dash when it starts a command."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return state_of(pid) == "T" or state_of(pid) == "D" and children != [] and all(map(is_stopped, children))


def describe(client: Client, process_id: str) -> dict:
    return next(each for each in client.call("list")["processes"] if each["process_id"] == process_id)


def test_pause_stops_everything_and_the_clocks(client):
    started = client.call("execute", command=["sh", "-c", ESCAPE + "sleep 100"], timeout=2, idle_timeout=2)
    escaped = first_number(client, started)
    assert client.call("control", type="PAUSE") == {"status": "paused"}
    poll(lambda: is_stopped(escaped) and is_stopped(started["pid"]), "both are stopped")
    elapsed = describe(client, started["process_id"])["elapsed"]
    with pytest.raises(socket.timeout):
        client.read_once(within_s=2.5)  # longer than both limits
    now = describe(client, started["process_id"])
    assert now["state"] == "paused" and now["elapsed"] == elapsed
    assert client.call("control", type="RESUME") == {"status": "resumed"}
    poll(lambda: state_of(escaped) in "SR" and state_of(started["pid"]) in "SR", "both go on")
    assert describe(client, started["process_id"])["state"] == "running"
    assert client.finish(started).completed["status"] in ("timeout", "stalled"), "now the clocks run on"


def test_what_a_paused_process_leaves_is_not_left_stopped_when_it_is_killed_from_outside(client):
    started = client.call("execute", command=["sh", "-c", "sleep 100 > /dev/null 2>&1 & echo $!; wait"])
    survivor = first_number(client, started)
    client.call("control", type="PAUSE")
    os.kill(started["pid"], signal.SIGKILL)
    run = client.finish(started)
    assert run.completed["signal"] == "SIGKILL" and run.completed["survivors"] == [survivor]
    poll(lambda: state_of(survivor) == "S", "it goes on")
    for change in ("PAUSE", "RESUME"):
        with pytest.raises(RpcFailure, match="-32002"):
            client.call("control", type=change, process_id=started["process_id"])
    client.cancel(started["process_id"])


def test_a_paused_process_can_be_cancelled(client):
    started = client.call("execute", command=["sh", "-c", "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done"])
    client.wait_output("ready\n")
    client.call("control", type="PAUSE")
    client.call("control", type="CANCEL")
    run = client.finish(started)
    assert run.text() == "ready\nbye\n" and run.completed["status"] == "cancelled"


def test_without_process_id_the_only_one_is_meant(client):
    client.run(["true"])
    first = client.call("execute", command=["sleep", "100"])
    assert client.call("control", type="PAUSE") == {"status": "paused"}
    second = client.call("execute", command=["sleep", "100"])
    with pytest.raises(RpcFailure) as failure:
        client.call("control", type="RESUME")
    assert failure.value.code == -32602 and "process_id" in failure.value.message
    for started in (first, second):
        client.cancel(started["process_id"])
        client.finish(started)


# ---- list. ----

def test_list_tells_of_all_processes_of_all_connections(bridge, client):
    started = client.call("execute", command=["sh", "-c", "printf äb; sleep 100"], label="one")
    client.wait_output("äb")
    with bridge.connect() as other:
        (found,) = other.call("list")["processes"]
        assert {key: found[key] for key in ("process_id", "label", "pid", "state", "output_bytes")} == {
            "process_id": started["process_id"], "label": "one", "pid": started["pid"], "state": "running", "output_bytes": 3}
        assert found["started_at"].endswith("Z") and found["elapsed"] >= 0
        other.cancel(started["process_id"])
    client.finish(started)
    assert describe(client, started["process_id"])["state"] == "ended"


# ---- attach. ----

def continue_with(client: Client, started: dict, after: int = 0) -> Run:
    client.call("attach", process_id=started["process_id"], after=after)
    return client.finish(started)


def test_a_lost_connection_loses_nothing_and_doubles_nothing(bridge):
    script = "i=0; while [ $i -lt 4000 ]; do echo line $i; i=$((i+1)); done; echo err >&2"
    with bridge.connect() as first:
        started = first.call("execute", command=["sh", "-c", script], label="x")
        first.wait_output("line 5\n")
        before = first.outputs()
    with bridge.connect() as second:
        answer = second.call("attach", process_id=started["process_id"], after=before[-1]["seq"])
        assert answer["pid"] == started["pid"] and answer["label"] == "x" and answer["status"] in ("running", "ended")
        run = second.finish(started)
    outputs = before + run.outputs
    assert [output["seq"] for output in outputs] == list(range(1, len(outputs) + 1))
    assert "".join(o["data"] for o in outputs if o["type"] == "stdout") == "".join(f"line {i}\n" for i in range(4000))
    assert run.completed["exit_code"] == 0


def test_attach_from_the_beginning_and_after_the_end(bridge, client):
    run = client.run(["sh", "-c", "echo one; echo two"])
    with bridge.connect() as other:
        again = continue_with(other, run.started)
        assert again.outputs == run.outputs and again.completed == run.completed
        last = continue_with(other, run.started, after=len(run.outputs))
        assert last.outputs == [] and last.completed == run.completed
        with pytest.raises(RpcFailure) as failure:
            other.call("attach", process_id=run.started["process_id"], after=len(run.outputs) + 1)
        assert failure.value.code == -32602
    assert client.notifications == []


def test_a_living_connection_that_is_taken_over_hears_no_more(bridge, client, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    started = client.call("execute", command=["sh", "-c", f"echo one; cat {fifo}"])
    client.wait_output("one\n")
    with bridge.connect() as other:
        other.call("attach", process_id=started["process_id"], after=1)
        fifo.write_text("two\n")
        run = other.finish(started)
        assert run.text() == "two\n"
        client.call("ping")
        assert len(client.outputs()) == len(client.notifications) == 1


def test_a_client_that_is_cut_off_right_after_it_attached_has_lost_nothing(bridge, client):
    """All that waited goes into a connection that breaks just then: it waits again."""
    with bridge.connect() as first:
        started = first.call("execute", command=["sh", "-c", "echo begin; yes 0123456789abcdef | head -c 9000000"])
        first.wait_output("begin")
        seen = first.outputs()[-1]["seq"]
        before = first.outputs()
    poll(lambda: client.call("list")["processes"][0]["output_bytes"] > 6_000_000, "much of it waits")
    for _ in range(5):
        with bridge.connect() as cut:
            cut.request("attach", process_id=started["process_id"], after=seen)
    run = continue_with(client, started, after=seen)
    assert run.outputs[0]["seq"] == seen + 1
    text = "".join(output["data"] for output in before) + run.text()
    assert text == "begin\n" + ("0123456789abcdef\n" * 600_000)[:9_000_000]


def test_a_client_that_read_fast_then_stalled_and_was_cut_off_goes_on_where_it_was(bridge):
    """More may be on the way in sockets than is kept: so the bridge goes no further ahead than pongs show that the client has read."""
    with Cable(bridge.port) as cable, bridge.connect() as watcher:
        first = bridge._replace(port=cable.port).connect(token=bridge.token)
        first.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * wb.MIB)
        started = first.call("execute", command=["sh", "-c", "yes 0123456789abcdef | head -c 60000000"])
        while len(first.outputs()) < 200:
            first.read_once()
        written = lambda: watcher.call("list")["processes"][0]["output_bytes"]  # noqa: E731
        seen: list[int] = []
        poll(lambda: seen.append(written()) or (len(seen) > 50 and seen[-1] == seen[-50]), "nothing moves any more")
        before = first.outputs()
        cable.cut()
        first.socket.close()
        run = continue_with(watcher, started, after=before[-1]["seq"])
    assert [output["seq"] for output in before + run.outputs] == list(range(1, len(before) + len(run.outputs) + 1))
    text = "".join(output["data"] for output in before) + run.text()
    assert text == ("0123456789abcdef\n" * 3_600_000)[:60_000_000]


def test_a_client_that_answers_no_pings_is_served_all_the_same(bridge):
    """It breaks the protocol (RFC 6455, 5.5.2), and gets its output, only not the certainty of finding all of it when it comes back."""
    with bridge.connect() as client:
        client.codec.owed = lambda: b""
        run = client.run(["sh", "-c", "yes 0123456789abcdef | head -c 40000000"])
        assert len(run.text()) == 40_000_000


def test_who_ends_last_is_told_of_it_however_much_others_left(bridge, client):
    with bridge.connect() as other:
        fifo = wb.runtime_dir() / "gate"
        os.mkfifo(fifo)
        first = client.call("execute", command=["sh", "-c", f"head -c 2000000 /dev/zero | tr '\\0' x; read line < {fifo}; exit 7"])
        for _ in range(10):
            other.run(["sh", "-c", "head -c 9000000 /dev/zero | tr '\\0' x"])
            other.notifications.clear()
        fifo.write_text("go\n")
        assert client.finish(first).completed["exit_code"] == 7
        fifo.unlink()


def test_too_late_an_attach_is_told_what_is_still_kept(bridge, client):
    run = client.run(["sh", "-c", "yes 0123456789abcdef | head -c 12000000"])
    with pytest.raises(RpcFailure) as failure:
        client.call("attach", process_id=run.started["process_id"], after=1)
    kept = continue_with(client, run.started, after=failure.value.data["after"])
    assert kept.outputs == run.outputs[-len(kept.outputs):] and len(kept.text()) > 6_000_000


def test_a_client_that_is_still_reading_when_the_grace_is_over_finds_its_process_when_it_comes_back():
    with start_bridge("--detach-grace", "1") as bridge, bridge.connect() as watcher, Cable(bridge.port) as cable:
        asleep = bridge._replace(port=cable.port).connect(token=bridge.token)
        started = asleep.call("execute", command=["sh", "-c", "seq 1000; exit 9"])
        until = time.monotonic() + 4
        poll(lambda: time.monotonic() > until, "four times the grace")
        cable.cut()
        run = continue_with(watcher, started)
        assert run.text().endswith("1000\n") and run.completed["exit_code"] == 9
        asleep.socket.close()


def test_what_is_no_longer_kept_is_32004(bridge, client):
    run = client.run(["sh", "-c", "yes 0123456789abcdef | head -c 12000000"])
    with pytest.raises(RpcFailure) as failure:
        client.call("attach", process_id=run.started["process_id"])
    assert failure.value.code == -32004
    last = next(count for count in range(1, len(run.outputs)) if sum(len(output["data"]) for output in run.outputs[-count:]) > 1_000_000)
    kept = continue_with(client, run.started, after=len(run.outputs) - last)
    assert kept.outputs == run.outputs[-last:] and len(kept.text()) > 1_000_000


def test_without_a_client_a_process_is_held_when_8_mib_wait_and_goes_on_when_one_comes():
    with start_bridge("--detach-grace", "600") as bridge, bridge.connect() as watcher:
        with bridge.connect() as client:
            started = client.call("execute", command=["sh", "-c", "yes 0123456789abcdef | head -c 30000000"], idle_timeout=0.5)
        seen: list[int] = []
        poll(lambda: seen.append(watcher.call("list")["processes"][0]["output_bytes"]) or (len(seen) > 50 and seen[-1] == seen[-50] > 0), "it is held")
        assert 7_000_000 < seen[-1] < 12_000_000
        assert watcher.call("list")["processes"][0]["state"] == "running"
        run = continue_with(watcher, started)
        assert run.text() == ("0123456789abcdef\n" * 2_000_000)[:30_000_000] and run.completed["status"] == "completed"


def test_a_client_that_does_not_come_back_costs_the_process_its_life(bridge, client):
    with bridge.connect() as lost:
        started = lost.call("execute", command=["sh", "-c", ESCAPE + "wait"])
        escaped = first_number(lost, started)
    assert lives(escaped), "the grace is running"
    poll(lambda: not lives(escaped) and not lives(started["pid"]), "both are ended")
    poll(lambda: client.call("list")["processes"] == [], "and forgotten after the same time again")


def test_an_ended_process_is_forgotten_after_the_grace(client):
    run = client.run(["true"])
    poll(lambda: client.call("list")["processes"] == [], "forgotten")
    with pytest.raises(RpcFailure) as failure:
        client.call("attach", process_id=run.started["process_id"])
    assert failure.value.code == -32002


# ---- Finding processes where there is no /proc: what `ps` prints, read with the same functions (here from Linux's ps). ----

def test_the_table_of_ps_is_read(client):
    started = client.call("execute", command=["sleep", "100"])
    seen = wb.read_ps(wb.output_of(wb.PS_TABLE), wb.output_of(("ps", "axeww", "-o", "pid=,command=")))
    assert seen[started["pid"]].group == started["pid"] and os.getpid() in seen
    assert {pid for pid, process in seen.items() if wb.MARKER_PREFIX + started["process_id"] in process.markers} == {started["pid"]}
    client.cancel(started["process_id"])
    assert client.finish(started).completed["signal"] == signal.SIGTERM.name
