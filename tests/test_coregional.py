"""Several outputs: covariances in NumPy, latent inducing inputs, what one tells another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gp
from gp.inducing import InducingPrior
from gp.inducing.interdomain import covariance_of, cross_of
from vi.compile import quick_jit

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
WEIGHTS = np.array([[1.0, 0.3], [-0.5, 2.0], [0.0, 1.0]])
PARTS = gp.SquaredExponential(0.7, 2.0), gp.Matern(nu=0.5)
KERNEL = gp.Coregional(PARTS, WEIGHTS)
T = np.linspace(0, 5, 25)
TABLE = np.stack([np.sin(2 * T), 3 - 2 * np.sin(2 * T), np.cos(T)], 1)
TABLE = TABLE + 0.1 * RNG.normal(size=TABLE.shape)
TABLE[10:18, 1] = np.nan  # which the first output tells
X, Y = gp.stack_outputs(T, TABLE)


def test_covariances(x64):
    a, b = np.concatenate([X[:4], X[-4:]]), X[20:34]
    expected = np.zeros((len(a), len(b)))
    for i, (t, p) in enumerate(a):
        for j, (s, q) in enumerate(b):
            r, w = abs(t - s), WEIGHTS[int(p)] * WEIGHTS[int(q)]
            expected[i, j] = w @ [2.0 * np.exp(-0.5 * (r / 0.7) ** 2), np.exp(-r)]
    np.testing.assert_allclose(KERNEL(a, b), expected, rtol=1e-10)
    np.testing.assert_allclose(KERNEL.diagonal(a), np.diag(KERNEL(a, a)), rtol=1e-12)
    many = KERNEL(jnp.stack([a, a]), jnp.stack([a, a]))
    np.testing.assert_allclose(many[1], KERNEL(a, a), rtol=1e-12)
    assert np.isnan(KERNEL(np.array([[0.0, 3.0]]), a)).all()
    with pytest.raises(ValueError, match=r"shape \(P, 2\).*got \(3, 3\)"):
        gp.Coregional(PARTS, np.eye(3))(a, a)


@pytest.mark.parametrize("separate", [False, True])
def test_latent_inputs_at_all_data_are_the_process(separate, x64):
    """Shared or not; their covariances are those of the latent processes."""
    z = T[:, None]
    z = np.stack([z, z[::-1]]) if separate else z
    latent = gp.LatentInputs.of(KERNEL, z)
    near = jax.jit(covariance_of)(KERNEL, latent), jax.jit(cross_of)(KERNEL, latent, X)
    left = KERNEL(X, X) - near[1].T @ np.linalg.solve(near[0] + 1e-9 * np.eye(50), near[1])
    np.testing.assert_allclose(left, 0, atol=1e-5)
    few = gp.LatentInputs.of(KERNEL, z[..., ::4, :])
    prior = InducingPrior.of(KERNEL, gp.Zero(), X, inducing=few)
    q = quick_jit(lambda p, s: p.condition(s))(prior, gp.Sites(jnp.asarray(Y), jnp.ones(len(X))))
    assert 0.01 < float(q.factor.unexplained) < 0.5
    with pytest.raises(ValueError, match=r"shape \(M, D\), shared, or \(2, M, D\).*got \(3, "):
        gp.LatentInputs.of(KERNEL, np.ones((3, 4, 1)))
    with pytest.raises(ValueError, match=r"a gp\.Coregional kernel of 2 processes"):
        latent.covariance(gp.Matern())


def fit(kernel, **options):
    return gp.fit(
        X,
        Y,
        key=KEY,
        kernel=kernel,
        mean=gp.OutputMeans(np.zeros(3)),
        likelihood=gp.Gaussian(0.05),
        **options,
    )


@pytest.mark.slow
def test_one_output_tells_another(x64):
    """In the gap of the second: better than outputs by themselves, as far as they can."""
    together = gp.coregional(gp.Matern(0.8), 3, 2)
    alone = gp.Coregional(PARTS[1:] * 3, np.eye(3))
    gap = np.column_stack([T[10:18], np.ones(8)])
    truth = 3 - 2 * np.sin(2 * T[10:18])
    error = {}
    for name, kernel in (("together", together), ("alone", alone)):
        fixed = ["kernel.weights"] if name == "alone" else []  # or they would learn to tell
        found = fit(kernel, method="dense", num_steps=40, fixed=fixed)
        error[name] = np.sqrt(np.mean((found.predict(gap).mean - truth) ** 2))
        assert found.model.kernel.weights.shape == kernel.weights.shape
    assert error["together"] < 0.2 < 0.5 < error["alone"]


@pytest.mark.slow
@pytest.mark.parametrize("separate", [False, True])
def test_minibatches_through_latent_inputs(separate, x64):
    kernel = gp.coregional(gp.Matern(0.8), 3, 2)
    z = np.linspace(0, 5, 12)[:, None]
    latent = gp.LatentInputs.of(kernel, np.stack([z, z]) if separate else z)
    found = fit(
        kernel,
        method="inducing",
        method_options={"inducing": latent},
        minibatches=30,
        num_steps=3000,
    )
    exact = fit(kernel, method="dense", num_steps=60)
    assert found.elbo > exact.elbo - 12
    assert np.asarray(found.prior.z.z).shape == latent.z.shape


def test_rows_of_a_table(x64):
    x, _ = gp.stack_outputs(T[:2], num_outputs=3)
    np.testing.assert_array_equal(x[:, 1], [0, 0, 1, 1, 2, 2])
    assert len(Y) == 75 - 8
    np.testing.assert_array_equal(Y[:25], TABLE[:, 0])
    with pytest.raises(ValueError, match=r"shape \(25, P\), a column"):
        gp.stack_outputs(T, TABLE[:, 0])
    with pytest.raises(ValueError, match="or num_outputs >= 1"):
        gp.stack_outputs(T)
    with pytest.raises(ValueError, match="finite values; got nan"):
        gp.fit(X, Y, key=KEY, kernel=gp.coregional(gp.Matern(), 2, 1), method="dense")
