"""The dashboard's files and the routes it asks."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tenfold.cache.map import FIRST, HELD
from tenfold.core.clock import VirtualClock
from tenfold.core.errors import EngineUnavailable
from tenfold.doctor.evidence import Evidence
from tenfold.doctor.finding import Finding
from tenfold.observe.requests import EVERYONE, ChoiceTimeline, Everyone, RequestReport
from tenfold.server.app import application
from tenfold.server.config import Address
from tenfold.server.dashboard.routes import FILES, REQUESTS
from tests.server.conftest import in_time, make_service
from tests.server.fakes import FakeEngine

Ask = Callable[..., httpx.Response]
Live = Callable[..., Any]


def text(name: str) -> str:
    return FILES[name][0].decode()


def test_the_page_is_served_with_a_policy(ask: Ask) -> None:
    for path, kind in (("", "html"), ("dashboard/main.js", "javascript"), ("dashboard/style.css", "css")):
        answer = ask("GET", "/" + path, settings={"api_keys": ("k",)})
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(f"text/{kind}")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert ask("GET", "/dashboard/routes.py").status_code == 404
    assert ask("GET", "/dashboard/../app.py").status_code == 404


def test_the_page_needs_nothing_from_elsewhere_and_keeps_to_its_policy() -> None:
    page = text("index.html")
    assert set(re.findall(r'(?:src|href)="dashboard/([^"]+)"', page)) <= set(FILES)
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?! type=\"module\" src=)", page)
    for name in FILES:
        assert set(re.findall(r'from "\./([^"]+)"', text(name))) <= set(FILES)
        assert not re.search(r"https?://(?!www\.w3\.org/)", text(name)), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", text(name)), (
            name
        )
    asked = set(re.findall(r'\bat\("([a-z-]+)"\)', "".join(text(name) for name in FILES if name.endswith(".js"))))
    assert asked <= set(re.findall(r'id="([a-z-]+)"', page)), "an element that is not there"


def test_only_what_is_new_is_told(live: Live) -> None:
    with live(FakeEngine(tenants=("a", "b"))) as server, httpx.Client(base_url=server.url) as client:
        empty = client.get("/debug/dashboard").json()
        assert (empty["requests"], empty["steps"]["made"]) == ({"ended": 0, "data": []}, 2)
        assert [len(row) for row in empty["steps"]["data"]] == [11, 11]
        assert empty["pool"] is None
        assert client.post("/v1/completions", json={"prompt": "x", "max_tokens": 5}).status_code == 200
        told = in_time(
            lambda: client.get("/debug/dashboard?steps=2&requests=0&pool=true").json(),
            lambda told: bool(told["requests"]["ended"] and told["figures"]["answers"]),
        )
        assert told["steps"]["data"] == []
        assert [one["report"]["finish_reasons"] for one in told["requests"]["data"]] == [["length"]]
        assert told["figures"]["output_tokens"] == 5
        assert told["figures"]["answers"] == {"200": 1}
        assert sum(told["figures"]["ttft"]["counts"]) == 1
        assert sum(told["figures"]["itl"]["counts"]) == 4
        assert sum(length for _, length in told["pool"]["runs"]) == told["pool"]["blocks"] == 64
        assert [one["id"] for one in told["live"]] == ["of-a", "of-b"]
        assert told["served"]["classes"][0] == {"name": "interactive", "ttft": 1.0, "tpot": 0.1}
        again = client.get("/debug/dashboard?steps=2&requests=1").json()
        assert again["requests"] == {"ended": 1, "data": []}
        assert again["started"] == empty["started"]
        restarted = client.get("/debug/dashboard?requests=99").json()
        assert len(restarted["requests"]["data"]) == 1, "somebody else counted: all is told"


def test_what_is_told_is_bounded() -> None:
    async def scenario() -> tuple[Any, Any]:
        service = make_service(FakeEngine())
        for number in range(REQUESTS + 50):
            report = RequestReport(id=f"r{number}", request_id="x", ended=0.0, finish_reasons=["stop"], choices=[])
            service.log.add(report, None)
        transport = httpx.ASGITransport(application(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            first = (await client.get("/debug/dashboard")).json()
            later = (await client.get(f"/debug/dashboard?requests={REQUESTS + 45}")).json()
            return first["requests"], later["requests"]

    first, later = asyncio.run(scenario())
    ids = [one["report"]["id"] for one in first["data"]]
    assert (len(ids), ids[-1]) == (REQUESTS, f"r{REQUESTS + 49}")
    assert [one["report"]["id"] for one in later["data"]] == [f"r{REQUESTS + n}" for n in range(45, 50)]
    assert later["ended"] == REQUESTS + 50


@pytest.mark.parametrize("query", ["steps=x", "steps=-1", "requests=1e3", "requests=" + "9" * 40, "pool=1", "steps=²"])
def test_bad_questions(ask: Ask, query: str) -> None:
    answer = ask("GET", f"/debug/dashboard?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == query.partition("=")[0]


def test_without_an_engine_the_page_is_told_so(ask: Ask) -> None:
    engine = FakeEngine(state="restarting", stats_error=EngineUnavailable("gone"))
    told = ask("GET", "/debug/dashboard", engine=engine, settings={"loaded": False}).json()
    assert (told["stats"], told["steps"], told["health"]["status"]) == (None, None, "restarting")
    assert ask("GET", "/debug/doctor", engine=engine).status_code == 503


def test_each_tenant_sees_its_own(live: Live) -> None:
    """With keys, figures need one; whose the blocks, the sequences and the requests of others are, is not told."""
    with live(FakeEngine(tenants=("other", "another")), api_keys=("one", "two")) as server:
        assert httpx.get(server.url + "/debug/dashboard").status_code == 401
        assert httpx.get(server.url + "/debug/doctor").status_code == 401
        one, two = ({"authorization": f"Bearer {key}"} for key in ("one", "two"))
        assert httpx.post(server.url + "/v1/completions", json={"prompt": "x"}, headers=one).status_code == 200
        mine = httpx.get(server.url + "/debug/dashboard?pool=true", headers=one).json()
        assert (len(mine["requests"]["data"]), mine["live"]) == (1, [])
        assert [HELD, 4] in mine["pool"]["runs"]
        assert not [code for code, _ in mine["pool"]["runs"] if code >= FIRST]
        assert "other" not in str(mine["pool"])
        theirs = httpx.get(server.url + "/debug/dashboard", headers=two).json()
        assert theirs["requests"] == {"ended": 1, "data": []}
        assert httpx.get(server.url + "/debug/doctor", headers=two).status_code == 200


def test_operators_have_it_at_their_address(live: Live) -> None:
    with live(FakeEngine(tenants=("a",)), admin=Address("127.0.0.1", 0), api_keys=("one",)) as server:
        key = {"authorization": "Bearer one"}
        assert httpx.post(server.url + "/v1/completions", json={"prompt": "x"}, headers=key).status_code == 200
        home = httpx.get(server.url + "/")
        assert (home.status_code, home.headers["location"]) == (307, "/docs")
        for path in ("/debug/dashboard", "/debug/doctor", "/dashboard/main.js"):
            assert httpx.get(server.url + path, headers=key).status_code == 404
            assert httpx.get(server.admin + path).status_code == 200
        assert httpx.get(server.admin + "/").headers["content-type"].startswith("text/html")
        told = httpx.get(server.admin + "/debug/dashboard?pool=true").json()
        assert told["served"]["operators_only"] is True
        assert (len(told["requests"]["data"]), [one["id"] for one in told["live"]]) == (1, ["of-a"])
        assert told["requests"]["data"][0]["tenant"].startswith("key-")


def test_the_doctor_speaks(ask: Ask) -> None:
    told = ask("GET", "/debug/doctor").json()
    assert told["seconds"] is None
    assert told["findings"]
    assert {"problem", "note", "fine"} >= {one["level"] for one in told["findings"]}
    assert all(one["words"] for one in told["findings"])


def test_the_doctor_looks_once_for_all_and_tells_each_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosed: list[list[str]] = []

    def diagnose(evidence: Evidence) -> list[Finding]:
        diagnosed.append([one.slo_class for one in evidence.choices])
        return [Finding(name="seen", level="note", words=" ".join(diagnosed[-1]))]

    monkeypatch.setattr("tenfold.doctor.server.diagnose", diagnose)
    engine, clock = FakeEngine(), VirtualClock()
    service = make_service(engine, clock=clock)
    for tenant in ("a", "b"):
        parts = dict.fromkeys(("tokenize", "queue", "prefill", "decode", "interference"), 0.0)
        parts |= dict.fromkeys(("preempted", "recompute", "delivery", "total", "machine_seconds"), 0.0)
        counts = {"prompt_tokens": 1, "cached_tokens": 0, "output_tokens": 1}
        choice = ChoiceTimeline(slo_class=f"of-{tenant}", **parts, **counts)
        report = RequestReport(id=tenant, request_id="x", ended=0.0, finish_reasons=["stop"], choices=[choice])
        service.log.add(report, tenant)

    async def ask(*viewers: str | Everyone | None) -> list[str]:
        reports = await asyncio.gather(*map(service.diagnosis.report, viewers))
        return [report.findings[0].words for report in reports]

    async def scenario() -> None:
        assert await ask("a", "b", "a", None, EVERYONE, "b") == ["of-a", "of-b", "of-a", "", "of-b of-a", "of-b"]
        assert await ask("b", "a") == ["of-b", "of-a"]
        assert (engine.looks, len(diagnosed)) == (1, 4)
        clock.advance(6)
        assert await ask("b", "b") == ["of-b", "of-b"]
        assert (engine.looks, len(diagnosed)) == (2, 5)
        engine.state = "restarting"
        clock.advance(6)
        with pytest.raises(EngineUnavailable, match="restarting"):
            await ask("b")

    asyncio.run(scenario())
