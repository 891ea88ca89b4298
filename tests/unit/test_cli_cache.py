"""`semantic-router cache ...`: what it asks of the router, what it prints, and with which status it ends."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from router.cli import cache as cachecli
from router.errors import ConfigError

SECRET = "Bearer sk-secret"


class Router:
    """Answers as the admin port does, and records what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, operation: str, document: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append((operation, dict(document)))
        answer = self.answers[operation]
        return dict(answer.pop(0) if isinstance(answer, list) else answer)


def run(router: Router, *arguments: str) -> int:
    """Run one command."""
    parser = argparse.ArgumentParser()
    cachecli.add_commands(parser)
    options = parser.parse_args(arguments)
    status: int = options.operate(options, router)
    return status


class TestInvalidate:
    @pytest.mark.parametrize("end", ["", "\n", "\r\n"])
    def test_a_customer_is_named_by_a_file_that_holds_the_headers_value(self, tmp_path: Path, end: str) -> None:
        """Every user of the machine could read an argument."""
        file = tmp_path / "value"
        file.write_bytes(f"{SECRET}{end}".encode())
        router = Router(invalidate={"count": 3, "store": "written"})
        assert run(router, "invalidate", "--scope-value-file", str(file)) == 0
        assert router.asked == [("invalidate", {"scope_value": SECRET, "all": False, "dry_run": False})]

    def test_a_customer_may_be_named_on_standard_input(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Bytes that are not UTF-8 reach the router unchanged."""
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"M\xfcller\n")))
        router = Router(invalidate={"count": 1})
        run(router, "invalidate", "--scope-value-file", "-")
        assert router.asked[0][1]["scope_value"].encode("utf-8", "surrogateescape") == b"M\xfcller"

    @pytest.mark.parametrize(("text", "said"), [("", "is empty"), ("\n", "is empty"), ("a\nb\n", "holds more than one line")])
    def test_what_is_no_value_is_refused(self, tmp_path: Path, text: str, said: str) -> None:
        """The message says what was expected."""
        (tmp_path / "value").write_text(text)
        with pytest.raises(ConfigError, match=said):
            run(Router(), "invalidate", "--scope-value-file", str(tmp_path / "value"))
        with pytest.raises(ConfigError, match="cannot be read: No such file"):
            run(Router(), "invalidate", "--scope-value-file", str(tmp_path / "missing"))

    def test_an_empty_selection_is_reported_with_a_status_of_its_own(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A purge that removed nothing is not a success."""
        assert run(Router(invalidate={"count": 0, "store": "none"}), "invalidate", "--decision", "faq") == 1
        assert capsys.readouterr() == ("0 entries deleted\n", "no entry of this router matches\n")

    def test_a_store_that_does_not_know_of_it_is_reported(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Other replicas still serve what was purged here, and the command says so."""
        assert run(Router(invalidate={"count": 2, "store": "waiting"}), "invalidate", "--all") == 1
        assert "the store is unavailable and has not taken the change" in capsys.readouterr().err

    def test_without_a_selection_it_lists_its_options(self) -> None:
        """It asks nothing of the router."""
        router = Router()
        with pytest.raises(ConfigError, match=r"say which entries, with --id, .*--scope-value-file.* or --all"):
            run(router, "invalidate")
        assert router.asked == []


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ({"count": 1, "reference": "ref", "store": "written"}, 0, "deleted; the two questions never match again\n"),
        ({"count": 1, "reference": "other", "store": "none"}, 0, "its own question never matches another again\n"),
        ({"count": 0, "reference": "", "store": "none"}, 1, "there is no such entry; give the value of x-vsr-cache-entry"),
        ({"count": 1, "reference": "ref", "store": "waiting"}, 1, "the store is unavailable and has not taken the change"),
    ],
)
def test_a_rejection_says_what_will_not_be_paired(
    answer: dict[str, Any], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It also says whether every replica knows."""
    assert run(Router(reject=answer), "reject", "ref") == status
    assert said in "".join(capsys.readouterr())


class TestFiles:
    TEXTS = ("half \ud800 a pair", "line\u2028separator", "next\x85line", "form\x0cfeed", "\U0001f600", 'quote" \\')

    def test_whatever_a_question_holds_it_survives_export_and_import(self, tmp_path: Path) -> None:
        """Examples are half a surrogate pair, and characters that some programs take for a line end."""
        entries = [{"id": str(number), "text": text} for number, text in enumerate(self.TEXTS)]
        file = tmp_path / "entries.jsonl"
        run(Router(export={"versions": "v1", "entries": entries, "next": None}), "export", str(file))
        router = Router(**{"import": {"count": 6, "expired": 0, "known": 0, "refused": []}})
        assert run(router, "import", str(file)) == 0
        assert router.asked == [("import", {"versions": "v1", "entries": entries})]

    def test_a_shown_entry_may_hold_half_a_surrogate_pair(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Half a surrogate pair has no UTF-8, which terminals need."""
        run(Router(get={"entries": [{"text": self.TEXTS[0]}]}), "get", "x")
        assert json.loads(capsys.readouterr().out)["text"] == self.TEXTS[0]

    def test_wrong_entries_are_named_by_line_and_field_and_the_others_are_taken(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The status says that some entries were not imported."""
        file = tmp_path / "entries.jsonl"
        file.write_text("\n\n".join(json.dumps({"versions": "v1", "id": number}) for number in range(150)))
        first = {"count": 98, "expired": 0, "known": 1, "refused": [{"index": 7, "field": "created_ms", "must": "of its time"}]}
        second = {"count": 48, "expired": 1, "known": 0, "refused": [{"index": 0, "field": "", "must": "an object"}]}
        assert run(Router(**{"import": [first, second]}), "import", str(file)) == 1
        out, err = capsys.readouterr()
        assert out == "146 entries imported\n"
        assert err.splitlines() == [
            f"{file}:15: created_ms: must be of its time",
            f"{file}:201: must be an object",
            "1 left out: they have expired",
            "1 left out: they are answered here already",
            "2 left out: they have errors",
        ]

    @pytest.mark.parametrize("line", ["{", "5", "[" * 100_000])
    def test_a_line_that_is_no_object_is_named(self, tmp_path: Path, line: str) -> None:
        """The user gets a message, not a traceback."""
        (tmp_path / "f").write_text(f"\n{line}\n")
        with pytest.raises(ConfigError, match=r"f:2: a JSON object was expected"):
            run(Router(), "import", str(tmp_path / "f"))


class TestWarm:
    @pytest.fixture
    def questions(self, tmp_path: Path) -> Path:
        """Four questions."""
        file = tmp_path / "questions.jsonl"
        file.write_text("\n".join(json.dumps({"prompt": f"question {number}"}) for number in range(4)))
        return file

    @pytest.fixture(autouse=True)
    def sent(self, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
        """The headers of each question that was sent. The answers have `statuses` in turn."""
        sent: list[dict[str, str]] = []

        def asked(url: str, body: bytes, headers: Mapping[str, str]) -> str:
            sent.append(dict(headers))
            return self.statuses[len(sent) - 1]

        monkeypatch.setattr(cachecli, "_asked", asked)
        monkeypatch.setattr(cachecli, "_STORE_WAIT_S", 0.0)
        return sent

    statuses: tuple[str, ...] = ("miss:empty",) * 4

    @staticmethod
    def stats(stored: int, header: str = "authorization") -> dict[str, Any]:
        """Cache statistics as one worker gives them."""
        return {"scope_header": header, "stored": stored}

    def test_without_a_principal_nothing_is_asked(self, questions: Path, sent: list[dict[str, str]]) -> None:
        """Nothing would be stored, and the models would have worked in vain."""
        with pytest.raises(
            ConfigError, match=r"by the header authorization, and none without it; give its value with --authorization or --scope"
        ):
            run(Router(stats=self.stats(0)), "warm", str(questions))
        with pytest.raises(
            ConfigError, match=r"by the header x-tenant-id, and none without it; give its value with --scope-value-file"
        ):
            run(Router(stats=self.stats(0, "x-tenant-id")), "warm", str(questions), "--authorization", SECRET)
        assert sent == []

    def test_answers_are_stored_for_whoever_is_named(
        self, questions: Path, sent: list[dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Any header can name the principal, several workers count together, and the models' authorization is sent as well."""
        (tmp_path / "tenant").write_text("acme\n")
        stats = [self.stats(0, "x-tenant-id"), *[{"workers": [self.stats(5 + more), self.stats(7 + more)]} for more in (0, 2)]]
        arguments = ("--authorization", SECRET, "--scope-value-file", str(tmp_path / "tenant"))
        assert run(Router(stats=stats), "warm", str(questions), *arguments) == 0
        assert sent == [{"authorization": SECRET, "x-tenant-id": "acme"}] * 4
        assert capsys.readouterr().out.endswith("4 sent\n4 stored, 0 already stored\n")

    def test_a_cache_that_all_share_needs_no_principal(self, questions: Path, sent: list[dict[str, str]]) -> None:
        """This is `scope: global`."""
        assert run(Router(stats=[self.stats(0, ""), self.stats(0, ""), self.stats(4, "")]), "warm", str(questions)) == 0
        assert sent == [{}] * 4

    @pytest.mark.parametrize(
        ("statuses", "stored", "status", "said"),
        [
            (("hit:exact",) * 4, 0, 0, ["0 stored, 4 already stored"]),
            (
                ("miss:empty", "skipped:tools", "HTTP 503", "HTTP 503"),
                1,
                0,
                ["1 stored", "2 not stored: HTTP 503", "skipped:tools"],
            ),
            (("HTTP 401",) * 4, 0, 1, ["0 stored, 0 already stored", "4 not stored: HTTP 401"]),
            (("miss:empty",) * 4, 0, 1, ["0 stored", "4 answers were not stored; the field `stored`"]),
            (("miss:empty",) * 4, 3, 0, ["3 stored", "1 answers were not stored"]),
        ],
    )
    def test_what_was_not_stored_is_said_with_the_reason(
        self,
        questions: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        statuses: tuple[str, ...],
        stored: int,
        status: int,
        said: list[str],
    ) -> None:
        """If nothing was stored at all, the status says so too."""
        monkeypatch.setattr(TestWarm, "statuses", statuses)
        router = Router(stats=[self.stats(0), self.stats(0), *[self.stats(stored)] * 5])
        assert run(router, "warm", str(questions), "--authorization", "x") == status
        shown = "".join(capsys.readouterr())
        assert all(part in shown for part in said)
