"""The dashboard in a real browser, where there is one."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tenfold.server.config import Address
from tests.helpers.browser import CHROMIUM, Page, chromium
from tests.server.fakes import FakeEngine
from tests.server.test_objectives import TimedEngine

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

Live = Callable[..., Any]
TABS = ("traffic", "steps", "pool", "requests", "doctor", "cost", "chat")
READY = "document.getElementById('state').textContent.startsWith('ready')"
UPDATES = 1000
# A server that has always something new: other requests run, others end, other blocks are held; and a quick clock.
BUSY = """
(() => {
  const told = %s;
  const later = window.setTimeout;
  window.setTimeout = (work, wait, ...more) => later(work, wait === 1000 ? 0 : wait, ...more);
  window.polled = 0;
  window.fetch = async (path) => {
    if (!path.startsWith("debug/dashboard")) return new Response(JSON.stringify({ findings: [], seconds: 1 }));
    const n = ++window.polled;
    const report = structuredClone(told);
    const line = { ...report.requests.data[0].report.choices[0], slo_class: "standard", total: 1 + (n %% 7) };
    report.now += n;
    report.steps.made = 3 * n;
    report.steps.data = [0, 1, 2].map((i) => [n + i / 3, 0.3, 0.29, 0.31, 3, 64, 4, 2, 4, 2, n %% 60]);
    report.requests.ended = 3 * n;
    report.requests.data = [0, 1, 2].map((i) => ({
      tenant: null, report: { ...report.requests.data[0].report, id: `r${n}-${i}`, choices: [line] },
    }));
    report.live = report.live.map((one, i) => ({ ...one, id: `s${n + i}` }));
    report.pool.holders = report.pool.holders.map((one, i) => ({ ...one, id: `s${n + i}` }));
    report.figures.ended = { standard: 3 * n };
    return new Response(JSON.stringify(report));
  };
})()
"""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium() as one:
        yield one


def choose(page: Page, tab: str) -> None:
    page.run(f"document.getElementById('tab-{tab}').click()")
    assert page.run("[...document.querySelectorAll('[role=tabpanel]:not([hidden])')].map((one) => one.id)") == [tab]


def ask(url: str, **more: Any) -> None:
    body = {"prompt": "x", "max_tokens": 5, "slo_class": "interactive", **more}
    assert httpx.post(url + "/v1/completions", json=body).status_code == 200


def test_all_views_work_and_nothing_is_wider_than_a_phone(live: Live, page: Page) -> None:
    with live(TimedEngine()) as server:
        ask(server.url)
        for dark in (False, True):
            page.look(width=400, height=800, dark=dark)
            page.open(server.url + "/")
            page.until(READY)
            shade = page.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
            assert (shade < 64) == dark
            for tab in TABS:
                choose(page, tab)
                assert page.run("document.documentElement.scrollWidth") <= 400, tab
        page.run("document.getElementById('theme').click()")
        assert page.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]") > 192
        page.run("localStorage.clear()")
        choose(page, "requests")
        page.run("document.querySelector('#ended button').click()")
        assert "tokens of prompt" in page.run("document.getElementById('why-words').textContent")
        choose(page, "doctor")
        page.until("document.querySelectorAll('#findings > li').length")
    assert page.errors == []


def test_the_keyboard_is_enough(live: Live, page: Page) -> None:
    with live(FakeEngine()) as server:
        page.look()
        page.open(server.url + "/")
        page.until(READY)
        page.run("document.getElementById('tab-traffic').focus()")
        for tab in TABS[1:]:
            page.press("ArrowRight")
            assert page.run("document.activeElement.id") == f"tab-{tab}"
        page.press("ArrowRight")
        assert page.run("document.activeElement.id") == "tab-traffic"
        assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        choose(page, "steps")
        page.run("document.getElementById('steps-canvas').focus()")
        page.until("document.getElementById('steps-told').textContent.startsWith('This step')")
        choose(page, "pool")
        page.until("document.getElementById('pool-holders').textContent.includes('of-')")
        page.run("document.getElementById('pool-canvas').focus()")
        page.press("Home")
        assert "held by several" in page.run("document.getElementById('pool-told').textContent")
    assert page.errors == []


@pytest.mark.parametrize("stream", [True, False])
def test_the_playground_answers_and_shows_what_comes_as_text(live: Live, page: Page, stream: bool) -> None:
    with live(FakeEngine(says="<b>bold</b> & <script>1</script>"), max_context=4096) as server:
        page.open(server.url + "/#/chat")
        page.until(READY)
        page.run(
            f"document.getElementById('chat-stream').checked = {json.dumps(stream)};"
            "document.getElementById('chat-system').value = 'be <i>brief</i>';"
            "document.getElementById('chat-text').value = 'hi <img src=x>';"
            "document.getElementById('chat-send').click()"
        )
        page.until("document.querySelector('.assistant .figures').textContent.includes('out')")
        said = page.run("[...document.querySelectorAll('.said')].map((one) => one.textContent)")
        assert said == ["hi <img src=x>", "<b>bold</b> & <script>1</script>"]
        assert page.run("document.querySelectorAll('#chat-turns b, #chat-turns img').length") == 0
    assert page.errors == []


def test_it_asks_for_a_key_and_keeps_it_in_the_tab(live: Live, page: Page) -> None:
    with live(FakeEngine(), api_keys=("right",)) as server:
        page.open(server.url + "/")
        page.until("!document.getElementById('key-form').hidden")
        for key, sign in (
            ("wrong", "document.getElementById('key-wrong').textContent.includes('not valid')"),
            ("right", READY),
        ):
            page.run(
                f"document.getElementById('key').value = '{key}';document.querySelector('#key-form button').click()"
            )
            page.until(sign)
        assert page.run("[sessionStorage.getItem('tenfold-key'), localStorage.length, document.cookie]") == [
            "right",
            0,
            "",
        ]
        page.run("sessionStorage.clear()")
    assert all("401" in one for one in page.errors)  # the browser itself notes them
    page.errors.clear()


def test_operators_are_told_where_the_playground_is(live: Live, page: Page) -> None:
    with live(FakeEngine(), admin=Address("127.0.0.1", 0)) as server:
        page.open(server.admin + "/#/chat")
        page.until("!document.getElementById('chat-elsewhere').hidden")
        assert page.run("document.getElementById('chat-form').hidden")
    assert page.errors == []


def test_it_does_not_grow(live: Live, page: Page) -> None:
    """After 1,000 updates, each with other requests, steps and blocks, there are no more elements than after 300."""
    with live(TimedEngine()) as server:
        ask(server.url)
        told = httpx.get(server.url + "/debug/dashboard?pool=true").json()
        assert told["requests"]["data"][0]["report"]["choices"]
        with chromium() as busy:
            busy.look()
            busy.before(BUSY % json.dumps(told))
            busy.open(server.url + "/")
            counts = []
            for begin, end in ((0, 300), (300, UPDATES)):
                for number, tab in enumerate(TABS, 1):
                    choose(busy, tab)
                    busy.until(f"window.polled > {begin + (end - begin) * number // len(TABS)}")
                busy.run("document.getElementById('pause').click()")
                counts.append(busy.run("document.getElementsByTagName('*').length"))
                busy.run("document.getElementById('pause').click()")
            assert busy.run("document.querySelectorAll('#ended > li').length") == 100
            assert busy.errors == []
    assert counts[1] <= counts[0] + 2, counts
