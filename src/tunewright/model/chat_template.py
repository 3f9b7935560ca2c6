"""The chat template that a base model without one is given.

Plain text only, so that it works with any vocabulary: each turn is a role line and the content.
Only assistant turns end with the end-of-sequence token: the model learns to stop, and the user's
side needs no token that the base has never seen. A beginning-of-sequence token comes first where
the tokenizer has one.

    System:
    You answer briefly.

    User:
    Where is my card?

    Assistant:
    On its way.<eos>
"""

DEFAULT_CHAT_TEMPLATE = """\
{%- if bos_token is defined and bos_token %}{{ bos_token }}{% endif -%}
{%- for message in messages -%}
{{- message['role'][:1] | upper + message['role'][1:] + ':\\n' + (message['content'] or '') -}}
{%- if message['role'] == 'assistant' and eos_token is defined and eos_token -%}
{{- eos_token -}}
{%- endif -%}
{%- if not loop.last or add_generation_prompt %}{{ '\\n\\n' }}{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ 'Assistant:\\n' }}{% endif -%}
"""
