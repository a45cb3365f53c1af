"""Targets: what is to be approximated."""

from vi.target.layout import Layout
from vi.target.target import Target, target

__all__ = ["Layout", "Target", "target"]
