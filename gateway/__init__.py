"""Penstock: an LLM gateway built for streams."""

__version__ = "0.1.0"
