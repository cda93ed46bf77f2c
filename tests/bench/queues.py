"""Many specs: what a job through RQ costs beside a local run, how throughput grows with workers and with --jobs, and what Redis has to do.

    python queues.py [--rounds 3] [--specs 32]   (needs redis-server and rq)

The agent is the stand-in, once as fast as it can (the cost of everything else), once with a second of waiting (as Claude mostly waits for
its API). Interleaved rounds, medians; a ratio is to the first row of its table. On this machine workers, bridge, agents and Redis share
the same cores.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, List

from redis import Redis
from rq import Queue

from whole import HERE, ROOT, a_bridge  # whose first lines make tests/ importable
from redis_server import running_redis

SPEC = "Task: Create a.txt\nTimeout: 60\nDirectory: {folder}\nSuccess Criteria:\n1) a.txt exists\n2) a.txt contains hello\n"
WRITES = [{"write": {"path": "a.txt", "content": "hello\n"}}, {"text": "Done."}]


class Bench:
    """Specs in a folder each, and the ways to have them done; every way gives its seconds."""

    def __init__(self, place: Path, count: int, redis: str) -> None:
        self.place, self.redis, self.specs = place, redis, []
        for number in range(count):
            (place / f"work{number}").mkdir()
            self.specs.append(place / f"spec{number}.md")
            self.specs[-1].write_text(SPEC.format(folder=place / f"work{number}"))

    def use_agent(self, name: str, steps: list) -> None:
        path = self.place / f"{name}.json"
        path.write_text(json.dumps({"attempts": [steps]}))
        os.environ["STAND_IN_SCRIPT"] = str(path)

    def run(self, command: List[str], **how) -> float:
        begun = time.perf_counter()
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.place, **how)
        if done.returncode:
            raise SystemExit(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}")
        return time.perf_counter() - begun

    def local(self) -> float:
        """One after the other in one process, as a worker would do it without a queue."""
        loop = "import cc_execute, sys\nfor spec in sys.argv[1:]: assert cc_execute.run_spec(spec)['success']"
        return self.run([sys.executable, "-c", loop, *map(str, self.specs)])

    def with_jobs(self, jobs: int) -> float:
        return self.run([sys.executable, "-m", "cc_execute", *map(str, self.specs), "--jobs", str(jobs)])

    def queued(self, workers: int) -> float:
        """From the first worker's start to the last one's end."""
        queue = Queue("bench", connection=Redis.from_url(self.redis))
        for spec in self.specs:
            queue.enqueue("cc_execute.run_spec", str(spec), job_timeout=600)
        command = [sys.executable, "-m", "rq.cli", "worker", "--url", self.redis, "--burst", "--quiet", "bench"]
        begun = time.perf_counter()
        started = [subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(workers)]
        for process in started:
            process.wait()
        spent = time.perf_counter() - begun
        if queue.failed_job_registry.count or not all(job.return_value()["success"] for job in map(queue.fetch_job, queue.finished_job_registry.get_job_ids())):
            raise SystemExit("a job failed")
        return spent


def show(title: str, ways: Dict[str, Callable[[], float]], rounds: int, count: int) -> None:
    found: Dict[str, List[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    print(f"\n{title:<58} {'s':>7} {'ms a spec':>10} {'ratio':>7}")
    base = next(iter(found.values()))
    for name, times in found.items():
        spent, ratio = statistics.median(times), statistics.median(mine / first for mine, first in zip(times, base))
        print(f"{name:<58} {spent:>7.2f} {1000 * spent / count:>10.1f} {ratio:>6.2f}x", flush=True)


def show_redis(title: str, bench: Bench, way: Callable[[], float]) -> None:
    """What Redis was asked and sent, by its own count."""
    client = Redis.from_url(bench.redis)

    def counted() -> List[int]:
        info = client.info("stats")
        return [info[name] for name in ("total_commands_processed", "total_net_input_bytes", "total_net_output_bytes")]
    memory, before = client.info("memory")["used_memory"], counted()
    way()
    after, count = counted(), len(bench.specs)
    commands, sent, received = ((b - a) / count for a, b in zip(before, after))
    kept = (client.info("memory")["used_memory"] - memory) / count
    print(f"{title:<58} {commands:>7.1f} commands, {sent:>7.0f} bytes in, {received:>7.0f} out, {kept:>6.0f} bytes kept, a task", flush=True)


def measure(bench: Bench, rounds: int) -> None:
    count = len(bench.specs)
    bench.use_agent("fast", WRITES)
    bench.local()                     # compiles, fills caches, and gives the history something to look through
    show(f"{count} specs, the agent as fast as it can", {
        "run_spec in one process": bench.local, "cc_execute.py --jobs 1": lambda: bench.with_jobs(1), "--jobs 4": lambda: bench.with_jobs(4),
        "RQ, 1 worker": lambda: bench.queued(1), "RQ, 2 workers": lambda: bench.queued(2)}, rounds, count)
    bench.use_agent("waits", [{"sleep": 1.0}, *WRITES])
    show(f"{count} specs, the agent waits for 1 s", {
        f"--jobs {jobs}": (lambda jobs=jobs: bench.with_jobs(jobs)) for jobs in (1, 2, 4, 8, 16, 32)} | {
        f"RQ, {workers} worker{'s' * (workers > 1)}": (lambda workers=workers: bench.queued(workers)) for workers in (1, 2, 4)}, 1, count)
    bench.use_agent("fast", WRITES)
    print("\nwhat Redis does")
    os.environ["CC_EXECUTE_STORE"] = bench.redis
    bench.local()
    show_redis("the history in Redis", bench, bench.local)
    os.environ.pop("CC_EXECUTE_STORE")
    show_redis("RQ, 1 worker (burst), the history elsewhere", bench, lambda: bench.queued(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--specs", type=int, default=32)
    options = parser.parse_args()
    if not shutil.which("redis-server"):
        raise SystemExit("queues: redis-server is not installed (Debian's package of that name)")
    with tempfile.TemporaryDirectory(prefix="cc-bench-") as name:
        place = Path(name)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ.update(HOME=name, XDG_RUNTIME_DIR=str(place / "runtime"), PYTHONPATH=str(ROOT), PYTHONPYCACHEPREFIX=str(place / "pycache"),
                          CC_EXECUTE_CLAUDE=shlex.join([sys.executable, str(HERE.parent / "stand_in.py")]))
        with contextlib.contextmanager(running_redis)() as redis, a_bridge(place / "runtime") as url:
            os.environ["CC_EXECUTE_BRIDGE"] = url
            measure(Bench(place, options.specs, redis.url), options.rounds)


if __name__ == "__main__":
    main()
