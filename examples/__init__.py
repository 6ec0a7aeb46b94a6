"""Runnable examples of aresilience."""
