"""Targets: what is to be approximated."""

from vi.targets.layout import Layout
from vi.targets.target import Target, target

__all__ = ["Layout", "Target", "target"]
