"""The README is true: what it shows is what is printed, what it names is there."""
from __future__ import annotations

import re
import subprocess
import sys

from cc_execute import KINDS, LABELS, parse_spec, read_criteria
from support import ROOT

README = (ROOT / "README.md").read_text("utf-8")
DEMO_LIMIT_S = 60


def blocks(text: str) -> list:
    return re.findall(r"^```\w*\n(.*?)^```$", text, re.M | re.S)


def without_variables(text: str) -> str:
    """Durations, ports and temporary folders differ from run to run."""
    text = re.sub(r"\d+\.\d s", "N s", text)
    return re.sub(r"/\S+/workspace|127\.0\.0\.1:\d+", "…", text)


def test_the_readme_shows_what_the_demo_prints():
    demo = subprocess.run([sys.executable, "-B", "tests/demo.py"], cwd=ROOT, capture_output=True, encoding="utf-8", timeout=DEMO_LIMIT_S)
    assert demo.returncode == 0, demo.stderr
    assert without_variables(blocks(README)[0]) in without_variables(demo.stdout)


def test_the_first_command_and_its_output_stand_on_the_first_page():
    lines = README.split("\n")
    assert next(i for i, line in enumerate(lines, 1) if line.startswith("    make demo")) <= 15
    assert next(i for i, line in enumerate(lines, 1) if line.startswith("  met ")) <= 25


def test_every_option_that_the_readme_names_is_there():
    helps = "".join(subprocess.run([sys.executable, ROOT / script, "--help"], capture_output=True, encoding="utf-8").stdout
                    for script in ("cc_execute.py", "ws_bridge.py"))
    ours = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - {"--dangerously-skip-permissions", "--check"}
    assert {option for option in ours if option not in helps} == set()


def test_the_annotated_spec_is_read_as_the_readme_says():
    block = next(block for block in blocks(README) if "## Task 1" in block)
    spec = parse_spec("\n".join(line[:46].rstrip() if line[46:].strip() and "   " in line[:47] else line for line in block.split("\n")))
    assert [(task.number, task.timeout, len(task.criteria)) for task in spec.tasks] == [(1, 120.0, 2), (2, 90.0, 2)]
    assert spec.tasks[0].retry_strategy == "use sys.argv[1]"


def test_every_kind_and_label_is_in_the_readme():
    assert {kind.name for kind in KINDS if f"| `{kind.name}` |" not in README} == set()
    assert {label for label in ("Task", "Prompt", "Timeout", "Success Criteria", "Retry Strategy", "Tools", "Directory", "Model", "Max Turns", "Budget")
            if f"`{label}:`" not in README or label.lower() not in LABELS} == set()


def test_the_examples_of_a_kind_are_of_that_kind():
    table = README.split("## Criteria")[1].split("## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", table, re.M)
    examples = {kind: re.findall(r"`` ?(.+?) ?``(?!`)|(?<!`)`([^`]+)`(?!`)", cell) for kind, cell in rows}
    read = {kind: [read_criteria([double or single])[0].kind for double, single in found] for kind, found in examples.items()}
    assert read == {kind: [kind] * len(found) for kind, found in examples.items()} and len(read) == len(KINDS)
