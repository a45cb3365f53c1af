"""The flows people know by name whose layers bend the whole vector at once."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Array

from flows.autoregressive import Autoregressive
from flows.block_autoregressive import BlockNeural
from flows.building import HIDDEN, amortised, build
from flows.bumps import Planar, Radial, Sylvester
from flows.compose import Chain, Reverse
from flows.contractive import Residual
from flows.flow import Flow
from flows.transport import MonotonePolynomial, PolynomialConditioner


def planar(
    dim: int,
    *,
    key: Array,
    num_layers: int = 16,
    hidden: Sequence[int] = HIDDEN,
    context_dim: int = 0,
    dtype: Any = None,
) -> Flow:
    """Planar layers: each moves all coordinates by a tanh of a projection, along one direction.

    Args:
      dim: number D of coordinates.
      key: a key, for initial weights. Whatever it is, the flow starts as N(0, I).
      num_layers: how many.
      hidden: units of the hidden layers of the context's network, if there is one.
      context_dim: coordinates of the context that makes the layers; see `Flow.given`.
      dtype: of the parameters; JAX's default float if not given.

    Returns:
      The flow, to be fitted by ``vi.fit(model, family=...)``.

    Complexity:
      O(D) a draw and layer; the inverse looks for a root in one dimension.

    Reference: Rezende and Mohamed (2015), "Variational inference with normalizing flows".
    """
    make = lambda generator, dtype: Planar.initial(generator, dim, dtype)
    make = amortised(make, hidden, context_dim)
    return build("planar", dim, key, num_layers, hidden, context_dim, dtype, make)


def radial(
    dim: int,
    *,
    key: Array,
    num_layers: int = 16,
    hidden: Sequence[int] = HIDDEN,
    context_dim: int = 0,
    dtype: Any = None,
) -> Flow:
    """Radial layers: each moves all coordinates by a pull to or from one point.

    Args:
      dim: as in `planar`.
      key: as in `planar`.
      num_layers: as in `planar`.
      hidden: as in `planar`.
      context_dim: as in `planar`.
      dtype: as in `planar`.

    Returns:
      The flow, to be fitted by ``vi.fit(model, family=...)``.

    Complexity:
      O(D) a draw and layer, in both directions.

    Reference: Rezende and Mohamed (2015), "Variational inference with normalizing flows".
    """
    make = lambda generator, dtype: Radial.initial(generator, dim, dtype)
    make = amortised(make, hidden, context_dim)
    return build("radial", dim, key, num_layers, hidden, context_dim, dtype, make)


def sylvester(
    dim: int,
    *,
    key: Array,
    num_layers: int = 8,
    num_columns: int | None = None,
    hidden: Sequence[int] = HIDDEN,
    context_dim: int = 0,
    dtype: Any = None,
) -> Flow:
    """Sylvester layers.

    Args:
      dim: as in `realnvp`.
      key: as in `realnvp`.
      num_layers: as in `realnvp`.
      num_columns: M ≤ D, of the orthogonal matrices; min(D, 16) if not given.
      hidden: units of the network that gives the parameters from a context.
      context_dim: as in `realnvp`.
      dtype: as in `realnvp`.

    Returns:
      The flow.

    Raises:
      ValueError: if a size is not positive, or M is larger than D.

    Reference: van den Berg et al. (2018), "Sylvester normalizing flows for variational inference".
    """
    columns = min(dim, 16) if num_columns is None else num_columns
    if columns > dim:
        raise ValueError(f"sylvester: expected num_columns <= dim; got {columns}, dim={dim}.")
    make = lambda generator, dtype: Sylvester.initial(generator, dim, columns, dtype)
    make = amortised(make, hidden, context_dim)
    sizes = (columns, *hidden)
    return build("sylvester", dim, key, num_layers, sizes, context_dim, dtype, make)


def block_neural(
    dim: int,
    *,
    key: Array,
    num_layers: int = 2,
    hidden: Sequence[int] = (8, 8),
    context_dim: int = 0,
    dtype: Any = None,
) -> Flow:
    """Block neural autoregressive layers, each after a reversal: draws cost one pass.

    Args:
      dim: as in `realnvp`.
      key: as in `realnvp`.
      num_layers: as in `realnvp`.
      hidden: units *a coordinate* of the hidden layers, at least one layer.
      context_dim: as in `realnvp`.
      dtype: as in `realnvp`.

    Returns:
      The flow.

    Raises:
      ValueError: if a size is not positive, or there is no hidden layer.

    Complexity:
      O(D² H²) a draw and layer; a density at a given point takes D such passes.

    Reference: De Cao, Titov and Aziz (2019), "Block neural autoregressive flow".
    """
    if not hidden:
        raise ValueError("block_neural: expected positive sizes of at least one layer; got none.")
    units = tuple(hidden)
    make = lambda generator, dtype: Chain(
        (Reverse(), BlockNeural.initial(generator, dim, units, context_dim, dtype))
    )
    return build("block_neural", dim, key, num_layers, units, context_dim, dtype, make)


def residual(
    dim: int,
    *,
    key: Array,
    num_layers: int = 8,
    hidden: int = 32,
    context_dim: int = 0,
    dtype: Any = None,
) -> Flow:
    """Residual layers: contractions added to the identity, with exact log-determinants.

    Args:
      dim: as in `realnvp`.
      key: as in `realnvp`.
      num_layers: as in `realnvp`.
      hidden: units H of each layer.
      context_dim: as in `realnvp`.
      dtype: as in `realnvp`.

    Returns:
      The flow.

    Raises:
      ValueError: if a size is not positive.

    Complexity:
      O(D H + min(D, H)³) a draw and layer; about 70 times O(D H) for the inverse.

    Reference: Chen, Behrmann, Duvenaud and Jacobsen (2019), "Residual flows for invertible
    generative modeling".
    """
    make = lambda generator, dtype: Residual.initial(generator, dim, hidden, context_dim, dtype)
    return build("residual", dim, key, num_layers, (hidden,), context_dim, dtype, make)


def polynomial(
    dim: int,
    *,
    key: Array,
    num_layers: int = 2,
    degree: int = 2,
    slope_degree: int = 1,
    context_dim: int = 0,
    dtype: Any = None,
) -> Flow:
    """Triangular polynomial transport maps, each after a reversal: few, readable parameters.

    Args:
      dim: as in `realnvp`.
      key: not used: nothing is drawn.
      num_layers: as in `realnvp`; with one it is the Knothe-Rosenblatt form of one map.
      degree: of the polynomials in earlier coordinates.
      slope_degree: d, of the one that is squared, so that a map is of degree 2d + 1 in its own
        coordinate; training is less stable from 2 on.
      context_dim: as in `realnvp`.
      dtype: as in `realnvp`.

    Returns:
      The flow.

    Raises:
      ValueError: if a size is not positive.

    Complexity:
      O(D³) a draw and layer from degree 2 on, for pairs of coordinates, else O(D²).

    Reference: Marzouk, Moselhy, Parno and Spantini (2016), "Sampling via measure transport: an
    introduction".
    """
    transformer = MonotonePolynomial(slope_degree)
    size = transformer.num_params
    make = lambda _, dtype: Chain(
        (
            Reverse(),
            Autoregressive(
                PolynomialConditioner.initial(dim, size, degree, context_dim, dtype), transformer
            ),
        )
    )
    return build(
        "polynomial", dim, key, num_layers, (degree, slope_degree), context_dim, dtype, make
    )
