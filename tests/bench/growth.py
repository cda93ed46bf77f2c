"""What a line, a session, a record, a task costs when there are few and when there are many: it should stay the same.

    python growth.py [--only lines]

lines     an output of so many lines through the bridge: microseconds a line (the first include the start of a process)
sessions  so many commands one after the other at one bridge, which keeps those that have ended: milliseconds each, the bridge's memory
records   so many executions in the history's file: milliseconds to keep one more, and for an estimate from them
tasks     a spec of so many tasks: milliseconds until the first is started, then for each with an agent that just writes a file
replay    a transcript of so many MB, judged again by what its tools returned: MB/s, and the peak memory of cc_execute.py
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, List, Sequence

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]
from bridge import Wire, memory, running  # noqa: E402
from cc_execute import Entry, Record, SqliteStore, estimate_timeout, normalise  # noqa: E402

MB = 1e6
AGENT = """#!/bin/sh
date +%s.%N >> "$STARTS"
echo '{"type":"system","subtype":"init","session_id":"s"}'
for word in $2; do :; done
echo x > "$word"
echo '{"type":"result","subtype":"success","is_error":false,"num_turns":1,"result":"Done.","total_cost_usd":0.01,"session_id":"s"}'
"""


def table(title: str, columns: Sequence[str], rows: List[Sequence[object]]) -> None:
    print(f"\n{title}\n" + "".join(f"{name:>22}" for name in columns))
    for row in rows:
        print("".join(f"{value:>22,.3f}" if isinstance(value, float) else f"{value:>22,}" for value in row), flush=True)


def lines(folder: Path) -> None:
    rows = []
    with running("ws_bridge") as server:
        for count in (10, 100, 1_000, 10_000, 100_000, 1_000_000):
            wire, begun = Wire(server.port), time.perf_counter()
            wire.execute("sh", "-c", f"yes '{{\"type\":\"assistant\",\"text\":\"a line\"}}' | head -n {count}")
            got = sum(bytes(payload).count(b"\\n") for payload in wire.until_completed())
            rows.append((count, (time.perf_counter() - begun) * 1e6 / count, got))
            wire.sock.close()
    table("lines", ("lines", "microseconds a line", "lines that came"), rows)


def sessions(folder: Path) -> None:
    rows, done = [], 0
    with running("ws_bridge") as server:
        for count in (10, 100, 1_000, 5_000, 10_000):
            begun, first = time.perf_counter(), done
            while done < count:
                wire = Wire(server.port, 1 << 16)
                wire.execute("true")
                for _ in wire.until_completed():
                    pass
                wire.sock.close()
                done += 1
            each = (time.perf_counter() - begun) * 1000 / (done - first)
            rows.append((count, each, (memory(server.process.pid, "VmRSS") - server.start_bytes) / MB))
    table("sessions", ("up to session", "ms each", "bridge's memory, MB"), rows)


def records(folder: Path) -> None:
    rows = []
    for count in (10, 100, 1_000, 10_000):
        store = SqliteStore(str(folder / f"history-{count}.db"))
        entries = [Entry(Record(normalise(f"Create file{number}.py with step {number}"), 20.0 + number % 30, "passed", 1.7e9 + 60 * number))
                   for number in range(count + 20)]
        store.add(entries[:count])
        begun = time.perf_counter()
        for entry in entries[count:]:
            store.add([entry])
        added, times = (time.perf_counter() - begun) * 1000 / 20, []
        for _ in range(5):
            begun = time.perf_counter()
            estimate_timeout("Create file7.py with step 7", store.alike("Create file7.py with step 7"))
            times.append((time.perf_counter() - begun) * 1000)
        rows.append((count, added, min(times)))
    table("records", ("records", "ms to keep one", "ms for an estimate"), rows)


def run_spec(count: int, folder: Path, agent: Path) -> Sequence[object]:
    spec, starts, work = folder / "many.md", folder / "starts", folder / f"work-{count}"
    spec.write_text("".join(f"## Task {number}: Step {number}\n\nTask: Create step{number % 10}.py\nTimeout: 60\nSuccess Criteria:\n"
                            f"1. File step{number % 10}.py exists\n\n" for number in range(1, count + 1)))
    work.mkdir()
    starts.unlink(missing_ok=True)
    begun, clock = time.time(), time.perf_counter()
    command = [sys.executable, str(ROOT / "cc_execute.py"), str(spec), "--claude", str(agent), "--cwd", str(work), "--bridge", os.environ["BRIDGE"]]
    done = subprocess.run(command, env={**os.environ, "STARTS": str(starts)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    first = float(starts.read_text().split()[0]) - begun
    return count, first * 1000, (time.perf_counter() - clock - first) * 1000 / count


def tasks(folder: Path) -> None:
    agent = folder / "agent"
    agent.write_text(AGENT)
    agent.chmod(0o755)
    with running("ws_bridge") as server:
        os.environ["BRIDGE"] = f"ws://127.0.0.1:{server.port}"
        table("tasks", ("tasks", "ms to the first start", "ms each"), [run_spec(count, folder, agent) for count in (10, 100, 500, 2_000)])


def write_transcript(path: Path, size: int) -> None:
    """Calls that return some KB each, and texts."""
    written, number = 0, 0
    with path.open("w") as file:
        def write(event: dict) -> None:
            nonlocal written
            written += file.write(json.dumps({**event, "session_id": "s"}) + "\n")

        def call(name: str, given: dict, output: str) -> None:
            block = {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": given}
            write({"type": "assistant", "message": {"id": f"msg_{number}", "role": "assistant", "content": [block]}})
            result = {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": output}
            write({"type": "user", "message": {"role": "user", "content": [result]}})

        write({"type": "system", "subtype": "init"})
        while written < size:
            number += 1
            text = {"type": "text", "text": f"Now step {number}. " * 40}
            write({"type": "assistant", "message": {"id": f"text_{number}", "role": "assistant", "content": [text]}})
            if number % 3 == 0:
                call("Bash", {"command": f"python3 step{number}.py"}, f"step {number} is done\n" * 1000)
            else:
                call("Write", {"file_path": f"step{number}.py", "content": "print()\n" * 800}, "File written.")
        write({"type": "result", "subtype": "success", "is_error": False, "num_turns": number, "result": "Done.", "total_cost_usd": 1.0})


def replay(folder: Path) -> None:
    spec, path, rows = folder / "spec.md", folder / "transcript.jsonl", []
    spec.write_text('Task: Go on.\nTimeout: 60\nSuccess Criteria:\n1. No errors\n2. Output contains "is done"\n3. Uses the Write tool\n')
    for size in (5, 50, 500):
        write_transcript(path, size * 1_000_000)
        begun = time.perf_counter()
        process = subprocess.Popen([sys.executable, str(ROOT / "cc_execute.py"), str(spec), "--replay", str(path)], cwd=folder, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"the replay of {size} MB ended with {status}")
        rows.append((size, size / (time.perf_counter() - begun), used.ru_maxrss * 1024 / MB))
    table("replay", ("MB", "MB/s", "peak memory, MB"), rows)


WORK: Dict[str, Callable[[Path], None]] = {"lines": lines, "sessions": sessions, "records": records, "tasks": tasks, "replay": replay}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=WORK, action="append")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cc-bench-") as name:
        os.environ.update(HOME=name, XDG_RUNTIME_DIR=name)
        for each in options.only or WORK:
            WORK[each](Path(name))


if __name__ == "__main__":
    main()
