"""Conflicts between two questions that no similarity may outvote: other numbers, names, signs, order.

A guard only ever vetoes. It sees the words, not the meaning: that two questions pass it says nothing, that they fail says that
one answer cannot be trusted to fit both. What share of right answers that costs is measured by `semantic-router eval cache`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_UNITS = {
    "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
    "ten": "10", "eleven": "11", "twelve": "12", "thirteen": "13", "fourteen": "14", "fifteen": "15", "sixteen": "16",
    "seventeen": "17", "eighteen": "18", "nineteen": "19", "twenty": "20", "thirty": "30", "forty": "40", "fifty": "50",
    "sixty": "60", "seventy": "70", "eighty": "80", "ninety": "90", "hundred": "100", "thousand": "1000", "million": "1000000",
    "billion": "1000000000", "dozen": "12", "half": "0.5", "twice": "2", "double": "2", "triple": "3", "first": "1",
    "second": "2", "third": "3", "fourth": "4", "fifth": "5",
}  # fmt: skip
_NEGATIONS = _words(
    "not no never without cannot cant dont doesnt didnt isnt arent wasnt werent wont wouldnt shouldnt couldnt havent hasnt hadnt "
    "aint nor neither none nothing nobody nowhere unable avoid stop prevent except lack lacks lacking fail fails failed"
)
_OPPOSITES = tuple(
    (_words(left), _words(right))
    for left, right in (
        ("more greater larger bigger higher above over exceed", "less fewer smaller lower below under"),
        ("most maximum max highest largest biggest greatest best longest tallest",
         "least minimum min lowest smallest worst shortest"),
        ("increase raise gain grow rise up add", "decrease reduce lower lose shrink fall down drop cut remove"),
        ("before prior until", "after following since"),
        ("enable activate start open on install connect login subscribe upload encrypt encode import push buy join",
         "disable deactivate end close off uninstall disconnect logout unsubscribe download decrypt decode export pull sell "
         "leave"),
        ("good advantages benefits pros positive safe legal possible true always allow accept win love same",
         "bad disadvantages drawbacks cons negative dangerous illegal impossible false never forbid reject lose hate different"),
        ("men man male boy boys he his him", "women woman female girl girls she her"),
        ("left north east", "right south west"),
        ("old older oldest early earlier", "new newer newest young late later"),
        ("input inside internal indoor into", "output outside external outdoor"),
        ("hot warm heat", "cold cool"),
        ("read get", "write set put"),
        ("with", "without"),
        ("first", "last"),
        ("all every everyone", "none nobody some"),
        ("could can may might", "must should shall"),
    )
)  # fmt: skip
_PLAIN = _words(
    "a an the is are was were be been being am do does did doing done has have had having will would shall should can could may "
    "might must i you he she it we they me him her us them my your his its our their mine yours this that these those there here "
    "what which who whom whose when where why how of to in on at by for from with about into onto as and or if then than so but "
    "also just please tell explain describe show give say know want need like help let get got make some any kind sort way ways "
    "thing things really actually exactly simply basically mean meaning means meant called work works working use used using hi "
    "hello hey thanks thank dear kindly whats hows s t m re ve d ll vs versus between such very much too"
)
"""Words that two ways of asking the same differ in; what is left of a question is what it is about."""
_KINDS = _words(
    "how why when where who whom whose which my your his her their our by from before after than until since yesterday today "
    "tomorrow become used difference between if unless"
)
_MANNER = _words("way ways step steps method methods procedure process")
_AMOUNT = _words("many much often long far old big tall deep fast")
_FORMERLY = re.compile(r"\bused? to (?:be|have|do|live|work)\b", re.IGNORECASE)
_DIRECTED = _words("from to into before after over under than beat beats defeat convert versus vs between minus divided by of on")
_TOKEN = re.compile(r"[^\W_]+(?:['’.,:/_+#-]+[^\W_]+)*[+#%°]*|[$€£¥%°]", re.UNICODE)
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_CODE = re.compile(
    r"`[^`]+`|\"[^\"]+\"|\b\w+(?:_\w+)+\b|\b[a-z]+(?:[A-Z][a-z0-9]*)+\b|\b\w+\(\)|(?<!\w)--?[a-z][\w-]*|"
    r"(?:[\w.-]*/)+[\w.-]+|\b\w+\.\w{1,4}\b|\b\w*(?:\+\+|#)|[<>=!]=|[<>]"
)
_SUFFIXES = ("ies", "ing", "ed", "es", "s", "ly")


@dataclass(frozen=True)
class _Words:
    """A question taken apart."""

    text: str

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """Lower-case words and numbers in their order, quotes straightened."""
        text = unicodedata.normalize("NFKC", self.text).replace("’", "'")
        return tuple(token.lower() for token in _TOKEN.findall(text))

    @cached_property
    def bare(self) -> frozenset[str]:
        """Words without apostrophes."""
        return frozenset(token.replace("'", "") for token in self.tokens)

    @cached_property
    def numbers(self) -> Counter[str]:
        """Every number, as digits, thousands separators dropped."""
        found: Counter[str] = Counter()
        for token in self.tokens:
            if token in _UNITS:
                found[_UNITS[token]] += 1
            for number in _NUMBER.findall(token):
                found[re.sub(r",(?=\d{3}\b)", "", number)] += 1
        return found

    @cached_property
    def content(self) -> tuple[str, ...]:
        """What the question is about: stems of its words in their order, plain words and numbers left out."""
        words = (token.removesuffix("'s") for token in self.tokens)
        return tuple(
            _stem(word)
            for word in words
            if word.replace("'", "") not in _PLAIN and not _NUMBER.match(word) and word not in _UNITS
        )

    @cached_property
    def kind(self) -> frozenset[str]:
        """What is asked for: question words, whose things, who acts."""
        words = set(self.tokens)
        kind = words & _KINDS
        if words & _MANNER and "what" in words:
            kind.add("how")  # "what is the way to" asks how
        if "how" in kind and "what" not in words:
            kind |= words & _AMOUNT
        if _FORMERLY.search(self.text):
            kind.add("formerly")
        return frozenset(kind)

    @cached_property
    def names(self) -> frozenset[str]:
        """Words written with a capital inside a sentence that is not all capitals, or in capitals altogether."""
        found = set()
        starts_sentence = True
        for match in re.finditer(r"[^\W\d_][\w'’&.-]*|[.!?:\n]", self.text):
            word = match[0]
            if len(word) == 1 and not word.isalnum():
                starts_sentence = True
                continue
            if word != "I" and word[0].isupper() and not starts_sentence:
                found.add(_stem(word.lower().rstrip(".").removesuffix("'s").removesuffix("’s")))
            starts_sentence = False
        return frozenset(found - _PLAIN)

    @cached_property
    def code(self) -> frozenset[str]:
        """Identifiers, quoted text, paths, options and operators, in their own case."""
        return frozenset(_CODE.findall(self.text))


def _stem(word: str) -> str:
    """Without the endings of number and tense; crude, and the same on both sides."""
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word.removesuffix(suffix) + ("y" if suffix == "ies" else "")
    return word.removesuffix("e") if len(word) > 4 else word


def _numbers(one: _Words, other: _Words) -> bool:
    return one.numbers != other.numbers


def _negation(one: _Words, other: _Words) -> bool:
    return len(_negations(one)) % 2 != len(_negations(other)) % 2 or bool(one.bare & _NEGATIONS) != bool(other.bare & _NEGATIONS)


def _negations(words: _Words) -> list[str]:
    return [token for token in words.tokens if token.replace("'", "") in _NEGATIONS or token.endswith("n't")]


def _opposites(one: _Words, other: _Words) -> bool:
    for left, right in _OPPOSITES:
        mine, theirs = one.bare - other.bare, other.bare - one.bare
        if (mine & left and theirs & right) or (mine & right and theirs & left):
            return True
    return False


def _names(one: _Words, other: _Words) -> bool:
    mine, theirs = _stems(one), _stems(other)
    return not (one.names <= theirs and other.names <= mine)


def _stems(words: _Words) -> frozenset[str]:
    return frozenset(_stem(token.removesuffix("'s").rstrip(".")) for token in words.tokens)


def _code(one: _Words, other: _Words) -> bool:
    return one.code != other.code


def _order(one: _Words, other: _Words) -> bool:
    """The same words in another order, where order tells who does what to whom."""
    if Counter(one.content) != Counter(other.content) or one.content == other.content:
        return False
    return bool((one.bare | other.bare) & _DIRECTED) or len(one.content) > 1


def _content(one: _Words, other: _Words) -> bool:
    """Each is about something that the other does not name, or one names more than the other."""
    return set(one.content) != set(other.content)


def _kind(one: _Words, other: _Words) -> bool:
    """One asks why and the other how; one tells who acts and the other who is acted on."""
    differing = one.kind ^ other.kind
    if differing != {"how"}:
        return bool(differing)
    # "how to sort a list" and "sort a list" ask the same, "how do lions eat" and "what do lions eat" do not.
    return "what" in (other if "how" in one.kind else one).tokens


GUARDS: Mapping[str, Callable[[_Words, _Words], bool]] = {
    "numbers": _numbers,
    "negation": _negation,
    "opposites": _opposites,
    "names": _names,
    "code": _code,
    "order": _order,
    "kind": _kind,
    "content": _content,
}
"""By the name that operators switch them by; each is true when the two questions conflict."""


def conflict(asked: str, stored: str, guards: Iterable[str]) -> str:
    """The first of the named guards that keeps the answer to `stored` from being given to `asked`; empty when none does."""
    one, other = _Words(asked), _Words(stored)
    return next(_firing(one, other, guards), "")


def _firing(one: _Words, other: _Words, guards: Iterable[str]) -> Iterator[str]:
    return (name for name in guards if GUARDS[name](one, other))
