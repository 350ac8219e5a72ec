"""The OpenAI-compatible gateway: tenants, text, batching, engines."""

__version__ = "0.1.0"
