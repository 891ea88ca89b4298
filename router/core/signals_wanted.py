"""What the shell must read for rules that are still undecided: signals, and the prompt for rules that block."""

from __future__ import annotations

from router.core.events import ReadSignals
from router.core.openai.request import Body
from router.core.policy import NeedsSignals
from router.core.prompt import is_guard, prompt_of
from router.core.snapshot import Snapshot
from router.core.types import ChatRequest, Missing, Readings


def signals_wanted(needs: NeedsSignals, request: ChatRequest, body: Body, snapshot: Snapshot) -> ReadSignals | Readings:
    """The signals to read; or the missing readings, when blocking rules fail closed on a prompt that cannot be read whole."""
    guards = [name for name in needs.signals if is_guard(name)]
    if not guards:
        return ReadSignals(request, needs.signals)
    prompt = prompt_of(request.endpoint, body.members, snapshot.max_guard_chars)
    hopeless = [name for name in guards if prompt.unread and snapshot.policy.fails_closed(name)]
    if hopeless:
        return dict.fromkeys(hopeless, Missing(prompt.unread))
    return ReadSignals(request, needs.signals, prompt)
