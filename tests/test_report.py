"""The page for people: real runs, looked at in a real browser, wide and narrow, light and dark; and what any text makes of it.

Sections: what is often needed, in the browser, what it says, timelines, transcripts, bounds, any text.
"""
from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path

import lxml.html
import pytest
from hypothesis import given, settings, strategies as st

import cc_execute as cc
import transcripts as say
from support import missing

SPEC = "Task: Create a.txt\nTimeout: 60\nSuccess Criteria:\n1) a.txt exists\n2) a.txt contains b\nRetry Strategy: Look twice.\n"
UNTRIED = SPEC.replace("Retry Strategy: Look twice.\n", "")
WRITES = {"write": {"path": "a.txt", "content": "b\n"}}
LIMITED = {"api_error": {"text": "API Error: Request rejected (429) · retry after 1", "status": 429, "error": "rate_limit"}}
EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"></title></style></textarea>\"><svg onload=\"document.title='owned'\">"
EVIL_FILE = "<img src=x onerror=\"document.title='owned'\">.txt"
ELEMENTS = set("html head meta title style body a svg defs pattern path desc rect text main div h1 h2 h3 h4 p section dl dt dd time span ul li table caption "
               "thead tbody tr th td article details summary figure figcaption footer nav".split())
ATTRIBUTES = set("lang charset http-equiv content name class href aria-hidden aria-label aria-labelledby id width height patternunits patterntransform d "
                 "tabindex datetime dir role scope focusable viewbox x y rx text-anchor".split())


# ---- What is often needed. ----

class Page:
    """A report, read by lxml."""

    def __init__(self, path: Path) -> None:
        self.path, self.source = path, path.read_text("utf-8")
        self.tree = lxml.html.fromstring(self.source)
        assert_sound(self.tree)

    @property
    def text(self) -> str:
        return words(self.tree.find("body"))

    def all(self, xpath: str) -> list:
        return self.tree.xpath(xpath)

    def words(self, xpath: str) -> list:
        return [words(element) for element in self.all(xpath)]


def words(element) -> str:
    return " ".join(" ".join(element.itertext()).split())


