"""The bridge when little is left to it: descriptors, space for its journal, signals that are blocked, the first process of a container,
many processes at once, ten thousand of them. What it has started ends all the same, and exactly one `completed` tells of it.
"""
from __future__ import annotations

import collections
import contextlib
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ws_bridge as wb
from bridging import DEADLINE_S, RpcFailure, RunningBridge, bridge_command, poll, start_bridge, wrapped
from support import missing, unshare

RUNS = 10_000
ESCAPE = "setsid sleep 100 > /dev/null 2>&1 & "


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def children(pid: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


# ---- Descriptors. ----

def limit_descriptors(soft: int, hard: int) -> str:
    return f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))"


def test_a_low_soft_limit_is_raised_and_processes_get_it_back(tmp_path):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with start_bridge(script=wrapped(tmp_path, limit_descriptors(64, hard))) as bridge, bridge.connect() as client:
        started = [client.call("execute", command=["sh", "-c", "ulimit -Sn; ulimit -Hn; sleep 0.2"]) for _ in range(60)]
        for each in started:
            assert client.finish(each).text().split()[0] == "64"


def test_survivors_that_hold_pipes_take_what_is_allowed_before_anything_is_refused(tmp_path):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with start_bridge(script=wrapped(tmp_path, limit_descriptors(450, hard))) as bridge, bridge.connect() as client:
        runs = [client.run(["sh", "-c", "sleep 600 & echo $!"]) for _ in range(150)]
        assert client.run(["sh", "-c", "ulimit -Sn"]).text() == "450\n", "as before it was raised"
        assert descriptors(bridge.process.pid) > 300
        for run in runs:
            os.kill(int(run.text()), signal.SIGKILL)


def test_with_few_descriptors_less_is_started_and_all_of_it_ends(tmp_path):
    """As with `ulimit -n 256`: silent strangers, many clients and all the processes that there is room for, which then meet their limit."""
    with start_bridge("--grace", "0.5", script=wrapped(tmp_path, limit_descriptors(256, 256))) as bridge:
        strangers = [bridge.open_socket() for _ in range(wb.PENDING_HANDSHAKES + 6)]
        clients = [bridge.connect() for _ in range(60)]
        started, full = [], None
        with pytest.raises(RpcFailure) as full:
            while True:
                started.append(clients[0].call("execute", command=["sh", "-c", ESCAPE + "sleep 100"], stdin="x", timeout=2))
        assert full.value.code == -32003 and "ulimit -n" in str(full.value) and len(started) >= 20
        for each in started:
            assert clients[0].finish(each).completed["status"] == "timeout"
        with bridge.connect() as late:
            assert late.run("echo hi").text() == "hi\n"
            assert late.call("list")["processes"][-1]["state"] == "ended"
        assert not [pid for pid in children(bridge.process.pid)]
        for sock in (*strangers, *(client.socket for client in clients)):
            sock.close()


def test_too_few_descriptors_for_the_connections_that_are_asked_for_are_said_at_the_start(tmp_path):
    script = wrapped(tmp_path, limit_descriptors(100, 100))
    done = subprocess.run([sys.executable, str(script), "--port", "0"], capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 3 and "100 descriptors (ulimit -n) are 80 too few for --max-connections 64" in done.stderr


# ---- The journal. ----

def test_a_full_disk_costs_the_sweeping_and_nothing_else(tmp_path):
    """No file may grow beyond 4096 bytes: one process runs on while others come and go, until the journal can't be written."""
    with start_bridge(script=wrapped(tmp_path, "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))")) as bridge, bridge.connect() as client:
        going = client.call("execute", command=["sleep", "100"])
        refused = None
        for _ in range(400):
            try:
                assert client.run(["true"]).completed["exit_code"] == 0
            except RpcFailure as failure:
                refused = failure
                break
        assert refused.code == -32000 and "journal" in str(refused)
        client.cancel(going["process_id"])
        assert client.finish(going).completed["status"] == "cancelled"
        assert client.run(["true"]).completed["exit_code"] == 0, "with nothing unfinished it is empty, and there is room again"


def test_a_journal_is_begun_anew_when_it_is_long_and_never_forgets_what_is_unfinished(tmp_path, monkeypatch):
    monkeypatch.setattr(wb, "JOURNAL_BYTES", 1000)
    tmp_path.chmod(0o700)
    with contextlib.closing(wb.Journal(tmp_path, 1)) as journal:
        journal.begin("aaaaaa")
        for number in range(500):
            journal.begin(f"{number:x}")
            journal.finish(f"{number:x}")
        journal.begin("bbbbbb")
        path, = tmp_path.iterdir()
        assert path.stat().st_size < 1200
        assert list(wb.take_abandoned(tmp_path)) == [], "its bridge lives"
        copy = tmp_path / "bridge-1-1-0.runs"
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o600)
        assert list(wb.take_abandoned(tmp_path)) == [{"aaaaaa", "bbbbbb"}] and not copy.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"\xff\xfe\n+ab\n", b"\0" * 5000, b"", b"+zz\n+\n++\n-\n"], ids=["no UTF-8", "zeros", "empty", "no ids"])
def test_a_journal_of_rubbish_keeps_no_bridge_from_starting(content):
    path = wb.runtime_dir() / "bridge-1-1-0.runs"
    path.write_bytes(content)
    path.chmod(0o600)
    with start_bridge() as bridge, bridge.connect() as client:
        assert client.call("ping") == {} and not path.exists()


