"""Rows outside memory: the same model, the same numbers, minibatches without replacement."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi
from vi.targets.streamed import Source

N, D, B = 503, 3, 50
rng = np.random.default_rng(0)
X = rng.normal(size=(N, D)).astype(np.float32)
T = rng.binomial(1, 1 / (1 + np.exp(-X @ np.array([1.0, -0.5, 2.0])))).astype(np.float32)


def model(X, t=None, batch_size=None):
    beta = numpyro.sample("beta", dist.Normal(0, 5).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("rows", len(X), subsample_size=batch_size) as rows:
        obs = None if t is None else t[rows]
        numpyro.sample("t", dist.Bernoulli(logits=X[rows] @ beta), obs=obs)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "X.npy"
    np.save(path, X)
    return vi.Rows(np.load(path, mmap_mode="r")), vi.Rows(T)


@pytest.fixture(scope="module")
def fitted(stored):
    how = {"batch_size": B, "num_steps": 400, "learning_rate": 0.02}
    return vi.fit(model, *stored, key=jax.random.key(0), **how)


def test_a_pass_gives_the_density_of_all_rows(stored, monkeypatch):
    """Blocks of 100 rows and a last one of 3: the weighted mean of their estimates is exact."""
    monkeypatch.setattr("vi.targets.streamed._MOST_ROWS", 100)
    target = vi.target(model, *stored, batch_size=B)
    whole = vi.target(model, X, T)
    z = rng.normal(size=(4, D)).astype(np.float32)
    np.testing.assert_allclose(target.log_densities(z), jax.vmap(whole.log_density)(z), rtol=2e-6)


def test_each_step_is_scaled_and_unbiased(stored):
    """The mean over an epoch of 10 of 50 rows, in place of the 500 of them that are in it."""
    target = vi.target(model, *stored, batch_size=B)
    steps = target.steps((1, 2), 0, 10)
    z = jnp.asarray([0.5, 0.1, -0.3])
    rows = target.source.rows_of((1, 2), 0, 10).reshape(-1)
    assert len(set(rows)) == 500
    prior = dist.Normal(0, 5).log_prob(z).sum()
    likelihoods = dist.Bernoulli(logits=X[rows] @ z).log_prob(T[rows])
    found = np.mean([steps.at(jnp.int32(i)).log_density(z) for i in range(10)])
    np.testing.assert_allclose(found, prior + N * likelihoods.mean(), rtol=1e-5)
    unscaled = prior + B * likelihoods.mean()
    assert abs(found - unscaled) > 100  # what a forgotten N / B would give


def test_epochs_are_other_permutations_and_steps_do_not_depend_on_how_they_are_asked_for(stored):
    source = Source(stored, {}, B)
    first, second = source.rows_of((7,), 0, 10), source.rows_of((7,), 10, 10)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(source.rows_of((7,), 8, 4)[2:], second[:2])
    assert not np.array_equal(source.rows_of((8,), 0, 10), first)


def test_the_fit_is_that_of_arrays_in_memory(fitted):
    """Within the noise of 400 steps of 50 of 503 rows: a third of a standard deviation."""
    whole = vi.fit(model, X, T, key=jax.random.key(0))
    sd = np.sqrt(np.diag(whole.q.covariance()))
    assert np.all(np.abs(fitted.q.loc - whole.q.loc) < 0.35 * sd)
    assert fitted.elbo == pytest.approx(whole.elbo, abs=0.2)
    assert "rows stand for" not in str(fitted.verdict)


def test_new_rows_of_the_same_shape_compile_nothing(fitted):
    compiled = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    how = {"num_steps": 400, "learning_rate": 0.02}
    vi.fit(model, vi.Rows(X[::-1]), vi.Rows(T[::-1]), batch_size=B, key=jax.random.key(3), **how)
    assert not compiled
    vi.fit(model, vi.Rows(X[1:]), vi.Rows(T[1:]), batch_size=B, key=jax.random.key(3), **how)
    assert compiled  # the twin: another shape


def test_what_a_posterior_does_without_its_rows(fitted, stored, tmp_path):
    assert fitted.predictive(jax.random.key(2), X[:4], num_samples=7)["t"].shape == (7, 4)
    groups = set(fitted.to_datatree(20).children)
    assert groups == {"posterior", "sample_stats"}
    with pytest.raises(TypeError, match="rows in memory"):
        fitted.to_datatree(20, log_likelihood=True)
    fitted.save(tmp_path / "fit.npz")
    loaded = vi.Posterior.load(tmp_path / "fit.npz", model, *stored, batch_size=B)
    assert loaded.elbo == fitted.elbo


@pytest.mark.parametrize("family", ["delta", "mean_field"])
def test_families_by_name(stored, family):
    found = vi.fit(
        model, *stored, batch_size=B, num_steps=300, learning_rate=0.03, family=family,
        key=jax.random.key(0),
    )  # fmt: skip
    memory = vi.fit(
        model, X, T, batch_size=B, num_steps=300, learning_rate=0.03, family=family,
        key=jax.random.key(0),
    )  # fmt: skip
    assert found.elbo == pytest.approx(memory.elbo, abs=0.5)


def test_a_resumed_run_ends_with_the_same_bits(fitted, stored, tmp_path):
    how = {"batch_size": B, "num_steps": 400, "learning_rate": 0.02, "key": jax.random.key(0)}
    path = tmp_path / "run.npz"
    vi.fit(model, *stored, checkpoint=path, callback=lambda step, *_: step >= 200, **how)
    resumed = vi.fit(model, *stored, checkpoint=path, **how)
    np.testing.assert_array_equal(resumed.q.loc, fitted.q.loc)


def test_a_checkpoint_knows_rows_beyond_the_first(stored, tmp_path):
    how = {"batch_size": B, "num_steps": 200, "learning_rate": 0.02, "key": jax.random.key(0)}
    path = tmp_path / "run.npz"
    vi.fit(model, *stored, checkpoint=path, callback=lambda *_: True, **how)
    other = np.concatenate([X[:300], 2 * X[300:]])
    with pytest.raises(vi.CheckpointError, match="differs in data"):
        vi.fit(model, vi.Rows(other), vi.Rows(T), checkpoint=path, **how)


def test_arrays_in_memory_beside_rows():
    """NumPy's too: their rows are those of the minibatch."""
    mixed = vi.target(model, vi.Rows(X), T, batch_size=B)
    z = np.zeros((2, D), np.float32)
    np.testing.assert_allclose(
        mixed.log_densities(z), vi.target(model, X, T).log_densities(z), rtol=1e-5
    )