def assert_sound(tree) -> None:
    """What holds for every page: nothing active, a policy that forbids it, headings in order, pictures with words."""
    elements = [element for element in tree.iter() if isinstance(element.tag, str)]
    assert {element.tag for element in elements} <= ELEMENTS
    assert {name for element in elements for name in element.attrib} <= ATTRIBUTES
    assert tree.xpath("//meta[@http-equiv]/@content")[0].startswith("default-src 'none'; style-src 'unsafe-inline'")
    levels = [int(element.tag[1]) for element in elements if re.fullmatch("h[1-6]", element.tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(after <= before + 1 for before, after in zip(levels, levels[1:]))
    ids = tree.xpath("//@id")
    assert len(ids) == len(set(ids))
    named = {name for value in tree.xpath("//@aria-labelledby") for name in value.split()} | {href[1:] for href in tree.xpath("//a/@href")}
    assert named <= set(ids) and all(href.startswith("#") for href in tree.xpath("//a/@href"))
    for picture in tree.xpath("//svg[not(@aria-hidden)]"):
        assert picture.get("role") == "img" and words(picture[0]) and words(picture[1]) and [picture[0].tag, picture[1].tag] == ["title", "desc"]
    assert all(table[0].tag == "caption" and words(table[0]) for table in tree.xpath("//table")) and not tree.xpath("//th[not(@scope)]")
    assert all(region.get("tabindex") == "0" and region.get("aria-label") for region in tree.xpath("//*[@role='region']"))


@pytest.fixture
def report(run_cc, bridge, tmp_path):
    """report(words…, agent=…): a run with --report: the Run, and its Page."""
    def start(*told: object, agent, **how):
        done = run_cc(*told, "--report", tmp_path / "report.html", env=agent.environment, **how)
        return done, Page(tmp_path / "report.html")
    return start


def attempt(number: int = 1, prompt: str = "Do it", transcript: str = "", **fields) -> dict:
    return {"number": number, "prompt": prompt, "command": [], "timeout": 60.0, "exit_code": 0, "duration": 2.0, "session_id": None, "cost_usd": None,
            "num_turns": 1, "usage": None, "transcript": transcript, "error": None, "criteria": [], **fields}


def details(began_at: float = 0.0, waited: float = 0.0, checked: float = 0.0, spans: tuple = ()) -> dict:
    return {"began_at": began_at, "waited": waited, "checked": checked, "paid_usd": 0.01, "spans": list(spans)}


def outcome(attempts: list, more: list, tasks: int = 1, **fields) -> cc.Outcome:
    """Of a run of so many tasks, each with these attempts."""
    task = {"title": None, "status": "passed", "success": True, "confidence": None, "text": "", "attempts": attempts,
            "files_changed": {"created": [], "changed": [], "deleted": []}, **fields}
    document = {"spec": "spec.md", "success": task["success"], "started_at": "2026-11-29T00:00:00Z", "duration": 1.0, "confidence": None,
                "cost_usd": None, "output_dir": "/out", "warnings": [], "tasks": [{"number": number, **task} for number in range(1, tasks + 1)]}
    told = {"prompt": "Do it", "criteria": [], "retry_strategy": None, "note": "", "attempts": more}
    return cc.Outcome(document, 0, details=[told] * tasks)


@pytest.fixture
def page_of(tmp_path):
    """page_of(outcomes…): their Page, as it would be written."""
    def make(*outcomes: cc.Outcome) -> Page:
        cc.write_page(str(tmp_path / "made.html"), cc.report_page(outcomes))
        return Page(tmp_path / "made.html")
    return make


# ---- In the browser. ----

CONTRAST = """
const channels = text => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
const light = rgb => { const [r, g, b] = rgb.map(c => (c /= 255) <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
                       return .2126 * r + .7152 * g + .0722 * b; };
const behind = element => { for (; element; element = element.parentElement) {
  const found = channels(getComputedStyle(element).backgroundColor); if (found.length < 4 || found[3] > 0) return found; } return [255, 255, 255]; };
const poor = [], seen = new Set(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let count = 0;
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement, style = getComputedStyle(element);
  if (!walker.currentNode.data.trim() || seen.has(element) || element.closest('title, desc, style') || !element.getClientRects().length) continue;
  seen.add(element); count += 1;
  const ink = channels(element.closest('svg') ? style.fill : style.color), [a, b] = [light(ink.slice(0, 3)), light(behind(element).slice(0, 3))];
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < 4.5) poor.push([element.tagName, element.className.toString(), ratio, element.textContent.slice(0, 40)]);
}
return [count, poor];
"""


def show(chromium, path: Path, width: int = 1400, scheme: str = "light", media: str = "screen") -> None:
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False})
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": [{"name": "prefers-color-scheme", "value": scheme}]})
    chromium.get(path.as_uri())


def open_all(chromium) -> None:
    chromium.execute_script("for (const element of document.querySelectorAll('details')) element.open = true")


def assert_fits(chromium) -> None:
    assert chromium.execute_script("return [document.documentElement.scrollWidth - innerWidth, document.body.scrollWidth - innerWidth]") <= [0, 0]


def check_looks(chromium, path: Path) -> None:
    """At a phone's width and a wide screen's, light and dark, with everything unfolded: nothing sticks out, all can be read, nothing is active."""
    for width in (400, 1400):
        for scheme in ("light", "dark"):
            show(chromium, path, width, scheme)
            assert_fits(chromium)
            open_all(chromium)
            assert_fits(chromium)
            count, poor = chromium.execute_script(CONTRAST)
            assert count > 20 and poor == []
    assert chromium.get_log("browser") == []
    assert chromium.execute_script("return [document.scripts.length, document.images.length, document.title.includes('owned')]") == [0, 0, False]


@pytest.fixture
def hostile(report, stand_in, workspace):
    """A run in which everything that can hold a text holds markup: one task passes after a failure and a wait, one fails."""
    spec = (f"## Task 1: First {EVIL}\nCreate a.txt {EVIL}\nTimeout: 60\nSuccess Criteria:\n1) a.txt exists\n2) a.txt contains \"b\"\n3) Response mentions {EVIL}\n"
            f"Retry Strategy: Look at {EVIL}\n\n## Task 2: Second\nCreate c.txt\nSuccess Criteria:\n- c.txt exists\n\n## Task 3: Third\n{EVIL}\n"
            f"Success Criteria:\n- {EVIL} exists\n")
    (workspace / "list.md").write_text(spec)
    first = [{"text": EVIL}, {"bash": f"printf %s {cc.shlex.quote(EVIL)}; exit 1"}, {"write": {"path": EVIL_FILE, "content": EVIL}}, {"text": "Did it."}]
    second = [{"text": "x" * 3000}, {"bash": f"echo {'y' * 3000}"}, LIMITED]
    third = [WRITES, {"tool": {"name": EVIL, "input": {EVIL: EVIL}, "content": EVIL}}, {"text": f"It is done: {EVIL}"},
             {"result": {"total_cost_usd": 0.25}}]
    return report("list.md", agent=stand_in(first, second, third, [{"text": f"No: {EVIL}"}]))


