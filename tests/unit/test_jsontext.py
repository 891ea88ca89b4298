"""JSON is read with places and edited by splices: what does not change stays byte for byte."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.openai.jsontext import Splice, apply, read_array, read_document, read_object
from router.errors import RequestError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
LAYOUTS = st.sampled_from([{}, {"indent": 2}, {"indent": "\t", "separators": (" ,", " : ")}, {"separators": (",", ":")}])


@given(st.dictionaries(st.text(), JSON, max_size=5), LAYOUTS, st.booleans())
def test_any_document_is_read_as_json_loads_reads_it(document: dict[str, object], layout: dict, ascii_only: bool) -> None:
    """Values and places agree with `json.loads` for every layout of a document."""
    text = json.dumps(document, ensure_ascii=ascii_only, **layout)
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        return
    read_text, members = read_document(raw)
    assert {key: placed.value for key, placed in members.items()} == document
    assert all(json.loads(read_text[placed.start : placed.end]) == placed.value for placed in members.values())


@given(st.dictionaries(st.text(min_size=1), JSON, min_size=1, max_size=5), LAYOUTS, JSON, st.data())
def test_replacing_one_value_leaves_the_others(document: dict, layout: dict, new: object, data: st.DataObject) -> None:
    """A splice changes exactly the value it names."""
    key = data.draw(st.sampled_from(sorted(document)))
    text, members = read_document(json.dumps(document, **layout).encode())
    placed = members[key]
    changed = apply(text, [Splice(placed.start, placed.end, json.dumps(new))])
    assert json.loads(changed) == {**document, key: new}
    assert changed[: placed.start] == text[: placed.start]
    assert changed.endswith(text[placed.end :])


@given(st.lists(JSON, max_size=6), LAYOUTS)
def test_arrays_give_each_element_its_place(elements: list, layout: dict) -> None:
    """Elements and places agree with the array as a whole."""
    text, members = read_document(json.dumps({"list": elements}, **layout).encode())
    placed = list(read_array(text, members["list"]))
    assert [element.value for element in placed] == elements
    assert [json.loads(text[element.start : element.end]) for element in placed] == elements


def test_an_inner_object_is_read_with_its_places() -> None:
    """Places of inner members count from the start of the document."""
    text, members = read_document(b'{"a": {"b" :\n 1.0e2}}')
    inner = read_object(text, members["a"])["b"]
    assert text[inner.start : inner.end] == "1.0e2"


def test_several_insertions_at_one_place_keep_their_order() -> None:
    """The edits appear in the order in which they were made."""
    assert apply("ad", [Splice(1, 1, "b"), Splice(1, 1, "c")]) == "abcd"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "a JSON object was expected at line 1 column 1"),
        (b"[1]", "a JSON object was expected"),
        (b'{"a": 1', "',' was expected at line 1 column 8"),
        (b'{"a": 1,}', "a key in double quotes was expected"),
        (b'{"a" 1}', "':' was expected"),
        (b'{"a": 1 "b": 2}', "',' was expected"),
        (b"{'a': 1}", "a key in double quotes was expected"),
        (b'{"a":\n  tru}', "at line 2 column 3"),
        (b'{"a": NaN}', "a JSON value was expected"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a JSON value was expected"),
        (b'{"a": "\n"}', "Invalid control character"),
        (b'{"a": 1} {"b": 2}', "nothing was expected after the object"),
        (b'{"a": "\xff"}', "not UTF-8: byte 7"),
        (b'{"a": ' + b"[" * 200_000, "nested too deeply"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' occurs twice"),
    ],
)
def test_broken_bodies_are_refused_with_the_place(body: bytes, message: str) -> None:
    """Each is a 400 that says what was expected and where. It shows nothing of the text."""
    with pytest.raises(RequestError) as caught:
        read_document(body)
    assert caught.value.http_status == 400
    assert message in caught.value.message
