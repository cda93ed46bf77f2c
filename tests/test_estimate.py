"""Estimate: a time limit from how long similar tasks took; pure, never under a minute, without history a prior."""
from __future__ import annotations

import random

import pytest
from hypothesis import given, strategies as st

from cc_execute import Estimate, Record, estimate_timeout

DAY_S = 86400.0
CONFIG, PARSER = "Create a config.py file with a database url", "Write a parser for INI files with tests"
MIGRATION = "Migrate the billing service to postgres"


def records(prompt: str, *durations: float, status: str = "passed", at: float = 0.0) -> list:
    return [Record(prompt, duration, status, at) for duration in durations]


def test_without_history_it_is_a_prior_that_says_so():
    estimate = estimate_timeout(CONFIG, [])
    assert isinstance(estimate, Estimate) and estimate.samples == 0 and estimate.seconds >= 60 and estimate.basis


def test_a_bigger_task_has_a_bigger_prior():
    assert estimate_timeout(CONFIG + " and more of it" * 200, []).seconds > estimate_timeout(CONFIG, []).seconds


def test_similar_tasks_decide_and_others_don_t():
    short = estimate_timeout(CONFIG, records(CONFIG, *[30] * 10))
    assert short.samples == 10 and 60 <= short.seconds <= 240
    both = estimate_timeout(CONFIG, records(CONFIG, *[30] * 10) + records(MIGRATION, *[3000] * 10))
    assert both.samples == 10 and both.seconds == short.seconds
    alone = estimate_timeout(CONFIG, records(MIGRATION, *[3000] * 10))
    assert alone == estimate_timeout(CONFIG, [])


def test_it_leaves_a_margin_over_the_longest_similar_tasks():
    durations = [100 + 10 * number for number in range(20)]
    estimate = estimate_timeout(PARSER, records(PARSER, *durations))
    assert max(durations) < estimate.seconds <= 8 * sorted(durations)[10]


def test_the_basis_names_what_it_rests_on():
    assert "14" in estimate_timeout(CONFIG, records(CONFIG, *[100] * 14)).basis


def test_a_run_that_hit_its_limit_took_at_least_that_long():
    passed = estimate_timeout(CONFIG, records(CONFIG, 100, 100, 100, 100)).seconds
    cut = estimate_timeout(CONFIG, records(CONFIG, 100, 100, 100) + records(CONFIG, 100, status="timeout")).seconds
    assert cut > passed


def test_after_nothing_but_time_limits_it_is_longer_than_the_limit():
    assert estimate_timeout(CONFIG, records(CONFIG, 300, 300, status="timeout")).seconds > 300


@pytest.mark.parametrize("status", ["cancelled", "skipped", "error"])
def test_what_was_not_carried_out_says_nothing_about_its_time(status):
    durations = records(CONFIG, *[120] * 8)
    assert estimate_timeout(CONFIG, durations + records(CONFIG, *[1] * 8, status=status)).seconds == estimate_timeout(CONFIG,
        durations).seconds


def test_newer_records_weigh_more():
    old, new = records(CONFIG, *[1000] * 10, at=0.0), records(CONFIG, *[100] * 10, at=365 * DAY_S)
    assert estimate_timeout(CONFIG, old + new).seconds < estimate_timeout(CONFIG, records(CONFIG, *[1000] * 10)).seconds / 2


def test_age_counts_from_the_newest_record_not_from_today():
    durations = records(CONFIG, 100, 200, 300)
    moved = [record._replace(finished_at=record.finished_at + 1e9) for record in durations]
    assert estimate_timeout(CONFIG, durations) == estimate_timeout(CONFIG, moved)


def test_the_prompt_of_a_record_may_be_its_normalised_words_only():
    from cc_execute import normalise
    full, words = records(PARSER, 100, 200), records(normalise(PARSER), 100, 200)
    assert estimate_timeout(PARSER, full) == estimate_timeout(PARSER, words)
    assert normalise(normalise(PARSER)) == normalise(PARSER)


def test_the_history_keeps_no_values():
    from cc_execute import normalise
    kept = normalise('Set password="hunter" and API_KEY=sk-ant-abcdef123 for http://host/path, '
                     'token abcdefghijklmnopqrstuvwxyzabcdef')
    assert not any(secret in kept for secret in ("hunter", "ant", "abcdef", "host")), kept


RECORDS = st.lists(st.builds(Record, prompt=st.sampled_from([CONFIG, PARSER, MIGRATION, ""]), duration=st.floats(0, 1e5),
                             finished_at=st.floats(0, 2e9),
                             status=st.sampled_from(["passed", "failed", "timeout", "error", "cancelled", "skipped"])),
                             max_size=20)


@given(st.text() | st.sampled_from([CONFIG, PARSER]), RECORDS)
def test_it_is_never_under_a_minute_and_never_without_a_reason(prompt, history):
    estimate = estimate_timeout(prompt, history)
    assert 60 <= estimate.seconds < 1e7 and estimate.basis and 0 <= estimate.samples <= len(history)


@given(RECORDS, st.randoms(use_true_random=False))
def test_the_order_of_the_history_does_not_matter_and_it_may_be_an_iterator(history, shuffler):
    shuffled = list(history)
    shuffler.shuffle(shuffled)
    first, second = estimate_timeout(CONFIG, history), estimate_timeout(CONFIG, iter(shuffled))
    assert first.seconds == pytest.approx(second.seconds, rel=0.01) and first.samples == second.samples


@pytest.mark.parametrize("typical_s, spread", [(8, 0.3), (45, 0.5), (300, 0.4), (1500, 0.6)])
def test_of_tasks_like_those_before_few_are_cut_off_and_a_hung_one_does_not_cost_much(typical_s, spread):
    """On log-normal durations: at most 3 % cut off (after five runs of the kind), limits of at most 8 times the typical one."""
    source = random.Random(7)
    durations = [source.lognormvariate(0, spread) * typical_s for _ in range(400)]
    limits = [estimate_timeout(PARSER, records(PARSER, *durations[max(0, at - 40):at])).seconds for at in range(5, 400)]
    cut = sum(duration > limit for duration, limit in zip(durations[5:], limits))
    assert cut <= 0.03 * len(limits)
    assert sorted(limits)[len(limits) // 2] <= max(60, 8 * typical_s)
