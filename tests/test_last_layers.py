"""Bayesian last layers: against evidence in NumPy, draws of the weights, and dense filters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import gp
from gp import last_layers
from gp.last_layers import Rows
from tests.stats import assert_mean
from vi.compile import quick_jit

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
N, D, P = 12, 3, 2
PHI = RNG.normal(size=(N, D))
Y = PHI @ RNG.normal(size=(D, P)) + 0.3 * RNG.normal(size=(N, P))
LABELS = RNG.integers(0, 3, N)
NOISE, PRIOR = np.array([0.2, 0.5]), 1.7


def wide(layer, **changes):
    """A layer in 64-bit floats."""
    layer = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), layer)
    return dataclasses.replace(layer, **{k: jnp.asarray(v) for k, v in changes.items()})


def regression():
    found = last_layers.regression(KEY, D, P)
    return wide(found, log_noise=np.log(NOISE), log_prior=np.log(PRIOR))


def evidence(phi, y):
    """Of Bayesian linear regression, output by output."""
    covariance = PRIOR * phi @ phi.T
    return sum(
        stats.multivariate_normal.logpdf(y[:, k], cov=covariance + NOISE[k] * np.eye(len(y)))
        for k in range(P)
    )


# ---- regression --------------------------------------------------------------------------------


def test_the_bound_is_the_evidence_at_the_posterior(x64):
    layer = regression()
    best = quick_jit(lambda layer: layer.posterior(PHI, Y))(layer)
    graded = quick_jit(jax.value_and_grad(lambda layer: layer.elbo(PHI, Y)))
    exact = evidence(PHI, Y)
    value, slopes = graded(best)
    assert np.isclose(value, exact, rtol=0, atol=1e-9)
    assert max(np.abs(a).max() for a in jax.tree.leaves(slopes.rows)) < 1e-9
    # Twin: away from the posterior the bound is lower, as with divergence averaged over outputs.
    assert graded(layer)[0] < exact - 1
    moved = dataclasses.replace(best, rows=Rows(best.rows.mean + 0.1, best.rows.raw))
    assert graded(moved)[0] < exact - 0.01


@pytest.mark.slow
def test_batches_are_all_data(x64):
    layer = regression()
    first = layer.posterior(PHI[:5], Y[:5])
    second = first.posterior(PHI[5:], Y[5:], prior=first.rows)
    once = layer.posterior(PHI, Y)
    for a, b in zip(jax.tree.leaves(second), jax.tree.leaves(once), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
    steps = first.elbo(PHI[:5], Y[:5]) + second.elbo(PHI[5:], Y[5:], prior=first.rows)
    assert np.isclose(steps, evidence(PHI, Y), atol=1e-9)
    halves = [layer.elbo(PHI[i : i + 6], Y[i : i + 6], num_data=N) for i in (0, 6)]
    assert np.isclose(np.mean(halves), layer.elbo(PHI, Y))
    gain = evidence(PHI, Y) - evidence(PHI[:-1], Y[:-1])  # the predictive density of the last
    rest = layer.posterior(PHI[:-1], Y[:-1])
    assert np.isclose(rest.log_prob(PHI[-1:], Y[-1:])[0], gain)


# ---- random features, emphasised data ----------------------------------------------------------


@pytest.mark.slow
def test_random_features_are_a_process_and_emphasis_tempers(x64):
    """κ = 1 gives the evidence; κ the tempered posterior; a profiled prior is stationary."""
    x = RNG.normal(size=(N, 2))
    kernel = gp.Matern(jnp.asarray([0.7, 1.3]), 1.4)
    phi = last_layers.random_features(KEY, kernel, x, 20_000)
    gram = phi(x) @ phi(x).T
    np.testing.assert_allclose(gram, kernel(x, x), atol=0.05)
    wider = gp.Matern(jnp.asarray([7.0, 13.0]), 1.4)
    np.testing.assert_allclose(phi(x, wider) @ phi(x, wider).T, wider(x, x), atol=0.05)
    few = last_layers.random_features(KEY, kernel, x, 4)(x)
    layer = wide(last_layers.regression(KEY, 8, noise=0.3))
    y = Y[:, 0]
    cov = few @ few.T + 0.3 * np.eye(N)
    exact = stats.multivariate_normal.logpdf(y, cov=cov)
    assert np.isclose(layer.posterior(few, y).elbo(few, y), exact, atol=1e-9)
    kappa = 8 / N
    best = layer.posterior(few, y, emphasis=kappa)
    precision = kappa * few.T @ few / 0.3 + np.eye(8)
    tril = np.asarray(best.rows.tril[0])
    np.testing.assert_allclose(tril @ tril.T, np.linalg.inv(precision), atol=1e-9)
    slope = lambda k: jax.grad(lambda layer: layer.elbo(few, y, emphasis=k))(best).rows
    assert max(np.abs(a).max() for a in jax.tree.leaves(slope(kappa))) < 1e-9
    assert max(np.abs(a).max() for a in jax.tree.leaves(slope(1.0))) > 1e-2  # twin
    at = lambda s: float(dataclasses.replace(best, log_prior=jnp.log(s)).elbo(few, y))
    profiled = float(best.elbo(few, y, profiled=True))
    assert np.isclose(profiled, at(best.rows.best_prior))
    assert profiled > max(at(1.1 * best.rows.best_prior), at(0.9 * best.rows.best_prior))


@pytest.mark.slow
def test_emphasis_learns_length_scales_with_a_poor_family(x64):
    """One scale for all weights: the ELBO gives up on the data, κ = D/N does not."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(0, 6, 30))[:, None]
    y = np.sin(3 * x[:, 0]) + 0.1 * rng.normal(size=30)
    x_new = np.linspace(0.3, 5.7, 50)[:, None]
    phi = last_layers.random_features(KEY, gp.SquaredExponential(1.0), x, 64)
    optimizer = optax.adam(0.02)

    def features(state, x):
        return phi(x, gp.SquaredExponential(jnp.exp(state["scale"]), 1.0))

    def layer_of(state):
        rows = Rows(state["mean"], state["raw"] * jnp.eye(128)[None])
        return last_layers.Regression(rows, state["noise"][None], jnp.zeros(()))

    def loss(state, kappa):
        return -layer_of(state).elbo(features(state, x), y, emphasis=kappa, profiled=True)

    @jax.jit
    def train(kappa):
        start = {"mean": 0.1 * jax.random.normal(KEY, (1, 128)), "raw": jnp.log(0.01)}
        start |= {"scale": jnp.log(2.0), "noise": jnp.log(0.1)}

        def step(_, carry):
            state, opt = carry
            updates, opt = optimizer.update(jax.grad(loss)(state, kappa), opt)
            return optax.apply_updates(state, updates), opt

        return jax.lax.fori_loop(0, 3000, step, (start, optimizer.init(start)))[0]

    errors = []
    for kappa in (128 / 30, 1.0):
        state = train(kappa)
        mean = features(state, x_new) @ state["mean"][0]
        errors.append(float(jnp.sqrt(jnp.mean((mean - jnp.sin(3 * x_new[:, 0])) ** 2))))
    assert errors[0] < 0.2
    assert errors[1] > 2 * errors[0]


