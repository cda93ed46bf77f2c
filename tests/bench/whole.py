"""What the whole tool adds to bare `claude -p`: the real CLI, which talks to a scripted API on loopback, does the seed's worked example.

    python whole.py [--rounds 7] [--sdk PYTHON]   (a Python that has claude-agent-sdk)

Interleaved rounds, medians. `adds` is over the bare CLI in the same round. A script is compiled at every start, a module only once: so
`python cc_execute.py` is beside `python -m cc_execute`, which runs the same code. Then how long a start takes, beside Python's own with the
modules that any such program loads.
"""
from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))
from scripted_api import ScriptedApi, turn  # noqa: E402

SPEC = HERE.parent / "specs" / "worked_example.txt"
PROMPT = 'Create a config.py file with DATABASE_URL="sqlite:///test.db".'
FLAGS = ["--output-format", "stream-json", "--verbose", "--allowedTools", "Write,Read", "--dangerously-skip-permissions"]


def find_cli() -> Optional[str]:
    installed = ROOT / ".tools" / "node_modules" / ".bin" / "claude"
    return str(installed) if installed.exists() else shutil.which("claude")


def answer(request) -> dict:
    """Writes the file, then says so."""
    if turn(request.body) == 0:
        return {"tool": "Write", "input": {"file_path": str(Path.cwd() / "config.py"), "content": 'DATABASE_URL="sqlite:///test.db"\n'}}
    return {"text": "config.py is there."}


def timed(command: Sequence[str], is_failure_expected: bool = False) -> float:
    """Milliseconds."""
    begun = time.perf_counter()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode and not is_failure_expected:
        raise SystemExit(f"{command[:4]} ended with {done.returncode}:\n{done.stdout[-2000:]}")
    return (time.perf_counter() - begun) * 1000


@contextlib.contextmanager
def a_bridge(place: Path) -> Iterator[str]:
    place.mkdir(mode=0o700, exist_ok=True)
    process = subprocess.Popen([sys.executable, str(ROOT / "ws_bridge.py"), "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait()


def free_url() -> str:
    import socket
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"ws://127.0.0.1:{sock.getsockname()[1]}"


def end_bridges(runtime: Path) -> None:
    """Those that cc_execute.py started: what holds their journals open."""
    for journal in runtime.glob("cc_execute/bridge-*.runs"):
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.kill(int(journal.name.split("-")[2]), 15)


def show(title: str, found: Dict[str, List[float]], base: str) -> None:
    print(f"\n{title:<46} {'ms':>8} {'adds':>8} {'ratio':>7}")
    for name, times in found.items():
        adds = statistics.median(mine - bare for mine, bare in zip(times, found[base]))
        ratio = statistics.median(mine / bare for mine, bare in zip(times, found[base]))
        print(f"{name:<46} {statistics.median(times):>8.1f} {adds:>8.1f} {ratio:>6.2f}x", flush=True)


def rounds_of(commands: Dict[str, Callable[[], float]], rounds: int) -> Dict[str, List[float]]:
    """The first round is not counted: it compiles and fills caches."""
    found: Dict[str, List[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, run in commands.items():
            spent = run()
            found[name] += [spent] if number else []
    return found


def measure_tasks(cli: str, sdk: Optional[str], place: Path, rounds: int) -> None:
    runtime, script = place / "runtime", [sys.executable, str(ROOT / "cc_execute.py")]
    module = [sys.executable, "-m", "cc_execute"]
    with ScriptedApi(answer) as api, a_bridge(runtime) as url:
        os.environ.update(api.environment, IS_SANDBOX="1")
        cold = lambda command: lambda: timed([*command, str(SPEC), "--claude", cli, "--bridge", free_url()])  # noqa: E731
        warm = lambda command: lambda: timed([*command, str(SPEC), "--claude", cli, "--bridge", url])  # noqa: E731
        commands = {"claude -p": lambda: timed([cli, "-p", PROMPT, *FLAGS]),
                    "python -m cc_execute, bridge there": warm(module), "python cc_execute.py, bridge there": warm(script),
                    "python -m cc_execute, bridge to be started": cold(module), "python cc_execute.py, bridge to be started": cold(script)}
        if sdk:
            commands["the Python SDK"] = lambda: timed([sdk, str(HERE / "sdk.py"), cli, PROMPT])
        try:
            show("the worked example", rounds_of(commands, rounds), "claude -p")
        finally:
            end_bridges(runtime)


def measure_starts(rounds: int) -> None:
    starts = {"python -c 'import argparse, json'": ["-c", "import argparse, json"], "python -m cc_execute --help": ["-m", "cc_execute", "--help"],
              "python cc_execute.py --help": [str(ROOT / "cc_execute.py"), "--help"],
              "python -m cc_execute --dry-run": ["-m", "cc_execute", "--dry-run", str(SPEC)],
              "python cc_execute.py --dry-run": [str(ROOT / "cc_execute.py"), "--dry-run", str(SPEC)],
              "python -c 'compile(cc_execute.py)'": ["-c", f"compile(open({str(ROOT / 'cc_execute.py')!r}).read(), 'x', 'exec')"]}
    commands = {name: lambda arguments=arguments: timed([sys.executable, *arguments]) for name, arguments in starts.items()}
    show("a start", rounds_of(commands, 2 * rounds), "python -c 'import argparse, json'")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sdk", metavar="PYTHON")
    options = parser.parse_args()
    cli, sdk = find_cli(), options.sdk and str(Path(options.sdk).absolute())
    with tempfile.TemporaryDirectory(prefix="cc-bench-") as name:
        place = Path(name)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ.update(HOME=name, XDG_RUNTIME_DIR=str(place / "runtime"), PYTHONPATH=str(ROOT), PYTHONPYCACHEPREFIX=str(place / "pycache"))
        (place / "work").mkdir()
        os.chdir(place / "work")
        measure_starts(options.rounds)
        if cli:
            measure_tasks(cli, sdk, place, options.rounds)
        else:
            print("\nthe worked example: left out, the Claude CLI is not installed (.ci/run does that)")


if __name__ == "__main__":
    main()
