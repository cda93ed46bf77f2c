"""What every test stands on: an environment of its own, no process left behind, and the fixtures that start the real programs.

Each test has a private HOME, XDG_RUNTIME_DIR (0700) and other XDG folders, none of the user's settings, and CC_TEST_RUN=<id> in
its environment. A process that still carries that mark after the test was left behind: it is ended and the test fails. Bridges are
the exception: they may idle on for a while after their last client, so they are only asked to end.

Environment: CC_TEST_CLAUDE names the real Claude CLI; CC_REQUIRE_ALL=1 turns a skip for want of a part into a failure.
"""
from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any, Iterator, Mapping, NamedTuple, Optional, Sequence

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(ROOT / ".tools" / "hypothesis"))

from hypothesis import HealthCheck, settings  # noqa: E402  (it reads the variable above)

from bridging import RunningBridge, start_bridge  # noqa: E402  (found beside this file)
from redis_server import RedisServer, running_redis  # noqa: E402
from support import DEADLINE_S, end_marked, missing  # noqa: E402

# No deadlines: the machine may be busy. Where CI is set, Hypothesis' own profile also takes the same examples each time.
settings.register_profile("busy-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci" if os.environ.get("CI") else "busy-machine")

SETTINGS = re.compile(r"CC_EXECUTE_|CC_BRIDGE_|CLAUDE|ANTHROPIC|STAND_IN_|IS_SANDBOX$|REDIS_URL$|XDG_|\w+_proxy$", re.IGNORECASE)
MARK = "CC_TEST_RUN"
PYTHON_MINORS = range(9, 14)
RUN_LIMIT_S = 120.0  # for one cc_execute.py in a test; a run takes seconds
STARTS_PROCESS = {"subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty"}
USER_HOME = Path(pwd.getpwuid(os.getuid()).pw_dir)  # HOME is private while tests run


# ---- A private environment, and nothing left running in it. ----

_process_starts = 0


def _count_process_starts(event: str, _: tuple) -> None:
    """An audit hook: only a test that started something needs a look at all processes of the machine."""
    global _process_starts
    _process_starts += event in STARTS_PROCESS


sys.addaudithook(_count_process_starts)


def private_variables(folder: Path, mark: str) -> dict[str, str]:
    """The variables of one private environment; only HOME and the runtime folder exist from the start, as on a new machine."""
    for name in ("home", "runtime"):
        (folder / name).mkdir(mode=0o700)
    places = {"HOME": "home", "XDG_RUNTIME_DIR": "runtime", "XDG_STATE_HOME": "state", "XDG_DATA_HOME": "data",
              "XDG_CACHE_HOME": "cache", "XDG_CONFIG_HOME": "config"}
    return {**{name: str(folder / place) for name, place in places.items()}, MARK: mark, "PYTHONDONTWRITEBYTECODE": "1"}


