"""The command line: exit codes, one line per error, JSON, help."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tenfold.cli.guard import guarded
from tenfold.cli.serve_options import short_name
from tenfold.core.errors import ConfigError, EngineUnavailable, Overloaded
from tenfold.server.run import bind
from tests.cli.conftest import Cli
from tests.model import tiny
from tests.model.test_hf_dir import write_tokenizer
from tests.server.conftest import LiveServer
from tests.server.fakes import ANSWER, FakeEngine


def test_a_command_imports_no_other() -> None:
    names = "import sys; from tenfold.cli.app import make_app; make_app(('models',)); print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", names], capture_output=True, text=True, check=True).stdout.split()
    assert "tenfold.cli.models" in found and "tenfold.cli.bench" not in found


def test_a_server_reads_a_gguf_model_without_numpy(tmp_path: Path) -> None:
    model = tiny.write_byte_level(tmp_path / "m.gguf")
    line = ["serve", str(model), "--port", "0", "--kv", "int8", "--served-model-name", "m", "--head-timeout", "9.5"]
    code = f"""
import sys
from tenfold.cli import app, serve
from tenfold.server.texts import load_codec
def run(values):
    load_codec(values["model"], "auto")
    print(values["kv_type"].value, *sys.modules)
    sys.exit()
serve.scheduler_config = run
app.make_app(("serve",))({line!r})"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = done.stdout.split()
    assert found[0] == "int8" and "numpy" not in found


def refused(result: Result, says: str, code: int = 2) -> None:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ")
    assert says in result.stderr


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (("serve", "--port", "x"), "'--port'"),
        (("srve",), "Did you mean 'serve'?"),
        (("bench", "--nonsense"), "tenfold bench -h"),
        (("bench", "compare"), "'before'"),
        (("doctor", "of", "mine"), "extra argument"),
        (("generate", "x", "--regex", "a", "--json-schema", "{}"), "takes one of them"),
        (("generate", "x", "--json-schema", "no-such-file"), "cannot read --json-schema no-such-file"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(cli: Cli, line: tuple[str, ...], says: str) -> None:
    refused(cli(*line), says)


@pytest.mark.parametrize(
    "command", ["serve", "chat", "generate", "pull", "bench", "profile", "simulate", "plan", "tune", "doctor"]
)
def test_help_teaches_by_example(cli: Cli, command: str) -> None:
    result = cli(command, "--help")
    assert result.exit_code == 0
    assert f"tenfold {command}" in result.stdout
    assert "Examples" in result.stdout


def test_version_and_what_there_is(cli: Cli) -> None:
    assert cli("--version").stdout.startswith("tenfold ")
    shown = cli("--help").stdout
    for command in (
        "serve",
        "chat",
        "generate",
        "pull",
        "models",
        "bench",
        "profile",
        "simulate",
        "plan",
        "tune",
        "doctor",
    ):
        assert command in shown
    assert cli("no-such-command").exit_code == 2


def test_models(cli: Cli) -> None:
    rows = json.loads(cli("models", "--json").stdout)
    assert next(row["name"] for row in rows) == "smollm2-135m"
    assert {row["cached"] for row in rows} == {False}
    table = cli("models").stdout
    assert "gemma3-270m" in table
    assert "tenfold pull" in table


@pytest.mark.parametrize(
    "command", [("pull",), ("serve", "--port", "0"), ("generate", "hi", "--model"), ("bench", "-m")]
)
def test_an_unknown_model(cli: Cli, command: tuple[str, ...]) -> None:
    refused(cli(*command, "smollm3"), "smollm2-135m")
    refused(cli(*command, "./nothing.gguf"), "does not exist")


def test_a_damaged_model(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + b"\xff" * 100)
    refused(cli("generate", "hi", "--model", str(path)), "bad.gguf")


def test_a_port_in_use_is_told_before_the_model_is_looked_for(cli: Cli) -> None:
    with bind("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        refused(cli("serve", "no-such-model", "--port", port), f"port {port} on 127.0.0.1 is in use")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("generate",), "nothing to generate from"),
        (("generate", "--file", "/nonexistent/prompts"), "cannot read --file"),
        (("generate", "x", "--temperature", "-1"), "temperature"),
        (("generate", "x", "--top-p", "0"), "top_p"),
        (("chat", "--min-p", "2"), "min_p"),
        (("chat", "hi", "--url", "http://127.0.0.1:1"), "tenfold serve"),
        (("bench", "--url", "http://127.0.0.1:1"), "tenfold serve"),
        (("bench", "--url", "http://127.0.0.1:1", "--phases"), "--phases"),
        (("bench", "--url", "http://127.0.0.1:1", "--rate", "0"), "--rate"),
        (("bench", "--url", "http://127.0.0.1:1", "--rates", "1,x"), "--rates"),
        (("bench", "--url", "http://127.0.0.1:1", "--rates", "1,0"), "--rate"),
        (("bench", "--url", "http://127.0.0.1:1", "--rate", "1", "--burstiness", "-1"), "--burstiness"),
        (("bench", "--url", "http://127.0.0.1:1", "--find-rate"), "--slo"),
        (("bench", "--url", "http://127.0.0.1:1", "--find-rate", "--slo", "ttft=1s", "--rates", "1"), "--rates"),
        (("bench", "--url", "http://127.0.0.1:1", "--slo", "ttft=0s"), "above 0"),
        (("serve", "--max-running", "8", "--max-step-tokens", "4"), "max_step_tokens"),
        (("serve", "--host", "192.0.2.1"), "--host"),
        (("serve", "--price", "0"), "--price"),
        (("serve", "--price", "nan"), "--price"),
        (("serve", "--slo", "tpot=3"), "--slo"),
        (("serve", "--slo", "ttft=0ms"), "above 0 seconds"),
        (("serve", "--slo-class", "Gold:ttft=1s"), "no name of an SLO class"),
        (("serve", "--slo-class", "gold:speed=1"), "--slo-class"),
        (("serve", "--slo-class", "gold:weight=0"), "weight"),
        (("serve", "--tenant", "acme"), "NAME=WEIGHT"),
        (("serve", "--tenant", "acme=-1"), "weight of tenant acme"),
    ],
)
def test_user_errors_are_one_line(cli: Cli, arguments: tuple[str, ...], says: str) -> None:
    refused(cli(*arguments), says)


