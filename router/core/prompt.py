"""Everything in a request that the model will read, for rules that block. Reads only; knows no model and no rule.

It starts from all text in the body and leaves out what a model never sees, not the other way round. So a new field of a backend
is read by default.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from router.core.openai.jsontext import Members
from router.core.types import Endpoint

READS = ("prompt", "conversation", "message")
"""What a blocking rule can read: the whole prompt, the prompt without the application's part, or the last user message."""
_KEYWORDS = "keywords"
NEVER_READ = frozenset(
    {
        "model",
        "user",
        "metadata",
        "stream",
        "stream_options",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "request_id",
        "cache_salt",
        "stop",
        "bad_words",
        "logit_bias",
        "modalities",
        "audio",
        "encoding_format",
        "tool_choice",
        "kv_transfer_params",
    }
)
"""Fields of the body that control the backend and do not reach the model."""
MEDIA = frozenset(
    {
        "image_url",
        "input_image",
        "image",
        "image_pil",
        "image_embeds",
        "audio_url",
        "input_audio",
        "audio",
        "audio_embeds",
        "video_url",
        "video",
        "file",
        "input_file",
    }
)
"""Parts of a message without text. Each name is both the `type` of a part and the key of its data."""
_EMBEDS = "prompt_embeds"  # the field of a completion, and the kind of a message's part
_NEVER_WITHOUT_TYPE = frozenset({"image", "input_image", "audio", "video", "file", "input_file"})
"""vLLM does not infer the type of a part from these keys."""
_INSTRUCTION_ROLES = frozenset({"system", "developer"})
_FREE_FIELDS = frozenset({"messages", "prompt", "input", "suffix", "documents"})
_API_WORDS = """
additionalproperties arguments array assistant auto boolean content default description developer enable_thinking enum function
high id input_text integer items json_object json_schema low medium minimal name none null number object output_text parameters
properties reasoning_content refusal required role schema strict string system text thinking title tool tool_call_id tool_calls
type user
"""
_KNOWN_WORDS = MEDIA.union(_API_WORDS.split())
"""Keys and values of the API itself. They carry no meaning of the client."""
_LONGEST_ID, _MAX_WORDS = 128, 0.6  # the share of characters that stand in words; about half in random letters
_FRAGMENT_CHARS, _MIN_FRAGMENTS = 48, 3  # of an attack in fewer pieces, one piece alone gives it away
_TOKEN_CHARS = 4  # the usual estimate for English text
_PRICE = 4
"""Cost of one value, in characters. With 131,072 characters the slowest known body takes 50 ms."""
_WORDS = re.compile(r"[A-Z]?[a-z]{2,}|[A-Z]{3,}")
_MIN_NUMBER, _MAX_NUMBER = 10**5, 10**40  # card and telephone numbers may stand in a document as numbers


UnreadReason = Literal["", "too_long", "token_ids", "embeddings", "chat_template"]
"""Why not all of a prompt can be read; empty when it can. `embeddings`: they replace text. `chat_template`: the request brings a
template that could write any text."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One message, tool or other field. Its texts are joined by newlines, as chat templates join the parts of a message."""

    text: str
    is_instruction: bool = False
    """Usually written by the application: a system or developer message, a tool, a format for the answer."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """The text of a request that the model reads."""

    pieces: tuple[Piece, ...]
    """The newest message first. Pieces with only white space and ASCII punctuation are left out."""
    unread: UnreadReason = ""
    max_shown_chars: int | None = None
    """About how many characters reach the model, when the request tells the backend to truncate the prompt."""

    @property
    def conversation(self) -> Prompt:
        """The prompt without the application's part."""
        return replace(self, pieces=tuple(piece for piece in self.pieces if not piece.is_instruction))


