"""Nouns and arithmetic of trading research: no network, no SQL, no event loop."""

__version__ = "0.1.0"
