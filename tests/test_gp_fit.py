"""`gp.fit` and the posterior: against scikit-learn and SciPy, on disk, and when things go wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from scipy import stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as sk

import gp
from gp import methods
from gp.defaults import default_likelihood
from gp.dense import DensePrior
from gp.parameters import parameters
from vi import CheckpointError, Status

KEY = jax.random.key(0)
RNG = np.random.default_rng(1)
X = RNG.uniform(0, 4, size=(40, 2))
Y = 10 + 3 * np.sin(2 * X[:, 0]) + 0.3 * RNG.normal(size=40)
NEW = RNG.uniform(0, 4, size=(7, 2))
LABELS = (Y > 10) * 1.0


@pytest.fixture(scope="module")
def fitted():
    with jax.enable_x64(True):
        yield gp.fit(X, Y, key=KEY)


@pytest.fixture(scope="module")
def classified():
    with jax.enable_x64(True):
        yield gp.fit(X, LABELS, key=KEY, likelihood=gp.Bernoulli(), fixed=["variance"], num_steps=9)


def _sklearn(posterior):
    values = {name: np.asarray(v) for name, v in parameters(posterior.model).items()}
    kernel = sk.ConstantKernel(values["kernel.variance"]) * sk.Matern(
        values["kernel.lengthscale"], nu=1.5
    )
    noise = float(values["likelihood.variance"])
    reference = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None)
    return reference.fit(X, Y - values["mean.constant"]), values


def test_regression_is_scikit_learns(fitted):
    reference, values = _sklearn(fitted)
    mean, sd = reference.predict(NEW, return_std=True)
    found = fitted.predict(NEW)
    np.testing.assert_allclose(found.mean, mean + values["mean.constant"], rtol=1e-8)
    np.testing.assert_allclose(found.variance, sd**2, rtol=1e-7)
    evidence = reference.log_marginal_likelihood_value_
    np.testing.assert_allclose(fitted.elbo, evidence, rtol=1e-9)
    full = fitted.predict(NEW, full_cov=True).variance
    np.testing.assert_allclose(full, reference.predict(NEW, return_cov=True)[1], atol=1e-9)
    noise = values["likelihood.variance"]
    new = fitted.predict_y(NEW)
    np.testing.assert_allclose(new.variance, found.variance + noise)
    density = fitted.log_predictive_density(NEW, np.full(7, 10.0))
    np.testing.assert_allclose(density, stats.norm.logpdf(10, new.mean, np.sqrt(new.variance)))
    assert fitted.status == Status.CONVERGED
    assert fitted.verdict.grade == "good", fitted.verdict


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_training_ends_where_scikit_learns_does(fitted):
    """Its optimizer, from where ours ended, gains nothing."""
    _, values = _sklearn(fitted)
    kernel = sk.ConstantKernel(float(values["kernel.variance"]), (1e-3, 1e5)) * sk.Matern(
        values["kernel.lengthscale"], (1e-2, 1e5), nu=1.5
    ) + sk.WhiteKernel(float(values["likelihood.variance"]))
    best = GaussianProcessRegressor(kernel, alpha=0.0).fit(X, Y - values["mean.constant"])
    assert best.log_marginal_likelihood_value_ < fitted.elbo + 5e-3


def test_leave_one_out_is_that_of_fits_without_the_datum(fitted):
    kernel, noise = fitted.model.kernel, float(fitted.model.likelihood.variance)
    centre = float(fitted.model.mean.constant)
    for i in (0, 17):
        keep = np.arange(40) != i
        rest = X[keep]
        cross = np.asarray(kernel(X[i : i + 1], rest))
        gain = cross @ np.linalg.inv(kernel(rest, rest) + noise * np.eye(39))
        mean = centre + gain @ (Y[keep] - centre)
        variance = float(kernel.variance) - gain @ cross.T + noise
        expected = stats.norm.logpdf(Y[i], mean[0], np.sqrt(variance[0, 0]))
        np.testing.assert_allclose(fitted.leave_one_out()[i], expected, rtol=1e-7)


def test_local_kriging_from_all_data_is_the_posterior(fitted):
    found, exact = fitted.predict(NEW, method="local", num_neighbors=40), fitted.predict(NEW)
    np.testing.assert_allclose(found.mean, exact.mean, rtol=1e-8)
    np.testing.assert_allclose(found.variance, exact.variance, rtol=1e-6)
    few = fitted.predict(NEW, method="local", num_neighbors=8)
    near = np.argsort((((X - NEW[0]) / np.asarray(fitted.model.kernel.lengthscale)) ** 2).sum(1))[
        :8
    ]
    kernel, noise = fitted.model.kernel, float(fitted.model.likelihood.variance)
    cross = np.asarray(kernel(NEW[:1], X[near]))
    gain = cross @ np.linalg.inv(kernel(X[near], X[near]) + noise * np.eye(8))
    centre = float(fitted.model.mean.constant)
    np.testing.assert_allclose(few.mean[0], centre + gain @ (Y[near] - centre), rtol=1e-8)
    assert np.all(few.variance > exact.variance - 1e-9)


def test_classification(classified, tmp_path):
    p = classified.predict_y(X).mean
    assert np.mean((p > 0.5) == LABELS) > 0.9
    assert classified.elbo < 0
    assert "k-hat" in classified.verdict.text
    assert float(classified.model.kernel.variance) == 1.0  # it was to stay as it is
    gain = classified.checks.log_evidence - classified.elbo
    assert -0.05 < gain < 1.0
    classified.save(tmp_path / "classes.npz")
    back = gp.load(tmp_path / "classes.npz", X, LABELS, likelihood=gp.Bernoulli())
    np.testing.assert_array_equal(back.predict(NEW).mean, classified.predict(NEW).mean)
    assert back.verdict == classified.verdict
    assert back.cost == classified.cost
    np.testing.assert_array_equal(back.leave_one_out(), classified.leave_one_out())
    for options, y, message in (
        ({}, LABELS, "it differs in model"),
        ({"likelihood": gp.Bernoulli()}, 1 - LABELS, "it differs in data"),
        (
            {"likelihood": gp.Bernoulli(), "kernel": gp.SquaredExponential(jnp.ones(2))},
            LABELS,
            "its ELBO was",
        ),
    ):
        with pytest.raises(CheckpointError, match=message):
            gp.load(tmp_path / "classes.npz", X, y, **options)


def test_interrupted_training_goes_on_to_the_same_bits(classified, tmp_path):
    path = tmp_path / "training.npz"
    options = {"likelihood": gp.Bernoulli(), "fixed": ["variance"], "num_steps": 9, "key": KEY}
    stopped = gp.fit(X, LABELS, checkpoint=path, callback=lambda *_: True, **options)
    assert stopped.status == Status.STOPPED
    resumed = gp.fit(X, LABELS, checkpoint=path, **options)
    assert resumed.elbo == classified.elbo
    np.testing.assert_array_equal(resumed.history["elbo"], classified.history["elbo"])
    with pytest.raises(CheckpointError, match="data"):
        gp.fit(X, 1 - LABELS, checkpoint=path, **options)


def test_other_data_of_the_shape_compile_nothing(fitted):
    fitted.predict(NEW)
    key, compiled = jax.random.key(5), []
    listen = lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    jax.monitoring.register_event_duration_secs_listener(listen)
    other = gp.fit(X[::-1] * 1.1, Y + np.cos(X[:, 1]), key=key)
    other.predict(NEW + 1)
    assert not compiled
    jax.jit(lambda x: x + 1)(1.0)
    assert compiled
    assert other.elbo != fitted.elbo


@pytest.mark.slow
def test_priors_are_added(fitted):
    """A prior sharp at a value holds the hyperparameter there, at the prior's density."""
    held = gp.fit(X, Y, key=KEY, priors={"likelihood.variance": dist.LogNormal(-1.0, 1e-3)})
    np.testing.assert_allclose(held.model.likelihood.variance, np.exp(-1.0), rtol=0.01)
    peak = float(dist.LogNormal(-1.0, 1e-3).log_prob(held.model.likelihood.variance))
    np.testing.assert_allclose(held.history["elbo"][-1], held.elbo + peak, rtol=1e-6)
    assert held.elbo < fitted.elbo


