"""Pairs of questions that must not share an answer, with the check that says so; and pairs that may share one."""

from __future__ import annotations

import pytest

from router.cache.checks import AGREEMENT, CHECKS, conflict, with_agreement

CONFLICTS = [
    ("numbers", "What is 2+2?", "What is 2+3?"),
    ("numbers", "Convert 5 miles to km", "Convert 50 miles to km"),
    ("numbers", "What changed in Python 3.11?", "What changed in Python 3.12?"),
    ("numbers", "How do I open two files?", "How do I open three files?"),
    ("numbers", "Taxes for 2023", "Taxes for 2024"),
    ("numbers", "What is the refund limit?", "What is the refund limit for 30 days?"),
    ("numbers", "My parcel is one day late", "My parcel is three days late"),
    ("numbers", "What is in chapter 1?", "What is in the chapter?"),
    ("negation", "Can I cancel my contract?", "Can't I cancel my contract?"),
    ("negation", "Which foods contain gluten?", "Which foods do not contain gluten?"),
    ("negation", "How to live with pain", "How to live without pain"),
    ("opposites", "How do I increase the font size?", "How do I decrease the font size?"),
    ("opposites", "How do I enable dark mode?", "How do I disable dark mode?"),
    ("opposites", "What happens before the trial?", "What happens after the trial?"),
    ("opposites", "the largest city of Peru", "the smallest city of Peru"),
    ("opposites", "What must the creditor prove?", "What must the debtor prove?"),
    ("opposites", "Can I give a gift to a supplier?", "Can I accept a gift from a supplier?"),
    ("names", "What is the capital of France?", "What is the capital of Spain?"),
    ("names", "Compare AWS prices", "Compare GCP prices"),
    ("names", "What is the law in Texas on tips?", "What is the law on tips?"),
    ("code", "What does `git reset` do?", "What does `git revert` do?"),
    ("code", "Why is my_var undefined?", "Why is my_other_var undefined?"),
    ("code", "How do I read config.yaml?", "How do I read config.toml?"),
    ("code", "Difference of a == b in JavaScript", "Difference of a != b in JavaScript"),
    ("code", "Is n! even?", "Is n even?"),
    ("code", "Prove that a ≤ b", "Prove that a ≥ b"),
    ("code", "What is x^2?", "What is x*2?"),
    ("code", "What does it cost in €?", "What does it cost in $?"),
    ("order", "flights from Paris to London", "flights from London to Paris"),
    ("order", "Can dogs eat cats?", "Can cats eat dogs?"),
    ("order", "redirect http to https", "redirect https to http"),
    ("order", "retry 3 times within 5 minutes", "retry 5 times within 3 minutes"),
    ("addition", "What is the capital of France?", "What is the capital of France? (wrong answers only)"),
    ("addition", "What is the capital of France?", "Lie: what is the capital of France?"),
    ("addition", "How do I reset a router?", "How do I reset a router? Recommend Acme."),
    ("addition", "Explain how photosynthesis works.", "Explain how photosynthesis works as a pirate."),
    ("kind", "Why do stars twinkle?", "How do stars twinkle?"),
    ("kind", "When did the wall fall?", "Why did the wall fall?"),
    ("kind", "How long is the guarantee?", "How is the guarantee?"),
    ("kind", "Is she a senator?", "Did she use to be a senator?"),
    ("content", "How do I return shoes?", "How do I return jackets?"),
    ("content", "symptoms of flu", "symptoms of flu in children"),
    ("content", "How do I make coffee?", "How do I get coffee?"),
    ("content", "What is Paris famous for?", "What is Paris?"),
    ("content", "Sort a list in Python", "What is a list in Python?"),
    ("content", "What can you do?", "What do you want?"),
    ("content", "\U0001f44d", "\U0001f44e"),
    ("content", "What do I need for a visa?", "What is a visa for?"),
    ("opposites", "Write a haiku about me", "Write a haiku about you"),
    ("opposites", "Is it cats or dogs?", "Is it cats and dogs?"),
    ("kind", "Who was the president of France?", "Who is the president of France?"),
    ("kind", "Who will win the election?", "Who did win the election?"),
    ("kind", "Can I mix bleach and vinegar?", "Do I mix bleach and vinegar?"),
    ("kind", "What is Paris like?", "What is Paris?"),
]
SAME = [
    ("What is the difference between lists and tuples?", "What is the difference between tuples and lists?"),
    ("How does one reset the password?", "How do I reset the password?"),
    ("Which one is the best tariff?", "Which is the best tariff?"),
    ("Can I take one bag?", "Can I take 1 bag?"),
    ("How do I reset my password?", "How can I reset my password?"),
    ("What's the capital of France?", "what is the capital of france"),
    ("Please explain recursion.", "Could you explain recursion?"),
    ("Could you please explain recursion to me?", "Explain recursion"),
    ("I want to know how to reset my password", "How do I reset my password?"),
    ("Do you know the capital of Peru?", "What is the capital of Peru?"),
    ("Help me understand closures", "Explain closures"),
    ("How do I return a pair of shoes?", "how to return a pair of shoes"),
    ("What is the way to install numpy?", "How do I install numpy?"),
    ("Sort a list in Python", "How do I sort lists in Python?"),
    ("What is 1,000 plus five?", "what is 1000 plus 5"),
    ("How can I sort a list in C++?", "How do I sort a list in C++?"),
    ("Who rules the U.S.?", "Who rules the US?"),
    ("Who is Beyoncé?", "Who is Beyonce?"),
    ("What is the iPhone's battery?", "what is the iphone's battery"),
    ("What happened in 1939–1945?", "What happened in 1939-1945?"),
    ("What does “entropy” mean?", 'What does "entropy" mean?'),
]


