"""Streams: what a process that saw its data in batches knows, beside one that has them all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gp
from gp.inducing import StreamedPrior
from gp.inducing.algebra import whitened
from gp.inducing.coordinates import Natural
from gp.inducing.stream import _kept, project
from gp.inducing.streamed import divergence, dual_sums
from vi.compile import quick_jit
from vi.errors import CheckpointError

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
N, BATCH = 80, 40
X = np.sort(RNG.uniform(0, 8, size=(N, 1)), axis=0)  # in order, so that batches are elsewhere
F = 2 * np.sin(2 * X[:, 0])
Y = F + 0.3 * RNG.normal(size=N)
LABELS = (F + RNG.logistic(size=N) > 0) * 1.0
Z = np.linspace(0, 8, 12)[:, None]
NEW = RNG.uniform(0, 8, size=(7, 1))


def begin(y, likelihood, num_memory, count=BATCH, **options):
    first = gp.fit(
        X[:count],
        y[:count],
        key=KEY,
        train=False,
        likelihood=likelihood,
        kernel=gp.Matern(0.8, 2.0),
        mean=gp.ConstantMean(0.2),
        method="inducing",
        method_options={"inducing": Z},
        **options,
    )
    return first, gp.stream(first, key=KEY, num_memory=num_memory)


def wide_functions(flow):
    return jax.tree.map(lambda a: a[None], (flow.model.kernel, flow.model.mean))


def streamed(flow, *args):
    kernel, mean = wide_functions(flow)
    return StreamedPrior(kernel, mean, *args)


def follow(flow, y, num_memory, **options):
    for start in range(BATCH, N, BATCH):
        rows = slice(start, start + BATCH)
        key = jax.random.fold_in(KEY, start)
        flow = flow.update(X[rows], y[rows], key=key, num_memory=num_memory, **options)
    return flow


@pytest.mark.parametrize("num_memory", [pytest.param(0, marks=pytest.mark.slow), 7])
def test_gaussian_streams_lose_nothing(num_memory, x64):
    first, flow = begin(Y, gp.Gaussian(0.09), num_memory)
    np.testing.assert_allclose(flow.predict(NEW)[0], first.predict(NEW).mean, rtol=1e-8)
    flow = follow(flow, Y, num_memory)
    whole, _ = begin(Y, gp.Gaussian(0.09), 0, count=N)
    assert (flow.count, len(flow.memory.y)) == (N, num_memory)
    mean, variance = flow.predict(NEW)
    np.testing.assert_allclose(mean, whole.predict(NEW).mean, rtol=1e-8)
    np.testing.assert_allclose(variance, whole.predict(NEW).variance, rtol=1e-8)
    density = flow.log_predictive_density(NEW, np.zeros(7))
    np.testing.assert_allclose(density, whole.log_predictive_density(NEW, np.zeros(7)), rtol=1e-8)
    np.testing.assert_allclose(flow.predict_y(NEW)[1], whole.predict_y(NEW).variance, rtol=1e-8)


def test_sums_and_memory_are_the_same_data(x64):
    """Data taken out of the sums and put in by their sites leave q as it was."""
    _, flow = begin(Y, gp.Gaussian(0.09), 7)
    functions = wide_functions(flow)
    all_ = dual_sums(functions, flow.z, flow.memory.x, flow.memory.sites)
    base = jax.tree.map(jnp.add, flow.base, all_)
    empty = streamed(flow, flow.memory.x[:0], flow.z, base)
    _, q = empty.condition(gp.Sites(jnp.zeros(0), jnp.zeros(0))).factor
    np.testing.assert_allclose(q.mean, flow.q.mean, rtol=1e-8)
    np.testing.assert_allclose(q.inverse, flow.q.inverse, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("kept", [(0, N), pytest.param((0, 10, N), marks=pytest.mark.slow)])
def test_memory_of_all_labels_is_the_whole_posterior(kept, x64):
    """And that of some is nearer to it than none."""
    whole = begin(LABELS, gp.Bernoulli(), 0, count=N)[0].predict(NEW).mean
    away = {}
    for num_memory in kept:
        flow = follow(begin(LABELS, gp.Bernoulli(), num_memory)[1], LABELS, num_memory)
        assert len(flow.memory.y) == num_memory
        away[num_memory] = np.abs(flow.predict(NEW)[0] - whole).max()
    distances = [away[num_memory] for num_memory in kept]
    assert sorted(distances, reverse=True) == distances
    assert away[N] < 2e-3 < away[0] < 0.5


def test_divergence_is_zero_at_home_and_that_of_gaussians_elsewhere(x64):
    root = np.tril(RNG.normal(size=(2, 4, 4))) + 3 * np.eye(4)
    laws = [whitened(jnp.asarray(RNG.normal(size=4)), jnp.asarray(r @ r.T)) for r in root]
    np.testing.assert_allclose(divergence(laws[0], laws[0]), 0, atol=1e-12)
    (m, s), (n, t) = ((q.mean, np.linalg.inv(r @ r.T)) for q, r in zip(laws, root, strict=True))
    inverse = np.linalg.inv(t)
    expected = 0.5 * (
        np.trace(inverse @ s)
        - 4
        + (m - n) @ inverse @ (m - n)
        + np.linalg.slogdet(t)[1]
        - np.linalg.slogdet(s)[1]
    )
    np.testing.assert_allclose(divergence(*laws), expected, rtol=1e-10)


def test_projection(x64):
    """Onto the same inputs in another order, and onto more, nothing is lost."""
    kernel = jax.tree.map(jnp.asarray, gp.Matern(0.8, 2.0))
    old = jnp.asarray(Z)
    order = RNG.permutation(len(Z))
    onto = quick_jit(project)(kernel, old, old[order])
    np.testing.assert_allclose(onto, np.eye(12)[:, order], atol=1e-10)
    _, flow = begin(Y, gp.Gaussian(0.09), 5)
    more = jnp.concatenate([flow.z, jnp.asarray(NEW)])
    onto = quick_jit(project)(flow.model.kernel, flow.z, more)
    base = Natural(
        (onto.T @ flow.base.linear[0])[None], (onto.T @ flow.base.precision[0] @ onto)[None]
    )
    wide = streamed(flow, flow.memory.x, more, base)
    narrow = streamed(flow, flow.memory.x, flow.z, flow.base)
    nothing, look = gp.Sites(jnp.zeros(5), jnp.zeros(5)), quick_jit(lambda p, s: p.condition(s))
    np.testing.assert_allclose(look(wide, nothing).mean, look(narrow, nothing).mean, rtol=1e-7)


def test_moving_inducing_inputs_follow_the_stream(x64):
    """A few inputs that were all of the first batch come to cover all."""
    kernel = {"kernel": gp.Matern(2.0, 2.0), "likelihood": gp.Gaussian(0.09), "train": False}
    options = {"key": KEY, "method": "inducing", "method_options": {"num_inducing": 10}}
    first = gp.fit(X[:BATCH], Y[:BATCH], **kernel, **options)
    moving = follow(gp.stream(first, key=KEY), Y, 10, move=True)
    stuck = follow(gp.stream(first, key=KEY), Y, 10)
    truth = 2 * np.sin(2 * NEW[:, 0])
    error = lambda flow: np.sqrt(np.mean((flow.predict(NEW)[0] - truth) ** 2))
    assert float(moving.z.max()) > 7 > float(stuck.z.max())
    assert error(moving) < 0.5 * error(stuck)


def test_what_is_kept_is_drawn_by_leverage():
    leverage = np.concatenate([np.full(10, 1.0), np.full(90, 1e-6), [1e6]])
    rows = _kept(KEY, leverage, 10, 30, 20)
    assert len(set(rows)) == 20
    assert np.sum(rows < 10) == round(20 * 30 / 121)
    assert 100 in rows
    assert len(_kept(KEY, leverage, 10, 10, 500)) == 101


@pytest.mark.slow
def test_two_latents_in_a_stream(x64):
    count = 30
    first = gp.fit(
        X[:count],
        Y[:count],
        key=KEY,
        train=False,
        likelihood=gp.HeteroscedasticGaussian(),
        kernel=gp.Matern(0.8, 2.0),
        method="inducing",
        method_options={"inducing": Z},
    )
    flow = gp.stream(first, key=KEY, num_memory=count)
    np.testing.assert_allclose(flow.predict(NEW)[0], first.predict(NEW).mean, atol=1e-2)
    assert flow.update(X[40:45], Y[40:45], key=KEY).predict(NEW)[1].shape == (7, 2)


def test_saved_streams_go_on(x64, tmp_path):
    """With the same bits; a file of another likelihood or kernel is refused."""
    _, flow = begin(LABELS, gp.Bernoulli(), 5)
    path = tmp_path / "stream.npz"
    flow.save(path)
    back = gp.load_stream(path, likelihood=gp.Bernoulli())
    assert (back.count, type(back.count)) == (BATCH, int)
    for one, other in zip(jax.tree.leaves(flow), jax.tree.leaves(back), strict=True):
        np.testing.assert_array_equal(one, other)
    rows = slice(BATCH, BATCH + 10)
    both = (f.update(X[rows], LABELS[rows], key=KEY).predict(NEW)[0] for f in (flow, back))
    np.testing.assert_array_equal(*both)
    with pytest.raises(CheckpointError, match=r"with likelihood Bernoulli.*got Poisson"):
        gp.load_stream(path, likelihood=gp.Poisson())
    with pytest.raises(CheckpointError, match=r"with hyperparameters .*lengthscale"):
        gp.load_stream(path, likelihood=gp.Bernoulli(), kernel=gp.Linear())
    with pytest.raises(CheckpointError, match="its law is another"):
        gp.load_stream(path, likelihood=gp.Bernoulli(), kernel=gp.Matern(nu=0.5))


def test_hyperparameters_follow_the_stream(x64):
    """From a length scale that is far too long; memory stands for the data before."""
    options = {"key": KEY, "train": False, "likelihood": gp.Gaussian(0.09), "method": "inducing"}
    first = gp.fit(
        X[:BATCH], Y[:BATCH], kernel=gp.Matern(8.0, 2.0), method_options={"inducing": Z}, **options
    )
    flow = gp.stream(first, key=KEY, num_memory=BATCH)
    rows = slice(BATCH, N)
    still = flow.update(X[rows], Y[rows], key=KEY, num_memory=BATCH)
    learned = flow.update(X[rows], Y[rows], key=KEY, num_memory=BATCH, num_steps=150)
    whole = gp.fit(
        X,
        Y,
        kernel=gp.Matern(8.0, 2.0),
        method_options={"inducing": Z},
        **{**options, "train": True},
    )
    score = lambda f: -f.log_predictive_density(NEW, 2 * np.sin(2 * NEW[:, 0])).mean()
    assert score(learned) < score(still) - 0.05
    scales = [float(f.model.kernel.lengthscale) for f in (whole, learned, still)]
    assert scales[0] < scales[1] < scales[2] == 8.0
    with pytest.raises(ValueError, match="a memory, to learn hyperparameters from"):
        begin(Y, gp.Gaussian(0.09), 0)[1].update(X[rows], Y[rows], key=KEY, num_steps=3)


@pytest.mark.slow
def test_a_class_that_was_not_there(x64):
    """Or targets of another likelihood: the error names the stream's own."""
    y = (X[:, 0] // 3).clip(0, 1)
    first = gp.fit(
        X[:BATCH],
        y[:BATCH],
        key=KEY,
        train=False,
        likelihood=gp.Categorical(2),
        kernel=gp.Matern(),
        method="inducing",
        method_options={"inducing": Z},
    )
    flow = gp.stream(first, key=KEY, num_memory=5)
    with pytest.raises(ValueError, match=r"likelihood of this stream is Categorical.*another one"):
        flow.update(X[:2], np.array([1.0, 2.0]), key=KEY)
    with pytest.raises(ValueError, match="likelihood of this stream is Categorical"):
        flow.update(X[:2], np.array([0.3, 1.0]), key=KEY)


def test_what_cannot_be_is_refused(x64):
    _, flow = begin(LABELS, gp.Bernoulli(), 5)
    with pytest.raises(ValueError, match="0 or 1"):
        flow.update(X[:3], np.array([0.0, 1.0, 2.0]), key=KEY)
    with pytest.raises(ValueError, match="inputs of 1 coordinates"):
        flow.update(np.ones((3, 2)), LABELS[:3], key=KEY)
    with pytest.raises(ValueError, match="num_memory >= 0"):
        flow.update(X[:3], LABELS[:3], key=KEY, num_memory=-1)
    dense = gp.fit(X[:9], Y[:9], key=KEY, train=False)
    with pytest.raises(ValueError, match="with method='inducing'"):
        gp.stream(dense, key=KEY)


@pytest.mark.parametrize(
    ("count", "refused"), [(48, True), pytest.param(8, False, marks=pytest.mark.slow)]
)
def test_inducing_inputs_too_close_for_sums_are_named(count, refused, x64):
    """Sums in the inducing covariance lose digits with its condition; a NaN is no answer."""
    first = gp.fit(
        X[:BATCH],
        Y[:BATCH],
        key=KEY,
        train=False,
        likelihood=gp.Gaussian(1e-4),
        kernel=gp.SquaredExponential(3.0, 1.0),
        method="inducing",
        method_options={"inducing": np.linspace(0, 8, count)[:, None]},
    )
    if refused:
        with pytest.raises(ValueError, match="48 inducing inputs, too close to one another"):
            gp.stream(first, key=KEY, num_memory=0)
    else:
        there, _ = gp.stream(first, key=KEY, num_memory=0).predict(NEW)
        assert np.allclose(there, first.predict(NEW)[0], atol=1e-3)
