"""OpenVINO GenAI's continuous batching, stepped in process."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import openvino
import openvino_genai
from protocol import serve

BLOCK = 32  # tokens of a KV block on the CPU


class OpenVino:
    """See :class:`protocol.Engine`."""

    def __init__(self, settings: dict[str, Any]) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.num_kv_blocks = settings["kv_tokens"] // BLOCK
        scheduler.max_num_batched_tokens = settings["step_tokens"]
        scheduler.enable_prefix_caching = False
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            settings["model"], scheduler, "CPU", settings["properties"]
        )
        self._handles: dict[int, Any] = {}
        self._left: dict[int, int] = {}
        self._count = 0

    def describe(self) -> str:
        return f"OpenVINO GenAI {openvino_genai.__version__}"

    def submit(self, number: int, ids: Sequence[int], wanted: int) -> None:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = wanted
        config.ignore_eos = True
        config.do_sample = False
        config.apply_chat_template = False
        self._count += 1
        tensor = openvino.Tensor(np.array([ids], dtype=np.int64))
        self._handles[number] = self._pipeline.add_request(self._count, tensor, config)
        self._left[number] = wanted

    def step(self) -> Iterable[tuple[int, Sequence[int]]]:
        self._pipeline.step()
        for number, handle in list(self._handles.items()):
            tokens: list[int] = []
            while handle.can_read():
                for output in handle.read().values():
                    tokens += output.generated_ids
            self._left[number] -= len(tokens)
            if self._left[number] <= 0:
                del self._handles[number]
            if tokens:
                yield number, tokens


if __name__ == "__main__":
    serve(OpenVino)
