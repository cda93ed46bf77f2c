"""Secrets: what looks like a key or a token is in nothing that is kept or shown; what does not is left as it is.

Sections: the forms, the environment's own values, JSON, transcripts, from the outside.
"""
from __future__ import annotations

import base64
import json
import os
import random
import urllib.parse
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

import cc_execute
from cc_execute import MASK, Place, Transcript, make_mask, masked, transcript_place

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def made_up(count: int, alphabet: str = LETTERS, seed: int = 1) -> str:
    """Letters and digits as a generator of keys would draw them; none of these is or was a real secret."""
    return "".join(random.Random(seed).choices(alphabet, k=count))


def private_key(kind: str) -> str:
    body = base64.b64encode(random.Random(2).randbytes(600)).decode()
    lines = [body[at:at + 64] for at in range(0, len(body), 64)]
    return "\n".join([f"-----BEGIN {kind}PRIVATE KEY-----", *lines, f"-----END {kind}PRIVATE KEY-----"])


PEM, BODY = private_key("RSA "), private_key("RSA ").split("\n")[3]
UPPER = made_up(16, LETTERS[:26] + LETTERS[-10:])
JWT = ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in ('{"alg":"HS256","typ":"JWT"}', '{"sub":"1234567890"}', "signature-bytes-here"))
FORMS = {  # a text that holds a secret, and the part of it that must be gone
    "Anthropic": (f"key sk-ant-api03-{made_up(80)}-AA for you", made_up(80)), "Anthropic's short": ("sk-ant-anything", "anything"),
    "Anthropic's OAuth": (f"sk-ant-oat01-{made_up(60)}", made_up(60)), "OpenAI": (f"sk-{made_up(48)}", made_up(48)),
    "OpenAI's project": (f"OPENAI=sk-proj-{made_up(40)}_{made_up(20)}", made_up(40)),
    "AWS id": (f"AKIA{UPPER}", UPPER), "AWS session id": (f"id: ASIA{UPPER}.", UPPER),
    "AWS secret, in part in capitals": (f"SECRET_key={made_up(40)}", made_up(40)),
    "AWS session token, in part in capitals": (f"SESSION_token={made_up(40)}", made_up(40)),
    "AWS secret": (f"aws_secret_access_key = {made_up(20)}/{made_up(18, seed=3)}+", made_up(18, seed=3)),
    "AWS secret in YAML": (f"AwsSecretKey: '{made_up(40)}'", made_up(40)), "AWS in the environment": (f"AWS_SECRET_ACCESS_KEY={made_up(40)}", made_up(40)),
    "GitHub": (f"ghp_{made_up(36)}", made_up(36)), "GitHub's app": (f"ghs_{made_up(36)}", made_up(36)),
    "GitHub, fine-grained": (f"github_pat_{made_up(22)}_{made_up(59)}", made_up(59)),
    "GitLab": (f"glpat-{made_up(20)}", made_up(20)), "Slack": (f"xoxb-123456789012-{made_up(24)}", made_up(24)), "Slack's app": (f"xapp-1-A0-{made_up(40)}", made_up(40)),
    "Slack's hook": (f"https://hooks.slack.com/services/T0/B0/{made_up(24)}", made_up(24)), "Google": (f"AIza{made_up(35)}", made_up(35)),
    "Google's OAuth": (f"ya29.{made_up(60)}", made_up(60)), "Stripe": (f"sk_live_{made_up(24)}", made_up(24)), "Stripe, restricted": (f"rk_test_{made_up(24)}", made_up(24)),
    "npm": (f"//registry/:_authToken=npm_{made_up(36)}", made_up(36)), "PyPI": (f"pypi-AgEIcHlwaS5vcmc{made_up(60)}", made_up(60)),
    "Hugging Face": (f"hf_{made_up(34)}", made_up(34)), "SendGrid": (f"SG.{made_up(22)}.{made_up(43)}", made_up(43)), "JWT": (f"id_token {JWT} end", JWT.split(".")[1]),
    "RSA": (PEM, BODY), "a key without a kind": (private_key(""), BODY), "OpenSSH": (private_key("OPENSSH "), BODY),
    "a key that is cut off": ("\n".join(PEM.split("\n")[:6]), BODY),
    "a key as Read shows it": ("\n".join(f"{number:6}\t{line}" for number, line in enumerate(PEM.split("\n"), 1)), BODY),
    "header": ("Authorization: Bearer opaque7", "opaque7"), "basic": ("authorization: basic dXNlcjpwYXNz", "dXNlcjpwYXNz"), "curl": ("curl -H 'Authorization: token 0abcdef'", "0abcdef"),
    "header in a dictionary": ('{"Authorization": "Bearer opaque7"}', "opaque7"), "without a scheme": (f"AUTHORIZATION={made_up(20)}", made_up(20)),
    "Anthropic's header": ("x-api-key: opaque-and-long", "opaque-and-long"), "bearer alone": (f"bearer {made_up(30)}", made_up(30)),
    "a URL's password": ("postgres://app:hunter2@db:5432/x", "hunter2"), "Redis' password": ("redis://:hunter2@127.0.0.1/0", "hunter2"),
    "a token in a URL": ("ws://127.0.0.1:9000/?token=opaque7&x=1", "opaque7"), "a password behind a question mark": ("redis://127.0.0.1:1/0?password=opensesame77", "opensesame77"),
    "a password that is escaped": ("redis://:%40bcdefgh12@h/0", "bcdefgh12"), "a password with a dollar": ("redis://:$ecretpw99@h/0", "ecretpw99"),
    "a password with an at sign": ("redis://:open@sesame77@127.0.0.1/0", "sesame77"), "x-api-key as most write it": ("X-API-Key: opaque-and-long", "opaque-and-long"),
    "as the AWS CLI prints it": (f'"SecretAccessKey": "{made_up(40)}"', made_up(40)), "AWS session": (f'"SessionToken": "{made_up(90)}"', made_up(90)),
    "behind a colour": (f"\x1b[32msk-ant-api03-{made_up(40)}", made_up(40)), "behind another script": (f"密钥是ghp_{made_up(36)}", made_up(36)),
    "in a variable's name": (f"TOKEN_sk-ant-api03-{made_up(40)}", made_up(40)), "in a URL's escape": (f"key%3Dsk-{made_up(48)}", made_up(48)),
    "SSWS": ("Authorization: SSWS 00opaqueOKTA", "00opaqueOKTA"), "Negotiate": ("Authorization: Negotiate YIIopaque", "YIIopaque"), "quoted": ('Authorization: Bearer "opaque77"', "opaque77"),
    "in a list of two": ('["Authorization", "Bearer opaque77"]', "opaque77"), "in a call": ("headers.set('Authorization', 'token 0abcdef')", "0abcdef"),
    "GitLab's header": ("PRIVATE-TOKEN: 0paque-and-long", "0paque-and-long"), "GitLab's OAuth": (f"gloas-{made_up(40)}", made_up(40)), "Google's client": (f"GOCSPX-{made_up(28)}", made_up(28)),
    "Slack's trigger": (f"https://hooks.slack.com/triggers/T0/1/{made_up(32)}", made_up(32)), "Shopify": (f"shpat_{made_up(32)}", made_up(32)), "Vault": (f"hvs.{made_up(60)}", made_up(60)),
    "a key in a quotation": ("\n".join(f"> {line}" for line in PEM.split("\n")), BODY), "a key as grep shows it": ("\n".join(f"{n}|{line}$" for n, line in enumerate(PEM.split("\n"))), BODY),
}
INNOCENT = [
    "task-1-attempt-1-of-a-long-and-winding-name.jsonl", "a risk-based-approach-to-testing-everything", "authorization: required", "Authorization is done by OAuth.",
    "The token is read from GITHUB_TOKEN.", "bearer authentication-mechanism-of-the-server", "http://127.0.0.1:8004/path@2", "sk-learn is scikit-learn", "AKIA is short",
    "import secrets; secrets.token_hex(8)", "eyJ is how base64 of { begins", "ghp_ is a prefix", "mailto:ada@example.org", "https://example.org/a?page=2", "-----BEGIN CERTIFICATE-----",
    "DATABASE_URL=\"sqlite:///test.db\"", "def api_key(): ...", "authorization = get_authorization_header(request)", "authorization: AuthorizationService", "Begin with -----BEGIN PRIVATE KEY----- and then comes prose, as ever.",
    "see http://localhost:3000,admin@example.org", "[docs](http://localhost:8080/) and ada@example.org", "https://h:1?x=a@b", "test_risk_live_abcdefghijkl", "mask_test_datasetloader1",
    ".sk-toggleable__label-arrow-and-more", "postgres://app:${DB_PASSWORD}@db/x", "redis://:{password}@h/0", "xoxo", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "",
]


