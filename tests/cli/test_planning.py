"""``tenfold simulate``, ``plan``, ``tune`` and ``doctor`` on the command line."""

import json
from pathlib import Path

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from tenfold.core.config import SchedulerConfig
from tenfold.cost.estimate import StepFit
from tenfold.cost.machine import Machine, read_machine
from tests.cli.conftest import Cli
from tests.cli.test_cli import refused
from tests.server.conftest import LiveServer
from tests.server.fakes import FakeEngine

MACHINE = Machine(
    model="m", backend="b", cpu="c", max_context=4096, blocks=2000, block_size=16, windows=(0,),
    fit=StepFit((0.002, 0.008, 0.008, 0.012, 0.012, 0.012, 0.0003, 0.001, 0.003, 0.01, 0.003, 0.004, 0.002)),
    ratios=((0.9, 1.0, 1.2),),
)  # fmt: skip


@pytest.fixture
def machine(tmp_path: Path) -> str:
    path = tmp_path / "machine.json"
    MACHINE.save(path)
    return str(path)


@pytest.fixture
def slow(tmp_path: Path) -> str:
    """A fifth as fast: few requests fill it."""
    path = tmp_path / "slow.json"
    parts = tuple(5 * part for part in MACHINE.fit.parts)
    msgspec.structs.replace(MACHINE, fit=StepFit(parts)).save(path)
    return str(path)


def test_a_machine_is_what_was_saved(machine: str) -> None:
    assert read_machine(Path(machine).read_bytes(), machine) == MACHINE


def test_simulate(cli: Cli, machine: str, tmp_path: Path) -> None:
    """A report like that of a real run: it can be drawn, and compared."""
    report, page = tmp_path / "report.json", tmp_path / "page.html"
    common = ("simulate", "--machine", machine, "--workload", "chat", "--slo", "ttft=1s,tpot=50ms")
    result = cli(*common, "--rate", "4", "-n", "60", "-o", str(report), "--html", str(page), "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["n"] == 60
    assert told["simulated"]["machine_s"] == pytest.approx(told["simulated"]["busy_s"], rel=0.01)
    assert page.read_text().startswith("<!doctype html>")
    assert json.loads(cli("bench", "compare", str(report), str(report), "--json").stdout)["worse"] == []
    assert cli(*common, "--rate", "4", "-n", "60", "--json").stdout == result.stdout  # the same seed
    shown = cli(*common, "-n", "20", "-c", "4")
    assert "simulated m" in shown.stdout


def test_simulate_at_several_rates(cli: Cli, machine: str) -> None:
    common = ("simulate", "--machine", machine, "--workload", "chat", "--slo", "ttft=1s,tpot=50ms", "--json")
    swept = json.loads(cli(*common, "--rates", "2,40", "--seconds", "10").stdout)["sweep"]
    assert swept[0]["attained"] > swept[1]["attained"]
    found = json.loads(cli(*common, "--find-rate", "--seconds", "10").stdout)["found"]
    assert 1 < found["held"] < 40
    two = json.loads(cli(*common, "--find-rate", "--seconds", "10", "--replicas", "2").stdout)["found"]
    assert two["held"] > 1.5 * found["held"]


def test_simulate_among_classes(cli: Cli, machine: str) -> None:
    shares = ("--classes", "interactive=1,batch=1")
    result = cli("simulate", "--machine", machine, "--rate", "2", "-n", "40", *shares, "--json")
    assert set(json.loads(result.stdout)["kinds"]) == {"interactive", "batch"}
    refused(cli("simulate", "--machine", machine, "--classes", "interactive=x"), "--classes")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 9}', "nonsense"])
