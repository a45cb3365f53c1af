"""The flows people know by name, of coupling and of autoregressive layers."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array

from flows.autoregressive import Autoregressive
from flows.building import HIDDEN, build, hidden_units
from flows.compose import Chain, Inverse, Reverse
from flows.coupling import Coupling
from flows.flow import Flow
from flows.transformers import Affine, Spline, transformer_named


def realnvp(
    dim: int,
    *,
    key: Array,
    num_layers: int = 8,
    hidden: Sequence[int] = HIDDEN,
    context_dim: int = 0,
    dtype: Any = None,
) -> Flow:
    """Affine coupling layers, each after a reversal, and a dense linear map at the end.

    Args:
      dim: number D of coordinates.
      key: a key; hidden layers' initial weights are drawn with it. Whatever it is, the flow
        starts as N(0, I).
      num_layers: number of coupling layers.
      hidden: units of the conditioners' hidden layers.
      context_dim: coordinates of the context that conditioners are given; see `Flow.given`.
      dtype: of the parameters; JAX's default float if not given.

    Returns:
      The flow, to be fitted by ``vi.fit(model, family=...)``.

    Raises:
      ValueError: if a size is not positive.

    Complexity:
      O(D H + H²) a draw and layer, in both directions.

    Example:
      >>> import jax, flows
      >>> flows.realnvp(4, key=jax.random.key(0)).sample(jax.random.key(1)).shape
      (4,)

    Reference: Dinh, Sohl-Dickstein and Bengio (2017), "Density estimation using Real NVP".
    """
    make = _coupling(dim, Affine(), hidden, context_dim)
    return build("realnvp", dim, key, num_layers, hidden, context_dim, dtype, make)


def neural_spline(
    dim: int,
    *,
    key: Array,
    num_layers: int = 6,
    num_bins: int = 8,
    bound: float = 4.0,
    hidden: Sequence[int] = HIDDEN,
    context_dim: int = 0,
    dtype: Any = None,
) -> Flow:
    """Spline coupling layers: the default of ``vi.fit(family="auto")``.

    Args:
      dim: as in `realnvp`.
      key: as in `realnvp`.
      num_layers: as in `realnvp`.
      num_bins: of each spline.
      bound: splines act on [-bound, bound], in standard deviations.
      hidden: as in `realnvp`.
      context_dim: as in `realnvp`.
      dtype: as in `realnvp`.

    Returns:
      The flow.

    Raises:
      ValueError: if a size is not positive.

    Reference: Durkan, Bekasov, Murray and Papamakarios (2019), "Neural spline flows".
    """
    make = _coupling(dim, Spline(num_bins, float(bound)), hidden, context_dim)
    sizes = (*hidden, num_bins)
    return build("neural_spline", dim, key, num_layers, sizes, context_dim, dtype, make)


def iaf(
    dim: int,
    *,
    key: Array,
    num_layers: int = 4,
    transformer: str | Affine | Spline = "affine",
    num_bins: int = 8,
    hidden: Sequence[int] | None = None,
    context_dim: int = 0,
    dtype: Any = None,
) -> Flow:
    """Inverse autoregressive flow: draws cost one pass, densities of given points D passes.

    Args:
      dim: as in `realnvp`.
      key: as in `realnvp`.
      num_layers: as in `realnvp`.
      transformer: ``"affine"``, ``"spline"``, or a transformer.
      num_bins: of ``"spline"``.
      hidden: as in `realnvp`; two layers of max(32, 2D) units if not given.
      context_dim: as in `realnvp`.
      dtype: as in `realnvp`.

    Returns:
      The flow.

    Raises:
      ValueError: if a size is not positive, or the transformer unknown.

    Reference: Kingma et al. (2016), "Improved variational inference with inverse autoregressive
    flow".
    """
    units = hidden_units(dim, hidden)
    chosen = transformer_named(transformer, num_bins, "iaf")
    make = lambda generator, dtype: Chain(
        (Reverse(), Autoregressive.initial(generator, dim, chosen, units, context_dim, dtype))
    )
    return build("iaf", dim, key, num_layers, units, context_dim, dtype, make)


def maf(
    dim: int,
    *,
    key: Array,
    num_layers: int = 4,
    transformer: str | Affine | Spline = "affine",
    num_bins: int = 8,
    hidden: Sequence[int] | None = None,
    context_dim: int = 0,
    dtype: Any = None,
) -> Flow:
    """Masked autoregressive flow: densities cost one pass, draws D passes; for `fit_density`.

    Args:
      dim: as in `iaf`.
      key: as in `iaf`.
      num_layers: as in `iaf`.
      transformer: as in `iaf`.
      num_bins: as in `iaf`.
      hidden: as in `iaf`.
      context_dim: as in `iaf`.
      dtype: as in `iaf`.

    Returns:
      The flow.

    Raises:
      ValueError: if a size is not positive, or the transformer unknown.

    Reference: Papamakarios, Pavlakou and Murray (2017), "Masked autoregressive flow for density
    estimation".
    """
    units = hidden_units(dim, hidden)
    chosen = transformer_named(transformer, num_bins, "maf")
    make = lambda generator, dtype: Chain(
        (
            Reverse(),
            Inverse(Autoregressive.initial(generator, dim, chosen, units, context_dim, dtype)),
        )
    )
    return build("maf", dim, key, num_layers, units, context_dim, dtype, make)


def _coupling(
    dim: int, transformer: Any, hidden: Sequence[int], context_dim: int
) -> Callable[[np.random.Generator, Any], Any]:
    return lambda generator, dtype: Chain(
        (
            Reverse(),
            Coupling.initial(generator, dim, transformer, tuple(hidden), context_dim, dtype),
        )
    )