# ---- The forms. ----

@pytest.mark.parametrize("text, secret", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("dress", [lambda text: text, json.dumps, lambda text: json.dumps({"a": json.dumps({"b": text})}), lambda text: f"\t>>{text}<<",
                                   lambda text: json.dumps(f"a\n{text}\tb"), lambda text: json.dumps(f"a\u2028{text}\u2028b")],
                         ids=["as it is", "in JSON", "in JSON in JSON", "in other text", "behind a line break in JSON", "behind an escape in JSON"])
def test_what_looks_like_a_secret_is_masked(text, secret, dress):
    told = make_mask({})(dress(text))
    assert secret in dress(text) and secret not in told and MASK in told


@pytest.mark.parametrize("text, secret", FORMS.values(), ids=FORMS)
def test_masking_twice_is_masking_once(text, secret):
    mask = make_mask({})
    assert mask(mask(text)) == mask(text)


@pytest.mark.parametrize("text", INNOCENT)
def test_what_does_not_is_left_as_it_is(text):
    assert make_mask({})(text) == text


def test_what_stands_around_it_stays():
    mask = make_mask({})
    assert mask(f"before AKIA{UPPER} after") == "before AKIA*** after"
    assert mask(f"{PEM}\nafter it") == "-----BEGIN RSA PRIVATE KEY-----***\nafter it"
    assert mask('curl -H "Authorization: Bearer abc" http://h/') == 'curl -H "Authorization: Bearer ***" http://h/'
    assert mask("postgres://app:pw@db/x") == "postgres://app:***@db/x"


# ---- The environment's own values. ----

def test_a_value_is_masked_in_the_forms_in_which_tools_show_it():
    value, lines = 'pa"ss\\wörd & 1', f"{made_up(30)}\n{made_up(40, seed=3)}"
    mask = make_mask({"THE_SECRET": value, "A_KEY": lines})
    shown = [json.dumps(json.dumps({"x": value})), json.dumps(json.dumps({"x": value}, ensure_ascii=False), ensure_ascii=False), urllib.parse.quote(value, safe=""),
             base64.b64encode(value.encode()).decode()]
    assert [mask(text).replace("\\", "") for text in shown] == ['"{"x": "***"}"'] * 2 + [MASK] * 2
    for dress in (lambda text: text.replace("\n", "\r\n"), lambda text: "\n".join(f"{n:6}\t{line}" for n, line in enumerate(text.split("\n"), 1)), lambda text: text.replace("\n", "\n    ")):
        assert made_up(30) not in mask(dress(lines)) and made_up(40, seed=3) not in mask(dress(lines))


@pytest.mark.parametrize("value", ["tool_use", "tool_result", "assistant", "session_id", "12345678", "success!", "duration_ms"])
def test_a_value_that_is_a_word_of_the_format_does_not_spoil_the_transcript(tmp_path, value):
    events = [{"type": "assistant", "message": {"content": [{"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": f"echo {value}"}}]}},
              {"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": "t1", "content": f"it is {value}"}]}},
              {"type": "result", "subtype": "success", "is_error": False, "num_turns": 1, "duration_ms": 12345678, "session_id": "s", "result": value}]
    path = str(tmp_path / "t.jsonl")
    transcript = Transcript(path, make_mask({"MY_KEY": value}))
    transcript.write("".join(json.dumps(event) + "\n" for event in events), 1)
    transcript.close()
    kept = cc_execute.parse_claude_response(Path(path).read_text().splitlines())
    assert kept["tools"][0]["output"] == f"it is {MASK}" and kept["tools"][0]["finished"] and kept["result"]["duration_ms"] == 12345678 and kept["session_id"] == "s"