def test_markup_from_outside_stays_text_and_the_page_looks_right_everywhere(hostile, chromium):
    done, page = hostile
    assert done.returncode == 1
    check_looks(chromium, page.path)
    assert chromium.title == "Not passed: list.md – cc_execute"
    text = chromium.execute_script("return document.body.innerText")
    assert text.count(EVIL) > 15 and EVIL_FILE in text
    for place in ("//h3", "//tbody[@role]//th", "//*[contains(@class, 'box')]", "//*[@class='story']//*[@class='text']", "//details//details//span"):
        assert any(EVIL in found for found in page.words(place)), place
    assert any(EVIL_FILE in found for found in page.words("//ul[@class='files']/li"))


def test_everything_folded_opens_by_keyboard(hostile, chromium):
    from selenium.webdriver import ActionChains, Keys
    show(chromium, hostile[1].path)
    count, first = chromium.execute_script("return [document.querySelectorAll('details').length, document.querySelector('.skip').className]")
    for step in range(10 * count + 50):
        ActionChains(chromium, duration=0).send_keys(Keys.TAB).perform()
        focus = chromium.execute_script("const at = document.activeElement; return [at.tagName, at.className, getComputedStyle(at).outlineStyle, "
                                        "at.tagName == 'SUMMARY' && !at.parentElement.open]")
        if focus[0] == "BODY":
            break
        assert focus[2] == "solid" and (step or focus[1] == first)
        if focus[3]:
            ActionChains(chromium, duration=0).send_keys(Keys.ENTER).perform()
    assert count > 8 and chromium.execute_script("return document.querySelectorAll('details[open]').length") == count


def test_wide_parts_scroll_in_themselves_and_print_whole(hostile, chromium):
    show(chromium, hostile[1].path, 400)
    assert chromium.execute_script("return [...document.querySelectorAll('.scroll')].every(part => part.scrollWidth > part.clientWidth)")
    show(chromium, hostile[1].path, 700, media="print")
    assert_fits(chromium)
    assert chromium.execute_script("return [...document.querySelectorAll('.scroll')].every(part => getComputedStyle(part).overflowX == 'visible')")


# ---- What it says. ----

def test_the_answer_comes_first(report, stand_in):
    done, page = report("-", agent=stand_in([WRITES, {"result": {"total_cost_usd": 0.5}}]), input=SPEC)
    assert done.returncode == 0
    assert page.words("//h1") == ["Passed"] and page.words("//h1/following-sibling::p") == ["1 of 1 task passed: 2 proved."]
    facts = dict(zip(page.words("//dt"), page.words("//dd")))
    assert (facts["Cost"], facts["Exit status"]) == ("$0.5000", "0: every task passed") and os.path.isdir(facts["Output folder"])
    assert facts["Started"].startswith(page.all("//time/@datetime")[0][:10])
    assert [cell.replace(" ", "") for cell in page.words("//table[@class='tasks']//tbody//tr/*")[:5]] == ["1", "passed", "Createa.txt", "2proved", "1"]
    assert page.words("//ul[@class='files']/li") == ["a.txt"] and page.all("//table[@class='tasks']//rect/@width") == ["90.0"]


@pytest.mark.parametrize("statuses, word", [((0, 3, 4), "Not ready"), ((4, 1, 0), "Stopped by a limit"), ((1, 0), "Not passed"), ((130, 3), "Interrupted"), ((0, 0), "Passed")])
def test_of_several_specs_the_worst_by_the_order_of_exit_statuses_is_the_answer(page_of, statuses, word):
    outcomes = [outcome([attempt(criteria=[{"text": "x", "kind": "contains", "met": True, "confidence": "proved", "evidence": ""}])], [details()], success=not status)._replace(status=status) for status in statuses]
    assert page_of(*outcomes).words("//h1") == [word]


