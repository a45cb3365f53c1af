"""`vi.fit`: one call to a posterior, options, failures, callbacks."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.infer import Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import vi
from tests import models
from vi.options import FitOptions
from vi.plan import plan


@pytest.fixture(scope="module")
def posterior():
    return vi.fit(models.regression, *models.regression_data(), key=jax.random.key(0))


def test_regression_agrees_with_least_squares(posterior):
    """Flat priors: the posterior of the coefficients is centred at least squares."""
    X, y = models.regression_data()
    best, residual, *_ = np.linalg.lstsq(X, y, rcond=None)
    sigma2 = residual[0] / (len(y) - 2)
    sd = np.sqrt(sigma2 * np.diag(np.linalg.inv(X.T @ X)))
    draws = posterior.sample(jax.random.key(1), 20_000)
    assert np.allclose((draws["beta"].mean(0) - best) / sd, 0, atol=0.05)
    assert np.allclose(draws["beta"].std(0) / sd, 1, atol=0.05)
    assert posterior.verdict.grade in ("good", "fair")
    assert posterior.status == vi.Status.CONVERGED


def test_second_call_traces_nothing_and_first_traces_little():
    traces = 0

    def model(x):
        nonlocal traces
        traces += 1
        loc = numpyro.sample("loc", dist.Normal(0.0, 5.0))
        scale = numpyro.sample("scale", dist.HalfNormal(5.0))
        numpyro.sample("x", dist.Normal(loc, scale).expand(x.shape).to_event(1), obs=x)

    x = np.random.default_rng(0).normal(size=30).astype(np.float32)
    first = vi.fit(model, x, key=jax.random.key(0))
    cold = traces
    second = vi.fit(model, x + 5, key=jax.random.key(1))
    assert traces == cold
    assert cold <= 8
    assert np.isclose(second.q.loc[0] - first.q.loc[0], 5, atol=0.1)


def test_legacy_keys_and_targets_are_welcome():
    target = vi.target(models.logistic, *models.logistic_data())
    a = vi.fit(target, key=jax.random.PRNGKey(0))
    b = vi.fit(target, key=jax.random.key(0))
    assert np.array_equal(a.q.loc, b.q.loc)


def test_double_precision_is_kept(x64):
    posterior = vi.fit(models.logistic, *models.logistic_data(), key=jax.random.key(0))
    assert posterior.q.loc.dtype == jnp.float64
    posterior = vi.fit(lambda x: -jnp.sum(x**2), jnp.zeros(2, jnp.float32), key=jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(posterior.q)} == {jnp.dtype(jnp.float32)}


def test_start_from_given_values():
    seen = []
    callback = lambda step, state, info: seen.append(np.asarray(state.search.loc)) or True
    init = {"beta": np.array([0.5, -1.5])}
    args = (models.logistic, *models.logistic_data())
    posterior = vi.fit(*args, key=jax.random.key(0), init=init, callback=callback)
    assert posterior.status == vi.Status.STOPPED
    assert len(seen) == 1
    with pytest.raises(vi.TargetError, match=r"unknown \['gamma'\]"):
        vi.fit(*args, key=jax.random.key(0), init={"gamma": 0.0})


@pytest.mark.parametrize("family", ["mean_field", "block", "low_rank"])
def test_named_families(family):
    posterior = vi.fit(
        models.regression, *models.regression_data(), key=jax.random.key(0), family=family
    )
    names = {"mean_field": "mean-field", "block": "block", "low_rank": "low-rank"}
    assert names[family] in posterior.verdict.text
    correlated = family != "mean_field"  # beta's block keeps its correlation
    assert (posterior.verdict.grade == "poor") != correlated


def test_blocks_of_sites():
    options = {"key": jax.random.key(0), "family": "block"}
    args = (models.SCHOOLS_Y, models.SCHOOLS_SIGMA)
    together = vi.fit(models.schools, *args, blocks=[["tau", "theta"]], **options)
    assert together.q.scale.indices == (tuple(range(1, 10)), (0,))
    with pytest.raises(vi.TargetError, match=r"unknown \['eta'\]"):
        vi.fit(models.schools, *args, blocks=[["eta"]], **options)


def test_families_and_functions_of_the_dimension():
    options = {"key": jax.random.key(0), "num_steps": 200}
    args = (models.logistic, *models.logistic_data())
    mixed = vi.mixture([vi.full_rank(2), vi.full_rank(2, loc=jnp.ones(2))])
    assert vi.fit(*args, family=mixed, **options).q.num_components == 2
    assert vi.fit(*args, family=vi.mean_field, **options).q.dim == 2
    with pytest.raises(ValueError, match="dimension D = 2"):
        vi.fit(*args, family=vi.mean_field(5), **options)


def test_importance_weighted_bounds_are_doubly_reparameterized_by_default():
    """Their pathwise gradients drown in noise; mixtures, whose draws are weighted, are apart."""
    target = vi.target(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))

    def chosen(objective, family="mean_field"):
        options = FitOptions(objective=objective, family=family)
        return plan(target, jax.random.key(0), options)[0].estimator.estimator

    assert isinstance(chosen(vi.iwae(num_particles=4)), vi.DoublyReparameterized)
    assert isinstance(chosen(vi.iwae(num_particles=4, estimator=vi.Pathwise())), vi.Pathwise)
    assert chosen(vi.elbo(num_particles=4)) is None
    assert chosen(vi.iwae(num_particles=4), vi.mixture([vi.mean_field(2)] * 2)) is None


def test_estimators_and_gaussian_optimizers():
    args = (models.logistic, *models.logistic_data())
    best = vi.fit(*args, key=jax.random.key(0))
    for optimizer, estimator in (
        (vi.gaussian.natural_gradient(0.2), vi.gaussian.Stein(16)),
        (vi.gaussian.natural_gradient(0.2), vi.Pathwise()),
        (vi.gaussian.forward_backward(0.3), vi.gaussian.SphericalRadial()),
        (vi.gaussian.batch_and_match(10.0), vi.gaussian.ScoreSample(16)),
        (optax.sgd(0.02), vi.gaussian.BonnetPrice(4)),
    ):
        found = vi.fit(
            *args, key=jax.random.key(1), family="full_rank", optimizer=optimizer,
            estimator=estimator, num_steps=400,
        )  # fmt: skip
        assert found.elbo > best.elbo - 0.3, (optimizer, estimator)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"family": "gaussian"}, "expected family in"),
        ({"num_steps": 0}, "num_steps to be a whole number >= 1"),
        ({"num_steps": 2.5}, "num_steps to be a whole number >= 1; got 2.5"),
        ({"num_draws": float("nan")}, "num_draws to be a whole number >= 1; got nan"),
        ({"learning_rate": 0.0}, "learning_rate > 0"),
        ({"num_draws": 0}, "num_draws to be a whole number >= 1"),
        ({"rank": 2}, "rank only with"),
        ({"blocks": [["beta"]]}, "blocks only with"),
        ({"budget": 10}, "budget only with"),
        ({"learning_rate": 0.1, "optimizer": optax.sgd(0.1)}, "not both"),
        ({"family": "auto", "num_steps": 10}, "which chooses them"),
        ({"on_failure": "shrug"}, "expected on_failure in"),
        ({"estimator": vi.gaussian.Stein(), "family": "delta"}, "a Gaussian family with the"),
        ({"estimator": vi.gaussian.Stein(), "objective": vi.elbo()}, "the default objective"),
    ],
)
def test_impossible_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        vi.fit(models.logistic, *models.logistic_data(), key=jax.random.key(0), **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"objective": vi.elbo}, r"called with its options"),
        ({"objective": Trace_ELBO()}, "losses of NumPyro are for"),
        ({"family": AutoNormal(models.logistic)}, "Guides go to vi.SVI"),
        ({"optimizer": numpyro.optim.Adam(0.1)}, "optax transformation as optimizer"),
        ({"familly": "full_rank"}, "vi.fit: .*Did you mean family"),
    ],
)
def test_what_belongs_elsewhere_is_sent_there(options, says):
    with pytest.raises(TypeError, match=says):
        vi.fit(models.logistic, *models.logistic_data(), key=jax.random.key(0), **options)


def test_a_prior_and_an_improper_posterior_are_told(x64):
    """Mistakes in a model, seen in what is fitted: the verdict names them."""

    def prior():
        numpyro.sample("x", dist.Normal(0, 1))

    def flat(y):
        numpyro.sample("slope", dist.ImproperUniform(dist.constraints.real, (), ()))
        mean = numpyro.sample("mean", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mean, 1), obs=y)

    assert "No site of the model is observed" in vi.fit(prior, key=jax.random.key(0)).verdict.text
    found = vi.fit(flat, np.ones(3), key=jax.random.key(0), on_failure="return").verdict
    assert "Along slope the fit has a standard deviation" in found.text
    assert "is observed" not in found.text
    assert found.grade != "good"


def test_not_a_key():
    with pytest.raises(TypeError, match=r"jax\.random\.key"):
        vi.fit(models.logistic, *models.logistic_data(), key=0)


# ---- when things go wrong ----------------------------------------------------------------------


def test_nan_in_a_covariate_names_the_argument():
    X, y = models.regression_data()
    X[3, 1] = np.nan
    with pytest.raises(vi.NonFiniteTargetError, match=r"argument number 0 .*at index \(3, 1\)"):
        vi.fit(models.regression, X, y, key=jax.random.key(0))


def test_nan_in_the_data_names_site_and_observation():
    X, y = models.regression_data()
    y[7] = np.nan
    with pytest.raises(vi.NonFiniteTargetError, match=r"site 'y' is .*first at index 7"):
        vi.fit(models.regression, X, y, key=jax.random.key(0))
    with pytest.raises(vi.NonFiniteTargetError, match="site 'y'"):
        vi.fit(models.regression, X, y, key=jax.random.key(0), num_steps=10)


def test_observation_outside_the_support_is_named():
    def model(x):
        rate = numpyro.sample("rate", dist.LogNormal(0.0, 1.0))
        numpyro.sample("x", dist.Exponential(rate).expand(x.shape), obs=x)

    x = np.array([1.0, 2.0, -3.0, 1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(vi.NonFiniteTargetError, match="site 'x' is -inf at index 2"):
            vi.fit(model, x, key=jax.random.key(0))


@pytest.mark.parametrize("on_failure", ["warn", "raise", "return"])
def test_failure_mid_run_keeps_the_last_good_state(on_failure):
    """NaN from the twentieth step on, by a schedule: the fit was finite before."""
    schedule = lambda t: jnp.where(t < 120, 0.01, jnp.nan)
    options = {
        "key": jax.random.key(0),
        "family": "mean_field",
        "optimizer": optax.sgd(schedule),
        "num_steps": 1000,
        "on_failure": on_failure,
    }
    args = (models.logistic, *models.logistic_data())
    if on_failure == "raise":
        with pytest.raises(vi.FitError, match="last good state") as caught:
            vi.fit(*args, **options)
        posterior = caught.value.posterior
    elif on_failure == "warn":
        with pytest.warns(RuntimeWarning, match="last good state"):
            posterior = vi.fit(*args, **options)
    else:
        posterior = vi.fit(*args, **options)
    assert posterior.status == vi.Status.NONFINITE
    assert posterior.verdict.grade == "failed"
    assert "32-bit floats" in posterior.verdict.text
    assert np.all(np.isfinite(posterior.q.loc))
    assert np.isfinite(posterior.elbo)


def test_interrupt_returns_the_last_good_posterior():
    def callback(step, state, info):
        if step > 20:
            raise KeyboardInterrupt

    posterior = vi.fit(
        models.logistic, *models.logistic_data(), key=jax.random.key(0), callback=callback
    )
    assert posterior.status == vi.Status.INTERRUPTED
    assert "interrupted" in posterior.verdict.text
    assert np.all(np.isfinite(posterior.q.loc))


@pytest.mark.slow
def test_an_interrupted_fit_to_minibatches_is_judged_by_few_draws():
    """Each asks for all rows. A fit that ends by itself, or names a number, has its own."""

    def model(y):
        loc = numpyro.sample("loc", dist.Normal(0, 1))
        with numpyro.plate("rows", 40, subsample_size=10) as rows:
            numpyro.sample("y", dist.Normal(loc, 1), obs=y[rows])

    def interrupt(step, state, info):
        raise KeyboardInterrupt

    fit = partial(vi.fit, model, np.ones(40), key=jax.random.key(0), num_steps=300)
    stopped = fit(callback=interrupt, on_failure="return")
    assert stopped.status == vi.Status.INTERRUPTED
    assert stopped.diagnostics.num_draws == 256
    assert "family='auto'" not in stopped.verdict.text
    assert fit(callback=interrupt, on_failure="return", num_draws=500).diagnostics.num_draws == 500
    assert fit(on_failure="return").diagnostics.num_draws > 2000


def test_callback_sees_progress_and_can_stop():
    seen = []

    def callback(step, state, info):
        seen.append(info)
        return step >= 300

    posterior = vi.fit(
        models.logistic, *models.logistic_data(), key=jax.random.key(0), num_steps=1000,
        callback=callback,
    )  # fmt: skip
    assert [info["step"] for info in seen] == [100, 200, 300]
    assert seen[-1]["gradients"] == 3000
    assert posterior.status == vi.Status.STOPPED
    assert list(posterior.history["step"]) == [100, 200, 300]


def test_progress_bar_on_request(capsys):
    vi.fit(models.logistic, *models.logistic_data(), key=jax.random.key(0), progress=True)
    assert "ELBO" in capsys.readouterr().err
    vi.fit(models.logistic, *models.logistic_data(), key=jax.random.key(0), progress=False)
    assert capsys.readouterr().err == ""


def test_cost_is_counted():
    """On a Gaussian, 2D + 1 gradients a step, whatever the steps."""
    target = vi.target(*models.gaussian_target())
    posterior = vi.fit(target, key=jax.random.key(0))
    assert posterior.cost["gradients"] % 9 == 0
    assert posterior.cost["gradients"] == 9 * posterior.history["step"][-1]
    assert posterior.cost["log_densities"] == posterior.diagnostics.num_draws
    assert posterior.cost["seconds"] >= posterior.cost["compile_seconds"] / 2


def test_many_coordinates_fall_back_to_mean_field_and_say_so(monkeypatch):
    monkeypatch.setattr("vi.plan.MAX_DENSE", 3)
    monkeypatch.setattr("vi.gaussian.solve.MAX_DENSE", 3)
    target = vi.target(*models.gaussian_target())
    posterior = vi.fit(target, key=jax.random.key(0))
    assert "the family is mean field" in posterior.verdict.text
    with pytest.raises(ValueError, match="out of reach"):
        vi.fit(vi.target(*models.gaussian_target(13)), key=jax.random.key(0), family="full_rank")


def test_options_that_the_model_has_too_are_not_swallowed():
    def model(y, num_steps=3):
        mu = numpyro.sample("mu", dist.Normal(0, num_steps))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    with pytest.raises(TypeError, match=r"\['num_steps'\] are both"):
        vi.fit(model, 1.0, num_steps=1, key=jax.random.key(0))


def test_starts_outside_the_support_are_an_error():
    def model():
        numpyro.sample("scale", dist.HalfNormal(1.0))

    for value in (-1.0, np.ones(3)):
        with pytest.raises(vi.TargetError, match="init"):
            vi.fit(model, key=jax.random.key(0), init={"scale": value})


def test_a_point_estimate_is_that_of_the_models_own_sites():
    """The mode of a gamma density, as of NumPyro's AutoDelta; not that of its logarithm, 2."""

    def model():
        numpyro.sample("x", dist.Gamma(2.0, 1.0))

    posterior = vi.fit(model, key=jax.random.key(0), family="delta")
    assert np.isclose(posterior.sample(jax.random.key(1), 1)["x"][0], 1.0, atol=1e-3)


def test_numbers_of_any_kind_are_numbers():
    """Scalars of NumPy and JAX are; truth values, vectors and NaN are not."""
    for rate in (0.1, np.float32(0.1), np.array(0.1), jnp.array(0.1)):
        FitOptions(learning_rate=rate).check()
    for rate in (True, np.array([0.1]), np.nan, "0.1"):
        with pytest.raises(ValueError, match="a finite learning_rate > 0"):
            FitOptions(learning_rate=rate).check()