# ---- classes -----------------------------------------------------------------------------------


def drawn(rows, count):
    noise = np.random.default_rng(1).normal(size=(count, *rows.mean.shape))
    return np.asarray(rows.mean) + np.einsum("kde,ske->skd", np.asarray(rows.tril), noise)


def rows_of_classes():
    tril = np.stack([np.linalg.cholesky(np.cov(RNG.normal(size=(D, 9)))) for _ in range(3)])
    return Rows.of(jnp.asarray(RNG.normal(size=(3, D))), jnp.asarray(tril))


@pytest.mark.slow
def test_the_discriminative_bound_is_below_the_elbo(x64):
    """By draws of the weights, with 7 standard errors; tight where the weights are certain."""
    layer = wide(last_layers.discriminative(KEY, D, 3))
    layer = dataclasses.replace(layer, rows=rows_of_classes())
    logits = drawn(layer.rows, 40_000) @ PHI.T  # (S, C, N)
    picked = np.take_along_axis(logits, LABELS[None, None], 1)[:, 0]
    fits = (picked - np.log(np.exp(logits).sum(1))).sum(-1)
    bound = float(layer.elbo(PHI, LABELS) + layer.rows.divergence(jnp.asarray(1.0)))
    error = fits.std() / np.sqrt(len(fits))
    assert bound < fits.mean() - 7 * error
    small = Rows.of(layer.rows.mean, 1e-4 * layer.rows.tril)
    certain = dataclasses.replace(layer, rows=small)
    exact = jax.nn.log_softmax(PHI @ small.mean.T)[np.arange(N), LABELS].sum()
    tight = certain.elbo(PHI, LABELS) + small.divergence(jnp.asarray(1.0))
    assert np.isclose(tight, exact, atol=1e-5)
    assert not np.isclose(bound, exact, atol=1e-1)  # twin


