"""Lexical checks: differences between two questions, such as other numbers or names, that forbid them to share an answer.

A check only ever refuses, whatever the similarity. It sees words, not meaning: that two questions pass it proves nothing; that
they fail it means that one answer may not fit both. `semantic-router eval cache` measures how many right answers that costs.
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
"""Words in which two ways of asking the same thing differ. What is left of a question is its topic. No verb is among them:
to make, to get and to use are three questions."""
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
"""First words of questions that ask for yes or no, each with what it asks for."""
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
"""Words that may stand before or behind a question and add nothing to it, beside plain words."""
_MIN_WORDS = 3  # of the shorter question: below that the other checks see every word
_SUFFIXES = ("ies", "ing", "ed", "es", "s", "ly")


@dataclass(frozen=True)
class _Words:
    """A question taken apart."""

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
        """How often the word "one" occurs. It is a number in "one day" and none in "which one can one buy"."""
        return self.tokens.count("one")

    @cached_property
    def numbers(self) -> Counter[str]:
        """Every number but the word "one", as digits, thousands separators dropped."""
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
        """What the question asks for: question words, whose things, who acts."""
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
        """Words written with a capital inside a sentence that is not all capitals, or in capitals altogether."""
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
    """A word without the endings of number and tense; crude, but alike for both questions."""
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
    """Whether the same words stand in another order, where order tells who does what to whom; in a comparison it does not."""
    if one.bare & other.bare & _COMPARISON:
        return False
    if one.content == other.content:  # a Counter keeps the order in which its keys came: "3 times in 5 minutes"
        return one.numbers == other.numbers and list(one.numbers) != list(other.numbers)
    if Counter(one.content) != Counter(other.content):
        return False
    return bool((one.bare | other.bare) & _DIRECTED) or len(one.content) > 1


def _addition(one: _Words, other: _Words) -> bool:
    """Whether one question is the other with words before or behind it: "(wrong answers only)" is an order to the model."""
    short, long = sorted((one.tokens, other.tokens), key=len)
    if len(short) < _MIN_WORDS or len(short) == len(long):
        return False
    is_behind, is_before = long[: len(short)] == short, long[-len(short) :] == short
    more = long[len(short) :] if is_behind else long[: -len(short)] if is_before else ()
    return bool(set(more) - _PLAIN - _POLITE)


def _content(one: _Words, other: _Words) -> bool:
    """Whether one question names something that the other does not. In a question of plain words alone, every word counts."""
    if not one.content or not other.content:
        return one.tokens != other.tokens or one.marks != other.marks
    return set(one.content) != set(other.content) or one.marks != other.marks


def _unasked(asked: _Words, stored: _Words) -> bool:
    """The stored question names what the one asked does not: somebody may have had another answer made for it.

    Beside `_PLAIN` words only "mean" gives an order ("be mean"); what is asked and not in the stored question does no harm here.
    """
    if not asked.content or not stored.content:
        return asked.tokens != stored.tokens or asked.marks != stored.marks
    is_mean = "mean" in stored.bare - asked.bare
    return is_mean or not set(stored.content) <= set(asked.content) or bool(Counter(stored.marks) - Counter(asked.marks))


def _kind(one: _Words, other: _Words) -> bool:
    """Whether one asks why and the other how, or one tells who acts and the other who is acted on."""
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
"""By the name that operators use; each is true when the answer to the second question must not be given to the first."""
_BY_NAME: Mapping[str, Check] = {check: check for check in CHECKS}
CHECKS_ALONE = tuple(name for name in CHECKS if name != "unasked")
"""The default without a verifier. Of two questions that pass `content`, each names what the other names."""
CHECKS_WITH_VERIFIER = ("numbers", "negation", "opposites", "names", "code", "order", "addition")
"""The default with a verifier: what it does not see every time. The other checks cost more right answers than they save."""
CHECKS_AMONG_STRANGERS = ("unasked",)
"""Added where all clients share answers. A verifier does not stop a client that looks for words it overlooks: of 2,280
paraphrases with an order such as "(joke)" in them, 57% were served to whoever asked without it; with this check none was.
It costs right answers: of question pairs 11% are served in place of 20%, of prompts that a model wrote 22% in place of 68%.
"""


AGREEMENT = 4.5
"""The verifier's odds are multiplied by this where no check objects, including those that are switched off.

Chosen on held-back pairs, each time at the threshold that keeps wrong hits at 1% or less. With 4.5 as many natural pairs are
served as with 1, 98% of the harmless edits in place of 95%, and fewer of CheckList's wrong pairs. A larger factor serves fewer
natural pairs.
"""


def with_agreement(probability: float, asked: str, stored: str) -> float:
    """A verifier's probability, 0 to 1, raised where no check objects."""
    if conflict(asked, stored, CHECKS_ALONE):
        return probability
    return AGREEMENT * probability / (AGREEMENT * probability + 1 - probability)


def conflict(asked: str, stored: str, checks: Iterable[str]) -> Check | Literal[""]:
    """The first of the named checks that objects to giving the answer to `stored` to `asked`; empty when none does."""
    one, other = _taken_apart(asked), _taken_apart(stored)
    return next(_firing(one, other, checks), "")


def conflicts(asked: str, stored: str, checks: Iterable[str]) -> list[Check]:
    """All of the named checks that object."""
    return list(_firing(_taken_apart(asked), _taken_apart(stored), checks))


@lru_cache(maxsize=1024)
def _taken_apart(text: str) -> _Words:
    """Cached: a question is compared with several candidates, and the same candidates come up again and again."""
    return _Words(without_dots(levelled(text)))


def _firing(one: _Words, other: _Words, checks: Iterable[str]) -> Iterator[Check]:
    return (check for check in map(_BY_NAME.__getitem__, checks) if CHECKS[check](one, other))
