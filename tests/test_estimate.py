"""Estimate: what is kept of a prompt, which prompts are alike, and a time limit from how long similar tasks took: pure, never under
a minute, without history a prior."""
from __future__ import annotations

import math
import random
import re

import pytest
from hypothesis import example, given, strategies as st

from cc_execute import MOST_SAMPLES, SIMILAR, Estimate, Record, estimate_timeout, normalise, similar_kinds, similarity

DAY_S = 86400.0
CONFIG, PARSER = "Create a config.py file with a database url", "Write a parser for INI files with tests"
MIGRATION = "Migrate the billing service to postgres"


def records(prompt: str, *durations: float, status: str = "passed", at: float = 0.0, apart: float = 0.0) -> list:
    """One a duration; the first at `at`, each `apart` seconds after the one before."""
    return [Record(prompt, duration, status, at + apart * number) for number, duration in enumerate(durations)]


def limit(history: list, prompt: str = PARSER) -> float:
    return estimate_timeout(prompt, history).seconds


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
    full, words = records(PARSER, 100, 200), records(normalise(PARSER), 100, 200)
    assert estimate_timeout(PARSER, full) == estimate_timeout(PARSER, words)
    assert normalise(normalise(PARSER)) == normalise(PARSER)


def test_the_history_keeps_no_values():
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


# What is kept of a prompt

SECRETS = {
    "Use the password hunter for the login": ["hunter"],
    "Set password=swordfish and go on": ["swordfish"],
    "The password is open sesame now": ["open", "sesame", "now"],
    "the passphrase correct horse battery staple unlocks it": ["correct", "horse", "battery", "staple"],
    "Unlock it with correct horse battery staple": ["correct", "horse", "battery", "staple"],
    "Encrypt with 'tango foxtrot' please": ["tango", "foxtrot"],
    'Encrypt with "create file test"': ["create file", "file", "test"],
    "Encrypt with \u201ctango foxtrot\u201d": ["tango", "foxtrot"],
    "Run `mysql -u root -p geheim`": ["mysql", "root", "geheim"],
    "export API_KEY=sk-ant-api03-abcdef": ["sk", "ant", "api03", "abcdef"],
    "token: ghp_abcdefghijklmnopqrstuvwxyzabcdef": ["ghp", "abcdef"],
    "Clone https://bob:swordfish@example.com/repo.git": ["bob", "swordfish", "example", "repo"],
    "Read /home/alice/secret.txt": ["alice", "home"],
    "Mail alice@example.com": ["alice", "example"],
    "Authorization: Bearer eyJhbGciOi.eyJzdWIi.SflKxw": ["eyj", "sflkxw"],
    "AKIAIOSFODNNEXAMPLE": ["akia"],
    "the codes alpha bravo and zulu": ["alpha", "bravo", "zulu"],
    "Sign in as Alice Liddell": ["alice", "liddell"],
    "Set pin: 4711, key = abcd": ["4711", "abcd"],
}


@pytest.mark.parametrize("prompt", SECRETS)
def test_no_secret_can_be_read_from_what_is_kept(prompt):
    clear = [token.lower() for token in normalise(prompt).split() if not token.startswith("_")]
    assert not [secret for secret in SECRETS[prompt] if secret in " ".join(clear) or secret in normalise(prompt).lower()]


def test_what_names_a_secret_may_be_what_a_task_is_about():
    assert similarity(normalise("Write a passphrase generator"), normalise("Create a passphrase generator in Python")) >= SIMILAR
    assert normalise("Write a password checker and a token parser").count("_") == 4


@given(st.text() | st.lists(st.sampled_from("create Create CREATE a the test tests file _abc _zzz config.py what is Show it. password: x".split())
                            ).map(" ".join))
@example("CREATE create file")
@example("_abc")
def test_what_is_kept_is_kept_as_it_is(prompt):
    kept = normalise(prompt)
    assert normalise(kept) == kept
    assert re.fullmatch(r"(?:[A-Z]+(?: (?:[a-z]+|_[a-p]{3}))*)?", kept), kept
    assert kept.split()[1:] == sorted(set(kept.split()[1:]))