def test_bridges_that_start_at_the_same_moment_leave_each_other_s_files_alone():
    for _ in range(5):
        starting = [subprocess.Popen(bridge_command("--port", "0"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for _ in range(8)]
        ports = [process.stdout.readline().rstrip("/\n").rpartition(":")[2] for process in starting]
        names = {path.name for path in wb.runtime_dir().iterdir()}
        wanted = {name for process, port in zip(starting, ports) for name in (f"bridge-{port}-{process.pid}-0.runs", f"bridge-{port}.token")}
        for process in starting:
            process.terminate()
            assert process.wait(DEADLINE_S) == 0
            process.stdout.close()
        assert wanted <= names
    assert list(wb.runtime_dir().iterdir()) == []


def test_a_second_bridge_on_the_same_port_of_another_address_leaves_the_first_one_s_token_alone(tmp_path):
    with start_bridge() as first:
        token = first.token
        done = subprocess.run(bridge_command("--host", "::1", "--port", str(first.port)), capture_output=True, text=True, timeout=DEADLINE_S)
        assert done.returncode == 3 and "in use by your bridge" in done.stderr and first.token == token
        with subprocess.Popen(bridge_command("--host", "::1", "--port", str(first.port), "--token-file", str(tmp_path / "other")),
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as second:
            assert "listening" in second.stdout.readline()
            second.terminate()
        with first.connect() as client:
            assert client.call("ping") == {}


# ---- Signals and the first process of a container. ----

def test_signals_that_were_blocked_or_ignored_reach_the_bridge_and_its_processes(tmp_path):
    before = ("signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n"
              "for number in (signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGPIPE): signal.signal(number, signal.SIG_IGN)")
    with start_bridge("--grace", "20", script=wrapped(tmp_path, before)) as bridge, bridge.connect() as client:
        assert client.run(["sh", "-c", "exit 3"]).completed["exit_code"] == 3
        for name in wb.STOP_SIGNALS:
            started = client.call("execute", command=["sleep", "100"], stop_signal=name)
            client.cancel(started["process_id"])
            assert client.finish(started).completed["signal"] == name
        masks = client.run(["grep", "-E", "SigBlk|SigIgn", "/proc/self/status"]).text().split()[1::2]
        assert [int(mask, 16) & 0x7FFF_FFFF for mask in masks] == [0, 0], "but for real-time signals, which are nobody's stop signal"


def test_under_nohup_it_goes_on_after_a_hangup(tmp_path):
    with start_bridge(script=wrapped(tmp_path, "signal.signal(signal.SIGHUP, signal.SIG_IGN)")) as bridge, bridge.connect() as client:
        bridge.process.send_signal(signal.SIGHUP)
        assert client.run("echo hi").text() == "hi\n"


def test_as_the_first_process_of_a_container_it_reaps_what_lost_its_parent(tmp_path):
    """In a namespace of its own it has the number 1, and orphans are handed to it."""
    command = [*unshare("--pid", "--fork", "--mount-proc"), *bridge_command("--port", "0")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        if "listening" not in line:
            missing("a process namespace", process.stderr.read().strip())
        port = int(line.rstrip("/\n").rpartition(":")[2])
        bridge = RunningBridge(process, line, "127.0.0.1", port, tmp_path / "log")
        with bridge.connect() as client:
            for _ in range(20):
                client.run(["sh", "-c", "(sleep 0.05 > /dev/null 2>&1 &) ; exit 4"])
            inner, = children(process.pid)
            poll(lambda: children(inner) == [], "no zombie is left")
            assert client.run(["sh", "-c", "exit 5"]).completed["exit_code"] == 5
        os.kill(inner, signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0


# ---- Many. ----

def test_many_that_end_at_once_are_looked_for_together(monkeypatch):
    """Sixty processes end at the same moment: the process table is read a few times for all of them, not twice for each."""
    with start_bridge("--log-level", "debug") as bridge, bridge.connect() as client, bridge.connect() as other:
        fifo = wb.runtime_dir() / "gate"
        os.mkfifo(fifo)
        started = [client.call("execute", command=["sh", "-c", f"read line < {fifo}; exit 7"]) for _ in range(60)]
        before = int(Path(f"/proc/{bridge.process.pid}/io").read_text().split("syscr: ")[1].split()[0])
        with open(fifo, "r+b", buffering=0) as gate:  # both ways, so that none waits for it to be opened
            poll(lambda: len(other.call("list")["processes"]) == 60, "all run")
            poll(lambda: all(os.readlink(f"/proc/{each['pid']}/fd/0") == str(fifo) for each in started), "all wait")
            gate.write(b"go\n" * 60)
            assert [client.finish(each).completed["exit_code"] for each in started] == [7] * 60
        reads = int(Path(f"/proc/{bridge.process.pid}/io").read_text().split("syscr: ")[1].split()[0]) - before
        table = 2 * len([name for name in os.listdir("/proc") if name.isdigit()])
        assert reads < 40 * table, "two looks for each of sixty would be 120 times the table"
        fifo.unlink()


def test_ten_thousand_runs_leave_no_zombie_no_descriptor_and_no_memory():
    with start_bridge("--detach-grace", "0.5") as bridge, bridge.connect() as client:
        def work(times: int) -> None:
            ended: collections.Counter = collections.Counter()
            for _ in range(times // 20):
                started = [client.call("execute", command=["true"], stdin="x") for _ in range(20)]
                ended.update(client.finish(each).completed["exit_code"] for each in started)
                client.notifications.clear()
            assert ended == {0: times}

        def look() -> tuple[int, int]:
            poll(lambda: client.call("list")["processes"] == [], "all are forgotten")
            assert children(bridge.process.pid) == []
            return descriptors(bridge.process.pid), bridge.memory_bytes()

        work(RUNS * 4 // 10)  # until what Python keeps ready for itself is there
        before = look()
        work(RUNS * 6 // 10)
        after = look()
        assert after[0] == before[0] and after[1] < before[1] + 5 * wb.MIB, "less than a kilobyte for each"
