"""A program together with what it was handed: a pure function of numbers, to be replayed."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vi.errors import TargetError
from vi.program.axis import Axis
from vi.program.handed import FamilyView, ModelView
from vi.program.tape import (
    Call,
    DensityCall,
    DrawCall,
    Recording,
    Replaying,
)


class Penalised(NamedTuple):
    """What a program may return: a value, and a penalty on the draws of a whole batch.

    The value is taken datum by datum and summed; the penalty, such as a distance between the
    aggregated posterior and the prior, is one number for the batch. It is subtracted, multiplied
    by the number of data N, so that it is in nats for each datum.

    Attributes:
      value: what is averaged over draws, nats: a number, or one for each datum of the batch.
      penalty: of the draws of a batch, shape ``()``.
    """

    value: Array
    penalty: Array


class Numbers(NamedTuple):
    """The numbers behind a recorded run: what depends on the draws."""

    values: tuple[Any, ...]  # of each draw call
    log_weights: tuple[tuple[Array, ...], ...]  # of each draw call, by enumerated site
    terms: tuple[tuple[Array, ...], ...]  # of each density call, by site


def record(run: Callable, source: Any, default: Any) -> tuple[list[Call], Any]:
    """Run a program on real draws; the calls it made, and what it returned."""
    tape = Recording(source, default)
    result = run(ModelView(tape), FamilyView(tape))
    for part in result if isinstance(result, Penalised) else (result,):
        if not isinstance(part, (int, float, jax.Array, np.ndarray)) or jnp.shape(part) != ():
            got = f"shape {jnp.shape(part)}" if hasattr(part, "shape") else repr(part)
            raise TargetError(
                f"{source.name}: expected a program that returns a scalar; got {got}. Reduce over "
                "particles, for instance by jnp.mean."
            )
    return tape.calls, result


def numbers(calls: list[Call]) -> Numbers:
    """The numbers of recorded calls."""
    draws = [c.draws for c in calls if isinstance(c, DrawCall)]
    return Numbers(
        tuple(d.values for d in draws),
        tuple(tuple(t.value for t in d.log_weights) for d in draws),
        tuple(tuple(t.value for t in c.terms) for c in calls if isinstance(c, DensityCall)),
    )


@dataclasses.dataclass(frozen=True)
class Bound:
    """A recorded program as a function of `Numbers`."""

    run: Callable
    calls: list[Call]
    axis: Axis

    def hand(self, numbers: Numbers) -> list[Any]:
        """What the program is handed, call by call: log densities and weights ``(R, *B)``."""
        values, log_weights, terms = map(iter, numbers)
        handed: list[Any] = []
        for call in self.calls:
            if isinstance(call, DrawCall):
                weights = self.axis.weights(call.draws, next(log_weights))
                handed.append((next(values), weights))
            else:
                named = zip(call.terms, next(terms), strict=True)
                handed.append(self.axis.totals(tuple(t._replace(value=v) for t, v in named)))
        return handed

    def evaluate(self, handed: list[Any]) -> tuple[Array, Array]:
        """Value for each datum, of the axis's shape, and the penalty of the batch."""
        shape = self.axis.shape

        def one(along: list[Array], values: list[Any]) -> tuple[Array, Array]:
            along, values = list(along), list(values)
            parts = []
            for call in self.calls:
                number = along.pop(0)
                parts.append((values.pop(0), number) if isinstance(call, DrawCall) else number)
            tape = Replaying(parts)
            result = self.run(ModelView(tape), FamilyView(tape))
            if isinstance(result, Penalised):
                return result.value, result.penalty
            return result, jnp.zeros(())

        along = [h[1] if isinstance(h, tuple) else h for h in handed]
        values = [h[0] for h in handed if isinstance(h, tuple)]
        if not shape:
            return one(along, values)
        flat = [a.reshape(a.shape[0], -1) for a in along]
        each, penalty = jax.vmap(one, in_axes=(-1, None), out_axes=(0, 0))(flat, values)
        return each.reshape(shape), penalty[0]

    def each(self, handed: list[Any]) -> Array:
        """Value for each datum, scaled by N/B."""
        return self.axis.scale * self.evaluate(handed)[0]

    def value(self, numbers: Numbers) -> Array:
        """The objective without its penalty."""
        return jnp.sum(self.each(self.hand(numbers)))