@pytest.mark.slow
def test_divergences_are_those_of_dense_gaussians(x64):
    a, b = rows_of_classes(), rows_of_classes()

    def dense(q, p_mean, p_cov):
        total = 0.0
        for m, tril, n, c in zip(q.mean, q.tril, p_mean, p_cov, strict=True):
            s, inverse = tril @ tril.T, np.linalg.inv(c)
            off = m - n
            logs = np.linalg.slogdet(c)[1] - np.linalg.slogdet(s)[1]
            total += 0.5 * (np.trace(inverse @ s) + off @ inverse @ off - D + logs)
        return total

    covariances = np.einsum("kde,kfe->kdf", b.tril, b.tril)
    assert np.isclose(a.divergence(b), dense(a, b.mean, covariances))
    isotropic = np.broadcast_to(2.0 * np.eye(D), (3, D, D))
    assert np.isclose(a.divergence(jnp.asarray(2.0)), dense(a, np.zeros((3, D)), isotropic))


@pytest.mark.slow
def test_probabilities_of_classes_are_means_over_draws(x64):
    """False alarms 1e-6; detects 0.02 in a probability."""
    layer = wide(last_layers.discriminative(KEY, D, 3))
    layer = dataclasses.replace(layer, rows=rows_of_classes())
    found = np.exp(layer.log_probabilities(PHI[:4], key=KEY, num_samples=200_000))
    np.testing.assert_allclose(found.sum(1), 1)
    each = np.asarray(jax.nn.softmax(drawn(layer.rows, 40_000) @ PHI[:4].T, 1)).swapaxes(1, 2)
    assert_mean(each, found)
    with pytest.raises(AssertionError):  # twin: of the mean weights
        assert_mean(each, np.asarray(jax.nn.softmax(PHI[:4] @ layer.rows.mean.T)))


def generative():
    layer = wide(last_layers.generative(KEY, D, 3))
    return dataclasses.replace(
        layer, log_noise=jnp.log(jnp.asarray([0.3, 0.6, 1.0])), log_prior=jnp.log(PRIOR)
    )


@pytest.mark.slow
def test_class_densities_reach_the_joint_evidence(x64):
    layer = generative()
    best = layer.posterior(PHI, LABELS)
    noise = np.exp(np.asarray(layer.log_noise))
    exact, count = 0.0, np.bincount(LABELS, minlength=3)
    for k in range(3):
        own = PHI[k == LABELS]
        for d in range(D):
            cov = PRIOR * np.ones((len(own), len(own))) + noise[d] * np.eye(len(own))
            exact += stats.multivariate_normal.logpdf(own[:, d], cov=cov)
    from scipy.special import gammaln

    exact += gammaln(3) - gammaln(3 + N) + gammaln(1 + count).sum()
    assert np.isclose(best.elbo(PHI, LABELS, joint=True), exact, atol=1e-9)
    assert layer.elbo(PHI, LABELS, joint=True) < exact - 1  # twin
    first = layer.posterior(PHI[:5], LABELS[:5])
    second = first.posterior(PHI[5:], LABELS[5:], prior=first)
    assert np.isclose(
        first.elbo(PHI[:5], LABELS[:5], joint=True)
        + second.elbo(PHI[5:], LABELS[5:], prior=first, joint=True),
        exact,
    )


@pytest.mark.slow
def test_the_generative_bound_is_below_the_elbo(x64):
    """By draws of class means and frequencies, with 7 standard errors."""
    layer = generative().posterior(PHI[:6], LABELS[:6])
    rng, count = np.random.default_rng(2), 40_000
    spread = np.exp(0.5 * np.asarray(layer.log_variance))
    means = np.asarray(layer.mean) + spread * rng.normal(size=(count, 3, D))
    shares = rng.dirichlet(np.exp(np.asarray(layer.log_concentration)), count)
    noise = np.exp(np.asarray(layer.log_noise))
    off = PHI[:, None] - means[:, None]  # (S, N, C, D)
    logits = np.log(shares)[:, None] - 0.5 * (off**2 / noise).sum(-1)
    picked = np.take_along_axis(logits, LABELS[None, :, None], 2)[..., 0]
    fits = (picked - np.log(np.exp(logits).sum(-1))).sum(-1)
    bound = float(layer.elbo(PHI, LABELS) + layer._divergence(None))
    assert bound < fits.mean() - 7 * fits.std() / np.sqrt(count)
    assert bound > fits.mean() - 30  # and not empty
    assert float(layer.log_probabilities(PHI).max()) < 0


# ---- streams -----------------------------------------------------------------------------------


def dense_filter(gamma):
    """The log evidence of drifting weights, from the covariance of all outputs."""
    lags = gamma ** np.abs(np.arange(N)[:, None] - np.arange(N))
    covariance = PRIOR * lags * (PHI @ PHI.T) + 0.2 * np.eye(N)
    return sum(stats.multivariate_normal.logpdf(Y[:, k], cov=covariance) for k in range(P))