@pytest.mark.parametrize("name", ["DEPLOY_KEY", "MY_TOKEN", "CLIENT_SECRET", "DB_PASSWORD", "my_api_key", "TOKEN", "SIGNING_SECRETS", "CC_BRIDGE_TOKEN", "GITHUB_PAT", "MYSQL_PWD",
                                  "SECRET_KEY_BASE", "API_KEY_2", "DB_PASS"])
def test_values_of_keys_tokens_and_secrets_are_masked_wherever_they_stand(name):
    mask = make_mask({name: "plain words 1", "HOME": "/home/ada"})
    assert mask("x=plain words 1;") == "x=***;" and mask("/home/ada") == "/home/ada"


@pytest.mark.parametrize("value", ["quo\"ted\\and\nbroken", "ümläute-und-ß", "tab\there and there"])
def test_also_as_json_has_them(value):
    mask = make_mask({"THE_SECRET": value})
    for dressed in (value, json.dumps({"x": value}), json.dumps({"x": value}, ensure_ascii=False)):
        assert MASK in mask(dressed) and mask(dressed).replace(MASK, "") == dressed.replace(value, "").replace(json.dumps(value)[1:-1], "").replace(
            json.dumps(value, ensure_ascii=False)[1:-1], "")


@pytest.mark.parametrize("environment", [{"SORT_KEY": "name"}, {"X_TOKEN": ""}, {"SSL_KEY": "/etc/passwd"}, {"KEYBOARD": "qwerty-layout"}, {"PWD": "/some/where/else"}])
def test_switches_names_and_paths_of_key_files_are_no_secrets(environment):
    text = " ".join(["a name", *environment.values()])
    assert make_mask(environment)(text) == text


