"""Lexical checks: differences between two questions, such as other numbers or names, that forbid a shared answer.

A check can only refuse, whatever the similarity. It compares words, not meaning. When two questions pass all checks, they may
still need different answers; when they fail one, one answer may not fit both. `semantic-router eval cache` measures how many
right answers the checks cost.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from router.cache.wordforms import MIXED_NAMES, levelled, without_dots
from router.core.lookup import Check


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_UNITS = {
    "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
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
        ("creditor creditors lender lenders lessor landlord landlords licensor mortgagee employer employers buyer buyers "
         "purchaser plaintiff claimant sender payer teacher teachers trainer trainers doctor doctors host hosts husband "
         "interviewer",
         "debtor debtors borrower borrowers lessee tenant tenants licensee mortgagor employee employees seller sellers "
         "vendor defendant respondent recipient payee student students trainee trainees patient patients guest guests wife "
         "interviewee"),
        ("give gives lend lends offer", "receive receives borrow borrows accept"),
        ("usually often mostly", "rarely seldom hardly"),
        ("shorten", "lengthen"),
        ("local municipal", "national federal"),
        ("read get", "write set put"),
        ("with", "without"),
        ("first", "last"),
        ("all every everyone", "none nobody some"),
        ("and", "or"),
        ("my", "your his her their our"),
        ("me", "you him them us"),
        ("could can may might", "must should shall"),
    )
)  # fmt: skip
_PLAIN = _words(
    "a an one the is are am be do does i you he she it we they me him us them your its this that these those there here what "
    "which who whom whose when where why how of to in on at by for from with about into onto as and or if then than so but can "
    "could should would may might must also just please really actually exactly simply basically explain describe tell mean "
    "means meant meaning way ways thing things some any hi hello hey thanks thank dear kindly whats hows s t m re ve d ll vs "
    "versus between"
)
"""Words that may differ between two ways of asking the same. The other words of a question are its topic. The list has no verbs
like make, get and use, because they ask for different things."""
_FRAME = re.compile(
    r"^\W*(?:(?:hi|hello|hey|thanks|please|ok|okay|so|well)\b\W*)*"
    r"(?:(?:can|could|would|will) you (?:please |kindly )?(?:tell|explain|describe|show|help|give)\b(?: (?:to )?(?:me|us))?"
    r"(?: to)?\s*|(?:do|does) (?:you|anyone|anybody|somebody) know\b\s*|"
    r"i(?:'d| would)? (?:like|want|need) to (?:know|learn|understand|ask)\b(?: about)?\s*|"
    r"i (?:wonder|was wondering|am wondering)\b(?: if)?\s*|"
    r"(?:please )?(?:tell|help) (?:me|us)\b(?: (?:to|understand))?\s*|i need help(?: with)?\s*)?",
    re.IGNORECASE,
)
"""Phrases that people put before a question."""
_KINDS = _words(
    "how why when where who whom whose which my your his her their our by from before after than until since or will shall "
    "become difference between if unless like"
)
_PAST = _words("was were did had been")
_YES_OR_NO = {
    "can": "may", "could": "may", "may": "may", "might": "may", "should": "shall", "must": "shall", "is": "is", "are": "is",
    "am": "is", "was": "is", "were": "is", "do": "does", "does": "does", "did": "does", "has": "has", "have": "has", "had": "has",
}  # fmt: skip
"""First words of yes-or-no questions, each with the kind of question that it begins."""
_MANNER = _words("way ways step steps method methods procedure process")
_AMOUNT = _words("many much often long far old big tall deep fast")
_FORMERLY = re.compile(r"\bused? to (?:be|have|do|live|work)\b", re.IGNORECASE)
_DIRECTED = _words("from to into before after over under than beat beats defeat convert versus vs between minus divided by of on")
_COMPARISON = _words("difference differences differ compare comparison")
_TOKEN = re.compile(r"[^\W_]+(?:['’.,:/_+#-]+[^\W_]+)*[+#%°]*|[$€£¥%°]", re.UNICODE)
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_CODE = re.compile(
    r"`[^`]+`|\"[^\"]+\"|\b\w+(?:_\w+)+\b|\b[a-z]+(?:[A-Z][a-z0-9]*)+\b|\b\w+\(\)|(?<!\w)--?[a-z][\w-]*|"
    r"(?:(?<![\w./-])[\w.-]*/|(?<!/)/)(?:[\w.-]*/)*[\w.-]+|\b\w+\.\w{1,4}\b|\b\w*(?:\+\+|#)|[<>=!]=|"
    r"(?<![^\W_])(?:\d+|[a-z])!(?![!=])"
)
_POLITE = _words(
    "pls thank thankyou thx sir madam guys everyone anyone cheers have quick question help appreciated sorry bother but walk "
    "through show wondering advance much urgent urgently asap"
)
"""Like plain words, these may stand before or after a question without changing it."""
_MIN_WORDS = 3  # of the shorter question; in shorter ones the other checks see every word
_SUFFIXES = ("ies", "ing", "ed", "es", "s", "ly")


@dataclass(frozen=True)
class _Words:
    """The parts of a question that the checks compare."""

    text: str

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """Lower-case words and numbers in order, with straight quotes and without the opening phrase."""
        text = unicodedata.normalize("NFKC", self.text).replace("’", "'")
        asked = _FRAME.sub("", text, count=1)
        return tuple(token.lower() for token in _TOKEN.findall(asked if asked.strip() else text))

    @cached_property
    def marks(self) -> str:
        """Characters that are neither letter, digit nor punctuation, such as emoji."""
        return "".join(char for char in self.text if unicodedata.category(char) in ("So", "Sk", "Sm", "Mn"))

    @cached_property
    def bare(self) -> frozenset[str]:
        """Words without apostrophes."""
        return frozenset(token.replace("'", "") for token in self.tokens)

    @cached_property
    def ones(self) -> int:
        """How often the word "one" occurs. It is a number in "one day", but not in "which one can one buy"."""
        return self.tokens.count("one")

    @cached_property
    def numbers(self) -> Counter[str]:
        """Every number except the word "one", as digits without thousands separators."""
        found: Counter[str] = Counter()
        for token in self.tokens:
            if token in _UNITS:
                found[_UNITS[token]] += 1
            for number in _NUMBER.findall(token):
                found[re.sub(r",(?=\d{3}\b)", "", number)] += 1
        return found

    @cached_property
    def content(self) -> tuple[str, ...]:
        """The topic: stems of the words in order, without plain words and numbers."""
        words = (token.removesuffix("'s") for token in self.tokens)
        return tuple(
            _stem(word)
            for word in words
            if word.replace("'", "") not in _PLAIN and not _NUMBER.match(word) and word not in _UNITS
        )

    @cached_property
    def kind(self) -> frozenset[str]:
        """What the question asks for: question words, possessives, and who acts."""
        words = set(self.tokens)
        kind = words & _KINDS
        if words & _MANNER and "what" in words:
            kind.add("how")  # "what is the way to" asks how
        if "how" in kind and "what" not in words:
            kind |= words & _AMOUNT
        if words & _PAST:
            kind.add("past")
        if self.tokens and self.tokens[0] in _YES_OR_NO:
            kind.add(_YES_OR_NO[self.tokens[0]])
        if _FORMERLY.search(self.text):
            kind.add("formerly")
        return frozenset(kind)

    @cached_property
    def names(self) -> frozenset[str]:
        """Words with a capital letter that do not begin a sentence."""
        found = set()
        starts_sentence = True
        for match in re.finditer(r"(?<!\w)[^\W\d_][\w'’&.-]*|[.!?:\n]", self.text):
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
        """Identifiers, quoted text, paths, options, operators and currencies, in their own case."""
        signs = (char for char in self.text if char in "^*" or unicodedata.category(char) in ("Sm", "Sc"))
        return frozenset((*(found for found in _CODE.findall(self.text) if found.lower() not in MIXED_NAMES), *signs))


def _stem(word: str) -> str:
    """A word without endings of number and tense. Crude, but both questions are treated alike."""
    if word == "https":
        return word
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word.removesuffix(suffix) + ("y" if suffix == "ies" else "")
    return word.removesuffix("e") if len(word) > 4 else word


def _numbers(one: _Words, other: _Words) -> bool:
    return _lacks_number(one, other) or _lacks_number(other, one)


def _lacks_number(one: _Words, other: _Words) -> bool:
    return not other.numbers - one.numbers <= Counter({"1": one.ones})


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
    return frozenset(_stem(token.removesuffix("'s").rstrip(".+#")) for token in words.tokens)


def _code(one: _Words, other: _Words) -> bool:
    return one.code != other.code


def _order(one: _Words, other: _Words) -> bool:
    """Whether the same words stand in another order. Order tells who acts on whom, except in comparisons."""
    if one.bare & other.bare & _COMPARISON:
        return False
    if one.content == other.content:  # a Counter keeps the order of its keys: "3 times in 5 minutes"
        return one.numbers == other.numbers and list(one.numbers) != list(other.numbers)
    if Counter(one.content) != Counter(other.content):
        return False
    return bool((one.bare | other.bare) & _DIRECTED) or len(one.content) > 1


def _addition(one: _Words, other: _Words) -> bool:
    """Whether one question is the other with more words before or after it, such as "(wrong answers only)"."""
    short, long = sorted((one.tokens, other.tokens), key=len)
    if len(short) < _MIN_WORDS or len(short) == len(long):
        return False
    is_behind, is_before = long[: len(short)] == short, long[-len(short) :] == short
    more = long[len(short) :] if is_behind else long[: -len(short)] if is_before else ()
    return bool(set(more) - _PLAIN - _POLITE)


def _content(one: _Words, other: _Words) -> bool:
    """Whether one question names something that the other does not. In a question of only plain words, every word counts."""
    if not one.content or not other.content:
        return one.tokens != other.tokens or one.marks != other.marks
    return set(one.content) != set(other.content) or one.marks != other.marks


def _unasked(asked: _Words, stored: _Words) -> bool:
    """Whether the stored question names something that the asked one does not. Its author may have steered the answer.

    Of the `_PLAIN` words only "mean" can steer an answer ("be mean"). More words in the asked question are harmless here.
    """
    if not asked.content or not stored.content:
        return asked.tokens != stored.tokens or asked.marks != stored.marks
    is_mean = "mean" in stored.bare - asked.bare
    return is_mean or not set(stored.content) <= set(asked.content) or bool(Counter(stored.marks) - Counter(asked.marks))


def _kind(one: _Words, other: _Words) -> bool:
    """Whether the questions ask for different things, such as why and how, or who acts and who is acted on."""
    differing = one.kind ^ other.kind
    if differing != {"how"}:
        return bool(differing)
    # "how to sort a list" and "sort a list" ask the same, "how do lions eat" and "what do lions eat" do not.
    return "what" in (other if "how" in one.kind else one).tokens


CHECKS: Mapping[Check, Callable[[_Words, _Words], bool]] = {
    "numbers": _numbers,
    "negation": _negation,
    "opposites": _opposites,
    "names": _names,
    "code": _code,
    "order": _order,
    "addition": _addition,
    "kind": _kind,
    "content": _content,
    "unasked": _unasked,
}
"""The checks by the names that operators use. A check is true when the answer to the second question must not be served for the
first."""
_BY_NAME: Mapping[str, Check] = {check: check for check in CHECKS}
CHECKS_ALONE = tuple(name for name in CHECKS if name != "unasked")
"""The default without a verifier. `unasked` is left out, because questions that pass `content` name the same things."""
CHECKS_WITH_VERIFIER = ("numbers", "negation", "opposites", "names", "code", "order", "addition")
"""The default with a verifier: the differences that it misses at times. The other checks would cost more right hits than they
prevent wrong ones."""
CHECKS_AMONG_STRANGERS = ("unasked",)
"""Added when all clients share answers. A client can search for words that the verifier overlooks: 57% of 2,280 paraphrases with
an order such as "(joke)" were served to clients who asked without the order. With this check none was. The check costs right
hits: 11% instead of 20% of question pairs are served, and 22% instead of 68% of prompts that a model wrote.
"""


AGREEMENT = 4.5
"""The verifier's odds are multiplied by this factor when no check objects; checks that are switched off are asked, too.