def test_the_filter_is_exact(x64):
    """Against dense processes: weights that drift, and those that stay."""
    for gamma in (0.9, 1.0):
        layer = last_layers.kalman(D, P, noise=0.2, prior=PRIOR, retention=gamma, dtype="float64")
        found = layer.filter(PHI, Y)
        exact = dense_filter(gamma)
        assert np.isclose(found.log_prob.sum(), exact, atol=1e-9)
        assert not np.isclose(exact, dense_filter(0.8), atol=1e-3)  # twin: another drift
    batch = wide(last_layers.regression(KEY, D, P), log_noise=np.log([0.2, 0.2]))
    batch = dataclasses.replace(batch, log_prior=jnp.log(PRIOR)).posterior(PHI, Y)
    np.testing.assert_allclose(found.layer.mean, batch.rows.mean, atol=1e-9)
    tril = np.asarray(batch.rows.tril)
    np.testing.assert_allclose(found.layer.covariance, tril[0] @ tril[0].T, atol=1e-9)


@pytest.mark.slow
def test_forgetting_pays_in_a_stream_that_changes_and_is_learned():
    """Classes change their names half way: the layer that forgets a little is right sooner."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(600, 8)).astype("float32")
    labels = (features[:, :3].argmax(1) + (np.arange(600) >= 300)) % 3
    right = lambda f: float(np.mean(np.asarray(f.mean).argmax(1)[400:] == labels[400:]))
    run = lambda gamma, rate: last_layers.kalman(8, 3, retention=gamma).filter(
        features, labels, key=KEY, learning_rate=rate
    )
    little, none, much, learned = run(0.9999, 0.0), run(1.0, 0.0), run(0.99, 0.0), run(0.99, 1.0)
    assert right(little) > right(none) + 0.3
    assert right(little) > right(much) + 0.05
    assert learned.retention[-1] > 0.999
    assert learned.log_prob.sum() > much.log_prob.sum() + 30


@pytest.mark.slow
def test_a_network_trains_through_the_bound():
    x = np.linspace(-1, 1, 60)[:, None].astype("float32")
    y = np.sin(4 * x[:, 0])
    first = jax.random.normal(KEY, (1, 16))
    params = {"w": 2 * first, "b": jax.random.normal(jax.random.key(1), (16,))}
    features = lambda p: jnp.tanh(x @ p["w"] + p["b"])
    state = params, last_layers.regression(KEY, 16)
    optimizer = optax.adam(0.02)
    loss = lambda s: -s[1].elbo(features(s[0]), y)

    @jax.jit
    def step(_, carry):
        state, opt = carry
        updates, opt = optimizer.update(jax.grad(loss)(state), opt, state)
        return optax.apply_updates(state, updates), opt

    last, _ = jax.lax.fori_loop(0, 1000, step, (state, optimizer.init(state)))
    mean, _ = last[1].predict(features(last[0]))
    assert loss(last) < loss(state) - 50
    assert np.sqrt(np.mean((mean[:, 0] - y) ** 2)) < 0.1


# ---- refusals ----------------------------------------------------------------------------------


def test_wrong_input_is_named():
    layer = last_layers.regression(KEY, D, P)
    classes = last_layers.discriminative(KEY, D, 3)
    with pytest.raises(ValueError, match=r"features of shape \(B, 3\)"):
        layer.elbo(PHI[:, :2], Y)
    with pytest.raises(ValueError, match=r"targets of shape \(12, 2\)"):
        layer.elbo(PHI, Y[:, 0])
    with pytest.raises(ValueError, match="integer classes"):
        classes.elbo(PHI, Y[:, 0])
    with pytest.raises(ValueError, match="a key for classes"):
        last_layers.kalman(D, 3).filter(PHI, LABELS)
    with pytest.raises(ValueError, match="0 < retention"):
        last_layers.kalman(D, 3, retention=0.0)


def test_a_row_of_zeros_does_not_end_a_learning_filter():
    features = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    labels = (features[:, 0] > 0).astype(int)
    features[5] = 0
    found = last_layers.kalman(4, 2).filter(features, labels, key=KEY, learning_rate=0.1)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("labels", [[1, 2, 3], [-1, 0, 1]])
def test_classes_that_are_none_are_refused(labels):
    features, labels = np.ones((3, 2), np.float32), np.asarray(labels)
    with pytest.raises(ValueError, match="classes from 0 to 2"):
        last_layers.generative(KEY, 2, 3).elbo(features, labels)
    with pytest.raises(ValueError, match="classes from 0 to 2"):
        last_layers.kalman(2, 3).filter(features, labels, key=KEY)
