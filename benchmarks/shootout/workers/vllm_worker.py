"""vLLM's engine, stepped in process."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}

import vllm
from protocol import serve
from vllm.sampling_params import RequestOutputKind


class Vllm:
    """See :class:`protocol.Engine`."""

    def __init__(self, settings: dict[str, Any]) -> None:
        llm = vllm.LLM(
            model=settings["model"],
            dtype="bfloat16",
            max_model_len=settings["context"],
            enable_prefix_caching=False,
            **settings["options"],
        )
        self._engine = llm.llm_engine
        self._numbers: dict[str, int] = {}
        self._count = 0

    def describe(self) -> str:
        return f"vLLM {vllm.__version__}"

    def submit(self, number: int, ids: Sequence[int], wanted: int) -> None:
        params = vllm.SamplingParams(
            temperature=0.0,
            max_tokens=wanted,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        self._count += 1
        name = str(self._count)
        self._numbers[name] = number
        self._engine.add_request(name, {"prompt_token_ids": list(ids)}, params)

    def step(self) -> Iterable[tuple[int, Sequence[int]]]:
        for output in self._engine.step():
            tokens = output.outputs[0].token_ids
            if tokens:
                yield self._numbers[output.request_id], list(tokens)
            if output.finished:
                del self._numbers[output.request_id]


if __name__ == "__main__":
    serve(Vllm)
