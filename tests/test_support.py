"""What the other tests stand on must hold itself: leftovers fail a test, the environment is private, missing parts are no secret."""
from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from scripted_api import ScriptedApi, prompts, tool_results, turn
from support import ROOT, wait_until

LEFTOVER = "subprocess.Popen(['sleep', '600'], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)"


def run_pytest(folder: Path, body: str, **variables: str) -> subprocess.CompletedProcess:
    """Runs one test with that body under this suite's conftest.py, in a process of its own."""
    test = folder / "test_inner.py"
    test.write_text("import os, signal, subprocess, sys\nfrom support import missing\ndef test_inner(workspace):\n"
                    + textwrap.indent(textwrap.dedent(body), "    "), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-c", os.devnull, "--rootdir", str(folder), "-p", "no:cacheprovider",
               "-p", "conftest", "--basetemp", str(folder / "base"), str(test)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), **variables}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


def is_running(pid: int) -> bool:
    """Zombies count as ended: who reaps them is not our concern."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_process_left_behind_is_ended_and_fails_the_test(tmp_path):
    done = run_pytest(tmp_path, LEFTOVER)
    assert done.returncode == 1, done.stdout
    left = re.search(r"left running: (\d+) sleep 600", done.stdout)
    assert left, done.stdout
    wait_until(lambda: not is_running(int(left[1])), "the leftover has ended")


def test_a_bridge_left_behind_is_only_asked_to_end(tmp_path):
    """Any program of that name will do: it ends on SIGTERM and says so in a file."""
    bridge = tmp_path / "ws_bridge.py"
    bridge.write_text("import pathlib, signal, sys\n"
                      "signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path(sys.argv[1]).write_text('asked'), sys.exit(0)))\n"
                      "print('ready', flush=True)\nwhile True: signal.pause()\n", encoding="utf-8")
    told = tmp_path / "told"
    done = run_pytest(tmp_path, f"""
        bridge = subprocess.Popen([sys.executable, {str(bridge)!r}, {str(told)!r}], stdout=subprocess.PIPE, start_new_session=True)
        assert bridge.stdout.readline() == b'ready\\n'
    """)
    assert done.returncode == 0, done.stdout
    assert told.read_text() == "asked"


def test_a_test_that_ends_what_it_started_passes(tmp_path):
    done = run_pytest(tmp_path, "subprocess.run(['true'], check=True)")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("required, status, word", [("0", 0, "1 skipped"), ("1", 1, "1 failed")])
def test_a_missing_part_skips_or_fails(tmp_path, required, status, word):
    done = run_pytest(tmp_path, "missing('the part', 'it is not here')", CC_REQUIRE_ALL=required)
    assert (done.returncode, word in done.stdout) == (status, True), done.stdout
    assert "the part is missing: it is not here" in done.stdout


def test_the_environment_is_private(tmp_path):
    users = {"HOME": "/users/home", "XDG_STATE_HOME": "/users/state", "CC_EXECUTE_STORE": "redis://users", "CC_BRIDGE_TOKEN": "users",
             "CLAUDECODE": "1", "CLAUDE_CONFIG_DIR": "/users", "ANTHROPIC_API_KEY": "users", "IS_SANDBOX": "1", "http_proxy": "users",
             "HTTPS_PROXY": "users", "REDIS_URL": "redis://users"}
    done = run_pytest(tmp_path, """
        assert not [name for name, value in os.environ.items() if 'users' in value or name in ('CLAUDECODE', 'IS_SANDBOX')]
        assert os.stat(os.environ['XDG_RUNTIME_DIR']).st_mode & 0o777 == 0o700
        assert os.listdir(workspace) == [] and os.environ['CC_TEST_RUN']
    """, **users)
    assert done.returncode == 0, done.stdout


def test_the_pythons_answer_for_themselves(pythons):
    assert "%d.%d" % sys.version_info[:2] in pythons
    for version, path in pythons.items():
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
        assert answer.startswith(f"Python {version}.")


# ---- The scripted API (what the real CLI makes of it is in test_stand_in.py). ----

FRESH = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "<system-reminder>be good</system-reminder>"},
                                                                 {"type": "text", "text": "the prompt"}]}]}
RESULT = {"type": "tool_result", "tool_use_id": "t", "content": "hi"}
LATER = {**FRESH, "messages": [*FRESH["messages"], {"role": "assistant", "content": "hm"}, {"role": "user", "content": [RESULT]}]}


def post(api: ScriptedApi, body: dict) -> tuple:
    """Status, headers and body of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=30)
    try:
        connection.request("POST", "/v1/messages", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


def test_the_api_gives_one_step_after_the_other():
    error = {"status": 429, "type": "rate_limit_error", "message": "slow down", "headers": {"retry-after": "7"}}
    with ScriptedApi([{"text": "one"}, error, {"drop": True}, {"text": "half", "drop": True}]) as api:
        assert "one" in post(api, FRESH)[2]
        status, headers, body = post(api, FRESH)
        assert (status, headers["retry-after"]) == (429, "7") and json.loads(body)["error"]["type"] == "rate_limit_error"
        with pytest.raises(http.client.RemoteDisconnected):
            post(api, FRESH)
        assert "message_stop" not in post(api, FRESH)[2]
        assert "Done." in post(api, FRESH)[2]
        assert api.requests == [FRESH] * 5


def test_a_function_tells_a_fresh_session_from_one_that_goes_on():
    def choose(request):
        return {"text": f"turn {turn(request.body)}: {prompts(request.body)} {[r['content'] for r in tool_results(request.body)]}"}

    with ScriptedApi(choose) as api:
        assert "turn 0: ['the prompt'] []" in post(api, FRESH)[2]
        assert "turn 1: ['the prompt'] ['hi']" in post(api, LATER)[2]


def test_a_bad_step_is_an_error_of_the_script():
    with pytest.raises(ValueError, match="'txt'"):
        ScriptedApi([{"txt": "oops"}])
    with pytest.raises(ValueError, match="'txt'"):
        with ScriptedApi(lambda request: {"txt": "oops"}) as api:
            assert post(api, FRESH)[0] == 400


def test_leaving_the_api_ends_what_it_waits_for():
    with ScriptedApi([{"text": "Well,", "stall": 600}]) as api:
        connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=30)
        connection.request("POST", "/v1/messages", json.dumps(FRESH))
        answer = connection.getresponse()
        assert b"message_start" in answer.readline()
    assert b"message_stop" in answer.read()
    connection.close()
