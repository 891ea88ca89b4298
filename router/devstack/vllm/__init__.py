"""Mock vLLM backends: OpenAI's endpoints with real pacing and real text, but no model behind them.

They are for tests and for trying the router on a laptop. An answer depends on the question, names the model, and says which
system prompt and reasoning switches arrived. The same request always gets the same text.

Start here: `Backend` describes one, `serve` runs several on the caller's event loop, `run` runs them until Ctrl-C. `faults` lists
the faults that request headers provoke, and `ledger` what tests can look up afterwards.
"""

from router.devstack.vllm.server import Backend, Running, run, serve

__all__ = ["Backend", "Running", "run", "serve"]
