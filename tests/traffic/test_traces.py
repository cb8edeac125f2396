"""Traces as they are published, and what is wrong with them."""

import json
from itertools import islice
from pathlib import Path
from statistics import mean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold.core.errors import ConfigError
from tenfold.traffic.arrivals import gamma, poisson
from tenfold.traffic.row import Row
from tenfold.traffic.shaping import faster, piece, scaled, thinned
from tenfold.traffic.traces import Trace, read_trace

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
TENANTS = "arrival_s,tenant,prompt_tokens,output_tokens\n"


def trace(tmp_path: Path, text: str) -> Trace:
    path = tmp_path / "trace"
    path.write_text(text)
    return read_trace(path)


def test_azure(tmp_path: Path) -> None:
    found = trace(tmp_path, AZURE + "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n")
    assert found.rows[0] == Row(0.0, 374, 44)
    assert found.rows[1].at == pytest.approx(4.31458, abs=1e-4)
    assert (found.bad, found.seconds) == (0, found.rows[1].at)
    zones = "2024-05-10 00:00:00.009930+00:00,9,1\n2024-05-10 00:00:01+00:00,9,1\n2024-05-10 00:00:02,9,1\n"
    found = trace(tmp_path, AZURE.replace(",", " , ") + zones)
    assert [round(row.at, 5) for row in found.rows] == [0.0, 0.99007, 1.99007]


def test_burstgpt(tmp_path: Path) -> None:
    found = trace(tmp_path, BURST + "36471,ChatGPT,836,701,1537,Conversation log\n36479,GPT-4,81,999,1080,API log\n")
    assert found.rows == (Row(0.0, 836, 701), Row(8.0, 81, 999))


def test_several_tenants_out_of_order(tmp_path: Path) -> None:
    found = trace(tmp_path, TENANTS + "2.5,b,20,3\n0.5,a,10,4\n")
    assert found.rows == (Row(0.0, 10, 4, "a"), Row(2.0, 20, 3, "b"))
    classes = TENANTS.strip() + ",slo_class\n0,a,10,4,batch\n1,a,10,4,\n"
    assert [row.slo_class for row in trace(tmp_path, classes).rows] == ["batch", ""]
    wild = trace(tmp_path, TENANTS + "1,a,1000000000000,1\n1e300,a,1,1\n3,b,20,3\n")
    assert (len(wild.rows), wild.bad) == (1, 2)


def test_mooncake(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 3000, "input_length": 700, "output_length": 5, "hash_ids": [0, 1]},
        {"timestamp": 0, "input_length": 10, "output_length": 2},
    ]
    found = trace(tmp_path, "\n\n".join(map(json.dumps, rows)))
    assert found.rows == (Row(0.0, 10, 2, block_tokens=512), Row(3.0, 700, 5, blocks=(0, 1), block_tokens=512))


def test_rows_that_cannot_be_read_are_named_and_passed_over(tmp_path: Path) -> None:
    lines = ["0,a,10,4", "", "x,a,10,4", "1,a,0,4", "nan,a,1,1", "2,a,10", "3,b,7,1", *["4,b,?,1"] * 9]
    found = trace(tmp_path, TENANTS + "\n".join(lines))
    assert [row.tenant for row in found.rows] == ["a", "b"]
    assert found.bad == 13
    assert len(found.faults) == 5
    assert found.faults[0].startswith("line 4: ")
    assert "0 tokens in, 4 out" in found.faults[1]
    lines = ['{"timestamp": 1, "input_length": 1, "output_length": 1}', '{"timestamp": 1}', "[1]", "no"]
    lines.append('{"timestamp": 0, "input_length": 1e999, "output_length": 1}')
    found = trace(tmp_path, "\n".join(lines))
    assert (len(found.rows), found.bad) == (1, 4)
    assert "input_length" in found.faults[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no known kind of trace"),
        ("a,b,c\n1,2,3\n", "TIMESTAMP,ContextTokens"),
        (TENANTS, "no row that can be used"),
        (TENANTS + "x,a,10,4\n", "line 2"),
    ],
)
def test_nothing_to_use(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        trace(tmp_path, text)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the trace"):
        read_trace(tmp_path / "none.csv")
    with pytest.raises(ConfigError, match="cannot read the trace"):
        read_trace(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not text"):
        read_trace(tmp_path / "binary")


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 3.0])
def test_times_have_the_rate_and_the_burstiness_asked_for(cv: float) -> None:
    times = list(islice(gamma(4.0, cv, 3), 20_000))
    gaps = [b - a for a, b in zip([0.0, *times], times, strict=False)]
    assert mean(gaps) == pytest.approx(0.25, rel=0.1)
    assert pstdev(gaps) / mean(gaps) == pytest.approx(cv, rel=0.1, abs=1e-6)
    assert list(islice(gamma(4.0, cv, 3), 50)) == times[:50]


def test_poisson_is_gamma_of_one() -> None:
    assert list(islice(poisson(2.0, 5), 9)) == list(islice(gamma(2.0, 1.0, 5), 9))


rows = st.lists(st.builds(Row, st.floats(0, 1000), st.integers(1, 9000), st.integers(1, 900)), min_size=1, max_size=80)


@given(
    rows=rows,
    rate=st.floats(0.001, 50),
    scale=st.floats(0.001, 3),
    longest=st.integers(1, 5000),
    seed=st.integers(0, 9),
)
def test_shapes(rows: list[Row], rate: float, scale: float, longest: int, seed: int) -> None:
    rows = sorted(rows, key=lambda row: row.at)
    thin = thinned(rows, rate, seed)
    left = iter(rows)
    assert all(row in left for row in thin), "in their order"
    assert 1 <= len(thin) <= max(1, round(rate * (rows[-1].at - rows[0].at)))
    for before, after in zip(rows, scaled(faster(rows, 4.0), scale, longest), strict=True):
        assert after.at == before.at / 4
        assert 1 <= after.prompt <= longest
        assert after.outputs >= 1
    some = piece(rows, 100.0, 50.0)
    assert all(0 <= row.at < 50 for row in some)
    assert len(some) == sum(100 <= row.at < 150 for row in rows)