def test_files_that_are_no_machine(cli: Cli, tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    refused(cli("simulate", "--machine", str(path)), "bad.json")


def test_a_machine_that_could_not_run(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    told = json.loads(MACHINE.to_json())
    changes = ({"blocks": 0}, {"blocks": 10**18}, {"drift": -1.0}, {"drift": 1e300}, {"ratios": [[0.0]]}, {"format": 1})
    drafts = {"offered": 2.0, "starts": [0.1], "chances": [0.1]}
    for change in (*changes, {"windows": []}, {"windows": [-5]}, {"drafts": drafts}):
        path.write_text(json.dumps({**told, **change}))
        refused(cli("simulate", "--machine", str(path)), "bad.json")


def test_plan(cli: Cli, slow: str, tmp_path: Path) -> None:
    page, path = tmp_path / "plan.html", tmp_path / "plan.json"
    common = ("plan", "--machine", f"{slow}=0.5", "--workload", "chat", "--seconds", "30")
    result = cli(*common, "--slo", "ttft=5s,tpot=250ms", "--rate", "3", "--json", "-o", str(path), "--html", str(page))
    assert result.exit_code == 0, result.output
    told = json.loads(path.read_text())
    assert told["chosen"]["attained"] >= 0.9
    assert told["chosen"]["cost_per_hour"] == pytest.approx(0.5 * told["chosen"]["replicas"])
    assert told["doubled"]["replicas"] >= told["chosen"]["replicas"]
    assert "Cost and attainment" in page.read_text()
    nothing = cli(*common, "--slo", "ttft=0.001ms", "--rate", "1")
    assert nothing.exit_code == 1
    assert "Nothing that was tried" in " ".join(nothing.stdout.split())


def test_tune_writes_what_serve_takes(cli: Cli, slow: str, tmp_path: Path) -> None:
    path = tmp_path / "tenfold.toml"
    common = ("tune", "--machine", slow, "--workload", "chat", "--seconds", "30", "--slo", "ttft=5s,tpot=250ms")
    result = cli(*common, "--json", "-o", str(path))
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["after_req_s"] >= told["before_req_s"] > 0
    refused(cli("serve", "no-such-model", "--port", "0", "--config", str(path)), "no-such-model")
    path.write_text("slo = 'ttft=0s'\n")
    refused(cli("serve", "no-such-model", "--port", "0", "--config", str(path)), "above 0 seconds")
    told_here = cli("serve", "no-such-model", "--port", "0", "--config", str(path), "--slo", "ttft=1s")
    refused(told_here, "no-such-model")
    for text, says in (
        ("speed = 1", "speed"),
        ("= 1", "no TOML"),
        ("port = true", "port"),
        ("no-prefix-sharing = 1", "no-prefix"),
        ("slo = ['ttft=1s']", "one value"),
    ):
        path.write_text(text)
        result = cli("serve", "--config", str(path))
        assert result.exit_code == 2
        assert says in result.stderr
    assert cli("serve", "--config", str(tmp_path / "none")).exit_code == 2


def test_config_values_reach_the_command(tmp_path: Path) -> None:
    from typing import Annotated

    from tenfold.cli import settings

    app, seen = typer.Typer(), {}

    @app.command()
    def command(
        config: Annotated[Path | None, typer.Option(is_eager=True, callback=settings.read_config)] = None,
        max_running: int = 64,
        slo: str | None = None,
        tenant: list[str] | None = None,
    ) -> None:
        seen.update(max_running=max_running, slo=slo, tenant=tenant)

    path = tmp_path / "c.toml"
    path.write_text('max-running = 9\nslo = "ttft=1s"\ntenant = ["a=1", "b=2"]\n')
    assert CliRunner().invoke(app, ["--config", str(path), "--slo", "ttft=2s"]).exit_code == 0
    assert seen == {"max_running": 9, "slo": "ttft=2s", "tenant": ["a=1", "b=2"]}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("simulate", "--machine", "/nonexistent/m.json"), "tenfold profile --machine"),
        (("simulate", "--machine", "http://127.0.0.1:1"), "no server answers"),
        (("simulate", "--machine", "ftp://x"), "http://"),
        (("simulate", "--machine", "http://["), "http://"),
        (("bench", "--url", "http://["), "http://"),
        (("simulate", "--classes", "nope=1"), "no SLO class 'nope'"),
        (("simulate", "--find-rate", "--slo", "ttft=1s", "--rates", "1"), "--rates"),
        (("simulate", "--find-rate"), "--slo"),
        (("simulate", "--rate", "0"), "--rate"),
        (("plan", "--slo", "ttft=1s"), "--rate"),
        (("plan", "--slo", "ttft=1s", "--rate", "0"), "--rate"),
        (("plan", "--slo", "ttft=1s", "--rate", "1", "--machine", "m.json=x"), "--machine"),
        (("plan", "--slo", "ttft=1s", "--rate", "1", "--price", "-1"), "price"),
        (("plan", "--slo", "ttft=1s", "--rate", "1", "--weights", "int3"), "--weights"),
        (("tune", "--slo", "speed=1"), "--slo"),
        (("doctor", "--url", "http://127.0.0.1:1"), "no server answers"),
        (("doctor", "--url", "127.0.0.1:1"), "127.0.0.1:1"),
        (("doctor", "--url", "http://127.0.0.1:1", "--model", "x"), "--model"),
        (("profile", "--machine", "/nonexistent/x/m.json"), "--machine"),
        (("profile", "--machine", "m.json", "--context", "5"), "--context"),
    ],
)
def test_user_errors_are_one_line(cli: Cli, arguments: tuple[str, ...], says: str) -> None:
    refused(cli(*arguments), says)


