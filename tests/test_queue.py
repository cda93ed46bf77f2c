"""A queue: run_spec as a job of RQ on a real Redis, on workers that have the two files and rq, each with a home and a bridge of its own."""
from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Iterator, Mapping, NamedTuple

import pytest
from redis import Redis
from rq import Queue, Retry
from rq.command import send_stop_job_command
from rq.job import JobStatus

from redis_server import RedisServer, start_redis
from scripted_api import ScriptedApi, prompts, turn
from support import ROOT, free_port, marked_processes, own_mark, wait_until

README = (ROOT / "README.md").read_text("utf-8")
STAND_IN = shlex.join([sys.executable, str(ROOT / "tests" / "stand_in.py")])
SPEC = "Task: Create a.txt in {name}\nTimeout: 120\nSuccess Criteria:\n1) creates a.txt\n2) `cat a.txt` prints hello\n"
WORKS = [{"bash": "sleep 0.3"}, {"write": {"path": "a.txt", "content": "hello\n"}}, {"text": "Done."}]
LIES = [{"bash": "sleep 0.2"}, {"text": "I have created a.txt, which says hello."}]


# ---- Workers. ----

class Worker(NamedTuple):
    process: subprocess.Popen
    log: Path
    variables: Mapping[str, str]

    def kill(self) -> None:
        """The worker and the process that does its job, as when the machine runs out of memory: nothing of them cleans up."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in [*map(int, children), self.process.pid]:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()


class Workplace:
    """Redis with a queue, a folder with the two files for the workers, and a folder for each spec."""

    def __init__(self, folder: Path, redis: RedisServer) -> None:
        self.folder, self.redis, self.workers, self.begun = folder, redis, [], 0
        self.program = folder / "program"
        self.program.mkdir()
        for name in ("cc_execute.py", "ws_bridge.py"):
            shutil.copy(ROOT / name, self.program)
        self.queue = Queue("specs", connection=Redis.from_url(redis.url))

    def start_worker(self, **variables: str) -> Worker:
        self.begun += 1
        place = self.folder / f"worker{self.begun}"
        (place / "runtime").mkdir(parents=True)
        (place / "runtime").chmod(0o700)
        mine = {"HOME": str(place), "XDG_RUNTIME_DIR": str(place / "runtime"), "XDG_STATE_HOME": str(place / "state"), "CC_EXECUTE_CLAUDE": STAND_IN,
                "CC_EXECUTE_BRIDGE": f"ws://127.0.0.1:{free_port()}", "CC_EXECUTE_STORE": self.redis.url, **variables}
        command = [sys.executable, "-m", "rq.cli", "worker", "--url", self.redis.url, "--path", str(self.program), "--job-monitoring-interval", "1",
                   "--maintenance-interval", "2", "--worker-ttl", "20", "--name", place.name, "specs"]
        with open(place / "log", "w") as log:
            process = subprocess.Popen(command, cwd=place, env={**os.environ, **mine}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.workers.append(Worker(process, place / "log", variables))
        return self.workers[-1]

    def mend(self) -> None:
        """Start again what has given up, as systemd would: RQ's worker may, when Redis goes while it does a job. And RQ's lock on the search
        for abandoned jobs, which a worker leaves behind whose connection breaks just then, passes here after half a minute, not after 15."""
        lock = self.queue.registry_cleaning_key
        if 0 < self.queue.connection.ttl(lock) < 899 - 30:
            self.queue.connection.delete(lock)
        for worker in [worker for worker in self.workers if worker.process.poll() not in (None, -signal.SIGKILL)]:
            self.workers.remove(worker)
            self.start_worker(**worker.variables)

    def script(self, name: str, *attempts: list) -> str:
        """The command of a stand-in that plays these attempts, one a start."""
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps({"attempts": attempts, "record": f"{name}.record"}))
        return f"env STAND_IN_SCRIPT={path} {STAND_IN}"

    def starts(self, name: str) -> list:
        return [json.loads(line) for line in (self.folder / f"{name}.record").read_text().splitlines()]

    def enqueue(self, name: str, claude: str, spec: str = SPEC, **more: object):
        """Its folder, spec and what is kept of the run lie where every worker sees them."""
        place = self.folder / "work" / name
        place.mkdir(parents=True)
        (place / "spec.md").write_text(spec.format(name=name))
        (place / "w").mkdir()
        options = {"cwd": str(place / "w"), "output": str(place / "run"), "resume_if_any": True, "claude": claude, **more.pop("options", {})}
        return self.queue.enqueue("cc_execute.run_spec", args=[str(place / "spec.md")], kwargs=options,
                                  **{"job_timeout": 600, "result_ttl": 3600, "retry": Retry(max=3), **more})

    def close(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGKILL)   # its jobs are done, or the test has failed
            worker.process.wait()


@pytest.fixture
def place(tmp_path) -> Iterator[Workplace]:
    redis = start_redis("--appendonly", "yes", "--appendfsync", "always")
    there = Workplace(tmp_path, redis)
    try:
        yield there
    finally:
        there.close()
        there.redis.stop()


def agents() -> list:
    """What runs of ours and is no bridge, worker or Redis."""
    return [process for process in marked_processes(own_mark()) if re.search(r"stand_in\.py|claude", process.command)]


def result(place: Workplace, job):
    """What the job returned, once it has ended well; a job that failed tells why."""
    wait_until(lambda: place.mend() or job.get_status() in (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED), f"{job.args} has ended", deadline_s=240)
    assert job.get_status() == JobStatus.FINISHED, job.latest_result().exc_string
    return job.return_value()


def of_readme(words: str) -> str:
    """The block of the README that holds these words, with its places replaced by the test's."""
    return next(block for block in re.findall(r"^```\w*\n(.*?)^```$", README, re.M | re.S) if words in block)


