"""Two files, copied into any repo, running on a bare Python: from another folder, isolated, linked, read-only, in bad company.

Sections: fixtures, Pythons, places, company, one file alone.
"""
from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from bridging import start_bridge
from support import ROOT, missing, own_bridges, unshare

FILES = ("cc_execute.py", "ws_bridge.py")
SPEC = "Task: Create a.txt\nSuccess Criteria: 1) a.txt exists, 2) Contains hello\n"
NAMES_OF_THE_LIBRARY = ("queue", "json", "token", "asyncio", "types", "select", "logging", "socket", "ssl", "tokenize", "secrets", "typing",
                        "re", "enum", "websocket", "redis", "site", "argparse", "signal", "sqlite3")


# ---- Fixtures: the two files in a folder of their own, run from another one. ----

class Dropped(NamedTuple):
    """The two files as copied into a repo."""
    folder: Path
    elsewhere: Path
    environment: dict

    def run(self, *python: object, script: object = None, cwd: Path = None, prefix: list = [], user: dict = {}) -> subprocess.CompletedProcess:
        """A whole run with the interpreter's words; the bridge is started by it, on a port of its own."""
        command = [*prefix, *map(str, python or (sys.executable,)), str(script or self.folder / "cc_execute.py"), "-", "--json"]
        return subprocess.run(command, input=SPEC, cwd=cwd or self.elsewhere, env=self.environment, capture_output=True, text=True,
                              timeout=120, check=False, **user)


@pytest.fixture
def dropped(tmp_path, stand_in) -> Dropped:
    for name in ("repo", "elsewhere"):
        (tmp_path / name).mkdir()
    for name in FILES:
        shutil.copyfile(ROOT / name, tmp_path / "repo" / name)
    agent = stand_in([{"write": {"path": "a.txt", "content": "hello\n"}}])
    with start_bridge() as bridge:  # ended here: its port was free a moment ago, and cc_execute.py starts its own there
        address = bridge.url
    return Dropped(tmp_path / "repo", tmp_path / "elsewhere", {**os.environ, **agent.environment, "CC_EXECUTE_BRIDGE": address})


def assert_proved(done: subprocess.CompletedProcess) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["confidence"] == "proved"


def contents(folder: Path) -> list:
    return sorted(path.name for path in folder.iterdir())


# ---- Pythons: every supported version, with nothing installed. ----

def test_it_runs_from_another_folder_and_leaves_nothing_beside_itself(dropped):
    assert_proved(dropped.run())
    assert contents(dropped.folder) == list(FILES) and contents(dropped.elsewhere) == ["a.txt"]
    bridge, = own_bridges()
    assert str(dropped.folder / "ws_bridge.py") in bridge.command


@pytest.mark.parametrize("version", [f"3.{minor}" for minor in range(9, 14)])
@pytest.mark.parametrize("options", [["-I", "-S"], ["-X", "dev", "-W", "error"]], ids=["bare", "warnings are errors"])
def test_every_python_runs_it(dropped, pythons, version, options):
    """-I -S: nothing that is installed is there, nor the folder of the script. -X dev: a file that is not closed is an error."""
    if version not in pythons:
        missing(f"Python {version}", f"found are {', '.join(sorted(pythons))}")
    done = dropped.run(pythons[version], *options)
    assert_proved(done)
    warnings = [line for line in done.stderr.splitlines() if "Warning" in line]
    assert [line for line in warnings if "is still running" not in line] == []  # that is the bridge, which is to run on


@pytest.mark.parametrize("version", [f"3.{minor}" for minor in range(11, 14)])
def test_a_safe_path_makes_no_difference(dropped, pythons, version):
    if version not in pythons:
        missing(f"Python {version}", f"found are {', '.join(sorted(pythons))}")
    assert_proved(dropped.run(pythons[version], "-P"))


@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONOPTIMIZE": "2"}],
                         ids=["C locale", "ASCII output", "-OO"])
def test_settings_of_python_make_no_difference(dropped, locale):
    dropped.environment.update(locale)
    assert_proved(dropped.run())


# ---- Places: links, read-only folders, odd names, as a module. ----

def test_through_a_symbolic_link(dropped, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "cc").symlink_to(dropped.folder / "cc_execute.py")
    assert_proved(dropped.run(script=tmp_path / "bin" / "cc"))
    assert contents(tmp_path / "bin") == ["cc"]


def test_from_its_own_folder_by_a_relative_name(dropped):
    assert_proved(dropped.run(script="cc_execute.py", cwd=dropped.folder))


def test_from_a_folder_with_an_odd_name(dropped, tmp_path):
    odd = dropped.folder.rename(tmp_path / "it's \"an\" $ODD, žluťoučký folder")
    assert_proved(dropped.run(script=odd / "cc_execute.py"))


