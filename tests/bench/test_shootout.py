"""The shootout's own arithmetic: ratios, the same-work check, rows, and what is written."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from benchmarks.hf_weights import bf16, hf_name, write_safetensors
from benchmarks.shootout import golden, record, report, rows, traffic
from benchmarks.shootout.peers.base import PeerError, Server
from benchmarks.shootout.record import Measurement, Run, System
from benchmarks.shootout.servers import answer_all
from benchmarks.shootout.workers import protocol
from tenfold.bench.load import closed
from tenfold.model.safetensors_file import open_safetensors


def run_of(*measurements: Measurement) -> Run:
    systems = [System("tenfold", "Tenfold", "flags"), System("a", "A", "flags"), System("b", "B", "", "not installed")]
    return Run("model", "date", "machine", "commit", "command", systems, list(measurements))


def rate(number: int, system: str, value: float, *, others: float = 0.0, work: tuple[int, int] = (100, 128)):
    return Measurement(number, "decode 1", system, {"tok/s": value}, *work, others=others)


def only(run: Run) -> report.Line:
    (line,) = report.lines(run, rows.row_names())
    return line


def test_the_ratio_is_the_median_over_rounds_against_each_rounds_best_peer() -> None:
    figures = {"tenfold": (10, 20, 30), "a": (5, 5, 10), "b": (4, 10, 1)}
    run = run_of(*(rate(n, name, value) for name, values in figures.items() for n, value in enumerate(values)))
    line = only(run)
    assert line.ratio == report.Spread(2.0, 2.0, 3.0)
    assert line.spreads["tenfold"] == report.Spread(20, 10, 30)
    assert line.best == "a"


def test_where_less_is_better_the_ratio_is_inverted() -> None:
    assert report.our_ratio({"tenfold": 2.0, "a": 3.0, "b": 4.0}, more=False) == 1.5
    assert report.our_ratio({"tenfold": 2.0}, more=False) is None
    assert report.our_ratio({"a": 2.0}, more=True) is None


def test_disturbed_measurements_are_left_out_while_there_are_others() -> None:
    run = run_of(rate(0, "a", 1, others=0.5), rate(1, "a", 9), rate(0, "tenfold", 10, others=0.5))
    line = only(run)
    assert line.spreads["a"].median == 9
    assert line.spreads["tenfold"].median == 10
    assert line.ratio is not None and line.ratio.median == pytest.approx(10 / 9)  # no whole round: of the medians


def test_failed_measurements_are_told_and_not_counted() -> None:
    failed = Measurement(0, "decode 1", "a", error="it ended")
    run = run_of(rate(0, "tenfold", 10), failed)
    assert only(run).ratio is None
    assert report.failures(run) == ["decode 1, round 1, a: it ended"]
    assert not report.differing_work(run)


def test_different_work_is_told() -> None:
    run = run_of(rate(0, "tenfold", 10), rate(0, "a", 9, work=(100, 127)), rate(1, "tenfold", 10), rate(1, "a", 9))
    (sentence,) = report.differing_work(run)
    assert sentence == "decode 1, round 1: tenfold: 100 in, 128 out; a: 100 in, 127 out"
    assert "Not the same work" in report.markdown(run, rows.row_names())


def test_the_table_names_absent_systems_with_the_reason() -> None:
    text = report.markdown(run_of(rate(0, "tenfold", 10), rate(0, "a", 4)), rows.row_names())
    assert "| decode 1: tok/s | 10.0 (10.0 – 10.0) | 4.00 (4.00 – 4.00) | **2.50** (2.50 – 2.50) | A |" in text
    assert "- **B**: absent, not installed" in text
    assert "Same work" in text


def test_a_run_is_read_as_it_was_saved(tmp_path: Path) -> None:
    run = run_of(rate(0, "tenfold", 10))
    run.save(tmp_path / "run.json")
    assert record.load(tmp_path / "run.json") == run


def test_the_decode_rate_counts_only_while_all_sequences_decode() -> None:
    times = [[1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0]]
    assert rows.decode_rate(times) == 2.0  # from 2 to 4: two steps of two
    assert rows.decode_rate([[1.0]]) == 0.0


def test_prompts_are_the_same_for_every_system_and_others_in_every_round() -> None:
    row = rows.BATCHES[1]
    first, again, other = row.requests(1000, 7), row.requests(1000, 7), row.requests(1000, 8)
    assert first == again != other
    assert len(first) == row.sequences
    assert all(len(request.ids) == row.prompt and request.wanted == row.output for request in first)


def test_rows_have_names_of_their_own() -> None:
    assert len(set(rows.row_names())) == len(rows.row_names())
    assert [row.name for row in rows.BATCHES if row.prefill] == ["prefill 512", "prefill 2048"]


def test_golden_tokens_are_asked_for_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    path.write_text('{"cases": [{"prompt_ids": [1, 2], "output_ids": [3, 4, 5, 6]}]}')
    asked = []

    def greedy(prompts, wanted):
        asked.extend(prompts)
        return [[9] if len(prompt) == 3 else [len(prompt) + 1] for prompt in prompts][: len(prompts)]

    assert golden.agreement(path, greedy) == 0.75
    assert asked == [[1, 2], [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5]]


class Steps:
    """An engine that gives every request one token per step."""

    def __init__(self) -> None:
        self.left: dict[int, int] = {}
        self.most = 0

    def describe(self) -> str:
        return "steps"

    def submit(self, number, ids, wanted):
        self.left[number] = wanted

    def step(self):
        self.most = max(self.most, len(self.left))
        for number in list(self.left):
            self.left[number] -= 1
            if not self.left[number]:
                del self.left[number]
            yield number, [number]


def test_the_workers_loop_keeps_the_given_number_of_users() -> None:
    engine = Steps()
    requests = [{"ids": [1], "wanted": wanted} for wanted in (1, 3, 2, 2)]
    answers = protocol.run(engine, requests, 2)
    assert engine.most == 2
    assert [answer["tokens"] for answer in answers] == [[n] * r["wanted"] for n, r in enumerate(requests)]
    outcome = traffic.in_process(closed("mixed", 4, 2), [1] * 4, answers)
    measured = traffic.measured(outcome, 0.0)
    assert (measured.prompt_tokens, measured.output_tokens) == (4, 8)
    assert measured.values["output tok/s"] > 0


def test_bf16_is_rounded_to_nearest_even() -> None:
    values = np.array([1.0, 1.0 + 2**-8, 1.0 + 3 * 2**-8, 1.0 + 2**-8 + 2**-20, -2.5], np.float32)
    back = (bf16(values).astype(np.uint32) << 16).view(np.float32)
    assert back.tolist() == [1.0, 1.0, 1.0 + 2**-6, 1.0 + 2**-7, -2.5]


def test_exported_weights_are_read_back(tmp_path: Path) -> None:
    values = {
        hf_name("layers.2.q"): np.arange(12, dtype=np.float32).reshape(3, 4),
        hf_name("layers.0.mlp_norm", gemma=True): np.full(5, -0.5, np.float32),
    }
    write_safetensors(tmp_path / "m", {name: v.shape for name, v in values.items()}, values.__getitem__)
    read = open_safetensors(tmp_path / "m")
    assert list(read) == ["model.layers.2.self_attn.q_proj.weight", "model.layers.0.pre_feedforward_layernorm.weight"]
    for name, wanted in values.items():
        assert read[name].kind == "BF16"
        np.testing.assert_array_equal(read[name].decode(), wanted)


@pytest.mark.parametrize("status", [200, 503])
def test_a_fill_asks_for_all_prompts_at_once(status: int) -> None:
    together = threading.Barrier(rows.FILL.sequences, timeout=30)
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            seen.append(tuple(body["prompt"]))
            together.wait()
            usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"]}
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"usage": usage}).encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            requests = rows.FILL.requests(vocab=1000, seed=7)
            server = Server([], http.server_address[1])
            if status == 200:
                assert answer_all(server, requests) == (rows.FILL.prompt_tokens, rows.FILL.output_tokens)
            else:
                with pytest.raises(PeerError, match="503"):
                    answer_all(server, requests)
        finally:
            http.shutdown()
            thread.join()
    assert sorted(seen) == sorted(request.ids for request in requests) and len(set(seen)) == len(seen)
    assert rows.FILL.prompt_tokens + rows.FILL.output_tokens <= rows.KV_TOKENS
