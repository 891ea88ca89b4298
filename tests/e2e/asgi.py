"""A real ASGI server that serves vLLM's paths: uvicorn, with either of its two HTTP parsers. It remembers what reached it."""

from __future__ import annotations

import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import uvicorn

from tests.e2e.stack import free_port, wait_for

_NAMES = """
/v1/chat/completions /v1/chat/completions/batch /v1/chat/completions/render /v1/completions /v1/completions/render
/v1/responses /v1/messages /v1/messages/count_tokens /v1/embeddings /v1/decisions /v1/score /v1/rerank /v1/realtime
/v1/audio/transcriptions /v1/audio/translations /v1/audio/speech /v1/load_lora_adapter /v2/embed /v2/rerank /score /rerank
/pooling /classify /generate /inference/v1/generate /invocations /tokenize /detokenize /collective_rpc /sleep /wake_up
/reset_prefix_cache /update_weights /pause /abort_requests /server_info
"""
GENERATING = frozenset(_NAMES.split())
"""Paths where vLLM takes a prompt or a command, by its documents up to 0.28."""


@dataclass
class Seen:
    """One request as the application receives it."""

    method: str
    path: str
    """Decoded, as its routes are matched with it."""
    body: bytes


@dataclass
class AsgiServer:
    """Serves in a thread until `stop` is called."""

    parser: Literal["h11", "httptools"]
    port: int = field(default_factory=free_port)
    seen: list[Seen] = field(default_factory=list)

    def start(self) -> AsgiServer:
        """Return when it listens."""
        settings = uvicorn.Config(
            self._serve,
            "127.0.0.1",
            self.port,
            http=self.parser,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_level="critical",
        )
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_for(lambda: self._server.started, "uvicorn")
        return self

    def stop(self) -> None:
        """Return when it has ended."""
        self._server.should_exit = True
        self._thread.join(10)

    async def _serve(
        self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.seen.append(Seen(scope["method"], scope["path"], body))
        is_known = scope["path"] in GENERATING or scope["path"] in ("/health", "/version", "/v1/models")
        answer = {"path": scope["path"], "choices": [{"index": 0, "message": {"role": "assistant", "content": "served"}}]}
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200 if is_known else 404, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})