@pytest.mark.slow
def test_other_optimizers_train_too(fitted):
    trained = gp.fit(X, Y, key=KEY, optimizer=optax.adam(0.1), num_steps=60)
    assert trained.elbo > fitted.elbo - 1.0


def test_missing_targets_are_left_out(fitted):
    y = np.where(np.arange(45) < 40, np.append(Y, np.zeros(5)), np.nan)
    x = np.concatenate([X, NEW[:5]])
    with pytest.raises(ValueError, match=r"y\[40\] = nan and 4 more. Pass missing='ignore'"):
        gp.fit(x, y, key=KEY)
    ignored = gp.fit(x, y, key=KEY, missing="ignore")
    assert ignored.elbo == fitted.elbo
    assert "5 targets were missing" in ignored.verdict.text


@pytest.mark.slow
def test_noise_of_two_sizes_is_found():
    with jax.enable_x64(True):
        x = np.linspace(0, 1, 80)
        y = np.sin(6 * x) + np.where(x < 0.5, 0.05, 0.6) * RNG.normal(size=80)
        kernels = [gp.Matern(0.3, 1.0), gp.Matern(0.5, 1.0)]
        found = gp.fit(
            x, y, key=KEY, likelihood=gp.HeteroscedasticGaussian(), kernel=kernels, train=False
        )
        sd = np.sqrt(found.predict_y(np.array([0.2, 0.8])).variance)
        assert sd[0] < 0.15
        assert sd[1] > 0.4
        assert found.sample(KEY, x[:3], 2).shape == (2, 3, 2)
        assert found.predict(x[:3], full_cov=True).variance.shape == (2, 3, 3)
        with pytest.raises(ValueError, match="2 latent functions; got 1"):
            gp.fit(x, y, key=KEY, likelihood=gp.HeteroscedasticGaussian(), kernel=kernels[:1])