# ---- As the README has it. ----

def test_the_commands_of_the_readme(place, monkeypatch, tmp_path):
    """A worker, a job from the shell and one from Python, as they stand there."""
    places = {"redis://queue:6379/0": place.redis.url, "/opt/cc_execute": str(place.program), "/work": str(tmp_path / "work")}

    def with_places(text: str) -> str:
        for there, here in places.items():
            text = text.replace(there, here)
        return text
    for number in (42, 43):
        folder = tmp_path / "work" / str(number)
        folder.mkdir(parents=True)
        (folder / "spec.md").write_text(SPEC.format(name=number))
    worker, enqueue = (with_places(line.replace("\\\n", " ")) for line in re.findall(r"^rq (?:.*\\\n)*.*", of_readme("rq enqueue"), re.M))
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "CC_EXECUTE_CLAUDE": place.script("works", WORKS),
                   "CC_EXECUTE_BRIDGE": f"ws://127.0.0.1:{free_port()}"}
    subprocess.run(enqueue, shell=True, check=True, env=environment, capture_output=True)
    names: dict = {}
    exec(with_places(of_readme("from rq import")), names)   # as a user would paste it
    done = subprocess.run(f"{worker} --burst", shell=True, check=True, env=environment, cwd=tmp_path, capture_output=True, text=True)
    jobs = [job for job in names["queue"].finished_job_registry.get_job_ids()]
    assert len(jobs) == 2, done.stderr
    for identity in jobs:
        job = names["queue"].fetch_job(identity)
        assert result(place, job)["success"] and job.timeout == 4 * 3600 and job.number_of_retries in (0, None) and job.retries_left == 3
    assert {start["cwd"] for start in place.starts("works")} == {str(tmp_path / "work" / "42"), str(tmp_path / "work" / "43")}
    assert (tmp_path / "work" / "42" / "run" / "result.json").exists()


# ---- What can happen to a worker. ----

def test_eighty_specs_on_four_workers_of_which_one_is_killed_and_a_redis_that_is_restarted(place, claude):
    def answer(request):
        return {"tool": "Write", "input": {"file_path": "a.txt", "content": "hello\n"}} if turn(request.body) == 0 else {"text": f"Done: {prompts(request.body)[0]}"}

    works, lies, slow = (place.script(name, *attempts) for name, attempts in (
        ("works", [WORKS]), ("lies", [LIES]), ("slow", [[{"bash": "echo $$ >pid; sleep 900"}], WORKS])))
    with ScriptedApi(answer) as api:
        victim = place.start_worker(**api.environment, IS_SANDBOX="1")
        long = place.enqueue("long", slow)
        pid_file = place.folder / "work" / "long" / "w" / "pid"
        wait_until(pid_file.exists, "the long job is at work", deadline_s=60)
        good = [place.enqueue(f"good{number:02}", works) for number in range(71)]
        bad = [place.enqueue(f"bad{number}", lies) for number in range(8)]
        real = [place.enqueue(f"real{number}", str(claude)) for number in range(4)]
        for _ in range(3):
            place.start_worker(**api.environment, IS_SANDBOX="1")
        wait_until(lambda: place.queue.finished_job_registry.count > 20, "a part of it is done", deadline_s=120)
        victim.kill()
        place.redis = place.redis.restart()
        documents = [result(place, job) for job in [*good, *bad, *real]]
        agent = int(pid_file.read_text())
        resumed = result(place, long)
    assert [document["success"] for document in documents] == [True] * 71 + [False] * 8 + [True] * 4
    assert {document["confidence"] for document in documents if document["success"]} == {"proved"}
    assert len({document["output_dir"] for document in documents}) == 83 and place.queue.failed_job_registry.count == 0
    assert not Path(f"/proc/{agent}").exists() and len(place.starts("slow")) == 2   # the killed worker's agent was ended before another began
    attempts = resumed["tasks"][0]["attempts"]
    assert resumed["success"] and [attempt["error"] and attempt["error"]["kind"] for attempt in attempts] == ["interrupted", None]
    assert agents() == []


