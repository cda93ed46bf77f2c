"""What time limits cost in simulated working lives: good runs cut off, and waiting for runs that hang.

A life is about a thousand runs of families of tasks, from seconds to twenty minutes, with log-normal durations. Some hang,
new wordings appear all the time, and half-way everything gets slower. A policy sets each run's limit from the runs before;
a run that reaches it is cut off there, and that is what the history keeps of it.

    cut off   good runs that their limit ended, in % of all good runs
    hung      what a hung run costs: the mean of its limit over its family's median at that time ("typical")
    of sums   the same as the sum of those limits over the sum of those medians, which the long families decide
    floorless `hung` of families whose typical duration is 30 s or more, where no minimum of 60 s decides
    lost h    hours lost in a life of 1,000 runs: in runs that hung, and in good ones for nothing

Then what an estimate costs: of 10,000 records in memory, and with so many in a store (SQLite, and Redis where redis-server is
installed), of few wordings and with all distinct, for the first time in a process and again.
"""
from __future__ import annotations

import random
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterable, Iterator, List, NamedTuple, Tuple

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]
from cc_execute import Entry, Record, RedisStore, SqliteStore, Store, estimate_timeout, normalise  # noqa: E402
from redis_server import running_redis  # noqa: E402

HOUR_S = 3600.0
GAP_S = 1.5 * HOUR_S                  # between two runs on average: a thousand take two months
FLOORLESS_S = 30.0
FIXED_S = 600.0
LETTERS = str.maketrans("0123456789", "ghijklmnop")  # words with digits aren't kept
PEER_LAST, PEER_SHARE, PEER_LEAST_S = 10, 0.9, 300.0


class Family(NamedTuple):
    """Tasks of one kind: what they take, how often they come, how they are worded ({} stands for one of the nouns)."""
    median_s: float
    sigma: float
    share: float
    wordings: Tuple[str, ...]
    nouns: Tuple[str, ...]


class Scenario(NamedTuple):
    name: str
    seeds: Tuple[int, ...]
    runs: int = 1000
    sigma: float = 1.0                # times each family's own
    drift: float = 1.6
    hangs: float = 0.04


class Run(NamedTuple):
    """`seconds` it would take; what is typical of its family just then; whether it never ends."""
    family: Family
    prompt: str
    at: float
    seconds: float
    typical_s: float
    hangs: bool


FAMILIES = (
    Family(8, 0.3, 5, ("Create a {}.py file with {}", "What is a {}.py file with {}? Show the complete file content.", "Write {}.py holding {}"),
           ("config", "settings", "constants")),
    Family(20, 0.4, 4, ("Write a Python function that sorts {} with {}", "What is a function to sort {}? Show the complete code. {}",
                        "Generate a function sorting {}, {}"), ("words", "numbers", "dates", "records")),
    Family(45, 0.5, 4, ("Write a README for the {} package with {}", "Create the {} package's README: {}", "Draft README.md of {}; {}"),
           ("billing", "search", "upload")),
    Family(90, 0.35, 4, ("Write unit tests for the {} parser, {}", "Add tests to the {} parser with {}",
                         "Create a test suite for parsing {}: {}"),
           ("INI", "CSV", "date")),
    Family(150, 0.6, 4, ("Fix the failing login test in {}: {}", "Debug why {} fails at login, {}", "Repair the {} login bug; {}"),
           ("web client", "mobile client", "admin page")),
    Family(300, 0.45, 3, ("Implement a REST API for {} with {}", "Build a REST endpoint for {}; {}",
                         "What is a REST API for {}? Show the complete code. {}"),
           ("orders", "customers", "invoices")),
    Family(420, 0.4, 3, ("Review the {} code for security problems, {}", "Audit {} for security, {}", "Analyse the security of {}: {}"),
           ("payment", "session", "upload")),
    Family(700, 0.5, 2, ("Refactor the {} module into smaller classes, {}", "Restructure {} into classes; {}",
                       "Split the {} module up into classes, {}"),
           ("billing", "report", "config")),
    Family(1200, 0.5, 1.5, ("Migrate the {} service to postgres with {}", "Upgrade {} to the new postgres schema: {}",
                         "Move the {} database to postgres, {}"),
           ("billing", "warehouse", "ledger")),
)
DETAILS = ("a database url", "DEBUG=1", "retries and logging", "type hints", "no dependencies", "'strict' mode", "help texts", "good names",
           "limits of 10", "colours", "a cache", "two examples", "what /etc/app.conf says", "as short as can be", "")
SCENARIOS = (
    Scenario("as tuned", (1, 2, 3, 4, 5)),
    Scenario("other seeds", (101, 102, 103, 104, 105)),
    Scenario("wider spread", (201, 202, 203), sigma=1.4),
    Scenario("2x slower", (301, 302, 303), drift=2.0),
    Scenario("200 runs", tuple(range(401, 411)), runs=200),
)
Policy = Callable[[Run, List[Record], List[float]], float]


