"""Odd arguments end in a result, or in an error of this library that says what was expected."""

import pathlib
import traceback
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flows
import gp
import samplers
import vi

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(vi.__file__).parents[1]
PACKAGES = tuple(str(ROOT / name) for name in ("vi", "optim", "flows", "gp", "samplers"))
KEY = jax.random.key(0)
often = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
rarely = settings(often, max_examples=12)

SIZES = st.sampled_from([(0,), (1,), (3,), (1, 1), (3, 1), (1, 3), (3, 2), (0, 2), (2, 3, 2)])
DTYPES = st.sampled_from([np.float32, np.float64, np.int32, np.bool_, np.complex64])
VALUES = st.sampled_from([0.0, 1.0, -1.0, 2.5, 1e30, np.nan, np.inf])


@st.composite
def arrays(draw):
    """Small arrays of any shape and dtype: constant, spread, or with one odd value."""
    shape, dtype = draw(SIZES), draw(DTYPES)
    values = np.linspace(-1.0, 1.0, int(np.prod(shape))).reshape(shape)
    if draw(st.booleans()):
        values = np.full(shape, draw(VALUES))
    elif values.size and draw(st.booleans()):
        values.flat[0] = draw(VALUES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return values.astype(dtype)


odd = st.one_of(
    arrays(), st.none(), st.integers(-2, 5), st.floats(), st.text(max_size=3), st.booleans()
)


def ends_well(call):
    """Its result, or None after an error; fails if the error is of another library."""
    error, result = None, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = call()
        except Exception as raised:
            error = raised
    if error is not None:
        where = traceback.extract_tb(error.__traceback__)[-1].filename
        assert where.startswith(PACKAGES), f"{type(error).__name__} from {where}: {error}"
        assert len(str(error)) > 30, error
    return result


def test_errors_of_other_libraries_are_seen():
    """The twin."""
    with pytest.raises(AssertionError, match=r"from .*jax"):
        ends_well(lambda: jnp.ones(3) @ jnp.ones(4))


def regression(x, y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.Normal(mu + x, scale), obs=y)


@rarely
@given(x=arrays(), y=arrays())
def test_fit_of_odd_data(x, y):
    found = ends_well(lambda: vi.fit(regression, x, y, key=KEY, on_failure="return"))
    if found is not None:
        assert found.verdict.grade in ("good", "fair", "poor", "failed")


@often
@given(
    options=st.dictionaries(
        st.sampled_from([
            "family", "rank", "blocks", "positive", "objective", "estimator", "optimizer",
            "learning_rate", "num_steps", "init", "num_draws", "budget", "on_failure", "mesh",
            "key",
        ]),
        st.one_of(odd, st.sampled_from(["auto", "block", "mean_field", "low_rank", "realnvp"])),
        min_size=1, max_size=3,
    )
)  # fmt: skip
def test_fit_with_odd_options(options):
    density = lambda z: -0.5 * jnp.sum(z**2)
    if str(options.get("family")) in ("auto", "realnvp"):
        options = {**options, "rank": -1}  # only refusals here: they are long runs
    ends_well(lambda: vi.fit(density, jnp.zeros(2), **{"key": KEY, **options}))


@often
@given(point=odd, args=st.lists(odd, max_size=2))
def test_targets_of_odd_densities(point, args):
    ends_well(lambda: vi.target(lambda z, *rest: -0.5 * jnp.sum(z**2), point, *args))


@pytest.fixture(scope="module")
def posterior():
    return vi.fit(regression, np.zeros(3, np.float32), np.ones(3, np.float32), key=KEY)


@often
@given(key=odd, number=odd)
def test_draws_of_odd_numbers(posterior, key, number):
    ends_well(lambda: posterior.sample(key, number))
    if not isinstance(number, (np.ndarray, bool)):
        ends_well(lambda: posterior.sample(KEY, number))
        ends_well(lambda: posterior.resample(KEY, number))


@often
@given(x=arrays(), y=arrays())
def test_distances_of_odd_draws(x, y):
    ends_well(lambda: vi.distances.sliced_wasserstein(KEY, x, y))
    ends_well(lambda: vi.distances.wasserstein_1d(x, y))


@rarely
@given(x=arrays(), y=arrays())
def test_gp_of_odd_data(x, y):
    ends_well(lambda: gp.fit(x, y, key=KEY, num_steps=2, on_failure="return"))


@often
@given(dim=odd, option=st.sampled_from(["num_layers", "hidden", "num_bins"]), value=odd)
def test_flows_of_odd_sizes(dim, option, value):
    if isinstance(dim, int) and dim > 3:
        dim = 3
    ends_well(lambda: flows.neural_spline(dim, key=KEY, **{option: value}))


@often
@given(
    options=st.dictionaries(
        st.sampled_from(["num_samples", "num_chains", "num_warmup", "target_acceptance", "start"]),
        st.one_of(st.integers(-2, 0), st.none(), st.text(max_size=2), st.just(np.nan)),
        min_size=1, max_size=2,
    )
)  # fmt: skip
def test_samplers_with_odd_options(options):
    density = lambda z: -0.5 * jnp.sum(z**2)
    small = {"num_samples": 4, "num_chains": 1, "num_warmup": 1, "key": KEY}
    ends_well(lambda: samplers.nuts(density, jnp.zeros(2), **{**small, **options}))
