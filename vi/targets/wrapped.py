"""What targets made of another target have in common."""

from typing import Any

from vi.targets.layout import Layout
from vi.targets.target import Target


class Wrapped:
    """A target whose sites and data are those of its ``base``."""

    base: Target

    @property
    def layout(self) -> Layout:
        """The base target's."""
        return self.base.layout

    @property
    def dim(self) -> int:
        """The base target's."""
        return self.base.dim

    @property
    def data(self) -> list:
        """The base target's."""
        return self.base.data

    @property
    def structure(self) -> Any:
        """The base target's."""
        return self.base.structure

    @property
    def subsampled(self) -> bool:
        """The base target's."""
        return self.base.subsampled
