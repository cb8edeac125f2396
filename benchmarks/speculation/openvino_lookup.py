"""OpenVINO GenAI with and without prompt lookup, one request at a time; runs in its own environment.

``python openvino_lookup.py SETTINGS RESULT``: JSON files. The result has a list per request: token count, seconds from
the first to the last.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import openvino_genai


def main() -> None:
    """See the module's docstring."""
    told: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.enable_prefix_caching = False
    scheduler.cache_size = 2
    options = {"prompt_lookup": True} if told["lookup"] else {}
    pipeline = openvino_genai.LLMPipeline(told["model"], "CPU", scheduler_config=scheduler, **options)
    found = []
    for text, tokens, temperature, seed in told["asks"]:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = tokens
        config.apply_chat_template = False
        config.do_sample = temperature > 0
        config.temperature = temperature or 1.0
        config.rng_seed = seed
        if told["lookup"]:
            config.num_assistant_tokens = told["tokens"]
            config.max_ngram_size = 3
        times: list[float] = []

        def came(piece: str, times: list[float] = times) -> openvino_genai.StreamingStatus:
            times.append(time.perf_counter())
            return openvino_genai.StreamingStatus.RUNNING

        answer = pipeline.generate([text], config, came)
        count = answer.perf_metrics.get_num_generated_tokens()
        found.append([count, times[-1] - times[0]])
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