def test_what_nobody_knows_the_cost_of_says_so(page_of):
    page = page_of(outcome([attempt(cost_usd=0.02), attempt(2)], [{**details(), "paid_usd": 0.02}, {**details(), "paid_usd": None}]))
    assert "$0.0200 + ?" in page.words("//td") and any("$0.0200 + a cost that is not known" in told for told in page.words("//p"))


def test_an_error_is_told_in_the_first_sentence(report, stand_in):
    _, page = report("-", agent=stand_in([{"sleep": 5}]), input="Task: Wait\nTimeout: 1\nSuccess Criteria: 1) response mentions x\n")
    assert "Task 1: It ran into its time limit after 1." in page.text[:300]


def test_a_run_that_fails_tells_what_is_not_met(report, stand_in):
    done, page = report("-", "--retries", 0, agent=stand_in([{"text": "I did it."}]), input=SPEC)
    assert done.returncode == 1 and page.words("//h1") == ["Not passed"] and "2 not met" in page.words("//h1/following-sibling::p")[0]
    assert page.words("//tbody[@role]/tr") == ["not met a.txt exists a.txt does not exist", "not met a.txt contains b a.txt is not there to be read"]


def test_the_words_that_were_added_to_the_prompt_are_shown(report, stand_in):
    done, page = report("-", agent=stand_in([{"text": "I did it."}], [WRITES]), input=SPEC)
    assert done.returncode == 0
    added, = page.words("//*[contains(@class, 'added')]")
    assert added.startswith("IMPORTANT: a.txt exists: ") and added.endswith("Look twice.") and "Create a.txt" not in added[:20]
    assert page.words("//caption")[1:] == ["Criteria", "Criteria after attempt 1"]   # the last attempt's are the task's
    assert page.words("//h4/following-sibling::span") == ["2 not met", "all met"]


def test_what_was_skipped_tells_why_and_what_it_was(report, stand_in, workspace):
    (workspace / "list.md").write_text("".join(f"## Task {n}: Part {n}\nCreate {n}.txt\nSuccess Criteria:\n- {n}.txt exists\n\n" for n in (1, 2)))
    done, page = report("list.md", agent=stand_in([{"text": "No."}]))
    skipped = page.all("//article")[1]
    assert done.returncode == 1 and "skipped" in words(skipped) and "Create 2.txt" in words(skipped) and "not checked 2.txt exists" in words(skipped)
    assert "The run had ended before it" in words(skipped) and "1 skipped" in page.words("//h1/following-sibling::p")[0]


def test_a_signal_leaves_a_page_too(report, stand_in):
    done, page = report("-", agent=stand_in([{"bash": "kill -TERM $(cat pid)"}, {"sleep": 60}]), input=SPEC,
                        prefix=["sh", "-c", 'echo $$ >pid; exec "$@"', "sh"])
    assert done.returncode == 143 and page.words("//h1") == ["Interrupted"] and "143: ended by SIGTERM" in page.words("//dd")
    assert "Error: cancelled" in page.text and "cancelled" in page.words("//article//span[contains(@class, 'badge')]")


def test_several_specs_each_have_their_part_also_one_that_was_not_begun(report, stand_in, workspace, tmp_path, chromium):
    for name in ("one.md", "two.md", "three.md"):
        (workspace / name).write_text(SPEC)
    (tmp_path / "out" / "2-two" / "run-lock").mkdir(parents=True)
    done, page = report("one.md", "two.md", "three.md", "--output", tmp_path / "out", agent=stand_in([WRITES]))
    assert done.returncode == 3 and page.words("//h1") == ["Not ready"] and page.words("//h2") == ["one.md", "two.md", "three.md"]
    assert page.words("//h1/following-sibling::p") == ["1 of 3 specs passed, 2 not begun: 2 proved."]
    assert page.words("//nav//li") == ["one.md Passed", "two.md Not ready", "three.md Not begun"]
    assert page.words("//h2/following-sibling::p/span") == ["Passed", "Not ready", "Not begun"] and "it was not begun: " in page.text
    check_looks(chromium, page.path)