def life(scenario: Scenario, seed: int) -> Iterator[Run]:
    source, at = random.Random(seed), 1.7e9
    for number in range(scenario.runs):
        family = source.choices(FAMILIES, [each.share for each in FAMILIES])[0]
        prompt = source.choice(family.wordings).format(source.choice(family.nouns), source.choice(DETAILS))
        typical_s = family.median_s * (scenario.drift if number > scenario.runs / 2 else 1.0)
        at += source.expovariate(1 / GAP_S)
        yield Run(family, prompt, at, typical_s * source.lognormvariate(0, family.sigma * scenario.sigma), typical_s,
                  source.random() < scenario.hangs)


def own_limit(run: Run, history: List[Record], same_kind: List[float]) -> float:
    return estimate_timeout(run.prompt, history).seconds


def fixed_limit(run: Run, history: List[Record], same_kind: List[float]) -> float:
    return FIXED_S


def peer_limit(run: Run, history: List[Record], same_kind: List[float]) -> float:
    """The p90 of the last ten of the kind, which it is told and needn't find out."""
    last = sorted(same_kind[-PEER_LAST:])
    return max(PEER_LEAST_S, last[int(PEER_SHARE * (len(last) - 1) + 0.5)] if last else 0.0)


def live(runs: Iterator[Run], policy: Policy) -> List[Tuple[Run, float]]:
    """Each run of a life with the limit it got."""
    history: List[Record] = []
    durations: dict = {family: [] for family in FAMILIES}
    lived = []
    for run in runs:
        limit = policy(run, history, durations[run.family])
        cut = run.hangs or run.seconds > limit
        took = limit if cut else run.seconds
        history.append(Record(normalise(run.prompt), took, "timeout" if cut else "passed", run.at))
        durations[run.family].append(took)
        lived.append((run, limit))
    return lived


def row(lived: List[Tuple[Run, float]]) -> Tuple[float, float, float, float, float]:
    good = [(run, limit) for run, limit in lived if not run.hangs]
    hung = [(run, limit) for run, limit in lived if run.hangs]
    wasted = [limit for run, limit in good if run.seconds > limit]
    return (100 * len(wasted) / len(good),
            statistics.mean(limit / run.typical_s for run, limit in hung),
            sum(limit for _, limit in hung) / sum(run.typical_s for run, _ in hung),
            statistics.mean(limit / run.typical_s for run, limit in hung if run.typical_s >= FLOORLESS_S),
            (sum(limit for _, limit in hung) + sum(wasted)) / HOUR_S * 1000 / len(lived))


def print_lives() -> None:
    print(f"{'':<16}{'':<36}{'cut off %':>10}{'hung':>8}{'of sums':>9}{'floorless':>11}{'lost h':>8}")
    for scenario in SCENARIOS:
        for name, policy in (("cc_execute", own_limit), ("fixed 600 s", fixed_limit), ("p90 of the last ten, at least 300 s", peer_limit)):
            lived = [each for seed in scenario.seeds for each in live(life(scenario, seed), policy)]
            cut, hung, sums, floorless, lost = row(lived)
            print(f"{scenario.name:<16}{name:<36}{cut:>10.1f}{hung:>8.1f}{sums:>9.1f}{floorless:>11.1f}{lost:>8.1f}", flush=True)


def milliseconds(estimate: Callable[[], object]) -> Tuple[float, float]:
    """Of an estimate for the first time, and the median of nine further ones."""
    normalise.cache_clear()
    times = []
    for _ in range(10):
        start = time.perf_counter()
        estimate()
        times.append(1000 * (time.perf_counter() - start))
    return times[0], statistics.median(times[1:])


def histories(count: int) -> Iterator[Tuple[str, List[Record]]]:
    """So many records: of few wordings, and all distinct."""
    words = random.Random(7)
    runs = list(life(Scenario("", (), runs=count), 6))
    few = [Record(normalise(run.prompt), run.seconds, "passed", run.at, id=str(number)) for number, run in enumerate(runs)]
    yield "few wordings", few
    yield "all distinct", [record._replace(prompt=normalise(f"{run.prompt} {words.randbytes(9).hex().translate(LETTERS)}"))
                           for run, record in zip(runs, few)]


@contextmanager
def sqlite_store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory() as folder:
        yield SqliteStore(str(Path(folder) / "history.sqlite3"))


@contextmanager
def redis_store() -> Iterator[Store]:
    for server in running_redis():
        yield RedisStore(server.url)


def print_costs() -> None:
    prompt = "Refactor the billing module into smaller classes, type hints"
    stores = [("SQLite", sqlite_store)] + ([("Redis", redis_store)] if shutil.which("redis-server") else [])
    print(f"\n{'an estimate, ms':<30}{'records':>9}{'wordings':>10}{'first':>8}{'again':>8}")
    for count in (10, 100, 1000, 10_000):
        for kind, history in histories(count):
            print_cost(f"in memory, {kind}", history, lambda: estimate_timeout(prompt, history))
            for name, opened in stores:
                with opened() as store:
                    store.add([Entry(record) for record in history])
                    print_cost(f"{name}, {kind}", history, lambda: estimate_timeout(prompt, store.alike(prompt)))


def print_cost(name: str, history: Iterable[Record], estimate: Callable[[], object]) -> None:
    first, again = milliseconds(estimate)
    prompts = [record.prompt for record in history]
    print(f"{name:<30}{len(prompts):>9}{len(set(prompts)):>10}{first:>8.1f}{again:>8.1f}", flush=True)


if __name__ == "__main__":
    print_lives()
    print_costs()