@pytest.mark.slow
def test_a_method_is_one_line_and_its_graph_follows_the_length_scales(monkeypatch):
    made = []

    class Graphed(DensePrior):
        @property
        def graph(self):
            return tuple(np.round(np.asarray(self.kernel.lengthscale), 1))

        def refreshed(self, kernel):
            return Graphed(kernel, self.mean, self.x)

    Graphed = jax.tree_util.register_dataclass(Graphed, ["kernel", "mean", "x"], [])

    def build(kernel, mean, x, *, likelihood, width=3):
        made.append(width)
        return Graphed(kernel, mean, x)

    monkeypatch.setitem(methods.METHODS, "graphed", methods.Method(build))
    with jax.enable_x64(True):
        found = gp.fit(X, Y, key=KEY, method="graphed", method_options={"width": 5})
        assert made == [5]
        assert "Neighbours were looked for again" in found.verdict.text
        with pytest.raises(TypeError, match=r"in \['width'\]; got \['depth'\]"):
            gp.fit(X, Y, key=KEY, method="graphed", method_options={"depth": 1})


@pytest.mark.slow
def test_single_precision_goes_on():
    found = gp.fit(X.astype(np.float32), Y.astype(np.float32), key=KEY)
    assert found.predict(NEW).mean.dtype == np.float32
    assert found.verdict.grade == "good", found.verdict


def test_for_people(fitted):
    assert "Gaussian process (Matern, Gaussian; N = 40, D = 2)\ngood: the exact" in repr(fitted)
    table = fitted.summary()
    assert list(table.index[:3]) == [
        "kernel.lengthscale[0]",
        "kernel.lengthscale[1]",
        "kernel.variance",
    ]
    import matplotlib.pyplot as plt

    assert len(fitted.plot(points=5).axes) == 4
    line = gp.fit(X[:, 0], Y, key=KEY, train=False)
    assert len(line.plot(points=5).axes) == 1
    plt.close("all")
    with pytest.raises(ValueError, match="one or two coordinates"):
        gp.fit(RNG.normal(size=(5, 3)), Y[:5], key=KEY, train=False).plot()