def test_a_run_that_was_gone_on_with_tells_of_both_parts(report, stand_in, workspace):
    (workspace / "spec.md").write_text(SPEC)
    agent = stand_in([{"text": "Beginning."}, LIMITED], [WRITES, {"text": "Done."}])
    done, page = report("spec.md", "--max-wait", 0, agent=agent)
    assert done.returncode == 4 and page.words("//h1") == ["Stopped by a limit"] and "4: a limit takes longer than --max-wait" in page.words("//dd")
    done, page = report("spec.md", "--resume", "--max-wait", 60, agent=agent)
    assert done.returncode == 0 and page.words("//h4") == ["Attempt 1", "Attempt 2"] and page.words("//h1") == ["Passed"]
    assert page.words("//*[contains(@class, 'added')]") == ["continue"]


def test_a_replay_is_shown_as_what_it_is(report, run_cc, stand_in):
    agent = stand_in([WRITES, {"text": "The second way."}])
    kept = run_cc("-", "--json", input=SPEC, env=agent.environment).json()["tasks"][0]["attempts"][0]["transcript"]
    done, page = report("-", "--replay", kept, agent=agent, input=UNTRIED + "3) `true`\n")
    assert done.returncode == 1 and page.words("//h1") == ["Not passed when judged again"]
    assert "not run" in page.words("//tbody[@role]//td/span") and "The second way." in page.text
    moved = Path(shutil.move(kept, Path(kept).parent.parent / "elsewhere.jsonl"))
    done, page = report("-", "--replay", moved, agent=agent, input=SPEC)
    assert done.returncode == 0 and "is not known, so they are drawn" in page.words("//figcaption")[0]


def test_a_task_without_criteria_says_that_nothing_was_checked(report, stand_in):
    done, page = report("-", agent=stand_in([WRITES]), input="Task: Create a.txt\n")
    assert done.returncode == 0 and page.words("//h1/following-sibling::p") == ["1 of 1 task passed: nothing was checked."]
    assert "Warnings" in page.all("//@aria-label") and not page.all("//table[@class='verdicts']")


@pytest.mark.parametrize("mode", ["--dry-run", "--stats"])
def test_where_nothing_is_run_there_is_nothing_to_write(run_cc, mode):
    done = run_cc("-", mode, "--report", "x.html", input=SPEC)
    assert done.returncode == 2 and f"--report was given with {mode}" in done.stderr


@pytest.mark.parametrize("prompts, expected", [
    (["Do it"], [""]),
    (["Do it", "Do it"], ["", ""]),
    (["Do it", "Do it\n\nIMPORTANT: a"], ["", "IMPORTANT: a"]),
    (["Do it", "continue", "Other"], ["", "continue", "Other"]),
    (["What is it?", "What is it?\n\nIMPORTANT: a"], ["What is it?", "IMPORTANT: a"]),
    (["Do it\n\nIMPORTANT: a"], ["IMPORTANT: a"]),
])
def test_which_words_were_added(prompts, expected):
    assert [text for _, text in cc.added_words("Do it", prompts)] == expected


# ---- Timelines. ----

def rectangles(page: Page, look: str) -> list:
    """(left, right) of each, in the picture's pixels."""
    found = page.all(f"//*[local-name()='rect'][contains(concat(' ', @class, ' '), ' {look} ')]")
    return [(float(rect.get("x")), float(rect.get("x")) + float(rect.get("width"))) for rect in found]


def test_a_wait_is_hatched_and_the_calls_are_in_their_attempt(report, stand_in):
    working = [{"bash": "sleep 0.3"}, {"bash": "sleep 0.2; exit 3"}, LIMITED]
    done, page = report("-", agent=stand_in(working, [WRITES]), input=SPEC)
    assert done.returncode == 0
    (first, end), (second, _) = rectangles(page, "bar")
    (waiting, waited), = rectangles(page, "wait")
    assert end <= waiting + 1 < waited <= second + 1
    assert all(first <= left and right <= end + 4 for left, right in rectangles(page, "span")[:2])
    assert len(rectangles(page, "failed")) == len(page.all("//*[local-name()='path'][@class='cross']")) == 1
    titles = page.words("//*[local-name()='rect']/*[local-name()='title']")
    assert any(re.fullmatch(r"Bash: sleep 0.2; exit 3, 0\.\d\d s, failed", title) for title in titles) and any("waited 1." in title for title in titles)
    desc, = page.words("//desc")
    assert "Attempt 1 (rate limit): " in desc and "2 tool calls of which 1 failed" in desc and "Attempt 2 (all met): " in desc and "after a wait of 1." in desc