Chosen on held-back pairs, for each factor at the threshold that keeps wrong hits at 1% or less. Compared with 1, a factor of 4.5
serves as many natural pairs, 98% instead of 95% of the harmless edits, and fewer of CheckList's wrong pairs. A larger factor
serves fewer natural pairs.
"""


def with_agreement(probability: float, asked: str, stored: str) -> float:
    """A verifier's probability, 0 to 1, raised when no check objects."""
    if conflict(asked, stored, CHECKS_ALONE):
        return probability
    return AGREEMENT * probability / (AGREEMENT * probability + 1 - probability)


def conflict(asked: str, stored: str, checks: Iterable[str]) -> Check | Literal[""]:
    """The first of these checks that objects to serving the answer of `stored` for `asked`; empty when none does."""
    one, other = _taken_apart(asked), _taken_apart(stored)
    return next(_firing(one, other, checks), "")


def conflicts(asked: str, stored: str, checks: Iterable[str]) -> list[Check]:
    """All of these checks that object."""
    return list(_firing(_taken_apart(asked), _taken_apart(stored), checks))


@lru_cache(maxsize=1024)
def _taken_apart(text: str) -> _Words:
    """Cached, because one question is compared with several candidates, and the same candidates recur."""
    return _Words(without_dots(levelled(text)))


def _firing(one: _Words, other: _Words, checks: Iterable[str]) -> Iterator[Check]:
    return (check for check in map(_BY_NAME.__getitem__, checks) if CHECKS[check](one, other))
