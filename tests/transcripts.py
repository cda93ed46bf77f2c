"""Lines of the Claude CLI's stream-json, for tests that need a transcript: each function gives one event or a few, as dicts.

The fields are those of a real run (2.1.197); `lines` turns events into the text that the CLI would write.
"""
from __future__ import annotations

import itertools
import json
from typing import Any, Iterable, Optional

SESSION = "11111111-2222-4333-8444-555555555555"
_ids = itertools.count(1)


def init() -> dict:
    return {"type": "system", "subtype": "init", "session_id": SESSION, "cwd": "/w", "tools": ["Bash", "Read"],
            "model": "claude-x"}


def says(text: str, parent: Optional[str] = None) -> dict:
    """A text of Claude's; with `parent`, of a subagent's."""
    return {"type": "assistant", "session_id": SESSION, "parent_tool_use_id": parent,
            "message": {"role": "assistant", "model": "claude-x", "content": [{"type": "text", "text": text}]}}


def tool(name: str, given: dict, returned: str = "", is_error: bool = False, details: Any = None,
         parent: Optional[str] = None) -> list[dict]:
    """A tool call and its result."""
    call_id = f"toolu_{next(_ids)}"
    use = {"type": "tool_use", "id": call_id, "name": name, "input": given}
    result = {"type": "tool_result", "tool_use_id": call_id, "content": returned, **({"is_error": True} if is_error else {})}
    return [
        {"type": "assistant", "session_id": SESSION, "parent_tool_use_id": parent,
         "message": {"role": "assistant", "model": "claude-x", "content": [use]}},
        {"type": "user", "session_id": SESSION, "parent_tool_use_id": parent, "message": {"role": "user", "content": [result]},
         "tool_use_result": details},
    ]


def bash(command: str, output: str = "") -> list[dict]:
    """A command that ended with exit code 0."""
    return tool("Bash", {"command": command}, output, details={"stdout": output, "stderr": "", "interrupted": False})


def failed_bash(command: str, output: str = "", code: int = 1) -> list[dict]:
    shown = f"Exit code {code}" + (f"\n{output}" if output else "")
    return tool("Bash", {"command": command}, shown, is_error=True, details=f"Error: {shown}")


def grep_without_match(command: str) -> list[dict]:
    """A command whose exit code the CLI explains instead of taking it for a failure."""
    return tool("Bash", {"command": command}, "", details={"stdout": "", "stderr": "", "interrupted": False,
        "returnCodeInterpretation": "No matches found"})


def backgrounded(command: str, task: str = "b1") -> list[dict]:
    """A command that goes on in the background, as the CLI tells of it."""
    call, returned = tool("Bash", {"command": command}, f"Command running in background with ID: {task}.",
                          details={"stdout": "", "stderr": "", "interrupted": False, "backgroundTaskId": task})
    started = {"type": "system", "subtype": "task_started", "task_id": task, "description": command, "task_type": "local_bash",
               "tool_use_id": call["message"]["content"][0]["id"], "session_id": SESSION}
    return [call, started, returned]


def task_ended(status: str, task: str = "b1", updated: bool = False) -> dict:
    """The end of background work: as the notification that Claude gets, or as the update before it."""
    told = {"subtype": "task_updated", "patch": {"status": status}} if updated else {"subtype": "task_notification", "status": status}
    return {"type": "system", "task_id": task, "session_id": SESSION, **told}


def read(path: str, content: str) -> list[dict]:
    return tool("Read", {"file_path": path}, content, details={"type": "text", "file": {"filePath": path, "content": content}})


def write(path: str, content: str) -> list[dict]:
    return tool("Write", {"file_path": path, "content": content}, f"File created successfully at: {path}",
                details={"type": "create", "filePath": path, "content": content})


def api_retry(error: str, status: Optional[int]) -> dict:
    return {"type": "system", "subtype": "api_retry", "attempt": 1, "max_retries": 10, "retry_delay_ms": 500, "error": error,
            "error_status": status}


def rate_limit(status: str, resets_at: Optional[float] = None) -> dict:
    return {"type": "rate_limit_event", "session_id": SESSION,
            "rate_limit_info": {"status": status, "rateLimitType": "five_hour", "resetsAt": resets_at}}


def synthetic(text: str, error: Optional[str] = None) -> dict:
    """The message that the CLI itself writes about an error."""
    return {"type": "assistant", "session_id": SESSION, "parent_tool_use_id": None, **({"error": error} if error else {}),
            "message": {"role": "assistant", "model": "<synthetic>", "content": [{"type": "text", "text": text}]}}


def result(text: str = "Done.", **fields: Any) -> dict:
    return {"type": "result", "subtype": "success", "is_error": False, "num_turns": 2, "session_id": SESSION,
            "total_cost_usd": 0.01,
            "usage": {"input_tokens": 1, "output_tokens": 1}, "permission_denials": [], "terminal_reason": "completed",
            "result": text, **fields}


def api_error(text: str, status: Optional[int] = None, error: Optional[str] = None, **fields: Any) -> list[dict]:
    """How an API error ends a run: a synthetic message, then a result of subtype success with is_error true."""
    told = {"is_error": True, "api_error_status": status, "num_turns": 1, "total_cost_usd": 0, "terminal_reason": "api_error",
            **fields}
    return [synthetic(text, error), result(text, **told)]


def error_result(subtype: str, *errors: str, **fields: Any) -> dict:
    """A result that has errors[] in place of a text."""
    event = result(**{"subtype": subtype, "is_error": True, "errors": list(errors), **fields})
    del event["result"]
    return event


def lines(events: Iterable[Any]) -> str:
    """What the CLI writes; an event may be a list of events, or a str that stands as its own line."""
    flat: list = []
    for event in events:
        flat += event if isinstance(event, list) else [event]
    return "".join((event if isinstance(event, str) else json.dumps(event)) + "\n" for event in flat)