# ---- JSON: a masked line is still the line that it was. ----

PIECES = st.sampled_from([text for text, _ in FORMS.values()]) | st.text(max_size=30)
DATA = st.recursive(st.none() | st.booleans() | st.integers() | st.lists(PIECES, max_size=4).map("".join), lambda inner: st.lists(inner, max_size=4)
                    | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12)


def shape(value):
    return ({name: shape(item) for name, item in value.items()} if isinstance(value, dict) else [shape(item) for item in value]
            if isinstance(value, list) else type(value))


@given(DATA)
def test_masked_json_is_json_of_the_same_shape(value):
    for line in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert shape(json.loads(make_mask({})(line))) == shape(value)


def test_plain_data_is_masked_in_all_its_texts_and_in_nothing_else():
    mask = make_mask({"A_TOKEN": "confidential"})
    assert masked({"confidential": ["confidential", 1, None, {"x": ("a confidential b", True)}]}, mask) == {"confidential": ["***", 1, None, {"x": ["a *** b", True]}]}


# ---- Transcripts: masked line by line, whatever the pieces; resumable at any moment. ----

def written(tmp_path, text: str, cuts: list) -> str:
    path = str(tmp_path / "t.jsonl")
    transcript = Transcript(path, make_mask({}))
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    for seq, (start, end) in enumerate(zip(edges, edges[1:]), 1):
        assert transcript.write(text[start:end], seq) == text[start:end]
    transcript.close()
    return Path(path).read_text("utf-8")


LINES = st.lists(PIECES.map(lambda text: text.replace("\r", "")).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)), max_size=8).map("\n".join)


@given(text=LINES, cuts=st.lists(st.integers(0, 4000), max_size=12))
def test_no_cut_lets_a_secret_through(tmp_path_factory, text, cuts):
    whole = "".join(json.dumps(line) + "\n" for line in text.split("\n")) + "{"
    assert written(tmp_path_factory.mktemp("t"), whole, cuts) == make_mask({})(whole)


def test_a_line_without_an_end_is_written_as_it_grows_and_still_masked(tmp_path):
    path = str(tmp_path / "t.jsonl")
    transcript, filler = Transcript(path, make_mask({})), "word " * 10_000
    sizes = []
    for seq in range(200):
        transcript.write(filler + PEM[:700], 2 * seq + 1)
        transcript.write(PEM[700:] + " ", 2 * seq + 2)
        sizes.append(os.path.getsize(path))
    assert 5_000_000 < sizes[-1] and transcript._pending_chars < 3_000_000
    transcript.close()
    kept = Path(path).read_text()
    assert BODY not in kept and kept.count(MASK) == 200 and kept.count("word ") == 200 * 10_000


