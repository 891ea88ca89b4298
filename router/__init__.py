"""A semantic router for LLM traffic: an Envoy external processor that sends each question to the model that fits it."""

__version__ = "0.1.0"
