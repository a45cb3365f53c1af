"""Targets: what is to be approximated."""

from vi.targets.layout import Layout
from vi.targets.rows import Rows
from vi.targets.streamed import StreamedTarget
from vi.targets.target import Target, target

__all__ = ["Layout", "Rows", "StreamedTarget", "Target", "target"]
