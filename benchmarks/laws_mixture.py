"""A mixture in 64 dimensions: a Wasserstein flow beside other laws and particles."""

import numpy as np

from benchmarks.process import CpuClock

D, COMPONENTS, WIDE = 64, 10, 4.0  # deviation of the start of what starts wide
SECONDS = 30.0  # about what all take that could use more
DRAWS, EXACT, PARTICLES, SEEN = 4000, 1000, 500, 300
STEP, STEPS, INNER, HIDDEN = 0.3, 10, 400, 32  # of the Wasserstein flow
SPLINE_STEPS = 2000
METHODS = (
    "Wasserstein flow", "neural spline", "neural spline, wide start", "mean field", "SVGD",
    "vi.fit, auto",
)  # fmt: skip
RATE, HEAT = 30.0, 5.0  # steps of SVGD; its temperature at first, 1 after half of the steps


def centres() -> np.ndarray:
    """Means of the components, normal; some 11 deviations of a component from one another."""
    return np.random.default_rng(0).normal(size=(COMPONENTS, D)).astype(np.float32)


def exact(num: int, seed: int) -> np.ndarray:
    """Draws of the mixture."""
    rng = np.random.default_rng(seed)
    chosen = centres()[rng.integers(COMPONENTS, size=num)]
    return chosen + rng.normal(size=(num, D)).astype(np.float32)


def log_density(x, means):
    """Of the mixture, normalised."""
    import jax
    import jax.numpy as jnp

    each = -0.5 * jnp.sum((x - means) ** 2, axis=1)
    return jax.scipy.special.logsumexp(each) - np.log(COMPONENTS) - 0.5 * D * np.log(2 * np.pi)


def mixture(method: str) -> dict:
    """CPU seconds, divergences both ways where there is a density, and distances of draws."""
    import jax
    import jax.numpy as jnp

    import vi
    from vi.distances import sliced_wasserstein

    means = jnp.asarray(centres())
    clock = CpuClock()
    if method == "SVGD":
        z, q = _svgd(means), None
        cpu = clock.read()
    else:
        target = vi.target(log_density, jnp.zeros(D), means)
        q = _wasserstein(means) if method == METHODS[0] else _fitted(method, target)
        cpu = clock.read()
        z = np.asarray(q.sample(jax.random.key(1), PARTICLES))
    told = {"cpu": cpu}
    if q is not None:
        log_p = jax.jit(jax.vmap(log_density, (0, None)))
        draws, log_q = q.sample_and_log_prob(jax.random.key(2), DRAWS)
        reverse = np.asarray(log_q - log_p(draws, means), float)
        x = jnp.asarray(exact(EXACT, 2))
        forward = np.asarray(log_p(x, means) - jax.jit(lambda q, x: q.log_prob(x))(q, x), float)
        error = np.hypot(reverse.std() / DRAWS**0.5, forward.std() / EXACT**0.5)
        told |= {"reverse": reverse.mean(), "forward": forward.mean(), "se": float(error)}
    apart = lambda a, b: float(sliced_wasserstein(jax.random.key(3), a, b, num_projections=500))
    near = np.argmin(((z[:, None] - centres()) ** 2).sum(-1), axis=1)
    return {
        **told,
        "sliced": apart(z, exact(PARTICLES, 3)),
        "floor": apart(exact(PARTICLES, 4), exact(PARTICLES, 3)),
        "shares": (np.bincount(near, minlength=COMPONENTS) / len(z)).tolist(),
        "seen": np.round(z[:SEEN] @ plane(), 2).tolist(),
    }


def plane() -> np.ndarray:
    """Two directions in which the components are farthest apart."""
    about = centres() - centres().mean(0)
    return np.linalg.svd(about, full_matrices=False)[2][:2].T


def _wide():
    import jax.numpy as jnp

    import vi

    unit = vi.mean_field(D)
    return vi.Gaussian(jnp.zeros(D), type(unit.scale).of(jnp.full(D, WIDE)))


def _wasserstein(means):
    import jax

    import flows

    density = jax.tree_util.Partial(lambda means, x: log_density(x, means), means)
    found = flows.wasserstein_flow(
        flows.relative_entropy(density), _wide(), key=jax.random.key(0), step_size=STEP,
        num_steps=STEPS, hidden=(HIDDEN,), num_inner=INNER, num_draws=4 * DRAWS,
        estimate="density",
    )  # fmt: skip
    return jax.block_until_ready(found.flow)


def _fitted(method: str, target):
    """By `vi.fit`."""
    import jax

    import flows
    import vi

    steps = {"num_steps": SPLINE_STEPS} if "spline" in method else {}
    if method == "neural spline, wide start":
        family = flows.neural_spline(D, key=jax.random.key(0)).around(_wide())
    else:
        family = {"mean field": "mean_field", "vi.fit, auto": "auto"}.get(method, "neural_spline")
    how = {"key": jax.random.key(0), "family": family, "on_failure": "return", **steps}
    return vi.fit(target, **how).q


def _svgd(means) -> np.ndarray:
    import jax
    import jax.numpy as jnp

    from samplers.particles import svgd

    clock, chunk = CpuClock(), 20
    heat = lambda spent: jnp.maximum(1.0, HEAT - 2 * (HEAT - 1) * spent)
    start = WIDE * np.random.default_rng(5).normal(size=(PARTICLES, D)).astype(np.float32)

    @jax.jit
    def run(state, means, spent):
        how = svgd(lambda x: log_density(x, means), RATE, temperature=heat(spent))
        step = lambda state, _: (how.step(jax.random.key(0), state)[0], None)
        return jax.lax.scan(step, state, length=chunk)[0]

    state = svgd(lambda x: log_density(x, means), RATE).init(jnp.asarray(start))
    while (spent := clock.read() / SECONDS) < 1:
        state = jax.block_until_ready(run(state, means, spent))
    return np.asarray(state.particles)