def test_days_in_which_nothing_ran_are_cut_out(page_of):
    days = 3 * 86400
    page = page_of(outcome([attempt(1), attempt(2)], [details(1e9, checked=1.0), details(1e9 + days)]))
    (left, right), (begin, end) = rectangles(page, "bar")
    assert right - left > 250 and end - begin > 250 and begin - right < 240
    assert "Cut out, while the run was not at work: 2 d 23 h." in page.words("//desc")[0] and any(tick.startswith("3 d") for tick in page.words("//*[local-name()='text']"))


def test_a_wait_of_hours_leaves_the_work_visible_and_tells_its_length(page_of):
    page = page_of(outcome([attempt(1), attempt(2)], [details(1e9), details(1e9 + 18002, waited=18000.0)]))
    assert all(right - left > 200 for left, right in rectangles(page, "bar")) and len(rectangles(page, "wait")) == 1
    assert "waited 5 h" in page.words("//*[local-name()='rect']/*[local-name()='title']") and "Drawn shorter than it was, a wait of 5 h." in page.words("//figcaption")[0]


def test_a_limit_is_an_outline_or_a_mark_at_the_edge(page_of):
    near = page_of(outcome([attempt(timeout=2.5)], [details(1e9)]))
    assert near.all("//*[local-name()='path'][@class='limit']/@d")[0].endswith("Z") and "beyond" not in near.text
    far = page_of(outcome([attempt(timeout=600.0)], [details(1e9)]))
    assert not far.all("//*[local-name()='path'][@class='limit']/@d")[0].endswith("Z") and "limit 10 min, beyond the edge" in far.text
    assert not page_of(outcome([attempt(timeout=0.0)], [details(1e9)])).all("//*[local-name()='path'][@class='limit']")


@pytest.mark.parametrize("more", [
    [details(), details()],
    [details(0.0), details(1e9)],
    [details(1e9), details(1e9 - 3600)],
    [details(1e9, spans=[{"what": "Bash", "began": 5.0, "ended": -3.0, "failed": False}]), details(1e9 + 1)],
    [details(1e9, waited=50.0), details(1e9, waited=3e5, checked=9.0)],
])
def test_times_that_are_not_known_or_contradict_give_a_sensible_picture(page_of, more):
    page = page_of(outcome([attempt(1, duration=2.0), attempt(2, duration=3.0)], more))
    bars = rectangles(page, "bar")
    assert len(bars) == 2 and all(8 <= left < right <= 961 for look in ("bar", "span", "wait", "check") for left, right in rectangles(page, look))
    assert bars[0][0] < bars[1][0] or more[1]["began_at"] == 1e9


@given(st.lists(st.tuples(*[st.floats(0, 1e6)] * 5), min_size=1, max_size=50), st.booleans())
def test_any_times_give_a_picture_within_its_bounds(times, in_order):
    times = sorted(times) if in_order else times
    more = [details(1 + begin, waited, checked, [{"what": "x", "began": waited, "ended": checked, "failed": True}]) for begin, waited, checked, _, _ in times]
    attempts = [attempt(number, duration=took, timeout=limit) for number, (_, _, _, took, limit) in enumerate(times, 1)]
    made = cc.timeline({"number": 1, "attempts": attempts}, {"attempts": more}, "task", cc.Share(1000, 10, False, False))
    assert "nan" not in made and "inf" not in made
    assert all(0 <= float(x) <= 960.1 for x in re.findall(r' x="([^"]*)"', made)) and all(float(width) >= 0 for width in re.findall(r' width="([^"]*)"', made))
    right = [float(x) + float(width) for x, width in re.findall(r'x="([^"]*)" y="[^"]*" width="([^"]*)"', made)]
    assert all(edge <= 975 for edge in right)


# ---- Transcripts. ----

def told(events: list, tmp_path: Path, chars: int = cc.TRANSCRIPT_CHARS) -> str:
    path = tmp_path / "transcript.jsonl"
    path.write_text(say.lines(events))
    return words(lxml.html.fromstring(cc.story(str(path), chars, 1)))


