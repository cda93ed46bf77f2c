#!/usr/bin/env python3
"""A Messages API on loopback that answers the real Claude CLI from a script, so that whole runs need neither account nor network.

    claude -p …  --POST /v1/messages-->  ScriptedApi  --next step-->  text, tool use, HTTP error, a pause, a dropped connection

    with ScriptedApi([{"tool": "Write", "input": {"file_path": "a.txt", "content": "hi"}}, {"text": "Done."}]) as api:
        subprocess.run([claude, "-p", "Create a.txt", …], env={**os.environ, **api.environment})
    api.requests                        # the parsed body of each POST /v1/messages, in order

    python3 tests/scripted_api.py STEPS.json      # prints the variables to set, then serves until Ctrl-C

The CLI really carries out a tool use, and its next request carries the tool's result. A step is a dict:

    {"text": "…"}  {"tool": NAME, "input": {…}}       one block, or with both the text before the tool use
    {"blocks": [{"text": …}, {"tool": …}, …]}         any blocks in one message
    {"status": 529, "type": "overloaded_error", "message": "…", "headers": {"retry-after": "1"}}      an HTTP error
    {"drop": true}                                    the connection is closed without an answer; beside blocks: closed after them,
                                                      or with "block" in the middle of the last one
    beside any of these: "sleep": seconds before the answer, "stall": seconds between the blocks and the end of the message,
    "stop_reason": other than end_turn or tool_use, "usage": {"input_tokens": …, "output_tokens": …}

`steps` is a list (one step for each request, then END_STEP for ever) or a function of the request; `prompts`, `tool_results` and
`turn` tell a retry in a fresh session from a turn that goes on. A bad step in a list is an error at once; one that the function gives
is raised where the `with` block ends.

Sections: data, reading a request, writing an answer, the server, command line.
"""
from __future__ import annotations

import itertools
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Iterator, List, Mapping, NamedTuple, Sequence, Union

END_STEP = {"text": "Done."}
USAGE = {"input_tokens": 10, "output_tokens": 5}
MODIFIERS = {"sleep", "stall", "stop_reason", "usage", "drop"}
CONTENT_KEYS = {"text": {"text"}, "tool": {"tool", "input"}, "blocks": {"blocks"},
                "status": {"status", "type", "message", "headers"}}


# ---- Data. ----

class Request(NamedTuple):
    """One POST /v1/messages: its number from 1, its parsed body and its headers (names in lower case)."""
    number: int
    body: dict
    headers: Mapping[str, str]


Step = Mapping[str, Any]
Steps = Union[Sequence[Step], Callable[[Request], Step]]


# ---- Reading a request: what the agent was told and what its tools returned. Pure. ----

def blocks_of(body: dict, role: str) -> list[dict]:
    """All content blocks of the messages with that role, a plain string counting as one text block."""
    contents = [message["content"] for message in body["messages"] if message["role"] == role]
    return list(itertools.chain.from_iterable([{"type": "text", "text": c}] if isinstance(c, str) else c for c in contents))


def prompts(body: dict) -> list[str]:
    """What the user said, without the reminders that the CLI puts around it: one text in a fresh session, more after a resume."""
    texts = [block["text"] for block in blocks_of(body, "user") if block["type"] == "text"]
    return [text for text in texts if not text.lstrip().startswith("<system-reminder>")]


def tool_results(body: dict) -> list[dict]:
    """The tool_result blocks that the agent's tools have returned so far."""
    return [block for block in blocks_of(body, "user") if block["type"] == "tool_result"]


def turn(body: dict) -> int:
    """How many answers this conversation already holds: 0 in the first request of a fresh session."""
    return sum(message["role"] == "assistant" for message in body["messages"])


# ---- Writing an answer: step -> events of the stream. Pure. ----

def check_step(step: Step) -> Step:
    """The step itself, or a ValueError that names it and what would be right."""
    known = set(MODIFIERS).union(*(keys for name, keys in CONTENT_KEYS.items() if name in step))
    if not isinstance(step, Mapping) or set(step) - known or not set(step) & {*CONTENT_KEYS, "drop"}:
        beside = ", ".join(sorted(MODIFIERS))
        raise ValueError(f"step {step!r}: one of {', '.join(CONTENT_KEYS)} or drop is expected, beside it {beside}")
    return step


def step_blocks(step: Step) -> list[Step]:
    """The blocks of that step's message, text before tool use."""
    single = [{name: step[name] for name in names if name in step} for names in (("text",), ("tool", "input"))]
    return list(step.get("blocks", ())) or [block for block in single if block]


def content_block(block: Step, number: int, index: int) -> tuple[dict, dict]:
    """The block as it starts (empty) and the one delta that fills it."""
    if "tool" in block:
        identity = f"toolu_{number:04}{index:02}"
        return ({"type": "tool_use", "id": identity, "name": block["tool"], "input": {}},
                {"type": "input_json_delta", "partial_json": json.dumps(block.get("input", {}))})
    return {"type": "text", "text": ""}, {"type": "text_delta", "text": block["text"]}


