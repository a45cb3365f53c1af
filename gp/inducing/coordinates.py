"""In which coordinates q(u) is held while hyperparameters move: whitened, plain or dual."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float


class Natural(NamedTuple):
    r"""Natural parameters: :math:`S^{-1} m` and :math:`S^{-1}`, or what data add to a prior's."""

    linear: Float[Array, " M"]
    precision: Float[Array, "M M"]


class Coordinates(NamedTuple):
    """Maps between what is held and the natural parameters of q(v), u = L v, of whitened ones."""

    whiten: Callable[[Natural, Array], Natural]  # given L
    hold: Callable[[Natural, Array], Natural]


def _eye(tril: Array) -> Array:
    return jnp.eye(len(tril), dtype=tril.dtype)


def _both_sides(a: Array, tril: Array) -> Array:
    """L⁻¹ a L⁻ᵀ of a symmetric matrix."""
    half = solve_triangular(tril, a, lower=True)
    return solve_triangular(tril, half.T, lower=True)


def _from_plain(held: Natural, tril: Array) -> Natural:
    return Natural(tril.T @ held.linear, tril.T @ held.precision @ tril)


def _to_plain(natural: Natural, tril: Array) -> Natural:
    solve = lambda b: solve_triangular(tril, b, lower=True, trans=1)
    return Natural(solve(natural.linear), solve(solve(natural.precision).T))


def _from_dual(held: Natural, tril: Array) -> Natural:
    linear = solve_triangular(tril, held.linear, lower=True)
    return Natural(linear, _eye(tril) + _both_sides(held.precision, tril))


def _to_dual(natural: Natural, tril: Array) -> Natural:
    added = natural.precision - _eye(tril)
    return Natural(tril @ natural.linear, tril @ added @ tril.T)


_same = lambda natural, tril: natural

COORDINATES: dict[str, Coordinates] = {
    "whitened": Coordinates(_same, _same),  # q(v) itself
    "plain": Coordinates(_from_plain, _to_plain),  # q(u)
    "dual": Coordinates(_from_dual, _to_dual),  # sums over data of k_zi λ₁ and k_zi λ₂ k_iz
}
