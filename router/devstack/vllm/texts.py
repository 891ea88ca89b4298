"""The sentences and programs of mock answers. Data only; `answers` puts them together."""

from __future__ import annotations

from dataclasses import dataclass

OPENINGS = (
    "The short answer on {topic} is that it depends on two things: what you want, and what you can give up for it.",
    "It helps to look at {topic} from the outside first, and only then at the parts.",
    "There is a textbook view of {topic} and a working view, and the second one is usually the more useful.",
    "Let us take {topic} step by step, from what is certain to what is merely likely.",
)
"""First sentence of a paragraph; `{topic}` is a run of words from the question."""

REMARKS = (
    "What most introductions leave out is the scale: an effect that rules in the small can vanish in the large.",
    "Numbers matter here, so it is worth writing down the units before comparing anything.",
    "Two sources that disagree often measure different things under the same name.",
    "A good test is to ask what would have to be true for the opposite to hold.",
    "History shows that the obvious approach was tried first, and also why it was given up.",
    "Where the evidence is thin, an honest range is better than a single precise figure.",
    "The trade-off is rarely between good and bad; it is between now and later.",
    "Small differences at the start are what makes the outcomes so far apart in the end.",
)
"""Sentences that follow an opening."""

POINTS = (
    "start from a concrete case and keep it in view",
    "name the assumptions before using them",
    "check the result against a rough estimate",
    "look for the step that costs the most",
    "ask who would notice if it were wrong",
    "leave a note for the next reader",
)
"""Items of the list in the middle of an answer."""

CLOSINGS = (
    "If you tell me more about {topic}, the answer can be made sharper.",
    "That is the core of it; the rest of {topic} is detail that can be looked up when it is needed.",
    "With that in hand, {topic} should be a good deal less mysterious than before.",
)
"""Last sentence of an answer."""

SMALL_TALK = (
    "Hello! Good to hear from you. What would you like to talk about?",
    "You are welcome! If something else comes up, just ask.",
    "Nice of you to drop by. It is a quiet day here among the tensors, so take your time.",
)
"""Whole answers to small talk."""

THOUGHTS = (
    "The question is about {topic}, so first I have to see what is asked for: a fact, a reason or a method.",
    "A method would be too much, a bare fact too little; a reasoned overview fits.",
    "Is there a trap in the wording? It does not look like it, though the scope is open.",
    "Better to give the general shape first, then a list that can be acted on.",
    "The answer should stay short enough to be read in one go.",
)
"""The model's thoughts before an answer. A higher effort uses more of them."""


@dataclass(frozen=True, slots=True)
class Snippet:
    """A small program that answers a question about code."""

    words: frozenset[str]
    """Words of a question that this program fits, lower case."""
    language: str
    """Language mark of the markdown fence."""
    remark: str
    """One sentence to go with it."""
    code: str
    """The program: indented, with blank lines, without a newline at its end."""


SNIPPETS = (
    Snippet(
        frozenset({"search", "binary", "sorted", "find", "python"}),
        "python",
        "It halves the range in each step, so a million items take about twenty comparisons.",
        '''def binary_search(items: list[int], wanted: int) -> int | None:
    """Position of `wanted` in the sorted `items`; None if it is not there."""
    low, high = 0, len(items) - 1

    while low <= high:
        middle = (low + high) // 2
        if items[middle] == wanted:
            return middle
        if items[middle] < wanted:
            low = middle + 1
        else:
            high = middle - 1

    return None''',
    ),
    Snippet(
        frozenset({"cache", "lru", "class", "memory", "python"}),
        "python",
        "The dict keeps its insertion order, so the oldest entry is always the first one.",
        '''class LruCache:
    """Keeps the most recently used entries, at most `capacity` of them."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: dict[str, object] = {}

    def get(self, key: str) -> object | None:
        if key not in self._entries:
            return None
        self._entries[key] = value = self._entries.pop(key)
        return value

    def put(self, key: str, value: object) -> None:
        self._entries.pop(key, None)
        self._entries[key] = value

        if len(self._entries) > self._capacity:
            del self._entries[next(iter(self._entries))]''',
    ),
    Snippet(
        frozenset({"list", "linked", "reverse", "string", "array", "loop", "python"}),
        "python",
        "Each link is turned round once, so it takes linear time and no extra memory.",
        '''from dataclasses import dataclass


@dataclass
class Node:
    value: int
    next: "Node | None" = None


def reverse(head: Node | None) -> Node | None:
    """Turn the links of a list round; returns the new head."""
    previous = None

    while head is not None:
        head.next, previous, head = previous, head, head.next

    return previous''',
    ),
    Snippet(
        frozenset({"javascript", "typescript", "debounce", "browser", "react", "node", "async"}),
        "javascript",
        "Every call restarts the timer, so only the last one of a burst gets through.",
        """export function debounce(action, waitMs) {
  let timer = null;

  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      timer = null;
      action(...args);
    }, waitMs);
  };
}""",
    ),
    Snippet(
        frozenset({"sql", "query", "table", "database", "join", "select", "postgres"}),
        "sql",
        "An index on (customer_id, ordered_at) lets the database answer it without sorting.",
        """SELECT c.name,
       count(*)          AS order_count,
       max(o.ordered_at) AS last_order
FROM customers AS c
JOIN orders AS o ON o.customer_id = c.id

WHERE o.ordered_at >= now() - interval '90 days'
GROUP BY c.name
ORDER BY order_count DESC
LIMIT 10;""",
    ),
    Snippet(
        frozenset({"rust", "borrow", "ownership", "lifetime", "cargo", "trait"}),
        "rust",
        "The entry is looked up once, whether it is there or not.",
        """use std::collections::HashMap;

fn count_words(text: &str) -> HashMap<&str, usize> {
    let mut counts = HashMap::new();

    for word in text.split_whitespace() {
        *counts.entry(word).or_insert(0) += 1;
    }

    counts
}""",
    ),
    Snippet(
        frozenset({"go", "golang", "goroutine", "channel", "concurrent", "thread"}),
        "go",
        "Each worker ends when the channel of jobs is closed and empty.",
        """package main

import "sync"

func process(jobs <-chan int, workers int, work func(int)) {
\tvar group sync.WaitGroup

\tfor i := 0; i < workers; i++ {
\t\tgroup.Add(1)
\t\tgo func() {
\t\t\tdefer group.Done()
\t\t\tfor job := range jobs {
\t\t\t\twork(job)
\t\t\t}
\t\t}()
\t}

\tgroup.Wait()
}""",
    ),
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CODE_WORDS = _words(
    """algorithm api bash bug class code compile compiler debug def exception function golang html implement java
    javascript json kubernetes linux program programming python refactor regex rust script sql stacktrace syntax
    traceback typescript unittest yaml"""
)
"""A question with one of these words is answered with a program."""

GREETINGS = _words("hi hello hey yo morning evening night goodbye bye thanks thank cheers sorry bored joke")
"""A short message with one of these words is small talk."""

STOP_WORDS = _words(
    """a about all am an and any are as at be been but by can could did do does each explain few for from get give had
    has have help how i if in into is it its just list main make many me mean more most much my of off on or our out
    please several she he should show so some tell than that the their them then there these they this those to too up
    us very was we were what when where which who why will with would write you your"""
)
"""Words that cannot be part of a topic."""