def opening_events(step: Step, request: Request) -> Iterator[dict]:
    """message_start and the blocks. Each message has an id of its own: the CLI merges messages that share one."""
    usage = {**USAGE, **step.get("usage", {}), "output_tokens": 1}
    yield {"type": "message_start", "message": {
        "id": f"msg_{request.number:04}", "type": "message", "role": "assistant", "model": request.body["model"], "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": usage}}
    blocks = step_blocks(step)
    for index, block in enumerate(blocks):
        start, delta = content_block(block, request.number, index)
        yield {"type": "content_block_start", "index": index, "content_block": start}
        yield {"type": "content_block_delta", "index": index, "delta": delta}
        if step.get("drop") != "block" or index < len(blocks) - 1:
            yield {"type": "content_block_stop", "index": index}


def closing_events(step: Step) -> Iterator[dict]:
    used_tool = any("tool" in block for block in step_blocks(step))
    reason = step.get("stop_reason", "tool_use" if used_tool else "end_turn")
    usage = {"output_tokens": {**USAGE, **step.get("usage", {})}["output_tokens"]}
    yield {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}
    yield {"type": "message_stop"}


# ---- The server: one thread per request, steps handed out under a lock. ----

class ScriptedApi:
    """The API as a context manager: `port` and `environment` say where it is, `requests` what was asked. Leaving ends all waits."""

    def __init__(self, steps: Steps) -> None:
        self._choose = steps if callable(steps) else _one_after_another(steps)
        self._lock = threading.RLock()  # a step chosen by a function may look at `requests`
        self._seen: List[Request] = []
        self._faults: List[Exception] = []
        self.closing = threading.Event()
        handler = type("Handler", (_Handler,), {"api": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> ScriptedApi:
        self._thread.start()
        return self

    def __exit__(self, kind, *_) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if self._faults and kind is None:
            raise self._faults[0]

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def environment(self) -> dict[str, str]:
        """The variables that bring the CLI here and keep it from any other address."""
        quiet = ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "DISABLE_AUTOUPDATER", "DISABLE_TELEMETRY", "DISABLE_ERROR_REPORTING")
        address = f"http://127.0.0.1:{self.port}"
        return {"ANTHROPIC_BASE_URL": address, "ANTHROPIC_API_KEY": "sk-ant-anything", **dict.fromkeys(quiet, "1")}

    @property
    def requests(self) -> list[dict]:
        """The bodies of all POST /v1/messages so far, in order."""
        with self._lock:
            return [request.body for request in self._seen]

    def answer(self, body: dict, headers: Mapping[str, str]) -> tuple[Request, Step]:
        """Notes the request and chooses its step; a fault in the script is kept for the `with` block and answered as HTTP 400."""
        with self._lock:
            request = Request(len(self._seen) + 1, body, headers)
            self._seen.append(request)
            try:
                return request, check_step(self._choose(request))
            except Exception as fault:  # a handler thread has no caller: __exit__ raises it
                self._faults.append(fault)
                return request, {"status": 400, "type": "invalid_request_error", "message": f"fault in the script: {fault}"}


def _one_after_another(steps: Sequence[Step]) -> Callable[[Request], Step]:
    following = itertools.chain([check_step(step) for step in steps], itertools.repeat(END_STEP))
    return lambda request: next(following)


class _Handler(BaseHTTPRequestHandler):
    """Speaks HTTP for one connection; `api` is set by the server that made the class."""
    api: ScriptedApi
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        """Nothing is logged: the CLI's output is what a test looks at."""

    def do_GET(self) -> None:
        self._send_json(200, {}, {})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "count_tokens" in self.path:
            return self._send_json(200, {"input_tokens": USAGE["input_tokens"]}, {})
        request, step = self.api.answer(body, {name.lower(): value for name, value in self.headers.items()})
        self.api.closing.wait(step.get("sleep", 0))
        try:
            self._play(request, step)
        except ConnectionError:  # the CLI was ended in the middle of an answer
            self.close_connection = True

    def _play(self, request: Request, step: Step) -> None:
        if "status" in step:
            error = {"type": step.get("type", "api_error"), "message": step.get("message", "")}
            return self._send_json(step["status"], {"type": "error", "error": error}, step.get("headers", {}))
        self.close_connection = True
        if not step_blocks(step):
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self._send_events(opening_events(step, request))
        self.api.closing.wait(step.get("stall", 0))
        if not step.get("drop"):
            self._send_events(closing_events(step))

    def _send_json(self, status: int, value: dict, headers: Mapping[str, str]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_events(self, events: Iterator[dict]) -> None:
        for event in events:
            self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()


# ---- Command line: serves one script until Ctrl-C. ----

def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: scripted_api.py STEPS.json", file=sys.stderr)
        return 2
    with ScriptedApi(json.loads(Path(arguments[0]).read_text(encoding="utf-8"))) as api:
        print(" ".join(f"{name}={value}" for name, value in api.environment.items()), flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
