"""Examples as providers want them: conversations, checked row by row before anything is sent.

OpenAI's chat and preference lines, and Google's contents. Classes are learned as text: the
instruction lists the labels, the answer is one of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunewright.data.layout import Layout
from tunewright.data.render import prompt_messages
from tunewright.errors import DataError, RecipeError
from tunewright.providers.provider import Rules, Turn
from tunewright.records import Example, Message, Output

TASKS = ("classify", "generate", "chat")
MAX_LISTED_LABELS = 200
SPECIAL = re.compile(r"<\|[a-z_]+\|>")
CHARS_PER_TOKEN = 3.6
"""Of English text in the usual vocabularies; other scripts are counted by bytes."""
BYTES_PER_TOKEN = 3.0
TURN_TOKENS = 4
"""What the marks around one turn come to."""
UPPER = 1.35
"""A count by characters may be this much too low (code, numbers, rare words)."""
Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wording:
    """How a task is put to a chat model."""

    task: str
    labels: tuple[str, ...] = ()
    multi_label: bool = False

    @property
    def instruction(self) -> str | None:
        """The system turn of a classification; None where rows bring their own."""
        if self.task != "classify":
            return None
        what = "every label that applies, separated by ' | '" if self.multi_label else "one label"
        if len(self.labels) > MAX_LISTED_LABELS:
            return f"Answer with {what} and nothing else."
        return f"Answer with {what} and nothing else. Labels: {', '.join(self.labels)}"


def make_wording(layout: Layout, provider: str) -> Wording:
    """How this layout's task is asked. Raises RecipeError for a task that chat cannot answer."""
    if layout.task not in TASKS:
        raise RecipeError(
            f"task is {layout.task}; {provider} tunes chat models, which answer "
            f"{', '.join(TASKS)}; set provider: here"
        )
    return Wording(layout.task, layout.labels, layout.multi_label)


def prompt_turns(example: Example, how: Wording) -> list[Turn]:
    """The conversation up to the answer that is asked for."""
    if how.task == "classify":
        columns = [f"{name}: {'missing' if v is None else v}" for name, v in example.columns]
        text = "\n".join([*columns, example.input])
        return [_turn("system", str(how.instruction)), _turn("user", text)]
    return [_message(turn) for turn in prompt_messages(example)]


def with_shots(turns: Sequence[Turn], shots: Sequence[Example], how: Wording) -> list[Turn]:
    """The conversation with examples put before it, as earlier turns."""
    opening = [turn for turn in turns if turn["role"] == "system"]
    earlier: list[Turn] = []
    for shot in shots:
        earlier += [turn for turn in prompt_turns(shot, how) if turn["role"] != "system"]
        earlier.append(_turn("assistant", answer_text(shot.output)))
    return [*opening, *earlier, *(turn for turn in turns if turn["role"] != "system")]


def answer_text(output: Output) -> str:
    """What the model is to write."""
    return " | ".join(map(str, output)) if isinstance(output, tuple) else str(output)


def read_answer(text: str, how: Wording) -> Output:
    """The answer behind a model's text: for classes the label that it names, None for no label."""
    if how.task != "classify":
        return text
    if how.multi_label:
        found = (_label(part, how.labels) for part in text.split("|"))
        return tuple(sorted({label for label in found if label is not None}))
    return _label(text, how.labels)


def _label(text: str, labels: Sequence[str]) -> str | None:
    """The label that the text is, but for case, quotes and a full stop."""
    said = text.strip()
    if said in labels:
        return said
    plain = said.strip(" .\"'`*\n").casefold()
    matches = [label for label in labels if label.casefold() == plain]
    return matches[0] if len(matches) == 1 else None


def openai_line(example: Example, how: Wording) -> Line:
    """One line of a training file of OpenAI's form."""
    if example.rejected is not None:
        prompt: Line = {"messages": prompt_turns(example, how)}
        if example.tools:
            prompt["tools"] = list(example.tools)
        return {
            "input": prompt,
            "preferred_output": [_turn("assistant", answer_text(example.output))],
            "non_preferred_output": [_turn("assistant", example.rejected)],
        }
    if example.messages and how.task != "classify":
        turns = [_message(turn) for turn in example.messages]
    else:
        turns = [*prompt_turns(example, how), _turn("assistant", answer_text(example.output))]
    line: Line = {"messages": turns}
    if example.tools:
        line["tools"] = list(example.tools)
    return line


def google_line(example: Example, how: Wording) -> Line:
    """One line of a training file of Google's form: systemInstruction and contents."""
    turns = openai_line(example, how)["messages"]
    return google_contents(turns)


def google_contents(turns: Sequence[Turn]) -> Line:
    """A conversation as systemInstruction and contents."""
    system = "\n\n".join(str(turn["content"]) for turn in turns if turn["role"] == "system")
    contents = [
        {
            "role": "model" if turn["role"] == "assistant" else "user",
            "parts": [{"text": turn.get("content") or ""}],
        }
        for turn in turns
        if turn["role"] != "system"
    ]
    made: Line = {"contents": contents}
    if system:
        made = {"systemInstruction": {"role": "system", "parts": [{"text": system}]}, **made}
    return made