@given(st.sampled_from(sorted(SECRETS)) | st.text(), st.floats(0, 1e5))
def test_the_full_prompt_and_what_is_kept_of_it_give_the_same_estimate(prompt, duration):
    assert estimate_timeout(prompt, records(prompt, duration)) == estimate_timeout(prompt, records(normalise(prompt), duration))


def test_of_a_long_prompt_the_beginning_is_kept():
    assert len(normalise(" ".join("abcdefghijklmnop"[n % 16] * 3 + "abcdefghijklmnop"[n // 16 % 16] * 3 + "x" for n in range(256)))) < 500


def test_of_a_thousand_words_few_share_a_hash():
    words = ["".join(random.Random(seed).choices("bcdfgklmnprt", k=7)) for seed in range(1000)]
    assert 800 < len({normalise(word) for word in words}) < 1000  # 12 bits: 880 are to be expected


# Which prompts are alike

ALIKE = [
    ("Create a config.py file with DB_URL='sqlite:///app.db'", "What is a config.py file with DEBUG=1? Show the complete file content.", 0.99),
    ("Create a config.py file with X", "What is a config.py file with Y? Show the complete file content.", 0.99),
    ("Create a config.py file with a database url", "What is a config.py file with a debug flag? Show the complete file content.", SIMILAR),
    ("Write a parser for INI files", "Generate parsers for an INI file", 0.99),
    ("Write a parser for INI files with tests", "Build an INI file parser", SIMILAR),
    ("Write unit tests for the date parser", "Add tests to the date parser", SIMILAR),
    ("Refactor the config module", "Restructure the config modules", 0.99),
    ("Refactor the config module", "Rename things in the config module", SIMILAR),
    ("Fix the login bug", "Debug the bug at login", 0.99),
    ("Run the benchmark script", "Execute benchmark.sh", SIMILAR),
    ("Migrate the billing service to postgres", "Upgrade the billing service to postgres 16", 0.99),
    ("Set up a Docker environment", "Install a Docker environment", 0.99),
    ("Review the payment code", "Explain the payment code", 0.99),
    ("Please create me user_service.py", "Write the user service", SIMILAR),
    ("Use your own_file.md to execute the task: Create a chess engine", "Write a chess engine", 0.99),
    ("Parsing dates: a helper", "Create a helper that parses a date", 0.7),
]
UNLIKE = [
    ("Create a config.py file with X", "Refactor the config module"),
    ("What is a config.py file with Y? Show the complete file content.", "Refactor the config module"),
    ("Create a config.py file with X", "Refactor the billing module"),
    ("Write a parser for INI files", "Fix the parser for INI files"),
    ("Write a parser for INI files", "Test the parser for INI files"),
    ("Write a parser for INI files", "Document the parser for INI files"),
    ("Deploy the billing service", "Create the billing service"),
    ("Run the migration", "Write the migration"),
    ("Create a chess engine", "Create a login page"),
    ("Write a sorting function for words", "Write a weather function"),
    ("Fix the login bug", "Fix the memory leak"),
    ("Migrate the billing service to postgres", "Install a Docker environment"),
    ("Review the payment code", "Explain the scheduler thread"),
    ("Run the benchmark script", "Run the linter"),
    ("", "Create a chess engine"),
]


@pytest.mark.parametrize("first, second, least", ALIKE)
def test_other_words_for_the_same_work_are_alike(first, second, least):
    one, two = normalise(first), normalise(second)
    assert least <= similarity(one, two) == similarity(two, one) <= 1.0001, (one, two)


@pytest.mark.parametrize("first, second", UNLIKE)
def test_another_action_or_another_thing_is_not_alike(first, second):
    one, two = normalise(first), normalise(second)
    assert similarity(one, two) == similarity(two, one) < SIMILAR, (one, two)


@pytest.mark.parametrize("prompt, action", [
    ("Fix the test", "FIX"), ("The test fails: fix it", "FIX"), ("Test the fix", "TEST"), ("Testing it", "TEST"), ("Please run it", "RUN"),
    ("For the build, document what it does", "EXPLAIN"), ("Write a test, then refactor", "CREATE"), ("a chess engine", "CREATE"),
    ("42", ""), ("", "")])
def test_the_first_verb_that_asks_for_something_is_the_action(prompt, action):
    assert normalise(prompt).split(" ")[0] == action


def test_the_similar_ones_of_many_kinds_are_those_that_similarity_finds():
    kinds = [normalise(prompt) for pair in [*ALIKE, *UNLIKE] for prompt in pair[:2]]
    for words in kinds:
        expected = {kind: similarity(words, kind) for kind in kinds}
        assert similar_kinds(words, iter(kinds)) == {kind: value for kind, value in expected.items() if value >= SIMILAR}


@given(st.lists(st.sampled_from(["create", "fix", "file", "config", "parser", "login", "test", "and", "chess"])).map(" ".join),
       st.lists(st.sampled_from(["create", "fix", "file", "config", "parser", "login", "test", "and", "chess"])).map(" ".join))
def test_likeness_is_symmetric_and_within_0_and_1(first, second):
    one, two = normalise(first), normalise(second)
    assert 0 <= similarity(one, two) == similarity(two, one) <= 1 + 1e-9
    assert similarity(one, one) == 1


# Limits: what counts

def test_a_few_that_are_hardly_alike_do_not_bring_it_below_the_prior():
    vague, chess = records("Write a hello program", *[8] * 3), "Write a chess program"
    assert SIMILAR <= similarity(normalise(vague[0].prompt), normalise(chess)) < 0.5
    assert limit(vague, chess) == limit([], chess) > limit(vague * 20, chess) == 60


@pytest.mark.parametrize("small, big", [
    ("Create hello.txt", "Refactor the storage layer"), ("Create hello.txt", "Migrate everything to postgres"),
    ("Create hello.txt", "Implement a chess engine"), ("Create hello.txt", "Create hello.txt\n" + "\n".join(f"{n}. do more" for n in range(9)))])
def test_bigger_work_has_a_longer_prior(small, big):
    assert 60 <= limit([], small) <= 300 and 1.5 * limit([], small) <= limit([], big) <= 3600


def test_a_prior_has_an_end():
    assert limit([], "Refactor everything: " + "do more\n- " * 5000) == 3600


def test_a_limit_is_for_one_attempt():
    once = records(PARSER, 100, 110, 120)
    three_times = [record._replace(duration=3 * record.duration, attempts=3) for record in once]
    told = [record._replace(duration=1000.0, attempts=4, longest=record.duration) for record in once]
    assert limit(once) == limit(three_times) == limit(told)


def test_a_failed_run_counts_as_a_passed_one():
    assert limit(records(PARSER, 100, 300, status="failed")) == limit(records(PARSER, 100, 300))


def test_the_margin_shrinks_as_samples_grow():
    limits = [limit(records(PARSER, *[100] * count)) for count in (1, 2, 4, 8, 16, 64)]
    assert limits == sorted(limits, reverse=True) and limits[0] > 1.5 * limits[-1] and limits[-1] > 120


def test_the_more_similar_weigh_more():
    other = "Write a parser for TOML files with a command line"
    assert SIMILAR <= similarity(normalise(PARSER), normalise(other)) < 0.8
    near = limit(records(PARSER, *[100] * 10) + records(other, *[1000] * 10))
    far = limit(records(PARSER, *[1000] * 10) + records(other, *[100] * 10))
    assert near < far


def test_the_newest_runs_count_most_even_within_a_day():
    before = records(PARSER, *[400] * 60, apart=60)
    after = records(PARSER, *[100] * 30, at=7200, apart=60)
    assert limit(before + after) < 0.7 * limit(before)


def test_a_drift_upwards_is_followed_within_a_dozen_runs():
    before = records(PARSER, *[100, 120, 90, 110] * 15, apart=60)
    after = records(PARSER, *[200, 240, 180, 220] * 3, at=7200, apart=60)
    assert limit(before + after) > 1.4 * 240


def test_of_many_similar_records_only_the_most_relevant_count_whoever_picks_them():
    history = [Record(f"Write a parser for INI files, {'x' * (number % 7 + 2)}", 50.0 + number % 83, "passed" if number % 9 else "timeout",
                      1e9 + 977.0 * number) for number in range(3000)] + records(MIGRATION, *[3000] * 50, at=2e9)
    kinds = similar_kinds(normalise(PARSER), {normalise(record.prompt) for record in history})
    newest_first = sorted(history, key=lambda record: -record.finished_at)
    subset = [record for kind in kinds for record in [r for r in newest_first if normalise(r.prompt) == kind][:MOST_SAMPLES]]
    assert len(subset) < len(history) / 2 and estimate_timeout(PARSER, subset) == estimate_timeout(PARSER, history)
    assert estimate_timeout(PARSER, history).samples == MOST_SAMPLES


@pytest.mark.parametrize("samples, basis", [(1, "p95 of 1 similar task"), (14, "p95 of 14 similar tasks")])
def test_the_basis_in_words(samples, basis):
    assert estimate_timeout(PARSER, records(PARSER, *[100] * samples)).basis == basis
    assert estimate_timeout(PARSER, []).basis == "no similar task yet: by the task's size"


# Limits: runs that were cut off

STEADY = [100, 120, 90, 80, 110, 130, 95, 105]


def runs_to_come(history: list, durations: list, prompt: str = PARSER) -> list:
    """The limits of runs that would take `durations`, each known to those after it."""
    history, limits = list(history), []
    for number, duration in enumerate(durations):
        limits.append(limit(history, prompt))
        status = "passed" if duration <= limits[-1] else "timeout"
        history.append(Record(prompt, min(duration, limits[-1]), status, 1e6 + 3600.0 * number, attempts=1))
    return limits


def test_a_task_that_always_hangs_gets_no_ever_longer_limits():
    first, *others = runs_to_come([], [math.inf] * 50)
    assert first < others[0] and max(others) <= 4 * first and others[-1] == others[-30]


def test_nor_after_more_runs_than_count():
    first, *others = runs_to_come([], [math.inf] * 2 * MOST_SAMPLES)
    assert max(others) <= 4 * first


def test_nor_when_it_worked_once():
    before = records(PARSER, *STEADY)
    limits = runs_to_come(before, [math.inf] * 50)
    assert max(limits) <= 4.5 * limit(before)  # a little of what was known fades


def test_a_hang_now_and_then_hardly_raises_the_limit():
    before = records(PARSER, *STEADY * 3, apart=60)
    assert limit(before) <= limit(before + records(PARSER, limit(before), status="timeout", at=1e4)) < 1.2 * limit(before)


def test_limits_hit_that_no_slow_run_would_reach_were_hangs():
    before = records(PARSER, *STEADY * 3, apart=60)
    hangs = [hang for at in range(5) for hang in records(PARSER, 3600, status="timeout", at=500.0 + 150 * at)]
    assert limit(before + hangs) < 1.1 * limit(before)


@pytest.mark.parametrize("slower, cut_at_most", [(1.6, 0), (2, 0), (3, 2), (5, 4), (10, 7)])
def test_a_burst_of_limits_hit_after_a_slow_down_raises_it(slower, cut_at_most):
    durations = [slower * duration for duration in STEADY * 2]
    limits = runs_to_come(records(PARSER, *STEADY), durations)
    assert sum(duration > at_most for duration, at_most in zip(durations, limits)) <= cut_at_most
    assert limits[-1] > 1.3 * max(durations)


def test_equal_limits_that_were_hit_call_for_a_longer_one():
    for hit in (60, 300, 5000):
        assert hit < limit(records(PARSER, hit, hit, status="timeout"))


def test_one_limit_that_was_far_too_short_does_not_hold_it_down():
    assert limit(records(PARSER, 1, status="timeout")) == limit([])


@pytest.mark.parametrize("number", [0.0, -5.0, 1e300, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("field", ["duration", "finished_at", "longest"])
@pytest.mark.parametrize("status", ["passed", "timeout"])
def test_an_absurd_record_does_no_harm(number, field, status):
    odd = Record(PARSER, 100.0, status, 1e9)._replace(**{field: number})
    for history in ([odd], [odd] * 3 + records(PARSER, 100, 120, at=1e9), records(PARSER, 100, at=-1e300) + [odd]):
        assert 60 <= limit(history) <= 7 * 86400


def test_runs_of_long_ago_still_count_if_there_are_no_others():
    assert limit(records(PARSER, 1000, at=1) + records(PARSER, 10, status="timeout", at=1e11)) > 1000