def test_calls_stand_with_their_results_and_subagents_are_marked(tmp_path):
    calls = say.tool("Task", {"prompt": "Look"}, "Looked", parent=None)
    found = told([say.init(), say.says("Hello"), calls[0], say.says("Inner", parent="x"), say.tool("Read", {"file_path": "/a"}, "content", parent="x"),
                  calls[1], say.failed_bash("false"), say.synthetic("API Error"), say.backgrounded("sleep 9"), say.result()], tmp_path)
    assert found.startswith("What Claude said and did in attempt 1: 3 texts, 4 tool calls Transcript: ")
    for part in ("Claude Hello", "ok Task Claude gave prompt: Look It returned Looked", "A subagent Inner", "ok Read a (a subagent's)", "failed Bash: false",
                 "Claude Code API Error", "in the background Bash: sleep 9"):
        assert part in found


def test_a_long_text_shows_its_beginning_and_end(tmp_path):
    found = told([say.says("BEGIN" + "x" * 50_000 + "END")], tmp_path)
    assert "BEGIN" in found and "END" in found and "[… 44,008 characters are left out here …]" in found


def test_of_very_many_items_the_first_and_last_are_shown(tmp_path):
    found = told([say.says(f"text {number}.") for number in range(5000)], tmp_path, 20_000)
    assert "text 0." in found and "text 4999." in found and "text 2500." not in found and re.search(r"Left out: \d+ items, 0\.\d MiB that were not read\.", found)
    assert len(found) < 20_000 and "the first and last of them" in found


@pytest.mark.parametrize("content", [b"", b"\0\xff\xfe not json\n", b'{"type": "assistant", "message": 3}\n{"type": "user", "message": {"content": [{"type": '
                                     b'"tool_result"}]}}\n{"type": "assistant", "message": {"content": [{"type": "tool_use", "input": [1]}]}}\n{"type": "ass'])
def test_a_broken_transcript_is_told(tmp_path, content):
    (tmp_path / "t.jsonl").write_bytes(content)
    found = words(lxml.html.fromstring(cc.story(str(tmp_path / "t.jsonl"), 1000, 1)))
    assert "What Claude said and did" in found and ("cannot be read as events" in found) == bool(content)


@pytest.mark.parametrize("block", ['{"type": "tool_use", "id": "a", "name": "X", "input": {"a": %s}}', '{"type": "text", "text": %s}'], ids=["input", "text"])
def test_what_is_nested_as_deep_as_can_just_be_read_is_no_crash(block):
    for depth in range(950, 1010):
        excerpt = cc.Excerpt(1000)
        excerpt.see(('{"type": "assistant", "message": {"content": [%s]}}' % block % ("[" * depth + "]" * depth)).encode())
        assert excerpt.broken + excerpt.items <= 1


