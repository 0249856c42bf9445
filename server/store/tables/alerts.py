"""Alerts with their life, subscribers, credits, rules and deliveries."""


__all__ = []
