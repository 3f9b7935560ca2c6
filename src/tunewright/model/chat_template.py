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

A template that came along with a model is a program. Jinja's sandbox keeps it from reaching out,
but not from running forever: it is tried once, on two short turns, in a process with limits.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from functools import lru_cache

from tunewright.cache import cache_folder
from tunewright.errors import ModelError

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

TRIAL_CPU_S = 2
TRIAL_BYTES = 512 << 20
TRIAL_WALL_S = 60
# Plain Jinja with what transformers gives to templates; nothing of ours is imported there.
_TRIAL = """
import sys
try:
    import resource
    seconds, size = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
except (ImportError, ValueError, OSError):
    pass
from jinja2.sandbox import ImmutableSandboxedEnvironment
text = sys.stdin.buffer.read().decode()
def fail(message):
    raise ValueError(message)
made = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
made.globals.update(raise_exception=fail, strftime_now=lambda form: "")
made.filters["tojson"] = lambda value, **_: "{}"
turns = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}]
try:
    size = sum(map(len, made.from_string(text).generate(
        messages=turns, bos_token="", eos_token="", add_generation_prompt=False)))
except MemoryError:
    sys.exit(3)
except Exception:
    sys.exit(0)
sys.exit(3 if size > 10_000_000 else 0)
"""


@lru_cache(maxsize=64)
def check_template(template: str, place: str) -> str:
    """The template itself, once it was seen to end. A template that ended is noted in the cache.

    Mistakes in it are told when rows are rendered. Raises ModelError for one that needs more than
    TRIAL_CPU_S seconds or TRIAL_BYTES for two short turns.
    """
    if "{%" not in template:
        return template
    known = cache_folder() / "templates" / hashlib.sha256(template.encode()).hexdigest()
    if known.exists():
        return template
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _TRIAL, str(TRIAL_CPU_S), str(TRIAL_BYTES)],
            input=template.encode(), capture_output=True, timeout=TRIAL_WALL_S, check=False,
        )  # fmt: skip
        ended = done.returncode == 0
    except subprocess.TimeoutExpired:
        ended = False
    if not ended:
        raise ModelError(
            f"{place}: chat template {template[:40]!r}... needs more than {TRIAL_CPU_S} s or "
            f"{TRIAL_BYTES >> 20} MB for two short turns; give data.chat_template another one"
        )
    try:
        known.parent.mkdir(parents=True, exist_ok=True)
        known.touch()
    except OSError:
        pass  # tried again next time
    return template
