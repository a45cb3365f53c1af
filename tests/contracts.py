"""The registry: everything listed here must keep the contracts of `test_contracts`.

A new method adds one line. The contracts: the dtype is kept, `jit` equals eager, `vmap` equals a
loop, one trace serves all values of one shape, what is saved loads to the same bits, an
interrupted run goes on to the same bits, and gradients agree with finite differences.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import flows
import optim
import vi
from flows.imports import load_distrax
from optim import polynomial_average
from tests import gp_kernels, models
from vi import gaussian
from vi.families.scale import DenseScale, LowRankScale

DIM = 3
_KEY = jax.random.key(7)


def precision(dtype: Any) -> Any:
    """64-bit floats on only where asked for."""
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


def target(dtype: Any) -> vi.Target:
    """A smooth density without symmetry, in three dimensions."""
    weights = np.linspace(0.5, 1.5, DIM).astype(dtype)
    density = lambda x, w: -jnp.sum(w * x**2) - jnp.sum(jnp.cosh(0.3 * x)) - 0.2 * x[0] * x[1]
    return vi.target(density, jnp.zeros(DIM, dtype), weights)


def _low_rank(loc: Any) -> vi.Gaussian:
    factor = jnp.asarray(np.linspace(-0.5, 0.7, 2 * DIM).reshape(DIM, 2), loc.dtype)
    return vi.Gaussian(loc, LowRankScale.of(jnp.ones(DIM, loc.dtype), factor))


def _mixture(loc: Any) -> vi.Mixture:
    return vi.mixture([vi.full_rank(DIM, loc=loc), vi.full_rank(DIM, loc=-loc)], [0.3, 0.7])


def _flow(loc: Any) -> flows.Flow:
    q = flows.radial(DIM, key=_KEY, num_layers=2)
    q = jax.tree.map(lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), q)
    return q.around(vi.full_rank(DIM, loc=loc, scale=0.7))


def _bures_wasserstein_adam(learning_rate: Any) -> Any:
    full_rank = vi.Gaussian(optim.Euclidean(), DenseScale(optim.BuresWassersteinRoot()))
    return optim.riemannian_adam(learning_rate, full_rank)


def _mixture_of_flows(loc: Any) -> vi.Mixture:
    return vi.mixture([_flow(loc), _flow(-loc)], [0.3, 0.7])


# A family from its location, of shape (DIM,), whose dtype it keeps.
FAMILIES: dict[str, Callable] = {
    "delta": vi.Delta,
    "mean_field": lambda loc: vi.mean_field(DIM, loc=loc, scale=0.7),
    "mean_field_exp": lambda loc: vi.mean_field(DIM, loc=loc, scale=0.7, positive="exp"),
    "full_rank": lambda loc: vi.full_rank(DIM, loc=loc, scale=0.7),
    "full_rank_softplus": lambda loc: vi.full_rank(DIM, loc=loc, positive="softplus"),
    "block": lambda loc: vi.block(((0, 2), (1,)), loc=loc, scale=0.7),
    "low_rank": _low_rank,
    "mixture": _mixture,
    "flow": _flow,
    "mixture_of_flows": _mixture_of_flows,
}


class LayerEntry(NamedTuple):
    """A layer of a flow in `DIM` dimensions; see `test_flow_layers`."""

    make: Callable  # of a NumPy generator and a dtype
    conditional: bool = False  # whether it takes a context, of two coordinates
    identity: bool = True  # whether it starts as the identity


def _conditioned(kind: Any, transformer: Any) -> LayerEntry:
    make = lambda generator, dtype: kind.initial(generator, DIM, transformer, (5,), 2, dtype)
    return LayerEntry(make, conditional=True)


def _from_distrax(generator: Any, dtype: Any) -> flows.FromDistrax:
    distrax = load_distrax()
    make = lambda s: distrax.Block(distrax.Chain([distrax.Sigmoid(), distrax.ScalarAffine(s)]), 1)
    return flows.FromDistrax(jnp.zeros(DIM, dtype), make)


def _gaussian_start(dim: int, dtype: Any) -> flows.Flow:
    loc = jnp.asarray(0.3 * np.arange(dim), dtype)
    return flows.Flow.of_gaussian(vi.full_rank(dim, loc=loc, scale=1.1))


def _flow_start(dim: int, dtype: Any) -> flows.Flow:
    """A flow that bends its Gaussian."""
    q = flows.radial(dim, key=_KEY, num_layers=2, dtype=dtype)
    generator = np.random.default_rng(0)
    bent = lambda x: x + jnp.asarray(0.2 * generator.normal(size=x.shape), x.dtype)
    affine = _gaussian_start(dim, dtype).affine
    return dataclasses.replace(jax.tree.map(bent, q), affine=affine)


def _polynomial(generator: Any, dtype: Any) -> flows.Autoregressive:
    transformer = flows.MonotonePolynomial(2)
    size = transformer.num_params
    network = flows.PolynomialConditioner.initial(DIM, size, 3, 2, dtype)
    return flows.Autoregressive(network, transformer)


def _conditional_planar(generator: Any, dtype: Any) -> flows.Conditional:
    layer = flows.Planar.initial(generator, DIM, dtype)
    return flows.Conditional.initial(generator, layer, (4,), 2)


# What a MixFlow repeats its map from; see `test_mixflow`.
MIXFLOW_STARTS: dict[str, Callable] = {"gaussian": _gaussian_start, "flow": _flow_start}


# A spline has an affine map after it.
LAYERS: dict[str, LayerEntry] = {
    "coupling_spline": _conditioned(flows.Coupling, flows.Spline(3)),
    "autoregressive_spline": _conditioned(flows.Autoregressive, flows.Spline(3)),
    "inverse": LayerEntry(
        lambda generator, dtype: flows.Inverse(
            flows.Autoregressive.initial(generator, DIM, flows.Affine(), (5,), 2, dtype)
        ),
        conditional=True,
    ),
    "planar": LayerEntry(lambda generator, dtype: flows.Planar.initial(generator, DIM, dtype)),
    "radial": LayerEntry(lambda generator, dtype: flows.Radial.initial(generator, DIM, dtype)),
    "sylvester": LayerEntry(
        lambda generator, dtype: flows.Sylvester.initial(generator, DIM, 2, dtype)
    ),
    "block_neural": LayerEntry(
        lambda generator, dtype: flows.BlockNeural.initial(generator, DIM, (4, 3), 2, dtype),
        conditional=True,
    ),
    "residual": LayerEntry(
        lambda generator, dtype: flows.Residual.initial(generator, DIM, 5, 2, dtype),
        conditional=True,
    ),
    "residual_narrow": LayerEntry(
        lambda generator, dtype: flows.Residual.initial(generator, DIM, 2, 0, dtype)
    ),
    "convex_gradient": LayerEntry(
        lambda generator, dtype: flows.ConvexGradient.initial(generator, DIM, (5, 4), dtype),
        identity=False,
    ),
    "gaussian_map": LayerEntry(
        lambda _, dtype: flows.GaussianMap(_gaussian_start(DIM, dtype).affine), identity=False
    ),
    "polynomial": LayerEntry(_polynomial, conditional=True),
    "conditional_planar": LayerEntry(_conditional_planar, conditional=True),
    "act_norm": LayerEntry(lambda _, dtype: flows.ActNorm.identity(DIM, dtype)),
    "lu_linear": LayerEntry(lambda _, dtype: flows.LULinear.identity(DIM, dtype)),
    "reverse": LayerEntry(lambda generator, dtype: flows.Reverse(), identity=False),
    "from_distrax": LayerEntry(_from_distrax, identity=False),
}


class Estimator(NamedTuple):
    """An estimate of the gradient of the ELBO, as `vi.fit` takes it."""

    make: Callable  # () -> (key, q, target) -> (loss, grads)
    family: str = "full_rank"
    differentiable: bool = False  # whether grads are those of the loss at the same key


ESTIMATORS: dict[str, Estimator] = {
    "elbo_pathwise": Estimator(lambda: vi.elbo(num_particles=4), differentiable=True),
    "elbo_pathwise_mixture": Estimator(lambda: vi.elbo(num_particles=4), "mixture", True),
    "elbo_entropy": Estimator(
        lambda: vi.elbo(num_particles=4, analytic="entropy"), differentiable=True
    ),
    "elbo_sticking_the_landing": Estimator(
        lambda: vi.elbo(num_particles=4, estimator=vi.StickingTheLanding())
    ),
    "elbo_score": Estimator(lambda: vi.elbo(num_particles=4, estimator=vi.Score())),
    "elbo_running_score": Estimator(
        lambda: vi.elbo(estimator=vi.RunningScore(total=jnp.array(-2.0), weight=jnp.array(1.0)))
    ),
    "elbo_path_gradient": Estimator(lambda: vi.elbo(num_particles=4, estimator=vi.PathGradient())),
    "iwae_pathwise": Estimator(lambda: vi.iwae(num_particles=4), differentiable=True),
    "iwae_doubly": Estimator(
        lambda: vi.iwae(num_particles=4, estimator=vi.DoublyReparameterized())
    ),
    "iwae_score": Estimator(lambda: vi.iwae(num_particles=4, estimator=vi.Score())),
    "miwae": Estimator(lambda: vi.miwae(num_bounds=2, num_particles=2), differentiable=True),
    "ciwae": Estimator(lambda: vi.ciwae(num_particles=4, beta=0.3), differentiable=True),
    "piwae": Estimator(lambda: vi.piwae(num_bounds=2, num_particles=2)),
    "renyi": Estimator(lambda: vi.renyi(num_particles=4, alpha=0.5), differentiable=True),
    "chi_square": Estimator(lambda: vi.chi_square(num_particles=4), differentiable=True),
    "tempered_elbo": Estimator(
        lambda: vi.tempered_elbo(num_particles=4, temperature=0.5), differentiable=True
    ),
    "reweighted_wake_sleep": Estimator(lambda: vi.reweighted_wake_sleep(num_particles=4)),
    "forward_kl": Estimator(lambda: vi.forward_kl(num_particles=4)),
    "symmetric_kl": Estimator(lambda: vi.symmetric_kl(num_particles=4)),
    "f_divergence": Estimator(
        lambda: vi.f_divergence(num_particles=4, generator=jnp.negative), differentiable=True
    ),
    "log_variance": Estimator(lambda: vi.log_variance(num_particles=4)),
    "bonnet_price": Estimator(lambda: gaussian.BonnetPrice(4)),
    "stein": Estimator(lambda: gaussian.Stein(16)),
    "spherical_radial": Estimator(lambda: gaussian.SphericalRadial()),
    "score_sample": Estimator(lambda: gaussian.ScoreSample(16)),
    "reverse_kl_of_a_flow": Estimator(lambda: flows.ReverseKL(4), "flow"),
}


class Optimizer(NamedTuple):
    """An optimizer, with an estimator whose gradients it takes."""

    make: Callable
    estimator: str = "elbo_sticking_the_landing"
    family: str = "full_rank"


OPTIMIZERS: dict[str, Optimizer] = {
    "polynomial_average": Optimizer(lambda: polynomial_average(optax.adam(0.05))),
    "a_dog": Optimizer(optim.a_dog),
    "normalized_a_dog_averaged": Optimizer(lambda: polynomial_average(optim.a_dog(normalize=True))),
    "dowg_averaged": Optimizer(lambda: polynomial_average(optim.dowg())),
    "riemannian_adam": Optimizer(lambda: _bures_wasserstein_adam(0.05)),
    "natural_gradient": Optimizer(lambda: gaussian.natural_gradient(0.3), "spherical_radial"),
    "natural_gradient_mean_field": Optimizer(
        lambda: gaussian.natural_gradient(0.3), "spherical_radial", "mean_field"
    ),
    "forward_backward": Optimizer(lambda: gaussian.forward_backward(0.1), "bonnet_price"),
    "bures_wasserstein": Optimizer(lambda: gaussian.bures_wasserstein(0.02), "bonnet_price"),
    "mixture_flow": Optimizer(lambda: gaussian.mixture_flow(0.05), family="mixture"),
    "batch_and_match": Optimizer(lambda: gaussian.batch_and_match(1.0), "score_sample"),
}


class Transformation(NamedTuple):
    """An optimizer of any pytree; see `test_transformations`."""

    factory: Callable
    options: dict[str, Any] = {}  # what is a float here must act when changed  # noqa: RUF012
    steps: int = 200  # in which ...
    ratio: float = 1e-2  # ... the gap of `test_transformations`' quadratic falls by this factor
    starts: tuple[str, ...] = ()  # floats that only say where to begin


def _distance(factory: Callable, ratio: float) -> Transformation:
    return Transformation(
        factory, {"initial_distance": 1e-4}, ratio=ratio, starts=("initial_distance",)
    )


def _riemannian(make: Callable, learning_rate: float) -> Transformation:
    return Transformation(make, {"learning_rate": learning_rate, "manifolds": optim.Euclidean()})


def _psgd(group: str, criterion: str) -> Transformation:
    options = {"key": _KEY, "learning_rate": 0.1, "rank": 3, "group": group, "criterion": criterion}
    return Transformation(optim.psgd, options, 150, 1e-2)


def _normalized_a_dog(initial_distance: Any) -> Any:
    return optim.a_dog(initial_distance, normalize=True)


def _norm_power(power: Any) -> Any:
    return optax.chain(optim.scale_by_norm_power(power), optax.scale(-0.1))


def _clipped(factor: Any, decay: Any) -> Any:
    return optax.chain(optim.clip_by_ema_norm(factor, decay), optax.sgd(0.01))


TRANSFORMATIONS: dict[str, Transformation] = {
    "dog": _distance(optim.dog, 1e-2),
    "layerwise_dog": _distance(optim.layerwise_dog, 1e-2),
    "dowg": _distance(optim.dowg, 1e-2),
    "a_dog": _distance(optim.a_dog, 1e-3),
    "normalized_a_dog": _distance(_normalized_a_dog, 1e-3),
    "normalized_momentum": Transformation(
        optim.normalized_momentum, {"learning_rate": 0.05, "decay": 0.9}
    ),
    "norm_power_momentum": Transformation(
        optim.normalized_momentum, {"learning_rate": 0.1, "power": 0.5}
    ),
    "nigt": Transformation(optim.nigt, {"learning_rate": 0.05, "decay": 0.9}),
    "scale_by_norm_power": Transformation(_norm_power, {"power": 0.5}),
    # Below 1, so that it clips at every step.
    "clip_by_ema_norm": Transformation(_clipped, {"factor": 0.9, "decay": 0.9}, ratio=0.2),
    "riemannian_adam": _riemannian(optim.riemannian_adam, 0.05),
    "riemannian_amsgrad": _riemannian(optim.riemannian_amsgrad, 0.05),
    "riemannian_adagrad": _riemannian(optim.riemannian_adagrad, 0.3),
    "polynomial_average": Transformation(
        polynomial_average, {"inner": optax.sgd(0.05), "power": 8.0}
    ),
    "extragradient": Transformation(
        optim.extragradient, {"base": optax.sgd(0.05), "ratio": 0.9}, 600, 1e-2
    ),
    "past_extragradient": Transformation(optim.past_extragradient, {"base": optax.sgd(0.05)}),
    "anchored_gradient": Transformation(
        optim.anchored_gradient, {"learning_rate": 0.05}, ratio=0.2
    ),
    "two_timescale": Transformation(
        optim.two_timescale, {"base": optim.dog(1e-4), "timescale": 1.5, "slow": True}, ratio=0.1
    ),
    "lazy_newton": Transformation(
        optim.lazy_newton,
        {"learning_rate": 1.0, "smoothness": 1.0},
        *(20, 1e-6, ("smoothness",)),
    ),
    "lazy_newton_gradient": Transformation(
        optim.lazy_newton,
        {"regularization": "gradient", "smoothness": 0.1, "decay": 0.5},
        *(20, 1e-6, ("smoothness", "decay")),  # all Hessians of a quadratic are one
    ),
    "lazy_newton_cubic": Transformation(
        optim.lazy_newton,
        {"regularization": "cubic", "smoothness": 1.0, "period": 3},
        *(20, 1e-6, ("smoothness",)),
    ),
    "lazy_newton_fixed": Transformation(
        optim.lazy_newton,
        {
            "learning_rate": 0.5,
            "smoothness": 1.0,
            "adaptive": False,
            "curvature": "fresh",
            "key": _KEY,
        },
        *(40, 1e-6),
    ),
    "psgd_dense": _psgd("dense", "newton"),
    "psgd_low_rank": _psgd("low_rank", "newton"),
    "psgd_diagonal_whitening": _psgd("diagonal", "whitening"),
    "psgd_kronecker_whitening": _psgd("kronecker", "whitening"),
    "saddle_free_newton": Transformation(
        optim.saddle_free_newton, {"relative_damping": 0.01}, 40, 1e-6
    ),
    "saddle_free_newton_krylov": Transformation(
        optim.saddle_free_newton,
        {"krylov_dim": 4, "relative_damping": 0.05, "learning_rate": 0.7},
        *(80, 1e-2),
    ),
    "gauss_newton": Transformation(optim.gauss_newton, {"damping": 0.01}, 40, 1e-6),
    "gauss_newton_adaptive": Transformation(
        optim.gauss_newton, {"damping": 1.0, "adaptive": True}, 40, 1e-6, ("damping",)
    ),
    "fosi": Transformation(
        optim.fosi,
        {"key": _KEY, "base": optax.sgd(0.1), "learning_rate": 0.5, "num_largest": 3, "warmup": 0},
        *(80, 1e-2),
    ),
    "mfac": Transformation(
        optim.mfac, {"learning_rate": 0.1, "num_rows": 6, "damping": 1.0}, 300, 1e-2
    ),
    "mfac_per_example": Transformation(
        optim.mfac,
        {"learning_rate": 1.0, "num_rows": 12, "rows": "per_example", "damping": 1.0},
        *(200, 1e-2),
    ),
    "damped_newton_aicn": Transformation(
        optim.damped_newton, {"rule": "aicn", "smoothness": 1.0}, 40, 1e-6
    ),
    "damped_newton_root": Transformation(
        optim.damped_newton, {"rule": "root", "smoothness": 0.1, "order": 3.0}, 40, 1e-6
    ),
    "damped_newton_universal": Transformation(
        optim.damped_newton,
        {"rule": "universal", "smoothness": 1.0},
        *(20, 1e-6, ("smoothness",)),
    ),
    "oasis": Transformation(optim.oasis, {"key": _KEY, "floor": 0.1}, 80, 1e-2),
    "oasis_fixed": Transformation(
        optim.oasis, {"key": _KEY, "learning_rate": 0.2, "max_change": 1}, 80, 1e-2
    ),
}

# Kernels of Gaussian processes, with their formulas in NumPy; see `test_gp_kernels`.
KERNELS: dict[str, gp_kernels.Entry] = gp_kernels.KERNELS

# Models of NumPyro that go through `vi.fit`, save and load: name -> (model, arguments).
MODELS: dict[str, tuple] = {
    "schools": (models.schools, (models.SCHOOLS_Y, models.SCHOOLS_SIGMA)),
    "logistic": (models.logistic, models.logistic_data()),
}
