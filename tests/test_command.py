"""Command: a task becomes an argument vector, a standard input and an environment; the shell never sees the prompt."""
from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given, strategies as st

from cc_execute import (Task, UsageError, agent_environment, as_question, build_command, choose_tools, parse_task_request, prompt_input,
                        split_agent)

# What the words of a task call for (the seed's rules, by words): Read always, each tool once.
TOOLS = {
    "Create a config.py": ["Write", "Read"],
    "What is 17 times 23?": ["Read"],
    "Put it into a file": ["Write", "Read"],
    "Write a poem": ["Write", "Read"],
    "Implement the parser": ["Write", "Read"],
    "Build a page": ["Write", "Read"],
    "Generate ten names": ["Write", "Read"],
    "Save the answer": ["Write", "Read"],
    "Run it": ["Bash", "Read"],
    "Execute it": ["Bash", "Read"],
    "Test it": ["Bash", "Read"],
    "Install it": ["Bash", "Read"],
    "Check it": ["Bash", "Read"],
    "Verify it": ["Bash", "Read"],
    "Edit it": ["Edit", "Read"],
    "Update it": ["Edit", "Read"],
    "Fix it": ["Edit", "Read"],
    "Modify it": ["Edit", "Read"],
    "Refactor it": ["Edit", "Read"],
    "Add a line": ["Edit", "Read"],
    "CREATE IT, THEN RUN IT.": ["Write", "Bash", "Read"],
    "Create, write and save a file": ["Write", "Read"],
    "Run and check and verify": ["Bash", "Read"],
    "Create x, run it, fix it": ["Write", "Bash", "Edit", "Read"],
    # substrings are no words
    "What is my profile?": ["Read"],
    "Show the latest contest": ["Read"],
    "What is a prefix of an address?": ["Read"],
    "Explain runtime credit and editorial": ["Read"],
    "Explain the paycheck, the rewrite and the rebuilding": ["Read"],
    "Describe the recreated saved-ness of truncated padding": ["Read"],
    # the value of a setting is no word of the task
    'Show DATABASE_URL="sqlite:///test.db"': ["Read"],
}


@pytest.mark.parametrize("prompt, tools", TOOLS.items())
def test_the_tools_follow_from_the_words(prompt, tools):
    chosen = list(choose_tools(prompt))
    assert sorted(chosen) == sorted(tools) and len(set(chosen)) == len(chosen)


def test_the_worked_example_gives_the_seed_s_command():
    task = parse_task_request("Use your cc_execute.md to execute the task: "
                              'Create a config.py file with DATABASE_URL="sqlite:///test.db".\n'
                              "Expect a timeout of 45 seconds.\nEvaluate the response based on: 1) File config.py exists")
    prompt = 'Create a config.py file with DATABASE_URL="sqlite:///test.db".'
    assert build_command(task) == ["claude", "-p", prompt, "--output-format", "stream-json", "--verbose", "--allowedTools",
                                   "Write,Read",
                                   "--dangerously-skip-permissions"]
    assert prompt_input(task.prompt) is None


def make_task(prompt: str = "Say hello", **fields) -> Task:
    return Task(1, None, 1, prompt, **fields)


OPTIONS = [
    (dict(model="opus"), ["--model", "opus"]),
    (dict(max_turns=7), ["--max-turns", "7"]),
    (dict(budget=0.5), ["--max-budget-usd", "0.5"]),
    (dict(tools=("Write", "Bash(git log:*)")), ["--allowedTools", "Write,Bash(git log:*)"]),
]


@pytest.mark.parametrize("fields, words", OPTIONS, ids=[row[1][0] for row in OPTIONS])
def test_a_task_s_settings_are_arguments(fields, words):
    argv = build_command(make_task(**fields))
    at = argv.index(words[0])
    assert argv[at:at + 2] == words
    assert argv[:3] == ["claude", "-p", "Say hello"] and argv.count("--allowedTools") == 1


def test_the_list_of_tools_does_not_swallow_what_follows_it():
    """--allowedTools takes any number of words: only an option may come after its one value."""
    argv = build_command(make_task(model="opus", max_turns=3, budget=1.0))
    assert argv[argv.index("--allowedTools") + 2].startswith("--")


def test_permissions_allowed_skips_nothing():
    assert "--dangerously-skip-permissions" not in build_command(make_task(), permissions="allowed")


def test_a_retry_prompt_stands_in_for_the_task_s_but_the_tools_are_the_task_s():
    argv = build_command(make_task("Show it"), "Show it\n\nIMPORTANT: create the file.")
    assert argv[argv.index("-p") + 1] == "Show it\n\nIMPORTANT: create the file."
    assert argv[argv.index("--allowedTools") + 1] == "Read"


def test_another_agent_keeps_its_own_arguments():
    assert build_command(make_task(), agent=("my claude", "--mcp-config", "x.json"))[:5] == ["my claude", "--mcp-config",
        "x.json", "-p", "Say hello"]


# ---- Prompts that can't be an argument. ----

BY_INPUT = {"a dash": "-v is an option of what?", "two dashes": "--help", "a slash": "/tmp is full, clean it up",
            "a slash command": "/init",
            "an absolute path alone": "/etc/hosts", "128 KiB": "x" * 131072, "300 KB": "x" * 300_000,
            "two bytes each": "é" * 65536}
