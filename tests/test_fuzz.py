"""What fuzz.py throws at the bridge, all of it with one seed; and that it sees a bridge that is not as it must be."""
from __future__ import annotations

from pathlib import Path

import pytest

import fuzz
from bridging import SCRIPT

COUNT, SEED = 200_000, 1


def test_200_000_mutated_inputs_leave_the_bridge_as_it_was(capsys):
    fuzz.fuzz(COUNT, SEED, print)
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    for kind, outcomes in {"handshakes": "101 400 401 403 404 405 426 431", "frames": "1000 1002 1003 1007", "answers": "101 CLOSED OPEN",
                           "messages": "-32700 -32600 -32601 -32602 -32000 -32002 result"}.items():
        assert [outcome for outcome in outcomes.split() if f" {outcome}: " not in rows[kind]] == []  # the inputs reach all there is


PLANTED = {  # a fault that a bridge might have: what is changed into what, and what the fuzzer says of it
    "a traceback": ("except (ValueError, RecursionError) as error:", "except ValueError as error:", "was answered by"),
    "no answer": ("self._write(refusal_response(refusal))\n        self._linger()", "pass", "handshakes"),
    "a wrong close code": ('"text that is not UTF-8 (8.1)", 1007', '"text that is not UTF-8 (8.1)", 1002', "frames"),
    "an internal error": ('return isinstance(value, dict) and len(value) <= WORDS', 'return len(value) <= WORDS', "must not be"),
    "growth": ("        request = parse_message(text)\n", "        request = parse_message(text)\n        self._tasks.add(text * 100)\n", "grew by"),
    "a line of another's in the log": ("def _note_quiet(self) -> None:", "def _note_quiet(self) -> None:\n        print(file=sys.stderr)", "in the log"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name, tmp_path: Path, monkeypatch):
    good, bad, said = PLANTED[name]
    text = SCRIPT.read_text("utf-8")
    assert text.count(good) == 1
    script = tmp_path / "ws_bridge.py"
    script.write_text(text.replace(good, bad), "utf-8")
    monkeypatch.setattr(fuzz, "ANSWER_S", 2.0)
    with pytest.raises((fuzz.Fault, AssertionError), match=said):
        fuzz.fuzz(6000, SEED, print, script=script)
