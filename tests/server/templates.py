"""Chat templates in the manner of model families, reduced to what matters here."""

# ChatML with tools, as Qwen2.5 has it.
HERMES = """\
{%- if tools %}system:{% for tool in tools %}{{ tool | tojson }};{% endfor %} <tool_call>{{ '\\n' }}{% endif %}
{%- for message in messages %}
{{- message.role }}:{{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function.name }} {{ call.function.arguments | tojson }}\
{% endfor %}
{%- if message.role == 'tool' %} ({{ message.name }}, {{ message.tool_call_id }}){% endif %}{{ '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}assistant:{% endif %}"""

# The same with thoughts, as Qwen3 has it.
THINKING = HERMES.replace(
    "{%- if add_generation_prompt %}assistant:",
    """\
{%- for message in messages if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endfor %}
{%- if add_generation_prompt %}assistant:{{ '<think>\\n' if opens else '' }}""",
)

LLAMA3 = """\
{%- if tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}
{%- for message in messages %}
{{- 'ipython' if message.role == 'tool' else message.role }}:{{ message.content }}{{ '\\n' }}
{%- endfor %}assistant:"""

# Llama 3.1's takes one call in a turn.
LLAMA31 = """\
{%- for message in messages %}
{%- if message.tool_calls is defined %}
{%- if message.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}
{{- message.content }}<|python_tag|>{{ message.tool_calls[0].function.name }}
{%- else %}{{ 'ipython' if message.role == 'tool' else message.role }}:{{ message.content }}{% endif %}
{{- '\\n' }}
{%- endfor %}assistant:{% if tools %}{{ tools | length }}{% endif %}"""

# Hermes 2 Pro's writes what functions do by itself.
DESCRIBING = """\
{%- for tool in tools or [] %}{{ tool.function.name + ' - ' + tool.function.description + ';' }}{% endfor %}
{%- for message in messages %}{{ message.content }}{% endfor %}<tool_call>"""

MISTRAL = """\
{%- if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}{% endif %}
{%- for message in messages %}
{%- for call in message.tool_calls or [] %}
{%- if call.id | length != 9 %}{{ raise_exception('ids have 9 characters') }}{% endif %}[TOOL_CALLS]{{ call.id }}
{%- endfor %}
{%- if message.role == 'tool' %}[TOOL_RESULTS]{{ message.tool_call_id }}{% endif %}{{ message.content }}
{%- endfor %}"""