@pytest.mark.parametrize(
    "command", [("serve", "--port", "0"), ("generate", "hi", "-m"), ("chat", "-m"), ("bench", "-m")]
)
def test_weights_reach_the_engine(cli: Cli, tmp_path: Path, command: tuple[str, ...]) -> None:
    """What the engine refuses shows that it was asked; other names never get that far."""
    folder = write_tokenizer(tmp_path)
    where = (*command, str(folder))
    refused(cli(*where, "--weights", "int8", "--backend", "reference"), "--weights int8 needs --backend cpu")
    assert cli(*where, "--weights", "int3").exit_code == 2


def test_what_is_promised_is_read() -> None:
    from tenfold.cli.options import Profile, scheduler_config
    from tenfold.core.config import PROFILES
    from tenfold.core.slo import Slo

    config = scheduler_config(
        None,
        64,
        100,
        slo="ttft=200ms,tpot=30ms",
        slo_classes=["bulk:weight=0.5,shed=no"],
        profile=Profile.interactive,
        max_waiting_per_tenant=7,
        tenants=["acme=2", "a=b=3"],
    )
    by_name = {one.name: one for one in config.classes}
    assert by_name["standard"].slo == Slo(0.2, 0.03)
    assert not by_name["bulk"].sheddable
    assert config.policy == PROFILES["interactive"]
    assert config.tenants == {"acme": 2.0, "a=b": 3.0}
    assert config.max_waiting_per_tenant == 7


