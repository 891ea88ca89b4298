"""A semantic router for LLM traffic: an Envoy external processor that sends each prompt to a suitable model."""

__version__ = "0.1.0"
