"""`Posterior`: draws, densities, corrected draws, export, pictures and files."""

import functools
import sys
import types

import arviz
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
import xarray
from numpyro.infer import Predictive

import vi
from tests import models
from tests.stats import assert_mean
from vi.posterior import export, tables

KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def schools():
    args = (models.SCHOOLS_Y, models.SCHOOLS_SIGMA)
    return vi.fit(models.schools, *args, key=jax.random.key(0))


@pytest.fixture(scope="module")
def regression():
    return vi.fit(models.regression, *models.regression_data(), key=jax.random.key(0))


def test_sample_gives_all_sites_constrained(regression):
    draws = regression.sample(KEY, 50)
    assert {name: x.shape for name, x in draws.items()} == {
        "beta": (50, 2), "sigma": (50,), "first": (50,),
    }  # fmt: skip
    assert np.all(draws["sigma"] > 0)
    assert np.array_equal(draws["first"], draws["beta"][:, 0])
    z, log_q = regression.sample_unconstrained(KEY, 50)
    assert np.allclose(np.exp(z["sigma"]), draws["sigma"], rtol=1e-5)
    assert log_q.shape == (50,)


def test_log_prob_is_a_density_of_the_constrained_values(schools):
    """The change of variables of tau, which lives on the positive half line."""
    values = {k: v[0] for k, v in schools.sample(KEY, 1).items()}
    z = schools.target.unconstrain(values)
    expected = schools.q.log_prob(z) - np.log(values["tau"])
    assert np.isclose(schools.log_prob(values), expected, rtol=1e-5)
    with pytest.raises(vi.TargetError, match="tau"):
        schools.log_prob({"mu": values["mu"], "theta": values["theta"]})


class Wide:
    """A density whose draws and normaliser are known, far from its fit."""

    density = staticmethod(lambda x: -0.5 * jnp.sum((x / 1.2) ** 2))
    log_evidence = float(np.log(2 * np.pi * 1.2**2))


def posterior_of(density, q):
    """A posterior whose family is given, not fitted."""
    target = vi.target(density, jnp.zeros(q.dim))
    found = vi.fit(target, key=KEY, family=q, num_steps=1, optimizer=optax.sgd(0.0))
    assert np.array_equal(found.q.loc, q.loc)
    return found


