"""How the unconstrained values of a target's sites lie in one flat vector."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Layout(NamedTuple):
    """Names and unconstrained shapes of the sites, in the order of the flat vector."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of unconstrained coordinates of each site."""
        return tuple(math.prod(s) for s in self.shapes)

    @property
    def dim(self) -> int:
        """Length D of the flat vector."""
        return sum(self.sizes)

    @property
    def slices(self) -> dict[str, slice]:
        """Where each site lies in the flat vector."""
        out, start = {}, 0
        for name, size in zip(self.names, self.sizes, strict=True):
            out[name] = slice(start, start + size)
            start += size
        return out

    def unravel(self, z: jax.Array) -> dict[str, jax.Array]:
        """Split vectors of shape ``(..., D)`` into ``{site: (..., *shape)}``."""
        return {
            name: z[..., where].reshape(z.shape[:-1] + shape)
            for (name, where), shape in zip(self.slices.items(), self.shapes, strict=True)
        }

    def ravel(self, sites: dict[str, jax.Array]) -> jax.Array:
        """Join ``{site: (*shape)}`` into one vector of shape ``(D,)``: the inverse of `unravel`."""
        return jnp.concatenate(
            [jnp.asarray(sites[name], self.dtype).reshape(-1) for name in self.names]
        )

    def coordinate(self, index: int) -> str:
        """A readable name of one coordinate, as in ``theta[3]``."""
        for (name, where), shape in zip(self.slices.items(), self.shapes, strict=True):
            if where.start <= index < where.stop:
                if not shape:
                    return name
                offset, index_in_site = index - where.start, []
                for size in reversed(shape):
                    offset, i = divmod(offset, size)
                    index_in_site.append(i)
                return f"{name}[{','.join(map(str, reversed(index_in_site)))}]"
        raise IndexError(index)
