"""Uploaded versions of models and what runs of them."""


__all__ = []
