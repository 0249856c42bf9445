"""Gekko instances, imports and exchange keys."""


__all__ = []
