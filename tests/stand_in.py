#!/usr/bin/env python3
"""A stand-in for the Claude CLI: takes its arguments, speaks its stream-json, really writes and runs things, needs no account.

    arguments, standard input -> script (or the one task it understands) -> steps, each carried out -> events on standard output

    python3 stand_in.py -p 'Create a config.py file with DEBUG=1' --output-format stream-json --verbose

Without a script it understands `Create a NAME file with TEXT` (also as the question `What is a NAME file with TEXT? …`) and takes
about a second for it. With STAND_IN_SCRIPT=FILE.json it plays that file:

    {"attempts": [[step, …], …], "record": "FILE", "counter": "FILE"}

The first start plays the first attempt, the next start the second; after the last, the last again. `counter` is the file whose size
is the number of starts (default: the script's name and `.count`). `record` gets one JSON line for each start: attempt, argv, stdin,
prompt, cwd, umask, environment, pid. Relative names are taken from the script's folder. A step is an object with one key:

    text: "…"                          the agent says so
    write: {path, content}             the Write tool
    edit: {path, old, new}             the Edit tool
    read: "path"                       the Read tool
    bash: "command"                    the Bash tool, for real; a failure has is_error and content "Exit code N\\n…"
    tool: {name, input, content,       any other tool: nothing is done, the last three say what it returned
           is_error, tool_use_result}
    spawn: "command"                   starts it in a session of its own and leaves it running; {command, hold_output: true}:
                                       holding the agent's own output open
    sleep: seconds
    ignore: "SIGTERM"                  that signal does nothing from here on
    raw: "line"                        a line on stdout as it is (a lone surrogate \\udcXX is the byte XX)
    stderr: "line"
    event: {…}                         any event; uuid and session_id are added
    api_retry: {…}                     a system/api_retry with these fields changed
    api_error: {text, status, error}   what the CLI shows for a failed request: a synthetic message, then an error result
    result: {…}                        a result with these fields changed; without any, a good one follows the last step
    exit: code                         ends at once, without a result if there was none

Exit codes are those of Claude Code 2.1.197: 0; 1 after an error result or for wrong usage; 143 on SIGTERM, leaving its Bash command
behind. SIGINT ends the turn: in a tool with a result and exit 1, while it speaks with a result and exit 0, before the first word
without a result and exit 0 (the CLI does mostly so; right after a tool's start it may end without a result too). A bad script: 2.
Not imitated: permissions, limits of turns and money, other output formats.

Sections: data, command line, stream, tools, steps, scripts, main.
"""
from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Mapping, NamedTuple, NoReturn, Optional

VERSION = "2.1.197"
MODEL = "stand-in"
STDIN_WAIT_S = 3  # the CLI's own wait for standard input that stays open and silent
PAUSE_S = 0.3  # between the events of the worked example, so that progress can be seen