def test_a_transcript_that_is_gone_or_is_none_is_told(page_of, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path, why in ((tmp_path / "gone.jsonl", "is not there"), (tmp_path, "is not there"), (tmp_path / "fifo", "is not there"), ("", "was not kept")):
        assert why in page_of(outcome([attempt(transcript=str(path))], [details()])).text


def test_secrets_are_masked_also_in_a_transcript_from_elsewhere(tmp_path, monkeypatch):
    secret = "sk-ant-api03-" + "a1" * 30
    found = told([say.says(f"It is {secret}."), say.bash("env", "x" * 4000 + f"KEY {secret} " + "y" * 4000)], tmp_path)
    assert secret not in found and "sk-ant-" in found


# ---- Bounds. ----

def test_two_thousand_tasks_make_a_page_that_can_be_looked_at(page_of, tmp_path, chromium):
    (tmp_path / "t.jsonl").write_text(say.lines([say.bash("pytest -q", "1 passed " * 500) for _ in range(40)]))
    spans = [{"what": "Bash: pytest", "began": at / 100, "ended": at / 100 + 0.01, "failed": False} for at in range(200)]
    criteria = [{"text": "a.txt exists", "kind": "file_exists", "met": True, "confidence": "proved", "evidence": "a.txt exists"}] * 5
    page = page_of(outcome([attempt(transcript=str(tmp_path / "t.jsonl"), criteria=criteria)], [details(1e9, spans=spans)], tasks=2000))
    assert len(page.source) < 30_000_000 and len(page.all("//article")) == 2000
    show(chromium, page.path)
    assert_fits(chromium)


def test_a_transcript_of_200_mib_costs_neither_memory_nor_much_of_the_page(tmp_path):
    with open(tmp_path / "t.jsonl", "w") as file:
        file.write(say.lines([say.says("The first word.")]))
        line = say.lines([say.bash("make", "x" * 1_000_000)])
        small = say.lines([say.bash("make", "x" * 10_000)]) * 50
        while file.tell() < 200 * 2 ** 20:
            file.write(line + small)
        file.write(say.lines([say.says("The last word.")]))
    tracemalloc.start()
    size, found = 0, set()
    for piece in cc.report_page([outcome([attempt(transcript=str(tmp_path / "t.jsonl"))] * 3, [details()] * 3)]):
        size += len(piece)
        found |= {text for text in ("The first word.", "The last word.", "MiB that were not read", "lines of more than 512 KiB") if text in piece}
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 4 and size < 3_000_000 and peak < 30_000_000


def test_the_page_does_not_hold_all_transcripts_in_memory(tmp_path):
    (tmp_path / "t.jsonl").write_text(say.lines([say.bash("make", "x" * 10_000) for _ in range(100)]))
    made = outcome([attempt(transcript=str(tmp_path / "t.jsonl"))], [details()], tasks=300)
    tracemalloc.start()
    size = sum(map(len, cc.report_page([made])))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 12_000_000 and peak < 10_000_000


# ---- Any text. ----

class Reader(HTMLParser):
    """Elements with their attributes' names, and the texts in those of class text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.shape: list = []
        self.texts: set = set()
        self._inside: list = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.shape.append((tag, tuple(name for name, _ in attributes)))
        self._inside.append("")

    def handle_data(self, data: str) -> None:
        self._inside[-1:] = [self._inside[-1] + data] if self._inside else []

    def handle_endtag(self, tag: str) -> None:
        if self._inside:
            self.texts.add(self._inside.pop())


def any_page(path: Path, text: str) -> str:
    """One in which the text stands wherever one from outside may."""
    calls = [block for block in (say.says(text), *say.tool(text, {text: text}, text))]
    path.write_text(say.lines([calls]))
    criterion = {"text": text, "kind": text, "met": True, "confidence": "weak", "evidence": text}
    error = {"kind": "unknown", "message": text, "retry_hint": None, "retry_after": None}
    spans = [{"what": text, "began": 0.0, "ended": 1.0, "failed": False}]
    made = outcome([attempt(prompt=text, criteria=[criterion], transcript=str(path)), attempt(2, text + text, error=error, criteria=[criterion] * 2)],
                   [details(1e9, spans=spans), details(1e9 + 9)], title=text, files_changed={"created": [text], "changed": [text], "deleted": [text]})
    made.document.update(spec=text, output_dir=text, warnings=[text])
    made.details[0].update(prompt=text, note=text)
    return "".join(cc.report_page([made]))


MARKS = ["<", ">", "&", "\"", "'", "script", "/", "!--", "]]>", "{", "}", "title", "&#60;", "{0}", "%s"]


@settings(max_examples=60)
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(MARKS)).map("".join)))
def test_any_text_is_read_back_as_it_was_and_adds_no_element(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    text = f"x{text}x"
    found, plain = Reader(any_page(path, text)), Reader(any_page(path, "xx"))
    assert found.shape == plain.shape
    assert {cc.printable(text), cc.printable(text + text)[len(text):]} <= found.texts
    assert {tag for tag, _ in found.shape} <= ELEMENTS | {"pattern"}


def test_it_is_made_by_the_oldest_python_too(pythons, tmp_path):
    program = ("import sys; sys.path.insert(0, sys.argv[1]); import cc_execute as cc, json; made = json.load(open(sys.argv[2])); "
               "print(''.join(cc.report_page([cc.Outcome(*made)])))")
    (tmp_path / "outcome.json").write_text(json.dumps(outcome([attempt()], [details(1e9)])))
    if "3.9" not in pythons:
        missing("Python 3.9", "no interpreter of it was found")
    made = subprocess.run([str(pythons["3.9"]), "-B", "-c", program, os.path.dirname(cc.__file__), str(tmp_path / "outcome.json")],
                          capture_output=True, text=True, check=True).stdout
    assert "<h1>Passed</h1>" in made
