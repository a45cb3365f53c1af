"""`vi.SVI` beside NumPyro's: the same numbers, compiled once."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import numpyro.infer
import optax
import pytest
from numpyro.infer import Predictive, Trace_ELBO, TraceMeanField_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

import vi
from optim import polynomial_average
from tests import models

DATA = models.logistic_data()
KEY = jax.random.key(0)


def handwritten(X, y):
    loc = numpyro.param("loc", jnp.zeros(X.shape[1]))
    scale = numpyro.param("scale", jnp.ones(X.shape[1]), constraint=dist.constraints.positive)
    numpyro.sample("beta", dist.Normal(loc, scale).to_event(1))


CASES = {
    "autonormal": (lambda: AutoNormal(models.logistic), Trace_ELBO()),
    "full_rank": (lambda: AutoMultivariateNormal(models.logistic), Trace_ELBO(num_particles=3)),
    "handwritten": (lambda: handwritten, TraceMeanField_ELBO()),
    "our_loss": (lambda: handwritten, vi.elbo(num_particles=2)),
}
OPTIMIZERS = {
    "numpyro_adam": lambda: numpyro.optim.Adam(0.02),
    "optax": lambda: optax.adam(0.02),
    "ours": lambda: polynomial_average(optax.adam(0.02)),
}


@pytest.mark.parametrize("name", CASES)
def test_results_are_numpyros_to_the_bit(name):
    make, loss = CASES[name]
    kinds = {"autonormal": "numpyro_adam", "full_rank": "optax"}
    optimizer = OPTIMIZERS[kinds.get(name, "ours")]
    results = []
    for kind in (numpyro.infer.SVI, vi.SVI):
        svi = kind(models.logistic, make(), optimizer(), loss)
        results.append(svi.run(KEY, 130, *DATA, progress_bar=False))
    theirs, ours = results
    assert ours.losses.shape == theirs.losses.shape == (130,)
    assert np.allclose(ours.losses, theirs.losses, rtol=1e-5)
    for key, value in theirs.params.items():
        assert np.allclose(ours.params[key], value, rtol=1e-4, atol=1e-5)
    assert np.array_equal(
        jax.random.key_data(ours.state.rng_key), jax.random.key_data(theirs.state.rng_key)
    )


def test_second_run_traces_nothing():
    traces = 0

    def model(X, y):
        nonlocal traces
        traces += 1
        models.logistic(X, y)

    svi = vi.SVI(model, handwritten, optax.adam(0.02), Trace_ELBO())
    X, y = DATA
    first = svi.run(KEY, 150, X, y, progress_bar=False)
    before = traces
    second = svi.run(KEY, 150, X, 1 - y, init_state=first.state, progress_bar=False)
    third = svi.run(KEY, 60, X, y, init_state=second.state, progress_bar=False)
    assert traces == before
    assert len(third.losses) == 60
    assert not np.allclose(second.params["loc"], first.params["loc"], atol=0.1)


LOC = 0.0


def test_a_global_that_is_replaced_is_read_again(monkeypatch):
    """As after a notebook's cell is run again; NumPyro's own compiles anew at each run."""

    def model():
        numpyro.sample("x", dist.Normal(LOC, 1.0))

    def guide():
        numpyro.sample("x", dist.Normal(numpyro.param("loc", 0.0), 1.0))

    svi = vi.SVI(model, guide, optax.sgd(0.1), Trace_ELBO())
    for loc in (0.0, 5.0):
        monkeypatch.setitem(globals(), "LOC", loc)
        found = svi.run(jax.random.key(0), 100, progress_bar=False).params["loc"]
        assert abs(found - loc) < 1


def test_state_continues_where_it_was():
    svi = vi.SVI(models.logistic, handwritten, optax.adam(0.02), Trace_ELBO())
    whole = svi.run(KEY, 200, *DATA, progress_bar=False)
    first = svi.run(KEY, 70, *DATA, progress_bar=False)
    rest = svi.run(KEY, 130, *DATA, init_state=first.state, progress_bar=False)
    assert np.array_equal(whole.params["loc"], rest.params["loc"])
    assert np.array_equal(whole.losses, np.append(first.losses, rest.losses))


def test_the_small_verbs_are_numpyros():
    ours = vi.SVI(models.logistic, handwritten, optax.adam(0.02), Trace_ELBO())
    theirs = numpyro.infer.SVI(models.logistic, handwritten, optax.adam(0.02), Trace_ELBO())
    state = ours.init(KEY, *DATA)
    theirs.init(KEY, *DATA)
    assert np.array_equal(ours.evaluate(state, *DATA), theirs.evaluate(state, *DATA))
    a, loss = ours.update(state, *DATA)
    b, expected = theirs.update(state, *DATA)
    assert np.array_equal(loss, expected)
    assert np.array_equal(ours.get_params(a)["loc"], theirs.get_params(b)["loc"])
    c, _ = ours.stable_update(state, *DATA)
    assert np.array_equal(ours.get_params(c)["loc"], ours.get_params(a)["loc"])


def test_stable_update_skips_what_is_not_finite():
    """Data with a NaN: plain steps lose the parameters, stable ones keep them."""
    X, y = DATA
    y = np.where(np.arange(len(y)) == 3, np.nan, y)

    def model(X, y):
        beta = numpyro.sample("beta", dist.Normal(0, 2).expand([2]).to_event(1))
        numpyro.factor("fit", -jnp.sum((X @ beta - y) ** 2))

    svi = vi.SVI(model, handwritten, optax.adam(0.02), Trace_ELBO())
    assert np.isnan(svi.run(KEY, 5, X, y, progress_bar=False).params["loc"]).all()
    kept = svi.run(KEY, 5, X, y, progress_bar=False, stable_update=True).params["loc"]
    assert np.array_equal(kept, np.zeros(2))


def test_predictive_takes_the_params():
    svi = vi.SVI(models.logistic, handwritten, optax.adam(0.05), Trace_ELBO())
    params = svi.run(KEY, 300, *DATA, progress_bar=False).params
    predict = Predictive(models.logistic, guide=handwritten, params=params, num_samples=50)
    assert predict(KEY, DATA[0], None)["y"].shape == (50, len(DATA[1]))


def test_initial_parameters_and_progress(capsys):
    svi = vi.SVI(models.logistic, handwritten, optax.sgd(0.0), Trace_ELBO())
    given = {"loc": jnp.array([3.0, -3.0])}
    result = svi.run(KEY, 10, *DATA, init_params=given)
    assert np.array_equal(result.params["loc"], given["loc"])
    assert "init loss" in capsys.readouterr().err
    with pytest.raises(ValueError, match="num_steps >= 1"):
        svi.run(KEY, 0, *DATA)


def test_models_that_branch_on_their_data():
    """A Python ``if`` on a value needs that value: it is then part of the program."""

    def model(X, y):
        if X.sum() > -1e9:
            models.logistic(X, y)

    svi = vi.SVI(model, handwritten, optax.adam(0.02), Trace_ELBO())
    result = svi.run(KEY, 20, *DATA, progress_bar=False)
    assert np.isfinite(result.losses).all()


def test_our_objective_and_optimizer_inside_numpyros_svi():
    """Both find the posterior's mode of a conjugate model."""

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
        numpyro.sample("y", dist.Normal(mu, 1.0).expand(y.shape).to_event(1), obs=y)

    y = np.array([1.2, 0.7, 2.1])
    guide = AutoNormal(model)
    loss = vi.elbo(num_particles=4, estimator=vi.StickingTheLanding())
    svi = numpyro.infer.SVI(model, guide, polynomial_average(optax.adam(0.05)), loss)
    params = svi.run(KEY, 600, y, progress_bar=False).params
    assert np.isclose(params["mu_auto_loc"], y.sum() / 3.25, atol=0.02)
    assert np.isclose(params["mu_auto_scale"], 3.25**-0.5, atol=0.02)