def test_a_job_that_rq_stops_leaves_no_agent(place):
    """RQ kills the process that does the job; its bridge ends the agent when the client does not come back."""
    with_grace = subprocess.Popen([sys.executable, str(ROOT / "ws_bridge.py"), "--port", "0", "--detach-grace", "1", "--no-token"], stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True)
    url = re.search(r"ws://\S+", with_grace.stdout.readline())[0]
    try:
        place.start_worker(CC_EXECUTE_BRIDGE=f"{url}?token=")
        job = place.enqueue("stopped", place.script("slow", [{"bash": "touch here; sleep 900"}]), retry=None)
        wait_until((place.folder / "work" / "stopped" / "w" / "here").exists, "it is at work")
        send_stop_job_command(place.queue.connection, job.id)
        wait_until(lambda: job.get_status() == JobStatus.STOPPED, "it is stopped")
        wait_until(lambda: agents() == [], "its agent is gone")
    finally:
        with_grace.terminate()
        with_grace.wait()


def test_a_job_s_time_limit_ends_its_agent_at_once(place):
    place.start_worker()
    job = place.enqueue("late", place.script("slow", [{"bash": "touch here; sleep 900"}]), retry=None, job_timeout=3)
    wait_until(lambda: job.get_status() == JobStatus.FAILED, "it has failed", deadline_s=60)
    assert "JobTimeoutException" in job.latest_result().exc_string and agents() == []


def test_a_job_returns_plain_data_and_a_bad_spec_fails_it_with_its_line(place):
    place.start_worker()
    good, bad = place.enqueue("good", place.script("works", WORKS)), place.enqueue("bad", STAND_IN, spec="Task: x\nTimeout: soon\n", retry=None)
    assert json.loads(json.dumps(result(place, good))) == result(place, good)
    wait_until(lambda: bad.get_status() == JobStatus.FAILED, "it has failed", deadline_s=60)
    assert re.search(r"SpecError: .*spec\.md:2: found .*soon", bad.latest_result().exc_string)


def test_a_job_that_two_workers_get_is_done_once(place):
    """As when it is enqueued twice, or when a worker has died whose process goes on with the job."""
    for _ in range(2):
        place.start_worker()
    first = place.enqueue("both", place.script("works", [{"bash": "sleep 2"}, *WORKS]), retry=None)
    second = place.queue.enqueue("cc_execute.run_spec", args=first.args, kwargs=first.kwargs, result_ttl=3600)
    assert result(place, second)["tasks"] == result(place, first)["tasks"] and result(place, first)["success"] and len(place.starts("works")) == 1


def test_a_job_that_decided_nothing_is_tried_again_by_the_queue(place):
    worker = place.start_worker()
    job = place.enqueue("sick", "no-such-claude", options={"check": True}, retry=Retry(max=1))
    wait_until(lambda: job.get_status() == JobStatus.FAILED, "it has failed", deadline_s=60)
    assert "Undecided: exit status 3" in job.latest_result().exc_string and worker.log.read_text().count("Undecided: exit status 3") >= 2


def test_a_job_that_is_done_again_gives_its_result_again(place):
    place.start_worker()
    first = place.enqueue("twice", place.script("works", WORKS))
    again = place.queue.enqueue("cc_execute.run_spec", args=first.args, kwargs=first.kwargs, result_ttl=3600)
    assert result(place, again)["tasks"] == result(place, first)["tasks"] and len(place.starts("works")) == 1
