"""Mock vLLM backends: OpenAI's endpoints with real pacing and real text, but no model behind them.

For trying the router on a laptop and for tests. The answer is composed, not inferred: it depends on the question, names
the model and says which system prompt and reasoning switches arrived. The same request always gets the same text.

Start here: `Backend` describes one, `serve` runs several on the caller's event loop, `run` until Ctrl-C.
What a request header can provoke is listed in `faults`; what tests can look up afterwards, in `ledger`.
"""

from router.devstack.vllm.server import Backend, Running, run, serve

__all__ = ["Backend", "Running", "run", "serve"]