def test_deterministic_sites_of_rows_are_left_out():
    def told(x, batch_size):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.deterministic("twice", 2 * mu)
        with numpyro.plate("rows", len(x), subsample_size=batch_size) as rows:
            numpyro.deterministic("mean", mu * x[rows][:, 0])
            numpyro.sample("x", dist.Normal(mu, 1.0).expand([x[rows].shape[0]]), obs=x[rows][:, 0])

    z = jnp.zeros(1)
    assert set(vi.target(told, vi.Rows(X), B).constrain(z)) == {"mu", "twice"}
    assert set(vi.target(told, X, B).constrain(z)) == {"mu", "twice", "mean"}  # the twin


def no_plate(x):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def local(x, batch_size):
    with numpyro.plate("rows", len(x), subsample_size=batch_size) as rows:
        u = numpyro.sample("u", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(u, 1.0).expand([batch_size]), obs=x[rows][:, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vi.target(model, vi.Rows(X), vi.Rows(T)), "draws all rows. Pass the model"),
        (
            lambda: vi.target(model, vi.Rows(X), vi.Rows(T), batch_size=1000),
            "draws (1000|all) rows. Pass",
        ),
        (lambda: vi.Rows(X)[:3], "in memory"),
        (lambda: vi.target(model, vi.Rows(X), vi.Rows(T[1:]), batch_size=9), "one number of rows"),
        (lambda: vi.target(no_plate, vi.Rows(X)), "vi.target"),
        (lambda: vi.target(local, vi.Rows(X), batch_size=9), "outside the plate of vi.Rows"),
        (lambda: vi.Rows(3.0), "expected an array with shape"),
        (
            lambda: vi.fit(
                model, vi.Rows(X), vi.Rows(T), batch_size=9, family="realnvp", key=jax.random.key(0)
            ),
            "a flow starts from",
        ),
        (
            lambda: vi.target(model, vi.Rows(X), vi.Rows(T), batch_size=9).value_and_grad(
                jnp.zeros(D)
            ),
            "an algorithm of minibatches",
        ),
    ],
)
def test_what_cannot_be_says_so(call, message):
    with pytest.raises((vi.TargetError, ValueError, TypeError), match=message):
        call()