def test_resampling_corrects_a_bad_fit():
    """N(0, 1) for N(0, 1.2²): false alarms 1e-6 per coordinate; the twin is `sample`."""
    fit = posterior_of(Wide.density, vi.mean_field(2))
    assert np.isclose(fit.diagnostics.log_evidence, Wide.log_evidence, atol=0.1)
    plain, corrected = fit.sample(KEY, 4000)["x"], fit.resample(KEY, 4000)["x"]
    # Weights repeat draws: fewer are independent than were returned.
    distinct = len(np.unique(corrected[:, 0]))
    corrected = corrected[np.random.default_rng(0).permutation(4000)[: distinct // 4]]
    assert_mean(np.abs(corrected), 1.2 * np.sqrt(2 / np.pi))
    with pytest.raises(AssertionError):
        assert_mean(np.abs(plain), 1.2 * np.sqrt(2 / np.pi))


def test_predictive_is_numpyros(regression):
    X, _ = models.regression_data()
    found = regression.predictive(KEY, X, None, num_samples=200)
    draw_key, predict_key = jax.random.split(KEY)
    latent = lambda draws: {k: v for k, v in draws.items() if k != "first"}
    expected = lambda draws: Predictive(models.regression, latent(draws))(predict_key, X, None)["y"]
    assert np.array_equal(found["y"], expected(regression.sample(draw_key, 200)))
    corrected = regression.predictive(KEY, X, None, num_samples=200, corrected=True)
    assert np.array_equal(corrected["y"], expected(regression.resample(draw_key, 200)))
    assert not np.array_equal(corrected["y"], found["y"])
    assert found["y"].shape == (200, len(X))
    with pytest.raises(TypeError, match=r"key from jax.random.key; got 100. It comes first"):
        regression.sample(100)
    with pytest.raises(TypeError, match=r"required argument: 'X'.* None for the observations"):
        regression.predictive(KEY)  # inputs of the fit are not remembered
    with pytest.raises(TypeError, match="expected a NumPyro model"):
        posterior_of(Wide.density, vi.mean_field(2)).predictive(KEY)


def test_summary_agrees_with_arviz(schools):
    ours = schools.summary(num_samples=4000)
    theirs = arviz.summary(schools.to_arviz(4000), kind="stats", round_to=3)
    assert list(ours.index) == list(theirs.index)
    assert np.allclose(ours["mean"], theirs["mean"], atol=1e-3)
    assert np.allclose(ours["sd"], theirs["sd"], atol=1e-3)
    assert list(schools.summary(["mu"]).index) == ["mu"]
    corrected = schools.summary(corrected=True)
    assert corrected.shape == ours.shape
    assert not np.allclose(corrected["mean"], ours["mean"], atol=1e-3)


def test_summary_keeps_digits_at_every_scale():
    """Four digits of each row's standard deviation, and no more."""
    z = np.random.default_rng(0).normal(size=4000)
    sds = {"small": 1e-5, "one": 1.0, "large": 1e6}
    draws = {name: (2 + z) * sd for name, sd in sds.items()}
    found = tables.summary({**draws, "constant": np.full(4000, 1 / 3)})
    for name, sd in sds.items():
        assert np.allclose(found.loc[name, "mean"] / sd, 2 + z.mean(), atol=1e-3)
        assert np.allclose(found.loc[name, "95%"] / sd, 2 + np.quantile(z, 0.95), atol=1e-3)
        assert np.isclose(found.loc[name, "sd"] / sd, z.std(ddof=1), atol=1e-3)
    assert found.loc["one", "mean"] == round(2 + z.mean(), 4 if z.std(ddof=1) < 1 else 3)
    assert found.loc["constant", "mean"] == pytest.approx(1 / 3, abs=1e-12)


def test_predictive_takes_numpy_arrays_that_random_rows_index():
    """As `vi.fit` does: NumPy's own arrays refuse indices that JAX traces."""

    def model(x, size, y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 1))
        with numpyro.plate("rows", size, subsample_size=4) as rows:
            seen = None if y is None else y[rows]
            numpyro.sample("y", dist.Normal(slope * x[rows], 1), obs=seen)

    x = np.linspace(0, 1, 10)
    fitted = vi.fit(model, x, 10, np.ones(10), key=KEY, num_steps=1, family="mean_field")
    assert fitted.predictive(KEY, x, 10, num_samples=3)["y"].shape == (3, 4)
    with pytest.raises(ValueError, match=r"expected None for .* got data for y, which would come"):
        fitted.predictive(KEY, x, 10, np.ones(10))


def test_pointwise_log_likelihood_for_loo(regression):
    data = regression.to_arviz(2000, log_likelihood=True)
    X, y = models.regression_data()
    posterior = data.posterior
    means = posterior["beta"].to_numpy()[0] @ X.T
    expected = dist.Normal(means, posterior["sigma"].to_numpy()[0][:, None]).log_prob(y)
    assert np.allclose(data.log_likelihood["y"][0], expected, rtol=1e-4, atol=1e-4)
    assert np.isfinite(arviz.loo(data).elpd_loo)
    with pytest.raises(TypeError, match="observed sites for log_likelihood"):
        posterior_of(Wide.density, vi.mean_field(2)).to_datatree(10, log_likelihood=True)


def test_export_for_arviz(schools):
    tree = schools.to_datatree(300)
    assert set(tree.children) == {"posterior", "sample_stats", "observed_data"}
    assert dict(tree["posterior"].sizes) == {"chain": 1, "draw": 300, "theta_dim_0": 8}
    assert tree.attrs["grade"] == schools.verdict.grade
    weights = tree["sample_stats"]["log_weight"]
    assert np.allclose(weights, tree["sample_stats"]["lp"] - tree["sample_stats"]["log_q"])
    assert np.array_equal(tree["observed_data"]["y"], models.SCHOOLS_Y.astype(np.float32))
    data = schools.to_arviz(300)
    assert data.posterior["theta"].shape == (1, 300, 8)
    assert arviz.ess(data)["mu"] > 100
    mended = schools.to_arviz(300, corrected=True)
    draws = schools.resample(jax.random.key(0), 300)
    assert np.array_equal(mended.posterior["tau"][0], draws["tau"])
    assert set(mended.sample_stats.data_vars) == {"lp", "log_q"}  # they are weighed already


def test_arviz_1_takes_the_tree(monkeypatch):
    """It still answers to the old name, with a warning, and gives DataTree for it."""
    tree = export.datatree({"posterior": {"x": np.zeros((1, 5))}}, {})
    new, old = types.ModuleType("arviz"), types.ModuleType("arviz")
    new.__getattr__ = lambda name: xarray.DataTree  # pyright: ignore
    old.InferenceData = lambda **groups: types.SimpleNamespace(attrs={}, **groups)  # pyright: ignore
    monkeypatch.setitem(sys.modules, "arviz", new)
    assert export.for_arviz(tree) is tree
    monkeypatch.setitem(sys.modules, "arviz", old)
    assert export.for_arviz(tree).posterior["x"].shape == (1, 5)


def test_pictures_show_what_they_say(schools):
    with pytest.raises(ValueError, match=r"unknown \['eta'\]"):
        schools.plot_marginals(["eta"])
    reference = {"mu": np.zeros(10) + np.arange(10), "tau": np.ones(10) + np.arange(10)}
    figure = schools.plot_marginals(["mu", "tau"], reference=reference)
    assert [axis.get_title() for axis in figure.axes if axis.get_visible()] == ["mu", "tau"]
    figure = schools.plot_pairs(["mu", "tau"])
    assert figure.axes[2].get_xlabel() == "mu"
    assert figure.axes[2].get_ylabel() == "tau"
    figure = schools.plot_elbo()
    *runs, final = figure.axes[0].lines
    shown = np.concatenate([line.get_ydata() for line in runs])
    assert len(runs) == len(set(schools.history["run"]))
    assert np.array_equal(shown, schools.history["elbo"], equal_nan=True)
    assert final.get_ydata()[0] == schools.elbo
    plt.close("all")


def test_repr_names_sites_and_verdict(schools):
    assert "mu, tau, theta[8]" in repr(schools)
    assert str(schools.verdict) in repr(schools)


def test_provenance_says_how_to_repeat_the_fit(schools):
    about = schools.provenance
    assert about["versions"]["jax"] == jax.__version__
    assert about["cost"]["gradients"] == schools.cost["gradients"]
    assert about["key"] == [0, 0]
    assert about["status"] == "CONVERGED"


def test_files_are_tied_to_model_and_data(schools, tmp_path):
    path = tmp_path / "posterior.npz"
    schools.save(path)
    args = (models.SCHOOLS_Y, models.SCHOOLS_SIGMA)
    back = vi.Posterior.load(path, models.schools, *args)
    assert back.elbo == schools.elbo
    assert back.summary().equals(schools.summary())
    assert back.provenance == schools.provenance
    with pytest.raises(vi.CheckpointError, match="expected data"):
        vi.Posterior.load(path, models.schools, models.SCHOOLS_Y + 1, models.SCHOOLS_SIGMA)
    with pytest.raises(vi.CheckpointError, match="expected sites"):
        vi.Posterior.load(path, models.logistic, *models.logistic_data())
    with pytest.raises(FileNotFoundError):
        vi.Posterior.load(tmp_path / "nothing.npz", models.schools, *args)


def test_one_draw_of_a_simplex_site():
    """Constrained and unconstrained shapes differ."""
    import numpyro

    def model(counts):
        p = numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))
        numpyro.sample("counts", dist.Multinomial(probs=p, total_count=30), obs=counts)

    posterior = vi.fit(model, np.array([5, 10, 15]), key=jax.random.key(0))
    draws = posterior.sample(KEY, 20_000)["p"]
    assert draws.shape == (20_000, 3)
    assert np.allclose(draws.sum(1), 1, atol=1e-5)
    assert np.allclose(draws.mean(0), np.array([6, 11, 16]) / 33, atol=0.01)


def test_functions_of_the_target_are_compiled_once(schools):
    """Another posterior of the same model and other data: no new trace."""
    traces = 0

    def density(x, scale):
        nonlocal traces
        traces += 1
        return -0.5 * jnp.sum((x / scale) ** 2)

    def use(scale):
        posterior = vi.fit(density, jnp.zeros(2), scale, key=KEY, num_steps=1, family="mean_field")
        posterior.sample(KEY, 10)
        posterior.resample(KEY, 10)
        posterior.log_prob({"x": jnp.zeros(2)})

    use(2.0)
    before = traces
    use(3.0)
    assert traces == before


def test_keys_decide_draws(schools):
    same = functools.partial(schools.sample, num_samples=5)
    assert np.array_equal(same(KEY)["mu"], same(KEY)["mu"])
    assert not np.array_equal(same(KEY)["mu"], same(jax.random.key(6))["mu"])
    assert not np.array_equal(schools.resample(KEY, 5)["mu"], same(KEY)["mu"])
