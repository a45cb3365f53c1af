"""What a program makes of the numbers it is handed, read off its trace."""

from typing import Any

import jax

from vi.program.bound import Bound
from vi.program.tape import DrawCall


def uses_draws(bound: Bound, handed: list[Any]) -> bool:
    """Whether the program's value depends on the draws other than through log densities."""
    from numpyro.ops.provenance import eval_provenance

    along, values = split(handed)

    def value(along: list, draws: list) -> Any:
        return bound.evaluate(join(bound, along, draws))[0]

    return "draws" in eval_provenance(value, along=along, draws=values)


def is_affine(bound: Bound, handed: list[Any]) -> bool:
    """Whether the program's value is affine in its log densities, with fixed coefficients.

    That is so if its derivative along a direction depends on the direction, but not on the
    point. Closed forms that depend on no draws count as coefficients. What cannot be told from the
    trace counts as not affine.
    """
    from numpyro.ops.provenance import eval_provenance

    along, values = split(handed)
    fixed = [isinstance(call, DrawCall) or call.constant for call in bound.calls]
    at = [a for a, d in zip(along, fixed, strict=True) if not d]
    weights = [a for a, d in zip(along, fixed, strict=True) if d]

    def slope(at: list, direction: list, weights: list, draws: list) -> Any:
        def value(at: list) -> Any:
            rest, weighted = iter(at), iter(weights)
            along = [next(weighted) if d else next(rest) for d in fixed]
            return bound.evaluate(join(bound, along, draws))[0]

        return jax.jvp(value, (at,), (direction,))[1]

    found = eval_provenance(slope, at=at, direction=at, weights=weights, draws=values)
    return not found & {"at", "draws"}


def split(handed: list[Any]) -> tuple[list[Any], list[Any]]:
    """Arrays with data axes, and draws."""
    along = [h[1] if isinstance(h, tuple) else h for h in handed]
    return along, [h[0] for h in handed if isinstance(h, tuple)]


def join(bound: Bound, along: list[Any], draws: list[Any]) -> list[Any]:
    """The inverse of `split`."""
    rest = iter(draws)
    pairs = zip(bound.calls, along, strict=True)
    return [(next(rest), a) if isinstance(call, DrawCall) else a for call, a in pairs]