@dataclass(slots=True)
class _Budget:
    """How much may still be read. Every value costs something besides its characters, so many small values are bounded, too."""

    chars: int
    is_spent: bool = False
    has_embeddings: bool = False
    """Whether a part of a message holds embeddings instead of text."""

    def take(self, text: str) -> str:
        """The whole text, or its two ends when there is less room."""
        room, self.chars = self.chars, self.chars - len(text) - _PRICE
        if len(text) <= room:
            return text
        self.is_spent = True
        half = max(0, room // 2)
        return f"{text[:half]}\n{text[len(text) - half :]}"

    def has_room(self, count: int) -> bool:
        """Whether `count` more values may be read. Charges the value that holds them."""
        self.chars -= _PRICE
        self.is_spent = self.is_spent or count * _PRICE > self.chars
        return not self.is_spent


def name_of(reads: str, signal: str) -> str:
    """The name of a reading: the signal's own for the last user message, else with a prefix, such as `prompt jailbreak`."""
    return signal if reads == "message" else f"{reads} {signal}"


def name_of_keywords(words: str) -> str:
    """The signal's name for a set of keywords, such as `keywords secret`. Only blocking rules read one."""
    return f"{_KEYWORDS} {words}"


def reads_of(name: str) -> tuple[str, str]:
    """What a reading covers, one of `READS`, and the signal's own name."""
    reads, _, signal = name.partition(" ")
    return (reads, signal) if signal else ("message", name)


def is_guard(name: str) -> bool:
    """Whether a reading covers more than the last user message, so that a guard gives it and it may take long."""
    return reads_of(name)[0] != "message"


def is_of_keywords(name: str) -> bool:
    """Whether a reading is of a set of keywords, which needs no model."""
    return reads_of(name)[1].startswith(f"{_KEYWORDS} ")


def prompt_of(endpoint: Endpoint, members: Members, max_chars: int) -> Prompt:
    """All text of a request body that the model will read. Above `max_chars`, the newest messages are read first."""
    budget = _Budget(max_chars)
    fields = {key: placed.value for key, placed in members.items() if key not in NEVER_READ and placed.value is not None}
    unread = _unreadable(endpoint, fields)
    pieces = [piece for piece in _pieces(fields, budget) if _may_say_something(piece.text)]
    unread = unread or ("embeddings" if budget.has_embeddings else "too_long" if budget.is_spent else "")
    return Prompt(tuple(pieces), unread, _max_shown(fields))


def _may_say_something(text: str) -> bool:
    """Whether a text may carry words. Characters beyond ASCII may look like letters, or hide some."""
    return not text.isascii() or any(map(str.isalnum, text))


def _max_shown(fields: Mapping[str, object]) -> int | None:
    """How many characters reach the model at most, when the request tells the backend to truncate the prompt."""
    tokens = fields.get("truncate_prompt_tokens")
    return tokens * _TOKEN_CHARS if isinstance(tokens, int) and tokens > 0 else None


def _unreadable(endpoint: Endpoint, fields: Mapping[str, object]) -> UnreadReason:
    """Why the fields cannot be read; empty when they can. Token ids of an embeddings request are harmless."""
    options = fields.get("chat_template_kwargs")
    if "chat_template" in fields or (isinstance(options, dict) and "chat_template" in options):
        return "chat_template"
    if _EMBEDS in fields:
        return "embeddings"
    prompt = fields.get("prompt")
    lists = prompt if isinstance(prompt, list) else []
    has_ids = any(not isinstance(part, str) for part in lists) or isinstance(prompt, int | float)
    return "token_ids" if has_ids and endpoint is Endpoint.COMPLETIONS else ""


def _pieces(fields: Mapping[str, object], budget: _Budget) -> Iterator[Piece]:
    fragments: list[str] = []
    messages = fields.get("messages")
    for message in reversed(messages if isinstance(messages, list) else []):
        if budget.is_spent:
            return
        role = message.get("role") if isinstance(message, dict) else None
        piece = Piece(_text_of(_roots(message, budget), budget), role in _INSTRUCTION_ROLES)
        yield piece
        yield from _run_together(message, budget, piece.is_instruction)
        if len(piece.text) > _FRAGMENT_CHARS:
            yield from _joined(fragments[::-1], budget)
            fragments = []
        else:
            fragments.append(piece.text)
    yield from _joined(fragments[::-1], budget)
    for key, value in fields.items():
        fragments = []
        for part in _parts(key, value):
            if budget.is_spent:
                return
            piece = Piece(_text_of([(part, False)], budget), key not in _FREE_FIELDS)
            yield piece
            fragments += [piece.text] if key == "documents" and len(piece.text) <= _FRAGMENT_CHARS else []
        yield from _joined(fragments, budget)


def _joined(fragments: list[str], budget: _Budget) -> Iterator[Piece]:
    """Several short messages or documents, read together, because an attack may be split over them."""
    if len(fragments) >= _MIN_FRAGMENTS:
        yield Piece(budget.take(" ".join(fragments)))


def _run_together(message: object, budget: _Budget, is_instruction: bool) -> Iterator[Piece]:
    """Parts of a message that end inside a word, joined without a gap. Many templates join them so, others by newlines."""
    parts = message.get("content") if isinstance(message, dict) else None
    if not isinstance(parts, list) or len(parts) <= _MIN_FRAGMENTS or budget.is_spent:
        return
    texts = [text for part in parts if isinstance(text := part.get("text") if isinstance(part, dict) else part, str)]
    if sum(one[-1:].isalpha() and next_[:1].isalpha() for one, next_ in pairwise(texts)) >= _MIN_FRAGMENTS:
        yield Piece(budget.take("".join(texts)), is_instruction)


def _parts(key: str, value: object) -> list[object]:
    """The parts of a field that are read separately, such as each tool. Token ids are left out."""
    if key == "messages":
        return []
    parts = value if isinstance(value, list) else [value]
    return [part for part in parts if isinstance(part, str)] if key in ("prompt", "input") else parts


_Named = tuple[object, bool]
"""A value, and whether its key calls it an id."""


def _roots(message: object, budget: _Budget) -> list[_Named]:
    """The values of a message that are read. Templates show values and never keys; images and sounds are not text."""
    if not isinstance(message, dict):
        return [(message, False)]
    content = message.get("content")
    if not budget.has_room(len(message) + (len(content) if isinstance(content, list) else 0)):
        return []
    roots: list[_Named] = []
    for key, value in message.items():
        if key != "content" or not isinstance(value, list):
            roots.append((value, key.endswith("id")))
            continue
        for part in value:
            if isinstance(part, dict) and _EMBEDS in (*part, part.get("type")):
                budget.has_embeddings = True
            shown = [shown for name, shown in part.items() if not _is_media(part, name)] if isinstance(part, dict) else [part]
            roots += [(each, False) for each in shown]
    return roots


def _is_media(part: Mapping[str, object], key: str) -> bool:
    """Whether a key of a part holds its image or sound. The other keys of MEDIA may hold text in this part."""
    if key not in MEDIA:
        return False
    if (kind := part.get("type")) is None:
        return key not in _NEVER_WITHOUT_TYPE
    return key == kind or (kind, key) == ("input_image", "image_url")


def _text_of(roots: list[_Named], budget: _Budget) -> str:
    """All strings in `roots`, in order, with the keys of inner objects. No recursion, because clients choose the depth."""
    texts: list[str] = []
    waiting = roots[::-1]
    while waiting and not budget.is_spent:
        item, is_id = waiting.pop()
        if isinstance(item, str):
            if item.lower() not in _KNOWN_WORDS and not (is_id and _is_random(item)):
                texts.append(budget.take(item))
            continue
        if isinstance(item, int) and not isinstance(item, bool) and _MIN_NUMBER <= item < _MAX_NUMBER:
            texts.append(budget.take(str(item)))
            continue
        inside = _inside(item)
        if budget.has_room(len(inside)):
            waiting += inside
    return "\n".join(texts)


def _is_random(text: str) -> bool:
    """Whether an id consists of random digits and letters, not of words."""
    return len(text) <= _LONGEST_ID and sum(map(len, _WORDS.findall(text))) <= _MAX_WORDS * len(text) and text.isascii()


def _inside(item: object) -> list[_Named]:
    """The elements of an array, or keys and values of an object, the last first."""
    if isinstance(item, list):
        return [(element, False) for element in reversed(item)]
    if not isinstance(item, dict):
        return []
    pairs = [((key, False), (value, key.endswith("id"))) for key, value in item.items()]
    return [named for key, value in reversed(pairs) for named in (value, key)]