def test_doctor_of_a_server(cli: Cli) -> None:
    with LiveServer(FakeEngine()) as server:
        told = json.loads(cli("doctor", "--url", server.url, "--seconds", "0.1", "--json").stdout)
        names = [one["name"] for one in told["findings"]]
        assert "idle" in names
        assert cli("doctor", "--url", server.url + "/v1", "--seconds", "0.1").exit_code == 0
    with LiveServer(FakeEngine(state="stuck")) as server:
        result = cli("doctor", "--url", server.url, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["findings"][0]["name"] == "state"


def test_doctor_of_what_is_no_tenfold_server(cli: Cli) -> None:
    with LiveServer(FakeEngine(state="fine")) as server:
        refused(cli("doctor", "--url", server.url), "no Tenfold server")


def test_nothing_answered_is_told_and_fails(cli: Cli, machine: str) -> None:
    result = cli("simulate", "--machine", machine, "-n", "3", "--kv-tokens", "16", "--json")
    assert result.exit_code == 1
    assert "3 ×" in json.loads(result.stdout)["first_error"]


def test_a_trace_of_one_moment_has_no_rate(cli: Cli, machine: str, tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("arrival_s,tenant,prompt_tokens,output_tokens\n1,a,5,5\n")
    refused(cli("plan", "--slo", "ttft=1s", "--trace", str(trace), "--machine", machine), "no two requests")


def test_doctor_of_this_machine(cli: Cli) -> None:
    told = json.loads(cli("doctor", "--json").stdout)
    by_name = {one["name"]: one for one in told["findings"]}
    assert by_name["machine"]["evidence"]["memory_bytes_s"] > 1e8
    assert by_name["install"]["evidence"]["levels"]


def test_a_servers_machine_and_limits_travel() -> None:
    """What `/debug/steps` and `/debug/machine` say can be read again."""
    import httpx

    from tenfold.server.route_protocol import StepReports

    with LiveServer(FakeEngine()) as server:
        steps = msgspec.json.decode(httpx.get(f"{server.url}/debug/steps?n=2").content, type=StepReports)
        assert steps.limits == SchedulerConfig()
        assert len(steps.data) == 2
        read_machine(httpx.get(f"{server.url}/debug/machine").content, "here")
        assert httpx.get(f"{server.url}/debug/steps?n=0").status_code == 400
        assert httpx.get(f"{server.url}/debug/steps?n=x").status_code == 400
