"""The Autobahn cases, all 301 without compression, against both ends of the codec; conformance.py runs them."""
from __future__ import annotations

import json

import pytest

from conformance import check_client, check_server, find_kosoku, read_outcome
from support import missing

CASES = 301


@pytest.fixture
def kosoku() -> str:
    found = find_kosoku()
    if not found:
        missing("kosoku", "pip install kosoku (Python 3.10 or newer)")
    return found


@pytest.mark.parametrize("check", [check_server, check_client], ids=["the bridge's connections", "the built-in client"])
def test_every_case_is_passed(check, kosoku, tmp_path):
    outcome = check(kosoku, tmp_path)
    assert (outcome.cases, outcome.failed) == (CASES, {})


def test_a_case_that_is_right_in_another_order_is_not_passed(tmp_path):
    cases = {"1.1": {"behavior": "OK", "behaviorClose": "OK"}, "3.2": {"behavior": "NON-STRICT", "behaviorClose": "OK"},
             "7.1": {"behavior": "INFORMATIONAL", "behaviorClose": "INFORMATIONAL"}, "9.1": {"behavior": "OK", "behaviorClose": "FAILED"}}
    (tmp_path / "index.json").write_text(json.dumps({"agent": cases}))
    assert read_outcome(tmp_path) == (4, {"3.2": "NON-STRICT, close OK", "9.1": "OK, close FAILED"})