def make_lines(
    examples: Sequence[Example],
    how: Wording,
    rules: Rules,
    write: Callable[[Example, Wording], Line],
    what: str,
) -> list[str]:
    """JSON lines for a file that a provider takes. Raises DataError naming the first bad row with
    its file and line, and how many more there are.
    """
    if what == "training" and len(examples) < rules.min_rows:
        raise DataError(
            f"{len(examples)} training rows; {rules.provider} wants {rules.min_rows} or more"
        )
    problems = []
    lines = []
    size = 0
    for example in examples:
        problem = find_problem(example, how, rules)
        if problem:
            problems.append(f"{example.place}: {problem}")
            continue
        line = json.dumps(write(example, how), ensure_ascii=False)
        size += len(line.encode()) + 1
        lines.append(line)
    if problems:
        more = f" (and {len(problems) - 1} rows more)" if len(problems) > 1 else ""
        raise DataError(f"{problems[0]}{more}; nothing was sent to {rules.provider}")
    if rules.max_file_bytes and size > rules.max_file_bytes:
        raise DataError(
            f"{what} file of {size / 1e6:.0f} MB; {rules.provider} takes "
            f"{rules.max_file_bytes / 1e6:.0f} MB; set data.max_rows"
        )
    return lines


def find_problem(example: Example, how: Wording, rules: Rules) -> str | None:
    """Why a provider would not take a row, with the remedy; None when it would."""
    wrong = _wrong_turns(example, how, rules)
    if wrong:
        return wrong
    tokens = row_tokens(example, how)
    if rules.max_row_tokens and tokens > rules.max_row_tokens:
        return (
            f"about {tokens:,} tokens; {rules.provider} takes {rules.max_row_tokens:,} a row; "
            "shorten or drop it"
        )
    texts = [example.input, answer_text(example.output), example.rejected or ""]
    texts += [turn.content or "" for turn in example.messages]
    special = None if rules.special_tokens else next(filter(None, map(SPECIAL.search, texts)), None)
    if special:
        return f"holds the special token {special.group()}, which {rules.provider} rejects"
    return None


def _wrong_turns(example: Example, how: Wording, rules: Rules) -> str | None:
    if example.output is None or not answer_text(example.output).strip():
        return "no answer to learn"
    if example.rejected is not None and not example.rejected.strip():
        return "the rejected answer is empty"
    if how.task == "classify" or not example.messages:
        return None if example.input.strip() else "no text to answer"
    roles = [turn.role for turn in example.messages]
    if not any(role in ("user", "tool") for role in roles):
        return "no user turn"
    if not rules.tools and (example.tools or "tool" in roles or any_calls(example.messages)):
        return f"tool calls are not tuned at {rules.provider} by us; drop the row"
    for turn in example.messages:
        if turn.role == "assistant" and turn.weight not in (None, 0, 1):
            return f"weight {turn.weight:g}; {rules.provider} knows 0 and 1"
        if turn.weight == 0 and not rules.weights:
            return f"a turn of weight 0; {rules.provider} learns every model turn"
    learned = [t for t in example.messages if t.role == "assistant" and t.weight != 0]
    if not learned:
        return "no assistant turn that is learned"
    if rules.provider == "google" and roles[-1] != "assistant":
        return "the last turn is not the assistant's"
    return None


def any_calls(turns: Sequence[Message]) -> bool:
    """True when a turn calls a tool."""
    return any(turn.tool_calls for turn in turns)


def row_tokens(example: Example, how: Wording) -> int:
    """About how many tokens one row is, answers included."""
    line = openai_line(example, how)
    if "input" in line:
        turns = [
            *line["input"]["messages"],
            *line["preferred_output"],
            *line["non_preferred_output"],
        ]
    else:
        turns = line["messages"]
    extra = estimate_tokens(json.dumps(line["tools"])) if "tools" in line else 0
    return turns_tokens(turns) + extra


def turns_tokens(turns: Sequence[Turn]) -> int:
    """About how many tokens a conversation is."""
    count = 3
    for turn in turns:
        count += TURN_TOKENS + estimate_tokens(str(turn.get("content") or ""))
        if turn.get("tool_calls"):
            count += estimate_tokens(json.dumps(turn["tool_calls"]))
    return count


def estimate_tokens(text: str) -> int:
    """About how many tokens a text is in the vocabularies of large models."""
    if not text:
        return 0
    if text.isascii():
        return max(1, round(len(text) / CHARS_PER_TOKEN))
    return max(1, round(len(text.encode()) / BYTES_PER_TOKEN))


def choose_epochs(num_rows: int, wish: float | str) -> int:
    """Passes to order: the recipe's, in whole numbers; auto as OpenAI's own notebook has it: 3,
    more for few rows (up to 25), fewer for very many.
    """
    if not isinstance(wish, str):
        return max(1, round(wish))
    if num_rows * 3 < 100:
        return min(25, max(1, 100 // max(1, num_rows)))
    if num_rows * 3 > 25_000:
        return max(1, 25_000 // num_rows)
    return 3


def named_row(message: str, places: Sequence[str]) -> str | None:
    """The place of the row that a provider's message blames ("Example 7", "line 7", from 1)."""
    found = re.search(r"\b(?:example|line|row)s?\s+#?(\d+)", message, re.IGNORECASE)
    if not found:
        return None
    number = int(found.group(1))
    return places[number - 1] if 1 <= number <= len(places) else None


def _turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}


def _message(turn: Message) -> Turn:
    made: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.tool_calls:
        made["tool_calls"] = [_call(number, call) for number, call in enumerate(turn.tool_calls)]
        made["content"] = turn.content or None
    if turn.name:
        made["name"] = turn.name
    if turn.tool_call_id:
        made["tool_call_id"] = turn.tool_call_id
    if turn.role == "assistant" and turn.weight is not None:
        made["weight"] = int(turn.weight)
    return made


def _call(number: int, call: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tool call in OpenAI's form, its arguments as text."""
    function = dict(
        call.get("function") or {k: call[k] for k in ("name", "arguments") if k in call}
    )
    if not isinstance(function.get("arguments", ""), str):
        function["arguments"] = json.dumps(function["arguments"])
    return {
        "id": call.get("id") or f"call_{number}",
        "type": call.get("type", "function"),
        "function": function,
    }
