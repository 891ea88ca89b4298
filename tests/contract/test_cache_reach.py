"""`semantic-router check` connects to the Milvus server that a configuration names."""

from __future__ import annotations

import socket
from dataclasses import replace

from router.cache.settings import MilvusSettings
from tests.unit.test_cachecheck import ON, told


def test_a_server_that_listens_is_no_problem() -> None:
    """`check` only connects, and asks nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert told(replace(ON, milvus=MilvusSettings(host="127.0.0.1", port=port))) == []


def test_a_server_that_does_not_answer_is_named_with_the_cause() -> None:
    """The message also says what the router does without it."""
    (message,) = told(replace(ON, milvus=MilvusSettings(host="127.0.0.1", port=1)))
    assert message.startswith("Milvus at 127.0.0.1:1 does not answer from here: Connection refused; without it the router caches")
