"""Valid bodies of all POST routes: what the mutations begin with."""

from typing import Any

TOOL = {
    "name": "weather",
    "description": "d",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Par\\ud800is"}'}}
TERMS = {
    "temperature": 0.5, "top_p": 0.9, "top_k": 4, "min_p": 0.1, "seed": 3, "n": 2, "max_tokens": 12, "min_tokens": 1,
    "repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": -0.5, "logit_bias": {"5": -1.5},
    "stop": ["x", "yz"], "stop_token_ids": [7], "ignore_eos": True, "skip_special_tokens": False, "model": "m",
    "include_stop_str_in_output": True, "slo_class": "interactive", "slo_ttft_ms": 500.0, "slo_tpot_ms": 50,
    "priority": 1, "queue_timeout_ms": 1000, "timeline": True, "draft_tokens": 2, "user": "u",
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}  # fmt: skip
BODIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/completions", {"prompt": "The sky is", "max_tokens": 8}),
    ("/v1/completions", {"prompt": ["a", "b"], "echo": True, "logprobs": 2, "stream": True, **TERMS}),
    ("/v1/completions", {"prompt": [[1, 2], [3]], "max_tokens": 4, "structured_outputs": {"choice": ["a", "b"]}}),
    ("/v1/completions", {"prompt": [5, 6, 7], "best_of": 1, "suffix": None, "structured_outputs": {"regex": "a+"}}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "stream": True}),
    (
        "/v1/chat/completions",
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "hi"}, "there"], "name": "n"},
                {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "r"},
                {"role": "tool", "content": "sun", "tool_call_id": "call_1"},
            ],
            "tools": [{"type": "function", "function": TOOL}],
            "tool_choice": "auto",
            "parallel_tool_calls": False,
            "chat_template_kwargs": {"enable_thinking": True, "opens": True},
            "logprobs": True,
            "top_logprobs": 2,
            **TERMS,
        },
    ),
    (
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": "hi"}],
            "tools": [{"type": "function", "function": TOOL}],
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
            "stream": True,
            "max_completion_tokens": 30,
        },
    ),
    (
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": "hi"}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": TOOL["parameters"]}},
        },
    ),
    ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, "stream": True}),
    (
        "/v1/messages",
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "hi"}]},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "t"},
                        {"type": "tool_use", "id": "c", "name": "weather", "input": {"city": "x"}},
                    ],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "sun"}]},
            ],
            "system": [{"type": "text", "text": "s"}],
            "tools": [{"name": "weather", "input_schema": TOOL["parameters"], "description": "d"}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
            "thinking": {"type": "enabled"},
            "max_tokens": 20,
            "stop_sequences": ["x"],
            "temperature": 1.0,
            "output_config": None,
        },
    ),
    ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "hi"}], "system": "s"}),
    ("/v1/responses", {"input": "hi", "stream": True, "max_output_tokens": 16, "metadata": {"a": "b"}}),
    (
        "/v1/responses",
        {
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
                {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "r"}]},
                {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "sun"},
            ],
            "instructions": "i",
            "tools": [{"type": "function", **TOOL}],
            "tool_choice": "required",
            "text": {"format": {"type": "json_schema", "name": "n", "schema": TOOL["parameters"]}},
            "store": False,
            "truncation": "disabled",
        },
    ),
    ("/tokenize", {"prompt": "The sky", "add_special_tokens": True}),
    ("/tokenize", {"messages": [{"role": "user", "content": "hi"}], "add_generation_prompt": False}),
    ("/detokenize", {"tokens": [1, 2, 200], "model": "m"}),
)

# What models write: text, thoughts, calls of all forms, whole and broken.
WRITTEN = (
    "Hello wörld! Here is what I think of it.",
    "<think>\nlet me see\n</think>\n\nIt is <b>so</b>.",
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>',
    '<think>x</think><tool_call>{"name": "weather", "arguments": {}}</tool_call><tool_call>{"name": "weather"',
    '<|python_tag|>{"name": "weather", "parameters": {"city": "é\\u00e9\\n"}}; {"name": "weather", "parameters": {}}',
    '[TOOL_CALLS][{"name": "weather", "arguments": {"city": [1, {"a": null}]}}, {"name": "other", "arguments": {}}]',
    '{"name": "weather", "parameters": {"city": "x"}}',
)