USAGE = {"input_tokens": 10, "output_tokens": 5, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
NO_INPUT = "Error: Input must be provided either through stdin or as a prompt argument when using --print"
NO_STDIN = ("Warning: no stdin data received in 3s, proceeding without it. If piping from a slow command, redirect stdin "
            "explicitly: < /dev/null to skip, or wait longer.")
REJECTED = ("The user doesn't want to proceed with this tool use. The tool use was rejected (eg. if it was a file edit, the new_string "
            "was NOT written to the file). STOP what you are doing and wait for the user to tell you how to proceed.")
INTERRUPTED = {  # whether in a tool: what is said, stop_reason, terminal_reason
    True: ("[Request interrupted by user for tool use]", "tool_use", "aborted_tools"),
    False: ("[Request interrupted by user]", None, "aborted_streaming"),
}
FRESH = "(file state is current in your context — no need to Read it back)"
WORKED_EXAMPLE = re.compile(r"(?:Create|What is) an? (?P<name>[^\s/]+) file with (?P<text>.+?)(?:\.$|\? Show|$)", re.I | re.M)
# Exit code 1 of these commands is an answer, not a failure.
MEANING_OF_ONE = {"grep": "No matches found", "rg": "No matches found", "diff": "Files differ", "test": "Condition is false",
                  "find": "Some directories were inaccessible"}

NO_VALUE, ONE_VALUE, MANY_VALUES = range(3)
FLAGS = {
    **dict.fromkeys(["-p", "--print", "--verbose", "--dangerously-skip-permissions", "-c", "--continue", "--fork-session",
                     "--no-session-persistence", "--include-partial-messages", "--include-hook-events",
                     "--strict-mcp-config"], NO_VALUE),
    **dict.fromkeys(["--output-format", "--input-format", "--model", "--fallback-model", "--max-turns", "--max-budget-usd",
                     "--resume", "-r", "--session-id", "--permission-mode", "--json-schema", "--settings", "--setting-sources",
                     "--effort", "--system-prompt", "--append-system-prompt", "--system-prompt-file",
                     "--append-system-prompt-file"], ONE_VALUE),
    **dict.fromkeys(["--allowedTools", "--allowed-tools", "--disallowedTools", "--disallowed-tools", "--tools", "--add-dir",
                     "--mcp-config"], MANY_VALUES),
}


# ---- Data. ----

class Stop(Exception):
    """The program ends here, with a message on stderr unless it is empty."""

    def __init__(self, exit_code: int, message: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code


class CommandLine(NamedTuple):
    """What the arguments say: the prompt (None: not there) and the last value of each flag."""
    prompt: Optional[str]
    flags: Mapping[str, Any]


class ToolOutcome(NamedTuple):
    """What a tool returned: the text for the model, the CLI's own object or text beside it, whether it failed (None: not said)."""
    content: str
    tool_use_result: Any
    is_error: Optional[bool] = None


# ---- Command line: arguments -> CommandLine, with the CLI's own words for what is wrong. ----

def read_arguments(arguments: list[str]) -> CommandLine:
    """Reads them as the CLI does: a flag that takes many values swallows every word up to the next flag, a prompt too."""
    words, flags, positional = list(arguments), {}, []
    while words:
        word = words.pop(0)
        if word == "--":
            positional, words = positional + words, []
        elif not word.startswith("-") or word == "-":
            positional.append(word)
        else:
            name, _, value = word.partition("=")
            flags[name] = flag_value(name, words if "=" not in word else [value])
    return CommandLine(positional[0] if positional else None, flags)


def flag_value(name: str, words: list[str]) -> Any:
    """The value of that flag, taken off the front of the words."""
    arity = FLAGS.get(name)
    if arity is None:
        raise Stop(1, f"error: unknown option '{name}'")
    if arity == NO_VALUE:
        return True
    if not words:
        raise Stop(1, f"error: option '{name} <value>' argument missing")
    values = [words.pop(0)]
    while arity == MANY_VALUES and words and not words[0].startswith("-"):
        values.append(words.pop(0))
    return values[0] if arity == ONE_VALUE else values


def check_usage(line: CommandLine) -> None:
    if line.flags.get("--output-format") != "stream-json" or not {"-p", "--print"} & set(line.flags):
        raise Stop(1, "stand_in: only -p with --output-format stream-json is imitated")
    if "--verbose" not in line.flags:
        raise Stop(1, "Error: When using --print, --output-format=stream-json requires --verbose")


def read_standard_input(has_prompt: bool) -> str:
    """All of standard input unless it is a terminal; beside a prompt, silence is given up on after STDIN_WAIT_S."""
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    if has_prompt and not select.select([sys.stdin], [], [], STDIN_WAIT_S)[0]:
        print(NO_STDIN, file=sys.stderr, flush=True)
        return ""
    return sys.stdin.buffer.read().decode("utf-8", "replace")


# ---- Stream: what is said on standard output, one whole line at a time. ----

def write_line(text: str) -> None:
    """SIGINT waits until the line is out, so that no line is ever half there or followed by its own second half."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape") + b"\n")
        sys.stdout.buffer.flush()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


class Turn:
    """One run of the agent: what was said so far, and the events that say it."""

    def __init__(self, flags: Mapping[str, Any], attempt: int) -> None:
        self.session_id = flags.get("--resume") or flags.get("-r") or flags.get("--session-id") or str(uuid.uuid4())
        self.model = flags.get("--model", MODEL)
        self.permission_mode = "bypassPermissions" if "--dangerously-skip-permissions" in flags else "default"
        self.attempt = attempt
        self.started = time.monotonic()
        self.messages = 0
        self.tool_calls = 0
        self.text = ""
        self.open_tool: Optional[str] = None
        self.exit_code: Optional[int] = None

    def emit(self, event: dict) -> None:
        complete = {**event, "session_id": self.session_id, "uuid": str(uuid.uuid4())}
        write_line(json.dumps(complete, ensure_ascii=False, separators=(",", ":")))

    def init(self) -> None:
        self.emit({"type": "system", "subtype": "init", "cwd": os.getcwd(), "tools": ["Bash", "Edit", "Read", "Write"],
                   "mcp_servers": [], "model": self.model, "permissionMode": self.permission_mode, "slash_commands": [],
                   "apiKeySource": "none", "claude_code_version": VERSION, "output_style": "default", "agents": [], "skills": [],
                   "plugins": []})

    def assistant(self, block: dict, **changes: Any) -> None:
        self.messages += 1
        message = {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant", "model": self.model, "content": [block],
                   "stop_reason": None, "stop_sequence": None, "usage": USAGE, "context_management": None}
        extra = {name: changes.pop(name) for name in ("error",) if name in changes}
        self.emit({"type": "assistant", "message": {**message, **changes}, "parent_tool_use_id": None, **extra})

    def user(self, block: dict, **extra: Any) -> None:
        timestamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        message = {"role": "user", "content": [block]}
        self.emit({"type": "user", "message": message, "parent_tool_use_id": None, "timestamp": timestamp, **extra})

    def begin_tool(self, name: str, tool_input: dict) -> None:
        self.tool_calls += 1
        self.open_tool = f"toolu_{uuid.uuid4().hex}"
        self.assistant({"type": "tool_use", "id": self.open_tool, "name": name, "input": tool_input})

    def end_tool(self, outcome: ToolOutcome) -> None:
        block = {"type": "tool_result", "tool_use_id": self.open_tool, "content": outcome.content}
        if outcome.is_error is not None:
            block["is_error"] = outcome.is_error
        self.open_tool = None
        self.user(block, tool_use_result=outcome.tool_use_result)

    def result(self, **changes: Any) -> None:
        """A good result with these fields changed. As in the CLI, subtypes other than success have `errors` and no `result`."""
        elapsed_ms = int(1000 * (time.monotonic() - self.started))
        event = {"type": "result", "subtype": "success", "is_error": False, "api_error_status": None, "duration_ms": elapsed_ms,
                 "duration_api_ms": elapsed_ms, "num_turns": self.tool_calls + 1, "result": self.text, "stop_reason": "end_turn",
                 "total_cost_usd": 0.0, "usage": USAGE, "modelUsage": {}, "permission_denials": [], "terminal_reason": "completed"}
        if changes.get("subtype", "success") != "success":
            event = {name: value for name, value in event.items() if name not in ("result", "api_error_status")}
            event.update(is_error=True, errors=[])
        event.update(changes)
        self.exit_code = int(event["is_error"])
        self.emit(event)

    def interrupted(self) -> int:
        """SIGINT: tells of it as the CLI does and gives its exit code; a turn that is over just ends."""
        if not self.messages or self.exit_code is not None:
            return self.exit_code or 0
        in_tool = self.open_tool is not None
        if in_tool:
            self.end_tool(ToolOutcome(REJECTED, "User rejected tool use", True))
        note, stop_reason, terminal_reason = INTERRUPTED[in_tool]
        self.user({"type": "text", "text": note})
        self.result(subtype="error_during_execution", stop_reason=stop_reason, terminal_reason=terminal_reason,
                    errors=[f"[ede_diagnostic] result_type=user last_content_type=n/a stop_reason={stop_reason or 'null'}"])
        return int(in_tool)


# ---- Tools: input -> what really happened. ----

def use_write(path: str, content: str) -> ToolOutcome:
    target = Path(path)
    before = target.read_text(encoding="utf-8") if target.is_file() else None
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(content, encoding="utf-8")
    details = {"filePath": path, "content": content, "structuredPatch": [], "originalFile": before, "userModified": False}
    if before is None:
        return ToolOutcome(f"File created successfully at: {path} {FRESH}", {"type": "create", **details})
    return ToolOutcome(f"The file {path} has been updated successfully. {FRESH}", {"type": "update", **details})


def use_edit(path: str, old: str, new: str) -> ToolOutcome:
    target = Path(path)
    before = target.read_text(encoding="utf-8") if target.is_file() else ""
    if old not in before:
        told = f"<tool_use_error>String to replace not found in file.\nString: {old}</tool_use_error>"
        return ToolOutcome(told, f"Error: {told}", True)
    target.write_text(before.replace(old, new, 1), encoding="utf-8")
    return ToolOutcome(f"The file {path} has been updated successfully. {FRESH}",
                       {"filePath": path, "oldString": old, "newString": new, "originalFile": before, "structuredPatch": [],
                        "userModified": False, "replaceAll": False})


def use_read(path: str) -> ToolOutcome:
    if not Path(path).is_file():
        told = f"File does not exist. Note: your current working directory is {os.getcwd()}."
        return ToolOutcome(told, f"Error: {told}", True)
    content = Path(path).read_text(encoding="utf-8")
    lines = content.split("\n")
    numbered = "\n".join(f"{number}\t{line}" for number, line in enumerate(lines, 1))
    file = {"filePath": path, "content": content, "numLines": len(lines), "startLine": 1, "totalLines": len(lines)}
    return ToolOutcome(numbered, {"type": "text", "file": file})


def use_bash(command: str) -> ToolOutcome:
    """Runs it in a session of its own, stdout and stderr in one file, as the CLI does: what it leaves running is not waited for."""
    with tempfile.TemporaryFile() as output:
        shell = subprocess.Popen(["/bin/bash", "-c", command], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                 start_new_session=True, env={**os.environ, "CLAUDECODE": "1"})
        try:
            code = shell.wait()
        except KeyboardInterrupt:
            with suppress(ProcessLookupError):  # who interrupts us may have interrupted the command too
                os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()
            raise
        output.seek(0)
        text = output.read().decode("utf-8", "replace").rstrip()
    return bash_outcome(command, code if code >= 0 else 1, text)  # the CLI calls a shell that a signal ended 1


def bash_outcome(command: str, code: int, text: str) -> ToolOutcome:
    meaning = {}
    if code == 1:
        last = re.split(r"[|;&]+", command)[-1].split()
        meaning = {"returnCodeInterpretation": MEANING_OF_ONE[last[0]]} if last and last[0] in MEANING_OF_ONE else {}
    if code and not meaning:
        told = f"Exit code {code}\n{text}".rstrip()
        return ToolOutcome(told, f"Error: {told}", True)
    details = {"stdout": text, "stderr": "", "interrupted": False, "isImage": False, **meaning, "noOutputExpected": False}
    return ToolOutcome(text or "(Bash completed with no output)", details, False)


# ---- Steps: one function for each key that a step may have. ----

def say(turn: Turn, text: str) -> None:
    turn.text = text
    turn.assistant({"type": "text", "text": text})


def call(turn: Turn, name: str, tool_input: dict, use: Callable[[], ToolOutcome]) -> None:
    turn.begin_tool(name, tool_input)
    turn.end_tool(use())


def write(turn: Turn, value: dict) -> None:
    path, content = value["path"], value["content"]
    call(turn, "Write", {"file_path": path, "content": content}, lambda: use_write(path, content))


def edit(turn: Turn, value: dict) -> None:
    path, old, new = value["path"], value["old"], value["new"]
    call(turn, "Edit", {"file_path": path, "old_string": old, "new_string": new}, lambda: use_edit(path, old, new))


def read(turn: Turn, path: str) -> None:
    call(turn, "Read", {"file_path": path}, lambda: use_read(path))


def bash(turn: Turn, command: str) -> None:
    call(turn, "Bash", {"command": command}, lambda: use_bash(command))


def tool(turn: Turn, value: dict) -> None:
    outcome = ToolOutcome(value.get("content", ""), value.get("tool_use_result", {}), value.get("is_error"))
    call(turn, value["name"], value.get("input", {}), lambda: outcome)


def spawn(turn: Turn, value: Any) -> None:
    wanted = {"command": value} if isinstance(value, str) else value
    output = None if wanted.get("hold_output") else subprocess.DEVNULL
    subprocess.Popen(["/bin/bash", "-c", wanted["command"]], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                     start_new_session=True)


def ignore(turn: Turn, name: str) -> None:
    """An empty handler rather than SIG_IGN, which the agent's own commands would inherit."""
    signal.signal(getattr(signal, name), lambda *_: None)


def api_retry(turn: Turn, value: dict) -> None:
    turn.emit({"type": "system", "subtype": "api_retry", "attempt": 1, "max_retries": 10, "retry_delay_ms": 500.0,
               "error_status": 529, "error": "overloaded", **value})


def api_error(turn: Turn, value: dict) -> None:
    text = turn.text = value["text"]
    turn.assistant({"type": "text", "text": text}, model="<synthetic>", stop_reason="stop_sequence", stop_sequence="",
                   error=value.get("error", "unknown"))
    turn.result(is_error=True, api_error_status=value.get("status"), stop_reason="stop_sequence")


def stop(turn: Turn, code: int) -> NoReturn:
    raise Stop(code)


class StepKind(NamedTuple):
    """How a step is carried out, which types its value may have, and which keys it must hold."""
    carry_out: Callable[[Turn, Any], None]
    types: tuple
    required: tuple = ()


STEP_KINDS = {
    "text": StepKind(say, (str,)),
    "write": StepKind(write, (dict,), ("path", "content")),
    "edit": StepKind(edit, (dict,), ("path", "old", "new")),
    "read": StepKind(read, (str,)),
    "bash": StepKind(bash, (str,)),
    "tool": StepKind(tool, (dict,), ("name",)),
    "spawn": StepKind(spawn, (str, dict), ("command",)),
    "sleep": StepKind(lambda turn, seconds: time.sleep(seconds), (int, float)),
    "ignore": StepKind(ignore, (str,)),
    "raw": StepKind(lambda turn, line: write_line(line), (str,)),
    "stderr": StepKind(lambda turn, line: print(line, file=sys.stderr, flush=True), (str,)),
    "event": StepKind(lambda turn, event: turn.emit(event), (dict,)),
    "api_retry": StepKind(api_retry, (dict,)),
    "api_error": StepKind(api_error, (dict,), ("text",)),
    "result": StepKind(lambda turn, changes: turn.result(**changes), (dict,)),
    "exit": StepKind(stop, (int,)),
}


# ---- Scripts: a JSON file -> the steps of this start. ----

def fault_of_step(step: Any) -> Optional[str]:
    """What is wrong with that step, None if nothing is."""
    if not isinstance(step, dict) or len(step) != 1:
        return f"{json.dumps(step)} is no object with one key"
    (name, value), = step.items()
    kind = STEP_KINDS.get(name)
    if kind is None:
        return f"{name!r} is not known; known are {', '.join(STEP_KINDS)}"
    if not isinstance(value, kind.types) or isinstance(value, bool):
        return f"{name}: {json.dumps(value)} should be {' or '.join(t.__name__ for t in kind.types)}"
    absent = [key for key in kind.required if isinstance(value, dict) and key not in value]
    if absent:
        return f"{name}: {json.dumps(value)} has no {' and no '.join(absent)}"
    if name == "ignore" and not hasattr(signal, value):
        return f"ignore: {value!r} is the name of no signal"
    return None


def load_script(path: Path) -> dict:
    """The checked script; a Stop that names file, attempt and step if it is bad."""
    try:
        script = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Stop(2, f"stand_in: {path}: not readable as JSON: {error}") from None
    attempts = script.get("attempts") if isinstance(script, dict) else None
    if not isinstance(attempts, list) or not attempts or not all(isinstance(steps, list) for steps in attempts):
        raise Stop(2, f"stand_in: {path}: expected is {{\"attempts\": [[step, …], …]}} with at least one attempt")
    for number, steps in enumerate(attempts, 1):
        for place, step in enumerate(steps, 1):
            fault = fault_of_step(step)
            if fault:
                raise Stop(2, f"stand_in: {path}: attempt {number}, step {place}: {fault}")
    return script


def count_start(counter: Path) -> int:
    """The number of this start, from 1. Each adds one byte; the kernel appends for one at a time, so no two get the same number."""
    descriptor = os.open(counter, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, b".")
        return os.lseek(descriptor, 0, os.SEEK_CUR)
    finally:
        os.close(descriptor)


def record_start(path: Path, attempt: int, prompt: str, stdin: str) -> None:
    umask = os.umask(0)
    os.umask(umask)
    line = {"attempt": attempt, "argv": sys.argv[1:], "stdin": stdin, "prompt": prompt, "cwd": os.getcwd(), "umask": umask,
            "environment": dict(os.environ), "pid": os.getpid()}
    with open(path, "a", encoding="utf-8") as record:
        record.write(json.dumps(line) + "\n")


def worked_example(prompt: str) -> list[dict]:
    """The steps for a prompt without a script: the one kind of task that is understood, or an answer that says which that is."""
    task = WORKED_EXAMPLE.search(prompt)
    if task is None:
        return [{"text": "I am the stand-in agent and understand one kind of task: Create a NAME file with TEXT."}]
    name, text = task["name"], task["text"]
    steps = [{"text": f"I'll create {name}."}, {"write": {"path": name, "content": text + "\n"}},
             {"text": f"Created {name} with {text}."}]
    return [part for step in steps for part in ({"sleep": PAUSE_S}, step)]


# ---- Main: one turn, ended as the CLI ends it. ----

def prepare(arguments: list[str]) -> tuple[Turn, list[dict]]:
    """Reads arguments, standard input and script, counts and records the start, and gives the turn and its steps."""
    line = read_arguments(arguments)
    check_usage(line)
    stdin = read_standard_input(has_prompt=bool(line.prompt))
    prompt = "\n".join(filter(None, [line.prompt, stdin]))
    if not prompt:
        raise Stop(1, NO_INPUT)
    if not os.environ.get("STAND_IN_SCRIPT"):
        return Turn(line.flags, attempt=1), worked_example(prompt)
    path = Path(os.environ["STAND_IN_SCRIPT"]).absolute()
    script = load_script(path)
    attempt = count_start(path.parent / script.get("counter", path.name + ".count"))
    if "record" in script:
        record_start(path.parent / script["record"], attempt, prompt, stdin)
    return Turn(line.flags, attempt), script["attempts"][min(attempt, len(script["attempts"])) - 1]


def play(turn: Turn, steps: list[dict]) -> int:
    try:
        turn.init()
        for step in steps:
            (name, value), = step.items()
            STEP_KINDS[name].carry_out(turn, value)
        if turn.exit_code is None:
            turn.result()
        return turn.exit_code or 0
    except KeyboardInterrupt:
        return turn.interrupted()


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts us in the background has SIGINT ignored
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    try:
        return play(*prepare(arguments))
    except Stop as end:
        if str(end):
            print(end, file=sys.stderr)
        return end.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
