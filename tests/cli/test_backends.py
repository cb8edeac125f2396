"""Backends, what goes with them, and dummy models, from the command line: nothing is fetched for any of it."""

import json

import pytest

from tenfold.core.config import CudaConfig, EngineConfig
from tenfold.core.errors import ConfigError
from tenfold.exec.memory import own_blocks, token_bytes
from tenfold.model.dummy import dummy_spec
from tenfold.ops.cuda import presence
from tests.cli.conftest import Cli
from tests.cli.test_cli import refused

COMMANDS = [("serve", "--port", "0"), ("generate", "hi"), ("chat", "hi"), ("bench",)]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("--kv fp8", "--kv fp8 needs --backend cuda; --backend cpu takes bf16, int8"),
        ("--kv int8 --backend cuda", "--kv int8 needs --backend cpu; --backend cuda takes bf16, fp8"),
        ("--kv int8 --backend reference", "--kv int8 needs --backend cpu; --backend reference takes bf16"),
        ("--weights fp8", "--weights fp8 needs --backend cuda; --backend cpu takes auto, int4, int8, bf16"),
        (
            "--weights int8 --backend cuda",
            "--weights int8 needs --backend cpu; --backend cuda takes auto, int4, bf16, fp8",
        ),
        ("--weights int4 --backend reference", "--weights int4 needs --backend cpu or cuda"),
        ("--level avx2 --backend cuda", "--level avx2 needs --backend cpu"),
        ("--tensor-parallel 2", "--tensor-parallel 2 needs --backend cuda"),
        ("--memory-reserve inf", "--memory-reserve must be"),
        ("--load-format dummy --model nothing", "'nothing'; with --load-format dummy there are llama-3-8b"),
    ],
)
def test_what_does_not_go_together_is_told_in_one_line(
    cli: Cli, command: tuple[str, ...], given: str, says: str
) -> None:
    if command[0] == "serve":
        given = given.replace("--model ", "")  # an argument of this one
    refused(cli(*command, *given.split()), says)


@pytest.mark.parametrize("command", [("generate", "hi"), ("bench",)])
def test_cuda_without_torch_is_told_in_one_line(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(presence, "find_spec", lambda name: None)
    given = ("--backend", "cuda", "--load-format", "dummy", "--model", "llama-3-8b")
    refused(cli(*command, *given), "needs torch and triton: pip install 'tenfold[cuda]'")


def test_cuda_settings_are_there_and_read(cli: Cli) -> None:
    from tenfold.cli import options

    shown = cli("serve", "--help").stdout
    for option in ("--batch-invariant", "--tensor-parallel", "--no-cuda-graphs", "--memory-reserve", "--load-format"):
        assert option in shown
    config = options.engine_config(
        "llama-3-8b",
        backend=options.Backend.cuda,
        threads=0,
        weights=options.Weights.fp8,
        max_context=None,
        kv_tokens=None,
        kv_type=options.KvType.fp8,
        load_format=options.LoadFormat.dummy,
        cuda=CudaConfig(tensor_parallel=4),
    )
    assert (config.backend, config.weights, config.kv_type, config.load_format) == ("cuda", "fp8", "fp8", "dummy")
    assert config.cuda.tensor_parallel == 4 and config.cuda.graphs and not config.cuda.batch_invariant


def test_a_dummy_generates_without_a_file(cli: Cli) -> None:
    given = "--load-format dummy --max-tokens 3 -t 0 --kv-tokens 512 --batch-invariant --json"
    result = cli("generate", "time", *given.split())
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["completion_tokens"] == 3


def test_settings_reach_the_engines_process() -> None:
    import msgspec

    config = EngineConfig(backend="cuda", kv_type="fp8", load_format="dummy", cuda=CudaConfig(True, False, 2, 4.0))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=EngineConfig) == config


def test_what_stays_free() -> None:
    assert CudaConfig(memory_reserve=0.25).reserved(80 << 30) == 20 << 30
    assert CudaConfig(memory_reserve=4).reserved(80 << 30) == 4 << 30
    assert CudaConfig(memory_reserve=0).reserved(80 << 30) == 0


def test_kv_memory_of_its_own_is_all_used_up_to_what_can_be_running() -> None:
    spec = dummy_spec("llama-3-8b")
    each = token_bytes(spec, "fp8")
    assert each == 2 * 32 * 8 * 128 == token_bytes(spec, "bf16") // 2
    assert own_blocks(spec, "fp8", 16, 8192, 64, None, 1000 * 16 * each + 5) == 1000
    assert own_blocks(spec, "fp8", 16, 100, 4, None, 1000 * 16 * each) == 4 * 7
    assert own_blocks(spec, "fp8", 16, 8192, 4, 320, 1000 * 16 * each) == 20
    with pytest.raises(ConfigError, match=r"at most about 16000"):
        own_blocks(spec, "fp8", 16, 8192, 4, 16_001, 1000 * 16 * each)
    with pytest.raises(ConfigError, match="no room for KV"):
        own_blocks(spec, "fp8", 16, 8192, 4, None, 5)