def test_a_transcript_can_be_gone_on_with_after_any_message(tmp_path):
    """Killed after each message in turn: what the bridge would send again from the noted place on makes it whole, once."""
    lines = [json.dumps({"type": "x", "text": f"{number} " + "y" * (number * 37 % 500), "key": f"sk-ant-api03-{made_up(40)}"}) + "\n" for number in range(40)]
    stream = "".join(lines)
    chosen = random.Random(4)
    messages, at = [], 0
    while at < len(stream):
        size = chosen.choice([1, 7, 200, 900])
        messages.append(stream[at:at + size])
        at += size
    for killed_after in range(0, len(messages), 3):
        path = str(tmp_path / "t.jsonl")
        first = Transcript(path, make_mask({}))
        for seq, data in enumerate(messages[:killed_after], 1):
            first.write(data, seq)
        place = transcript_place(path)
        assert place.bytes == os.path.getsize(path) and Path(path).read_bytes().endswith(b"\n" if place.bytes else b"")
        with open(path, "ab") as torn:
            torn.write(b'{"a line that was begun')
        second = Transcript(path, make_mask({}), place)
        second.skip(place.chars)
        for seq, data in enumerate(messages, 1):
            if seq > place.seq:
                second.write(data, seq)
        second.close()
        assert Path(path).read_text() == make_mask({})(stream), killed_after


def test_a_place_that_cannot_be_is_the_beginning(tmp_path):
    path = str(tmp_path / "t.jsonl")
    assert transcript_place(path) == Place()
    Path(path).write_text("{}\n")
    for noted in ("", "1 2", "a b c", "9 0 999999"):
        Path(path + ".place").write_text(noted)
        assert transcript_place(path) == Place()


# ---- From the outside: nothing that a run keeps or shows has the secrets that the agent saw. ----

SECRETS = {"GH_TOKEN": "words that only I know", "DEPLOY_KEY": f"line one\n{made_up(30, seed=9)}"}
SEEN = [text for text, _ in FORMS.values()]
GONE = [*(secret for _, secret in FORMS.values() if len(secret) > 7), "words that only I know", made_up(30, seed=9)]


def found_in(folder: str) -> list:
    paths = [Path(place, name) for place, _, names in os.walk(folder) for name in names]
    return [(path.name, secret) for path in paths for secret in GONE if secret.encode() in path.read_bytes()]


@pytest.mark.parametrize("options", [("--json",), (), ("--dry-run",), ("--dry-run", "--json")], ids=" ".join)
def test_nothing_that_is_kept_or_shown_has_a_secret(run_cc, stand_in, bridge, tmp_path, options):
    seen = "\n".join([*SEEN, *SECRETS.values()])
    one_line = " ".join(text for text in SEEN if "\n" not in text)
    spec = f"Task: Create out.txt with {one_line}\nSuccess Criteria:\n1) out.txt contains {FORMS['Anthropic'][0]}\n2) File missing-{FORMS['GitHub'][0]} exists\n" \
           f"3) `echo {FORMS['Slack'][0]}; exit 1`\nRetry Strategy: use {FORMS['Google'][0]}\nTimeout: 60\n"
    attempt = [{"write": {"path": "out.txt", "content": seen}}, {"bash": "cat out.txt; echo $GH_TOKEN; exit 3"}, {"stderr": seen.replace("\n", " ")}, {"text": seen},
               {"raw": "noise " + one_line}]
    limited = [{"api_error": {"text": f"API Error: Request rejected (429) for {FORMS['Stripe'][0]} · retry after 0.1", "status": 429, "error": "rate_limit"}}]
    agent = stand_in(attempt, limited, attempt)
    (tmp_path / "spec.md").write_text(spec)
    done = run_cc(tmp_path / "spec.md", *options, env={**agent.environment, **SECRETS})
    assert done.returncode == (0 if "--dry-run" in options else 1), done.stderr
    assert not [secret for secret in GONE if secret in done.stdout + done.stderr]
    assert MASK in done.stdout
    kept = [os.environ[name] for name in ("XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR")]
    assert [found_in(folder) for folder in kept] == [[], [], []]
    if "--dry-run" not in options:
        names = sorted(path.name for path in Path(os.environ["XDG_STATE_HOME"]).rglob("*") if path.is_file())
        assert {"run-state.json", "result.json", "task-1-attempt-1.jsonl", "task-1-attempt-3.jsonl"} <= set(names)
        lines = Path(os.environ["XDG_STATE_HOME"]).rglob("task-1-attempt-1.jsonl").__next__().read_text("utf-8").splitlines()
        assert all(json.loads(line)["type"] for line in lines if line.startswith("{")) and len(lines) > 6


