"""The flows people know by name."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array

from flows.autoregressive import Autoregressive
from flows.block_autoregressive import BlockNeural
from flows.bumps import Planar, Radial, Sylvester
from flows.compose import Chain, Inverse, Reverse, stack
from flows.conditional import Conditional
from flows.contractive import Residual
from flows.coupling import Coupling
from flows.flow import Flow
from flows.linear import LULinear
from flows.transformers import Affine, Spline, transformer_named
from flows.transport import MonotonePolynomial, PolynomialConditioner
from vi.random import host_generator

HIDDEN = 32, 32
TITLES = {
    "realnvp": "RealNVP flow",
    "neural_spline": "neural spline flow",
    "iaf": "inverse autoregressive flow",
    "maf": "masked autoregressive flow",
    "planar": "planar flow",
    "radial": "radial flow",
    "sylvester": "Sylvester flow",
    "block_neural": "block neural autoregressive flow",
    "residual": "residual flow",
    "polynomial": "polynomial transport map",
}
MAX_LINEAR = 200  # coordinates up to which a dense linear map is learned as well


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
    return _build("realnvp", dim, key, num_layers, hidden, context_dim, dtype, make)


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
    return _build("neural_spline", dim, key, num_layers, sizes, context_dim, dtype, make)


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
    units = _units(dim, hidden)
    chosen = transformer_named(transformer, num_bins, "iaf")
    make = lambda generator, dtype: Chain(
        (Reverse(), Autoregressive.initial(generator, dim, chosen, units, context_dim, dtype))
    )
    return _build("iaf", dim, key, num_layers, units, context_dim, dtype, make)


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
    units = _units(dim, hidden)
    chosen = transformer_named(transformer, num_bins, "maf")
    make = lambda generator, dtype: Chain(
        (
            Reverse(),
            Inverse(Autoregressive.initial(generator, dim, chosen, units, context_dim, dtype)),
        )
    )
    return _build("maf", dim, key, num_layers, units, context_dim, dtype, make)


def planar(
    dim: int,
    *,
    key: Array,
    num_layers: int = 16,
    hidden: Sequence[int] = HIDDEN,
    context_dim: int = 0,
    dtype: Any = None,
) -> Flow:
    """Planar layers. Arguments as in `realnvp`; with a context `hidden` is of its network.

    Reference: Rezende and Mohamed (2015), "Variational inference with normalizing flows".
    """
    make = lambda generator, dtype: Planar.initial(generator, dim, dtype)
    make = _amortised(make, hidden, context_dim)
    return _build("planar", dim, key, num_layers, hidden, context_dim, dtype, make)


def radial(
    dim: int,
    *,
    key: Array,
    num_layers: int = 16,
    hidden: Sequence[int] = HIDDEN,
    context_dim: int = 0,
    dtype: Any = None,
) -> Flow:
    """Radial layers. Arguments as in `realnvp`; with a context `hidden` is of its network.

    Reference: Rezende and Mohamed (2015), "Variational inference with normalizing flows".
    """
    make = lambda generator, dtype: Radial.initial(generator, dim, dtype)
    make = _amortised(make, hidden, context_dim)
    return _build("radial", dim, key, num_layers, hidden, context_dim, dtype, make)


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
    make = _amortised(make, hidden, context_dim)
    sizes = (columns, *hidden)
    return _build("sylvester", dim, key, num_layers, sizes, context_dim, dtype, make)


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
    return _build("block_neural", dim, key, num_layers, units, context_dim, dtype, make)


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
    return _build("residual", dim, key, num_layers, (hidden,), context_dim, dtype, make)


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
    return _build(
        "polynomial", dim, key, num_layers, (degree, slope_degree), context_dim, dtype, make
    )


def _amortised(
    make: Callable[[np.random.Generator, Any], Any], hidden: Sequence[int], context_dim: int
) -> Callable[[np.random.Generator, Any], Any]:
    """The layers, conditional if there is a context."""
    if not context_dim:
        return make

    def conditional(generator: np.random.Generator, dtype: Any) -> Conditional:
        return Conditional.initial(generator, make(generator, dtype), tuple(hidden), context_dim)

    return conditional


def _units(dim: int, hidden: Sequence[int] | None) -> tuple[int, ...]:
    return (max(32, 2 * dim),) * 2 if hidden is None else tuple(hidden)


def _coupling(
    dim: int, transformer: Any, hidden: Sequence[int], context_dim: int
) -> Callable[[np.random.Generator, Any], Any]:
    return lambda generator, dtype: Chain(
        (
            Reverse(),
            Coupling.initial(generator, dim, transformer, tuple(hidden), context_dim, dtype),
        )
    )


def _build(
    owner: str,
    dim: int,
    key: Array,
    num_layers: int,
    sizes: Sequence[int],
    context_dim: int,
    dtype: Any,
    make: Callable[[np.random.Generator, Any], Any],
) -> Flow:
    if min(dim, num_layers, *sizes, 1) < 1 or context_dim < 0:
        raise ValueError(
            f"{owner}: expected positive sizes; got dim={dim}, num_layers={num_layers}, "
            f"{list(sizes)}, context_dim={context_dim}."
        )
    dtype = np.dtype(np.result_type(_default_float() if dtype is None else dtype))
    generator = host_generator(key, 11)
    layers = stack([make(generator, dtype) for _ in range(num_layers)])
    if dim <= MAX_LINEAR:
        layers = Chain((layers, LULinear.identity(dim, dtype)))
    return Flow(layers, None, None, None, dim, context_dim, TITLES[owner])


def _default_float() -> Any:
    import jax.numpy as jnp

    return jnp.result_type(float)
