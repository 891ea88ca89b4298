"""Weighs a window's probability of an attack by how much was read, who wrote it and which words it uses."""

from __future__ import annotations

import re

from router.core.types import Scores

JAILBREAK, HARMFUL = "jailbreak", "harmful"
IN_WORDS, UNDEFENDED = f"{JAILBREAK} in words", f"{JAILBREAK} undefended"
"""Two more scores beside the model's: `jailbreak` in windows that also use the words of attacks, and in windows that do not speak
of defending against attacks."""
_CHARS_A_WINDOW = 110
_WINDOWS_OF_A_MESSAGE = 2
_INSTRUCTION_ODDS, _DEFENCE_ODDS = 50.0, 1000.0
_WORDS_ODDS = 30.0
_DOUBT = 1.15  # a little over 1, because windows of one text resemble each other and the model's mistakes on them do, too

_SAID = (
    r"\b(?:ignore|disregard|forget|override|bypass|cancel\w*|stop following|not follow|follow no|break|broken|no longer)\b.{0,48}"
    r"\b(?:instructions?|rules?|guidelines?|polic(?:y|ies)|directions?|directives?|prompts?|programming|training|restrictions?|safety"
    r"|filters?|ethic\w*|told|limits?|laws?)\b",
    r"\b(?:no|without|any|free of|free from|not bound by|disabled?|off|lifted|unbound)\b.{0,32}"
    r"\b(?:restrictions?|limits?|limitations?|filters?|censorship|moral\w*|ethic\w*|content polic\w+|moderation|rules|guidelines"
    r"|polic(?:y|ies))\b",
    r"\b(?:reveal|print|show|repeat|display|output|leak|dump|tell me|translate|give me)\b.{0,48}"
    r"\b(?:system (?:prompt|message)|(?:initial|hidden|original|secret|above|your|these|previous) (?:prompt|instructions?)"
    r"|api key)\b",
    r"\b(?:dan|do anything now|jailbr\w+|developer mode|debug mode|unfiltered|uncensored|unrestricted|amoral|immoral|unethical"
    r"|illegal)\b",
    r"\b(?:never|not|cannot|can't|won't|don't|must not) (?:ever )?(?:refuse|apologi[sz]e|decline|break character|warn"
    r"|morali[sz]e)\b",
    r"\b(?:stay|remain|speak|answer|respond) in (?:character|this role)\b|\bstay a \w+\b",
    r"\b(?:pretend|roleplay|role play|simulate|act|imagine|you are now|you are going|from now on|immerse)\b.{0,64}"
    r"\b(?:an? ai|chatgpt|gpt|chatbot|language model|bot|character|model)\b",
)
_WORDS = re.compile("|".join(f"(?:{pattern})" for pattern in _SAID), re.IGNORECASE | re.DOTALL)
"""Words of attacks that ordinary texts seldom use. Every repetition is bounded, so the time is linear in the text."""


_DEFENDS = re.compile(
    r"\b(?:never|not|don't|cannot|refuse to)\b.{0,24}\b(?:reveal|disclose|share|repeat|discuss|expose|mention|paraphrase)\b"
    r"|\bif (?:the |a )?(?:user|someone|anyone|anybody|person|human|customer|client|asked)\b|\bpolitely\b|\bdecline\b",
    re.IGNORECASE | re.DOTALL,
)
"""Words by which applications tell their model to resist attacks."""


def with_words(scores: Scores, window: str) -> Scores:
    """Adds `IN_WORDS` to a window's scores if its text uses the words of attacks, and `UNDEFENDED` if it names no defence."""
    found = scores.values.get(JAILBREAK)
    if found is None:
        return scores
    words = {IN_WORDS: found} if _WORDS.search(window) else {}
    return Scores({**scores.values, **words} if _DEFENDS.search(window) else {**scores.values, **words, UNDEFENDED: found})


def weighed(scores: Scores, chars: int, *, is_instruction: bool) -> Scores:
    """The worst window's probabilities, corrected for its being the worst of all windows in `chars` characters.

    A text of 30,000 characters holds an attack no more often than one of 300. So the odds are divided by the number of windows,
    for `harmful` by its square root, because fewer windows are mistaken for that. In a window that uses the words of attacks, the
    divisor is 30 times smaller, because ordinary texts seldom use them. Instructions of the application read like a jailbreak, so
    their odds are divided by another 50, and by 1000 where they speak of defending against attacks.
    """
    windows = max(1.0, chars / _CHARS_A_WINDOW / _WINDOWS_OF_A_MESSAGE)
    factor = windows**_DOUBT
    odds = {HARMFUL: windows**0.5, IN_WORDS: max(1.0, windows / _WORDS_ODDS), UNDEFENDED: factor}
    if is_instruction:
        odds |= {JAILBREAK: factor * _DEFENCE_ODDS, IN_WORDS: factor * _DEFENCE_ODDS, UNDEFENDED: factor * _INSTRUCTION_ODDS}
    found = {name: _divided(score, odds.get(name, factor)) for name, score in scores.values.items()}
    jailbreak = [found.pop(name) for name in (IN_WORDS, UNDEFENDED) if name in found]
    return Scores({**found, JAILBREAK: max(found[JAILBREAK], *jailbreak)} if jailbreak else found)


def _divided(probability: float, by: float) -> float:
    """The probability after its odds are divided."""
    return probability / (probability + (1 - probability) * by) if probability else 0.0