def test_as_a_program_that_is_executable(dropped):
    shutil.copymode(ROOT / "cc_execute.py", dropped.folder / "cc_execute.py")
    if not os.access(dropped.folder / "cc_execute.py", os.X_OK):
        (dropped.folder / "cc_execute.py").chmod(0o755)
    dropped.environment["PATH"] = f"{Path(sys.executable).parent}:{dropped.environment['PATH']}"
    assert_proved(dropped.run("env"))


def test_as_a_module_of_a_package(dropped):
    """python -m tools.cc_execute, from the folder above; Python puts that folder on the path, not ours."""
    tools = dropped.folder.rename(dropped.elsewhere / "tools")
    command = [sys.executable, "-m", "tools.cc_execute", "-", "--json", "--cwd", str(tools.parent)]
    done = subprocess.run(command, input=SPEC, cwd=dropped.elsewhere, env=dropped.environment, capture_output=True, text=True, check=False)
    assert_proved(done)


def test_as_an_imported_module_under_any_name(dropped):
    program = ("import importlib.util, sys, json\nspec = importlib.util.spec_from_file_location('renamed', sys.argv[1])\n"
               "module = importlib.util.module_from_spec(spec)\nsys.modules['renamed'] = module\nspec.loader.exec_module(module)\n"
               "print(json.dumps(module.run_spec(sys.argv[2])))")
    command = [sys.executable, "-P" if sys.version_info >= (3, 11) else "-E", "-c", program, str(dropped.folder / "cc_execute.py"), SPEC]
    done = subprocess.run(command, cwd=dropped.elsewhere, env=dropped.environment, capture_output=True, text=True, check=False)
    assert_proved(done)


def test_from_a_read_only_folder(dropped):
    """A mount that root can't write to either."""
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && ! touch "$0/x" 2>/dev/null && exec "$@"'
    prefix = [*unshare("--mount"), "sh", "-c", mount, str(dropped.folder)]
    try:
        possible = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        missing("a mount namespace", str(error))
    if possible.returncode:
        missing("a read-only mount", possible.stderr)
    del dropped.environment["PYTHONDONTWRITEBYTECODE"]
    assert_proved(dropped.run(prefix=prefix))
    assert contents(dropped.folder) == list(FILES)


# ---- Company: what else stands in the repo. ----

def test_files_of_the_repo_do_not_stand_in_for_the_library(dropped):
    for name in NAMES_OF_THE_LIBRARY:
        (dropped.folder / f"{name}.py").write_text(f"raise SystemExit('the {name}.py of the repo was imported')\n")
    assert_proved(dropped.run())
    assert_proved(dropped.run(script="cc_execute.py", cwd=dropped.folder))


def test_a_package_of_the_repo_named_as_the_library_is_no_trouble(dropped):
    for name in ("websocket", "ssl"):
        (dropped.folder / name).mkdir()
        (dropped.folder / name / "__init__.py").write_text("raise SystemExit('imported')\n")
    assert_proved(dropped.run())


def test_another_package_named_websocket_is_not_taken_for_the_client(dropped, tmp_path):
    (tmp_path / "installed" / "websocket").mkdir(parents=True)
    (tmp_path / "installed" / "websocket" / "__init__.py").write_text("create_connection = None\n")
    dropped.environment["PYTHONPATH"] = str(tmp_path / "installed")
    assert_proved(dropped.run())


# ---- One file alone. ----

@pytest.mark.parametrize("options", [(), ("-I",)])
def test_without_the_bridge_the_message_says_to_put_it_there(dropped, options):
    (dropped.folder / "ws_bridge.py").unlink()
    done = dropped.run(sys.executable, *options)
    assert done.returncode == 3 and "Traceback" not in done.stderr, done.stderr
    error = json.loads(done.stdout)["tasks"][0]["attempts"][0]["error"]
    assert error["kind"] == "bridge" and "ws_bridge.py" in error["message"] and str(dropped.folder) in error["message"]


def test_a_dry_run_needs_only_the_one_file(dropped):
    (dropped.folder / "ws_bridge.py").unlink()
    command = [sys.executable, "-I", str(dropped.folder / "cc_execute.py"), "-", "--dry-run"]
    done = subprocess.run(command, input=SPEC, cwd=dropped.elsewhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "a.txt exists" in done.stdout


def test_the_bridge_alone_starts_anywhere(dropped):
    (dropped.folder / "cc_execute.py").unlink()
    with start_bridge(script=dropped.folder / "ws_bridge.py") as bridge, bridge.connect() as client:
        assert client.run(["echo", shlex.quote("hi")]).text() == "hi\n"


@pytest.mark.parametrize("name", FILES)
def test_the_inline_metadata_asks_for_no_package(name):
    """PEP 723: `uv run` works on a machine without a network."""
    head = (ROOT / name).read_text(encoding="utf-8").split('"""')[0].splitlines()
    block = [line[2:] for line in head[head.index("# /// script") + 1:head.index("# ///")]]
    assert sorted(block) == ["dependencies = []", 'requires-python = ">=3.9"']