def test_noise_starts_at_what_nearest_neighbours_differ_by():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(0, 6, 3000), np.zeros(2)])[:, None]
    noise = 0.05 * rng.normal(size=len(x))
    found = default_likelihood(x, np.sin(x[:, 0]) + noise).variance
    assert 0.8 < found / 0.05**2 < 1.2
    noise[:] = rng.normal(size=len(x))
    np.testing.assert_allclose(default_likelihood(x, noise).variance, 0.1 * noise.var())


def test_targets_that_are_all_equal_are_named():
    found = gp.fit(X, np.ones(40), key=KEY, train=False)
    assert "All targets are equal" in found.verdict.text


BAD = np.where(np.arange(40)[:, None] == 3, np.nan, X)


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((BAD, Y), {}, r"finite inputs; got x\[3\]"),
        ((X[:0], Y[:0]), {}, "not empty"),
        ((X, Y[:-1]), {}, r"targets of shape \(40,\)"),
        ((X, Y), {"likelihood": gp.Bernoulli()}, r"0 or 1; got y\[0\]"),
        (
            (X, np.r_[np.nan, LABELS[1:-1], 2.0]),
            {"likelihood": gp.Bernoulli(), "missing": "ignore"},
            r"0 or 1; got y\[39\] = 2",
        ),
        ((X, np.full(40, np.nan)), {"missing": "ignore"}, "a target that is not missing"),
        ((X, Y), {"method": "magic"}, "expected method in"),
        ((X, Y), {"fixed": ["wiggle"]}, "out of .*kernel.lengthscale.*'wiggle'"),
        ((X, Y), {"priors": {"wiggle": dist.Normal()}}, "got 'wiggle'"),
        ((X, Y), {"kernel": gp.Matern(jnp.ones(3))}, r"D = 2 coordinates; got shape \(3,\)"),
        ((X, Y), {"kernel": gp.Matern(-1.0)}, "kernel.lengthscale > 0; got -1"),
        ((X, Y), {"missing": "drop"}, "'raise' or 'ignore'"),
        (
            (X, Y),
            {"kernel": gp.pointwise(lambda a, b: -jnp.exp(-jnp.sum((a - b) ** 2)))},
            "positive definite kernel; .* The closest inputs are",
        ),
        (
            (X, Y),
            {"kernel": gp.pointwise(lambda a, b: jnp.log(-jnp.sum(a * b))), "train": False},
            "kernel of finite values; got nan",
        ),
    ],
)
def test_what_cannot_be_fitted_is_refused(args, options, message):
    with pytest.raises(ValueError, match=message):
        gp.fit(*args, key=KEY, **options)


def test_other_mistakes_are_named(fitted):
    with pytest.raises(TypeError, match="a likelihood such as"):
        gp.fit(X, Y, key=KEY, likelihood="bernoulli")
    with pytest.raises(TypeError, match="with log_prob"):
        gp.fit(X, Y, key=KEY, priors={"lengthscale": 3.0})
    with pytest.raises(ValueError, match="inputs of 2 coordinates"):
        fitted.predict(X[:, :1])
    with pytest.raises(ValueError, match="'posterior' or 'local'"):
        fitted.predict(X, method="nearest")
    with pytest.raises(ValueError, match=r"full_cov=False for method='local'"):
        fitted.predict(X, method="local", full_cov=True)
    with pytest.raises(ValueError, match=r"targets of shape \(7,\)"):
        fitted.log_predictive_density(NEW, Y)
    with pytest.raises(TypeError, match=r"a kernel such as gp.Matern\(\); got 'rbf'"):
        gp.fit(X, Y, key=KEY, kernel="rbf")
    with pytest.raises(TypeError, match=r"a mean such as gp.ConstantMean\(\); got 'zero'"):
        gp.fit(X, Y, key=KEY, mean="zero")
    with pytest.raises(TypeError, match="targets that are real numbers; got dtype <U1"):
        gp.fit(X, np.full(40, "a"), key=KEY)
    with pytest.raises(ValueError, match="num_neighbors >= 1 for method='local'; got 0"):
        fitted.predict(X, method="local", num_neighbors=0)
    for option in ({"num_neighbors": 2.5}, {"num_rows": 0}):
        with pytest.raises(ValueError, match="of method 'sic' to be an integer >= 1; got"):
            gp.fit(X, Y, key=KEY, method="sic", method_options=option)
