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

from cc_execute import KIND, Verdict, judge, read_criteria
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


# ---- The seed's own algorithm, from its document: it looks into Claude's text alone. ----

def seed_verdict(case: Case) -> bool:
    criterion, output = case.criteria[-1], case.world.text
    lowered, said = criterion.lower(), output.lower()
    if "exists" in lowered and "file" in lowered:
        filename = next(iter(re.findall(r"[\w./-]+\.\w+", criterion)), criterion)
        return filename in output or f"created {filename}" in said
    if "contains" in lowered or "output" in lowered:
        target = re.split(r"contains|output", criterion, flags=re.I)[-1].strip(" \"'`.")
        return target.lower() in said
    if "no" in lowered and "error" in lowered:
        return not any(word in said for word in ("error", "failed", "exception", "refused"))
    return any(word in said for word in criterion.split() if len(word) > 3)


# ---- What has to come out. ----

def test_the_corpus_is_as_big_and_as_nasty_as_it_ought_to_be():
    assert len(CASES) >= 300
    assert 3 * sum(case.adversarial for case in CASES) >= len(CASES)
    assert 0.4 < sum(case.truth for case in CASES) / len(CASES) < 0.6


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verdicts")
    return [(case, verdict_on(case, folder / str(number))) for number, case in enumerate(CASES)]


def figures(verdicts: list) -> str:
    def counted(rows: list) -> str:
        right, passes = sum(met == truth for met, truth in rows), sum(met and not truth for met, truth in rows)
        return f"{right / len(rows):.1%} right, {passes} false passes, {len(rows) - right - passes} false fails"
    wrong = sum(verdict.met != case.truth and verdict.confidence == "proved" for case, verdict in verdicts)
    return (f"{len(verdicts)} verdicts: {counted([(verdict.met, case.truth) for case, verdict in verdicts])}, {wrong} wrongly proved\n"
            f"the seed's algorithm: {counted([(seed_verdict(case), case.truth) for case, _ in verdicts])}\n")


def test_verdicts_are_right(verdicts, capsys):
    with capsys.disabled():
        print("\n" + figures(verdicts))
    wrong = [(case, verdict) for case, verdict in verdicts if verdict.met != case.truth]
    grave = [f"{case.name} {case.criteria[-1]!r} ({case.why}): {verdict.evidence}" for case, verdict in wrong
             if verdict.met or verdict.confidence == "proved"]
    assert not grave, "\n".join(grave)
    assert len(wrong) <= 0.02 * len(verdicts), [f"{case.name} {case.criteria[-1]!r}: {verdict.evidence}" for case, verdict in wrong]


def test_how_it_is_checked_and_what_a_retry_is_told_can_be_said_of_each(verdicts):
    for case, verdict in verdicts:
        kind = KIND[verdict.criterion.kind]
        assert kind.plan(verdict.criterion) and kind.advice(verdict.criterion), case.name
        assert verdict.evidence and "\n" not in verdict.evidence, case.name


def test_what_can_only_be_guessed_is_never_proved(verdicts):
    assert [case.name for case, verdict in verdicts if case.sure == "weak" and verdict.met and verdict.confidence == "proved"] == []


def test_kinds_are_those_that_the_writers_meant(verdicts):
    other = [case.name for case, verdict in verdicts if case.kind and verdict.criterion.kind != case.kind]
    assert len(other) <= 0.08 * len(verdicts), other
