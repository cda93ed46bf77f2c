"""The README is true: what it shows is what is printed, what it names is there."""
from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import yaml

import cc_execute
from cc_execute import KINDS, LABELS, parse_spec, read_criteria
from support import ROOT
from test_verdicts import CASES, figures, verdict_on

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
    text = re.sub(r"^ *agent .*", "", README, flags=re.M)   # the agent's own options
    text = re.sub(r"(?s)\n## Many at once.*?\n## ", "\n## ", text)   # those of RQ and of schedulers, with tests of their own
    ours = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - {"--dangerously-skip-permissions", "--check", "--max-budget-usd", "--resume"}
    assert {option for option in ours if option not in helps} == set()


def without_explanations(block: str) -> str:
    """A spec of the README's without what stands behind ←, and without the lines where such an explanation goes on."""
    rows = [re.sub(r"\s*←.*", "", row) for row in block.split("\n")]
    return "\n".join(re.sub(r"(?<=\S) {3,}\S.*", "", row) for row in rows)


def spec_after(words: str) -> str:
    return without_explanations(blocks(README.split(words)[1])[0])


def test_the_prose_example_is_read_as_the_readme_says():
    task, = parse_spec(spec_after("**Prose.**")).tasks
    assert (task.prompt, task.timeout) == ("Create hello.py,\nwhich greets the name that it is given.", 45)
    assert task.criteria == ("hello.py exists", '`python3 hello.py Ada` prints "Hello, Ada"')
    assert task.retry_strategy == "retry with sys.argv spelled out."


def test_the_labelled_example_is_read_as_the_readme_says():
    spec = parse_spec(spec_after("**Labels.**"))
    task, = spec.tasks
    assert task.prompt.startswith("Add a health check to server.py.\nIt answers") and "# Timeout: 5" in task.prompt and task.timeout is None
    assert task.criteria == ("server.py contains /healthz", "`pytest -q tests/test_health.py`")
    assert (task.retry_strategy, task.tools) == ("read the traceback first", ("Read", "Edit", "Bash(pytest:*)"))
    assert len(spec.warnings) == 1 and "Owner" in spec.warnings[0]


def test_the_dry_run_of_the_list_prints_what_the_readme_shows(tmp_path):
    (tmp_path / "release.md").write_text(spec_after("**A list of tasks.**"))
    done = subprocess.run([sys.executable, "-B", ROOT / "cc_execute.py", "--dry-run", "release.md"], cwd=tmp_path, capture_output=True,
                          encoding="utf-8", env={**os.environ, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}, check=False)
    shown = blocks(README.split("Of that list it prints:")[1])[0]
    assert (done.stdout.replace(str(tmp_path), "/home/ada/project"), done.stderr, done.returncode) == (shown, "", 0)


def test_every_kind_of_error_has_a_row_in_the_readme():
    rules = {rule.kind for rule in (*cc_execute.FIELD_RULES, *cc_execute.TEXT_RULES)}
    kinds = rules | set(cc_execute.HINTS) | set(cc_execute.NEXT_STEPS) | set(cc_execute.SUBTYPES.values())
    assert {kind for kind in kinds if f" | `{kind}` | " not in README} == set()


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


def test_the_figures_on_verdicts_are_those_that_are_measured(tmp_path):
    verdicts = [(case, verdict_on(case, tmp_path / str(number))) for number, case in enumerate(CASES)]
    assert figures(verdicts) in README


# ---- The workflow for CI. ----

def test_the_workflow_for_github_actions_is_one_and_its_command_runs(run_cc, stand_in, bridge, workspace):
    workflow = yaml.safe_load(next(block for block in blocks(README) if "runs-on" in block))
    job, = workflow["jobs"].values()
    uses = [step["uses"] for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", name) for name in uses) and job["timeout-minutes"] <= 360 and True in workflow   # YAML 1.1 reads "on" so
    command = shlex.split(next(step["run"] for step in job["steps"] if "cc_execute.py" in step.get("run", "")))
    assert command[:2] == ["python3", "cc_execute.py"]
    (workspace / "plan.md").write_text("Task: Create a.txt\nSuccess Criteria: 1) a.txt exists\n")
    done = run_cc(*command[2:], env=stand_in([{"write": {"path": "a.txt", "content": "x"}}]).environment)
    wanted = {step["with"].get("report_paths") or step["with"]["path"] for step in job["steps"] if step.get("if") == "always()"}
    assert done.returncode == 0 and wanted == {"junit.xml", "report.html"} and all((workspace / name).read_text() for name in wanted)


def test_the_pictures_are_there_and_small():
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)
    assert pictures == [".github/terminal.svg", ".github/report.png"]
    assert all(1000 < (ROOT / picture).stat().st_size < 500_000 for picture in pictures)
    shown = "".join(ElementTree.parse(ROOT / pictures[0]).getroot().itertext())
    assert "2 of 2 tasks passed" in shown and re.search(r"task 1/2: Settings · [█░]+ \d+/45 s · ", shown) and str(Path.home()) not in shown and "/tmp/" not in shown
