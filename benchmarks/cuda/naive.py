"""The same steps by Hugging Face transformers (sdpa, static batch), beside ``benchmarks.cuda.model``."""

import torch

from benchmarks.cuda.timing import Limits, Row, median_time


def run(limits: Limits) -> list[Row]:
    """Decode of 1 and 64 sequences with 1,024 keys, and a prompt of 8,192 tokens."""
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        vocab_size=128256, max_position_embeddings=8192, rope_theta=500000.0, attn_implementation="sdpa",
        dtype=torch.bfloat16, use_cache=True,
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            model = LlamaForCausalLM(config)
        model = model.to_empty(device="cuda").eval()
        for parameter in model.parameters():
            parameter.data.uniform_(-0.02, 0.02)
        model.model.rotary_emb.__init__(config, device="cuda")
    finally:
        torch.set_default_dtype(torch.float32)
    rows = []
    with torch.inference_mode():
        for sequences in (1, 64):
            cache = DynamicCache()
            ids = torch.randint(0, 1000, (sequences, 1024), device="cuda")
            for part in ids.split(128, dim=1):
                model(part, past_key_values=cache, logits_to_keep=1)
            one = ids[:, :1]

            def step(one: torch.Tensor = one, cache: DynamicCache = cache) -> None:
                model(one, past_key_values=cache, logits_to_keep=1)

            seconds = median_time(step, seconds=0.3)
            rows.append(Row("8B decode transformers", f"{sequences} x 1024+", 1e6 * seconds, note="context grows"))
            del cache
            torch.cuda.empty_cache()
        ids = torch.randint(0, 1000, (1, 8192), device="cuda")
        seconds = median_time(lambda: model(ids, use_cache=False, logits_to_keep=1), seconds=0.3)
        rows.append(Row("8B prefill transformers", "1 x 8192", 1e6 * seconds))
    return rows