def test_a_resumed_run_gives_claude_the_prompt_with_its_secrets(run_cc, stand_in, bridge, tmp_path):
    """The state does not hold them; the spec does."""
    secret = f"sk-ant-api03-{made_up(80)}"
    (tmp_path / "spec.md").write_text(f"Task: Create a.txt with {secret}\nTimeout: 60\nSuccess Criteria: a.txt exists\n")
    refused = [{"api_error": {"text": "Invalid API key · Fix external API key", "status": 401, "error": "authentication_failed"}}]
    agent = stand_in(refused, [{"write": {"path": "a.txt", "content": "x"}}])
    first = run_cc(tmp_path / "spec.md", env=agent.environment)
    second = run_cc(tmp_path / "spec.md", "--resume", env=agent.environment)
    assert (first.returncode, second.returncode) == (3, 0), second.stderr
    assert [start["prompt"] for start in agent.starts()][0] == f"Create a.txt with {secret}"
    assert secret not in "".join(path.read_text() for path in Path(os.environ["XDG_STATE_HOME"]).rglob("*") if path.is_file())


@pytest.mark.parametrize("options, spec, env, secret", [
    (("--store", "mysql://ada:opensesame@h/db"), "Task: x\n", {}, "opensesame"), ((), f"Task: x\nTimeout: sk-ant-{made_up(30)}\n", {}, made_up(30)),
    (("--retries", "what only I know"), "Task: x\n", {"MY_TOKEN": "what only I know"}, "what only I know"),
    (("--stats", "--store", "redis://:opensesame@127.0.0.1:1/0"), "", {}, "opensesame"), (("--stats", f"ghp_{made_up(36)}.md"), "", {}, made_up(36))])
def test_an_error_does_not_tell_a_secret(run_cc, options, spec, env, secret):
    for more in ((), ("--json",)):
        done = run_cc("-", *options, *more, input=spec, env=env) if "--stats" not in options else run_cc(*options, *more, env=env)
        assert secret not in done.stdout + done.stderr and MASK in done.stderr


@pytest.mark.parametrize("command", ["cat key.pem; exit 1", "printenv DEPLOY_KEY; exit 1", "head -c 480 /dev/zero | tr '\\0' x; printenv MY_TOKEN; exit 1"])
def test_what_is_cut_is_masked_before(run_cc, stand_in, bridge, workspace, command):
    """Of the end of a secret nobody could tell that it is one."""
    (workspace / "key.pem").write_text(PEM + "\n")
    env = {"DEPLOY_KEY": f"line one of it is long\n{made_up(30, seed=9)}", "MY_TOKEN": "xy" + made_up(60, seed=11)}
    agent = stand_in([{"stderr": env["DEPLOY_KEY"].replace("\n", " ")}, {"text": "Done."}])
    done = run_cc("-", "--json", input=f"Task: x\nTimeout: 60\nRetry Strategy: again\nSuccess Criteria: `{command}`\n", env={**agent.environment, **env})
    kept = done.stdout + "".join(path.read_text() for path in Path(os.environ["XDG_STATE_HOME"]).rglob("*") if path.is_file())
    pieces = [PEM.split("\n")[-3][:16], made_up(30, seed=9)[:16], made_up(60, seed=11)[-24:-8]]
    assert done.returncode == 1 and not [piece for piece in pieces if piece in kept]


