"""Verdicts on the labelled corpus in verdicts/: how often they are right, beside the seed's own algorithm on the same rows.

A row tells a world (the folder before, what the run wrote and deleted, its tool calls, Claude's last text), criteria of which the
last is judged, the truth as a careful engineer sees it, and how sure a verdict may be. The rows were written by people who had not
seen the program.
"""
from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from cc_execute import Verdict, judge, read_criteria
from criteria_cases import World
from test_criteria import make_evidence
from transcripts import bash, failed_bash, read, tool, write

CORPUS = Path(__file__).parent / "verdicts"


class Case(NamedTuple):
    name: str
    criteria: tuple
    kind: str
    truth: bool
    sure: str
    adversarial: bool
    why: str
    world: World


def events(calls: list) -> tuple:
    """The tool calls of a row as events of the stream."""
    return tuple(event(call) for call in calls)


def event(call: dict):
    output = call.get("output", "")
    if "bash" in call:
        if call.get("failed"):
            return failed_bash(call["bash"], output, call.get("code", 1))
        if "interpretation" in call:
            return tool("Bash", {"command": call["bash"]}, output,
                        details={"stdout": output, "stderr": "", "interrupted": False, "returnCodeInterpretation": call["interpretation"]})
        return bash(call["bash"], output)
    if "read" in call:
        return read(call["read"], output)
    if "write" in call:
        return write(call["write"], call.get("content", ""))
    if "edit" in call:
        return tool("Edit", {"file_path": call["edit"]}, "The file has been updated")
    if "grep" in call:
        return tool("Grep", {"pattern": call["grep"]}, output)
    return tool(call["tool"], call.get("input", {}), output, is_error=bool(call.get("failed")))


def read_corpus() -> list:
    cases = []
    for path in sorted(CORPUS.glob("*.jsonl")):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            row = json.loads(line)
            world = World(row.get("before", {}), row.get("wrote", {}), tuple(row.get("deleted", ())), events(row.get("did", [])), row.get("said", ""))
            cases.append(Case(f"{path.stem}:{number}", tuple(row["criteria"]), row["kind"], row["truth"], row["sure"], row["adversarial"], row["why"], world))
    return cases


CASES = read_corpus()


def verdict_on(case: Case, folder: Path) -> Verdict:
    folder.mkdir()
    return judge(read_criteria(case.criteria), make_evidence(case.world, folder))[-1]