BY_ARGUMENT = {"an ordinary one": "Create a.py", "quotes": "say \"a\" and 'b'",
               "a shell's words": "`date` $HOME $(id) ; rm -rf x | y > z & !", "lines": "a\nb\n\nc",
               "a dash inside": "a -b", "other alphabets": "größe 日本語 🎉", "just below 128 KiB": "x" * 131071,
               "just below, two bytes each": "é" * 65535}


@pytest.mark.parametrize("prompt", BY_INPUT.values(), ids=BY_INPUT)
def test_such_a_prompt_goes_in_by_standard_input(prompt):
    argv = build_command(make_task(prompt))
    assert prompt not in argv and argv[:3] == ["claude", "-p", "--output-format"]
    assert prompt_input(prompt).strip("\n") == prompt


@pytest.mark.parametrize("prompt", BY_ARGUMENT.values(), ids=BY_ARGUMENT)
def test_such_a_prompt_is_one_argument_and_arrives_as_it_is(prompt):
    argv = build_command(make_task(prompt), agent=(sys.executable, "-c",
        "import os, sys; sys.stdout.buffer.write(os.fsencode(sys.argv[2]))"))
    assert prompt_input(prompt) is None
    assert subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout.decode("utf-8") == prompt


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_a_prompt_goes_in_exactly_once(prompt):
    argv = build_command(make_task(prompt))
    given_in = prompt_input(prompt)
    assert (argv[2] == prompt) == (given_in is None)
    assert given_in is None or given_in.lstrip("\n") == prompt.lstrip("\n")


# ---- The environment. ----

def test_the_agent_gets_the_user_s_environment_without_nested_sessions_and_the_bridge_s_token():
    inherited = {"PATH": "/bin", "ANTHROPIC_API_KEY": "k", "REDIS_URL": "redis://x", "CLAUDECODE": "1",
                 "CLAUDE_CODE_ENTRYPOINT": "cli", "CLAUDE_CODE_SSE_PORT": "1",
                 "CLAUDE_CODE_SESSION_ID": "s", "CLAUDE_CODE_CHILD_SESSION": "1", "CC_BRIDGE_TOKEN": "secret",
                 "CLAUDE_CODE_OAUTH_TOKEN": "t", "CLAUDE_CONFIG_DIR": "/c"}
    kept = {name: inherited[name] for name in ("PATH", "ANTHROPIC_API_KEY", "REDIS_URL", "CLAUDE_CODE_OAUTH_TOKEN",
        "CLAUDE_CONFIG_DIR")}
    added = {"CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1", "BASH_DEFAULT_TIMEOUT_MS": "45000", "BASH_MAX_TIMEOUT_MS": "45000"}
    assert agent_environment(inherited, 45.0) == {**kept, **added}
    assert "CLAUDECODE" in inherited


def test_what_the_user_has_set_stays():
    own = {"CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "0", "BASH_DEFAULT_TIMEOUT_MS": "1", "BASH_MAX_TIMEOUT_MS": "2"}
    assert agent_environment(own, 45.0) == own


@pytest.mark.parametrize("timeout", [0.0004, 1.5, 45.0, 1e6])
def test_bash_limits_are_whole_positive_milliseconds(timeout):
    value = agent_environment({}, timeout)["BASH_MAX_TIMEOUT_MS"]
    assert value.isdigit() and int(value) >= 1 and abs(int(value) - timeout * 1000) <= 1


# ---- Which agent. ----

@pytest.mark.parametrize("command, words", [("claude", ("claude",)),
                                            ("claude --mcp-config x.json", ("claude", "--mcp-config", "x.json")),
                                            ("'my claude' -x", ("my claude", "-x"))])
def test_an_agent_s_command_is_split_as_a_shell_would(command, words):
    assert split_agent(command) == words


def test_an_existing_path_is_taken_whole(tmp_path, monkeypatch):
    program = tmp_path / "my tools" / "claude --v2"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    assert split_agent(str(program)) == (str(program),)
    monkeypatch.chdir(program.parent)
    assert split_agent("./claude --v2") == (str(program),)


def test_a_relative_program_is_found_from_the_task_s_directory_too(tmp_path, monkeypatch):
    (tmp_path / "agent").write_text("")
    monkeypatch.chdir(tmp_path)
    assert split_agent("./agent --x") == (os.path.join(str(tmp_path), "agent"), "--x")


@pytest.mark.parametrize("command", ["", "  ", "'unclosed"])
def test_no_command_is_a_usage_error_that_names_the_option(command):
    with pytest.raises(UsageError, match="--claude"):
        split_agent(command)


QUESTIONS = {
    "Create a config.py file with DATABASE_URL='sqlite:///test.db'":
        "What is a config.py file with DATABASE_URL='sqlite:///test.db'? Show the complete file content.",
    "Create a config.py with X.": "What is a config.py with X? Show the complete file content.",
    "Please write me a script run.sh. It prints 1.": "What is a script run.sh? It prints 1. Show the complete file content.",
    "Build a page\nwith a table": "What is a page\nwith a table?\n\nShow the complete file content.",
    "Create a page:\n\n- one\n- two\n": "What is a page?\n\n- one\n- two\n\nShow the complete file content.",
    "What is a config.py with X?": "What is a config.py with X?",
    "Run the tests": "Run the tests",
    "Creative writing": "Creative writing",
    "Create": "Create",
}


@pytest.mark.parametrize("instruction, question", QUESTIONS.items())
def test_an_instruction_as_a_question(instruction, question):
    assert as_question(instruction) == question
