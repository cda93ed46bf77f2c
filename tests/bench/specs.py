"""How fast specs are read, beside markdown-it-py parsing the same text, in interleaved rounds: medians and ratios.

`growth` is the time for a text of two megabytes over that for one: near 2 where reading is linear.
"""
from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Callable

from markdown_it import MarkdownIt

sys.path.insert(0, str(Path(__file__).parents[2]))
from cc_execute import SpecError, parse_spec  # noqa: E402

ROUNDS = 5
SIZE = 1_000_000
TASK = """## Task {n}: Step {n}

Write step{n}.py, which prints "{n}".

- keep it short
- no dependencies

Timeout: 2 minutes
Success Criteria:
1. step{n}.py exists
2. Running `python3 step{n}.py` prints {n}
Retry Strategy: name the file

"""
LIST = "".join(TASK.format(n=n) for n in range(1, 12000))
TEXTS: dict = {
    "a list of tasks": lambda size: LIST[:size],
    "one prose task": lambda size: "Use your x.md to execute the task: " + "Create a file, then another. " * (size // 30),
    "#": lambda size: "#" * size,
    "1) ": lambda size: "1) " * (size // 3),
    "1) in criteria": lambda size: "Task: x\nSuccess Criteria: " + "1) a, " * (size // 6),
    "backticks": lambda size: "`" * size,
    "one long line": lambda size: "x" * size,
    "- items": lambda size: "Task: x\nSuccess Criteria:\n" + "- item\n" * (size // 7),
}


def timed(work: Callable[[str], object], text: str) -> float:
    start = time.perf_counter()
    try:
        work(text)
    except SpecError:
        pass
    return time.perf_counter() - start


def main() -> None:
    peer = MarkdownIt().parse
    print(f"{'1 MB of':<18} {'seconds':>8} {'of markdown-it-py':>18} {'growth':>7}")
    for name, make in TEXTS.items():
        one, two = make(SIZE), make(2 * SIZE)
        rounds = [(timed(parse_spec, one), timed(peer, one), timed(parse_spec, two)) for _ in range(ROUNDS)]
        ours, theirs, double = (statistics.median(times) for times in zip(*rounds))
        grown = f"{double / ours:7.1f}" if len(two) > 1.9 * len(one) else "      -"
        print(f"{name:<18} {ours:>8.3f} {ours / theirs:>17.2f}x {grown}", flush=True)


if __name__ == "__main__":
    main()