def private_environment() -> Iterator[None]:
    """Puts a private environment in place; at the end everything started in it must be gone."""
    folder, mark = Path(tempfile.mkdtemp(prefix="cc-test-")), uuid.uuid4().hex
    before = _process_starts
    with pytest.MonkeyPatch.context() as patch:
        for name in filter(SETTINGS.match, list(os.environ)):
            patch.delenv(name)
        for name, value in private_variables(folder, mark).items():
            patch.setenv(name, value)
        yield
    marks = (f"{MARK}={mark}", f"XDG_RUNTIME_DIR={folder / 'runtime'}")  # a bridge of cc_execute.py's keeps only the second
    faults = end_marked(*marks) if _process_starts > before else []
    shutil.rmtree(folder)
    if faults:
        pytest.fail("\n".join(faults), pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def _session_environment() -> Iterator[None]:
    """For what fixtures of wider scope start."""
    yield from private_environment()


@pytest.fixture(autouse=True)
def _test_environment(_session_environment) -> Iterator[None]:
    yield from private_environment()


# ---- The real Claude CLI and the Pythons of this machine. ----

@pytest.fixture(scope="session")
def claude() -> Path:
    """The real Claude CLI."""
    named = os.environ.get("CC_TEST_CLAUDE")
    places = [named] if named else [str(ROOT / ".tools/node_modules/.bin/claude"), shutil.which("claude")]
    found = [place for place in places if place and os.access(place, os.X_OK)]
    if not found:
        looked = ", ".join(filter(None, places))
        missing("the Claude CLI", f"looked for {looked}; .ci/run installs it into .tools, CC_TEST_CLAUDE names another")
    return Path(found[0]).absolute()


@pytest.fixture(scope="session")
def pythons() -> dict[str, Path]:
    """The interpreters found for each supported version ("3.9": path, …), the one that runs the tests among them."""
    versions = [f"3.{minor}" for minor in PYTHON_MINORS]
    installed = (USER_HOME / ".pyenv" / "versions").glob("3.*/bin/python3")
    candidates = [sys.executable, *map(str, installed), *filter(None, (shutil.which(f"python{version}") for version in versions))]
    found: dict[str, Path] = {}
    for candidate in candidates:
        report = "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"
        answer = subprocess.run([candidate, "-c", report], capture_output=True, text=True, check=False)
        version, _, path = answer.stdout.strip().partition(" ")
        if version in versions:  # a shim of a version that is not there answers nothing
            found.setdefault(version, Path(path))
    return found


# ---- A real browser. ----

@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium, driven by selenium; it keeps what its console says."""
    from selenium import webdriver
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(programs):
        missing("Chromium", "no `chromium` or no `chromedriver`: Debian's packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for word in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync", "--no-proxy-server", f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(word)
    driver = webdriver.Chrome(options, webdriver.ChromeService(programs[1]))
    driver.set_script_timeout(DEADLINE_S)
    yield driver
    driver.quit()


# ---- Running cc_execute.py. ----

class Run(subprocess.CompletedProcess):
    """One finished run of cc_execute.py: args, returncode, stdout and stderr as text."""

    def json(self) -> Any:
        """The one JSON document on stdout."""
        try:
            return json.loads(self.stdout)
        except ValueError as error:
            pytest.fail(f"no JSON document ({error}), exit {self.returncode}\nstdout: {self.stdout}\nstderr: {self.stderr}")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """An empty folder to work in."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder


@pytest.fixture
def bridge(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningBridge]:
    """A real bridge on a free port, which every cc_execute.py of the test uses unless told otherwise."""
    with start_bridge() as running:
        monkeypatch.setenv("CC_EXECUTE_BRIDGE", running.url)
        yield running


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A real redis-server on a free port."""
    yield from running_redis()


@pytest.fixture
def run_cc(workspace: Path):
    """run_cc(*args): runs cc_execute.py in its own process and gives its Run; `env` adds variables or, with None, takes them
    away; `prefix` stands before the command, `python` is the interpreter with its options."""
    def run(*args: object, cwd: Optional[Path] = None, env: Mapping[str, Optional[str]] = {}, input: Optional[str] = None,
            timeout: float = RUN_LIMIT_S, prefix: Sequence[str] = (), python: Sequence[str] = (sys.executable,)) -> Run:
        command = [*prefix, *python, str(ROOT / "cc_execute.py"), *map(str, args)]
        variables = {name: value for name, value in {**os.environ, **env}.items() if value is not None}
        standard_input = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        done = subprocess.run(command, cwd=cwd or workspace, env=variables, capture_output=True, encoding="utf-8",
                              timeout=timeout, check=False, **standard_input)
        return Run(command, done.returncode, done.stdout, done.stderr)
    return run


class StandIn(NamedTuple):
    """A scripted stand-in agent: the variables that make cc_execute.py use it, and the record of its starts."""
    environment: Mapping[str, str]
    record: Path

    def starts(self) -> list[dict]:
        """One dict for each start: attempt, argv, stdin, prompt, cwd, umask, environment, pid (see stand_in.py)."""
        return [json.loads(line) for line in self.record.read_text("utf-8").splitlines()] if self.record.exists() else []


@pytest.fixture
def stand_in(tmp_path_factory: pytest.TempPathFactory):
    """stand_in(*attempts): each attempt a list of steps; without any, the agent that only knows the worked example."""
    def make(*attempts: list) -> StandIn:
        folder = tmp_path_factory.mktemp("stand_in")
        environment = {"CC_EXECUTE_CLAUDE": shlex.join([sys.executable, str(ROOT / "tests" / "stand_in.py")])}
        if attempts:
            script = folder / "script.json"
            script.write_text(json.dumps({"attempts": attempts, "record": "record.jsonl"}), encoding="utf-8")
            environment["STAND_IN_SCRIPT"] = str(script)
        return StandIn(environment, folder / "record.jsonl")
    return make
