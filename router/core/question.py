"""Reads the question that is looked up: the last user message, or the conversation where a similar one may answer it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from router.core.text.conversation import NotCompared, Turn, as_text, why_not_compared

_SPACE = " \t\n\r"
"""White space that is ignored at both ends of a text."""
_TURNS = ("user", "assistant")
"""Roles whose messages are the turns of a conversation."""
Message = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks."""

    last: str
    """The last user message."""
    text: str
    """What encoder and verifier read."""
    exact: str
    """What has to be equal for an exact hit, besides the namespace."""
    said: str
    """All that the user says in `text`."""
    apart: Mapping[str, object]
    """What of the messages has to be equal for any hit."""
    with_turns: bool = False
    """As in `CacheQuery`."""
    not_compared: NotCompared | None = None
    """As in `CacheQuery`."""


def question_of(messages: Sequence[Message], *, similar_conversations: bool) -> Question:
    """The question of a chat that ends with a message of the user."""
    *earlier, last = messages
    text = text_of(last)
    more = {"last": {key: value for key, value in last.items() if key != "content"}, **_splits(last)}
    alone = Question(text, text, text.strip(_SPACE), text, {"earlier": earlier, **more})
    if not similar_conversations:
        return alone
    turns = [Turn(str(message["role"]), text_of(message)) for message in messages if message["role"] in _TURNS]
    if not_compared := why_not_compared(turns):
        return replace(alone, not_compared=not_compared)
    said = "\n".join(turn.text for turn in turns if turn.role == "user")
    # The turns one by one, because a message may look like a whole conversation.
    exact = canonical([*turns[:-1], Turn("user", text.strip(_SPACE))])
    return Question(text, as_text(turns), exact, said, {"beside_turns": _beside_turns(earlier), **more}, with_turns=True)


def _beside_turns(earlier: Sequence[Message]) -> list[list[object]]:
    """What earlier messages hold besides the turns' own texts, each with the number of turns before it.

    These are other messages, such as the system's, and other fields of turns, such as names. A message may repeat them as null.
    """
    kept: list[list[object]] = []
    turns = 0
    for message in earlier:
        if message["role"] not in _TURNS:
            kept.append([turns, message])
            continue
        more = {key: value for key, value in message.items() if key not in ("role", "content") and value is not None}
        if more := {**more, **_splits(message)}:
            kept.append([turns, message["role"], more])
        turns += 1
    return kept


def text_of(message: Message) -> str:
    """The text parts of a message, joined by newlines."""
    return "\n".join(_texts_of(message))


def _texts_of(message: Message) -> list[str]:
    content = message.get("content")
    if isinstance(content, list):
        return [str(part.get("text", "")) for part in content if isinstance(part, dict)]
    return [content] if isinstance(content, str) else []


def _splits(message: Message) -> dict[str, object]:
    """The lengths of the parts, if there are several. Some templates join parts without a gap, so a split changes the text."""
    texts = _texts_of(message)
    return {"parts": [len(text) for text in texts]} if len(texts) > 1 else {}


def canonical(value: object) -> str:
    """JSON that is equal for equal values."""
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