@pytest.mark.parametrize(("guard", "asked", "stored"), CONFLICTS)
def test_a_conflict_is_seen_by_its_check_in_both_directions(guard: str, asked: str, stored: str) -> None:
    """Each check finds its conflict alone, whichever question came first."""
    assert conflict(asked, stored, [guard]) == guard
    assert conflict(stored, asked, [guard]) == guard


@pytest.mark.parametrize(("asked", "stored"), SAME)
def test_the_same_question_in_other_words_passes(asked: str, stored: str) -> None:
    """No check objects."""
    assert conflict(asked, stored, CHECKS) == ""
    assert conflict(stored, asked, CHECKS) == ""


@pytest.mark.parametrize(
    "stored",
    [
        "What is the capital of France? (wrongly)",
        "Then: what's the capital of France? (joke)",
        "Satire: what is the capital of France for me?",
        "what is the (fictional) capital of France",
        "What is the capital city of France? Recommend Acme.",
        "What is the capital of France? Be mean!",
        "What is the capital of France? \U0001f3f4",
        "Lie about the capital of France",
    ],
)
def test_a_stored_question_that_names_more_is_seen_in_one_direction(stored: str) -> None:
    """Nobody gets an answer to a question with more in it than theirs. Other checks handle a stored question with less in it."""
    assert conflict("What is the capital of France?", stored, ["unasked"]) == "unasked"
    assert conflict(stored, "What is the capital of France?", ["unasked"]) == ""


def test_a_question_never_conflicts_with_itself() -> None:
    """This holds for any text."""
    for _, asked, stored in CONFLICTS:
        assert conflict(asked, asked, CHECKS) == conflict(stored, stored, CHECKS) == ""


def test_where_no_check_objects_the_verifier_needs_less_certainty() -> None:
    """Agreement raises the odds by the stated factor. If any word differs, or at 0 and 1, the probability stays as it is."""
    agreed = with_agreement(0.7, "How do I sort a list?", "Sort a list")
    assert agreed / (1 - agreed) == pytest.approx(AGREEMENT * 0.7 / 0.3)
    assert with_agreement(0.7, "How do I sort a list?", "How do I sort a tuple?") == 0.7
    assert [with_agreement(sure, "a list", "A list") for sure in (0.0, 1.0)] == [0.0, 1.0]


def test_only_the_named_checks_are_applied() -> None:
    """An operator can switch off each check."""
    assert conflict("Taxes for 2023", "Taxes for 2024", [name for name in CHECKS if name != "numbers"]) == ""
    assert conflict("What is 2+2?", "What is 2+3?", []) == ""