def test_bench_tells_of_failed_requests(cli: Cli) -> None:
    with LiveServer(FakeEngine(burst=16)) as server:
        result = cli("bench", "--url", server.url, "--workload", "short", "-n", "4", "--json")
    assert result.exit_code == 1  # 192 tokens do not always fit the fake's context
    report = json.loads(result.stdout)
    assert report["all"]["errors"] > 0
    assert "context" in report["first_error"]


def test_bench_writes_the_same_json(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.server.conftest.INFO", roomy())
    path = tmp_path / "report.json"
    with LiveServer(FakeEngine(burst=64)) as server:
        common = ("bench", "--url", server.url, "--workload", "mixed", "-n", "4", "-c", "2")
        result = cli(*common, "--json", "--output", str(path))
        shown = cli(*common)
        refused(cli(*common, "--output", str(tmp_path)), "cannot write --output")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report == json.loads(path.read_text())
    assert (report["n"], report["all"]["errors"], report["all"]["short_out"]) == (4, 0, 0)
    assert report["kinds"]["long"]["n"] == report["kinds"]["short"]["n"] == 2
    assert "output tok/s" in shown.stdout


def test_bench_at_several_rates(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.server.conftest.INFO", roomy())
    path, page = tmp_path / "report.json", tmp_path / "report.html"
    with LiveServer(FakeEngine(burst=256)) as server:
        common = ("bench", "--url", server.url, "--workload", "chat", "--seconds", "1", "--slo", "ttft=60s,tpot=60s")
        result = cli(*common, "--rates", "10,20", "--json", "-o", str(path), "--html", str(page))
        searched = cli(*common, "--find-rate", "--rate", "1000", "--slo", "ttft=0.0001ms", "--json")
        refused(cli(*common, "--find-rate", "--html", str(tmp_path)), "cannot write --html", code=2)
    assert result.exit_code == 0, result.output
    reports = json.loads(path.read_text())["sweep"]
    assert [report["n"] for report in reports] == [20, 20]
    assert [report["attained"] for report in reports] == [1.0, 1.0]
    assert reports[0]["seed"] != reports[1]["seed"]  # else the second would find the first one's prompts cached
    assert page.read_text().startswith("<!doctype html>")
    assert json.loads(searched.stdout)["found"]["held"] is None
    assert "not kept even at" in json.loads(searched.stdout)["found"]["words"]


def test_bench_replays_a_trace_and_compares(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.server.conftest.INFO", roomy())
    trace = tmp_path / "trace.csv"
    rows = [f"{i / 10},t{i % 2},{20 + i},{3 + i}" for i in range(40)]
    trace.write_text("arrival_s,tenant,prompt_tokens,output_tokens\nnonsense\n" + "\n".join(rows))
    reports = [tmp_path / f"{name}.json" for name in "ab"]
    with LiveServer(FakeEngine(burst=16)) as server:
        common = ("bench", "--url", server.url, "--trace", str(trace), "--speed", "20")
        for path in reports:
            result = cli(
                *common, "--piece", "1:3", "--scale", "0.5", "--longest", "20", "--rate", "150", "-o", str(path)
            )
            assert result.exit_code == 0, result.output
        for option, value in (
            ("--piece", "9:9"),
            ("--piece", "x"),
            ("--speed", "0"),
            ("--rate", "-1"),
            ("--scale", "0"),
        ):
            refused_with_note(cli(*common, option, value), option)
        refused(cli("bench", "--url", server.url, "--trace", str(tmp_path / "none")), "cannot read the trace")
    report = json.loads(reports[0].read_text())
    assert "1 rows of" in result.stderr
    assert report["load"]["bad_rows"] == 1
    assert 20 <= report["n"] <= 25
    assert set(report["tenants"]) == {"t0", "t1"}
    same = cli("bench", "compare", str(reports[0]), str(reports[0]), "--json")
    assert same.exit_code == 0
    assert json.loads(same.stdout)["worse"] == []
    slow = tmp_path / "slow.json"
    for row in report["requests"]:
        row["e2e_ms"] *= 3
    slow.write_text(json.dumps(report))
    worse = cli("bench", "compare", str(reports[0]), str(slow))
    assert worse.exit_code == 1
    assert "worse" in worse.stdout
    refused(cli("bench", "compare", str(trace), str(slow)), "no report")


def refused_with_note(result: Result, says: str) -> None:
    assert result.exit_code == 2
    assert says in result.stderr.splitlines()[-1]


def roomy() -> Any:
    import msgspec

    from tests.server.fakes import INFO

    return msgspec.structs.replace(INFO, max_context=20_000)


def test_chat_with_a_server(cli: Cli) -> None:
    engine = FakeEngine()
    lines = "first\n/help\n/nonsense\nsecond\n/reset\nthird\n/exit\nnever\n"
    with LiveServer(engine, api_keys=("k",)) as server:
        options = ("--url", server.url, "--api-key", "k", "--max-tokens", "13", "--system", "be brief")
        result = cli("chat", *options, stdin=lines)
        once = cli("chat", "just this", *options)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{ANSWER}\n" * 3
    assert "no such command: /nonsense" in result.stderr
    prompts = [bytes(request.prompt_ids).decode() for request in engine.requests]
    assert prompts == [
        "system:be brief\nuser:first\nassistant:",
        f"system:be brief\nuser:first\nassistant:{ANSWER}\nuser:second\nassistant:",
        "system:be brief\nuser:third\nassistant:",
        "system:be brief\nuser:just this\nassistant:",
    ]
    assert once.stdout == f"{ANSWER}\n"


def test_chat_goes_on_after_a_message_that_cannot_be_answered(cli: Cli) -> None:
    engine = FakeEngine()
    with LiveServer(engine) as server:
        result = cli("chat", "--url", server.url, "--max-tokens", "5", stdin="x" * 400 + "\nshort\n")
    assert result.exit_code == 0
    assert "400" in result.stderr
    assert "context" in result.stderr
    assert result.stdout == "Hello\n"


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        (FakeEngine(refuse=EngineUnavailable("the engine is restarting")), "503: the engine is restarting"),
        (FakeEngine(fail_at=0, failure=EngineUnavailable("it died")), "it died"),
    ],
)
def test_chat_when_the_server_cannot(cli: Cli, engine: FakeEngine, says: str) -> None:
    with LiveServer(engine) as server:
        refused(cli("chat", "hi", "--url", server.url), says)


def test_chat_with_what_is_no_server_of_this_kind(cli: Cli) -> None:
    with LiveServer(FakeEngine(), api_keys=("k",)) as server:
        refused(cli("chat", "hi", "--url", server.url, "--api-key", "wrong"), "401")
        refused(cli("chat", "hi", "--url", server.url + "/docs", "--api-key", "k"), "404")


@pytest.mark.parametrize(
    ("raised", "code", "says"),
    [
        (ConfigError("two\nlines"), 2, "error: two lines\n"),
        (Overloaded("busy", retry_after=1), 2, "error: busy\n"),
        (OSError(28, "No space left on device", "/x"), 2, "error: No space left on device: /x\n"),
        (KeyboardInterrupt(), 130, ""),
        (RuntimeError("oops"), 1, "error: internal error: RuntimeError('oops')"),
    ],
)
def test_how_commands_end(raised: BaseException, code: int, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import typer

    def fail() -> None:
        raise raised

    monkeypatch.delenv("TENFOLD_DEBUG", raising=False)
    single = typer.Typer()
    single.command()(guarded(fail))
    result = CliRunner().invoke(single, [])
    assert result.exit_code == code
    assert result.stderr.startswith(says) if says else result.stderr == ""


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("smollm2-135m", "smollm2-135m"),
        ("/models/Tiny.Q4_1.gguf", "Tiny.Q4_1"),
        ("/models/qwen/", "qwen"),
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
    ],
)
def test_what_a_model_is_called(given: str, name: str) -> None:
    assert short_name(given) == name
