"""A small Bayesian network: structured SG-MCMC beside plain SGHMC and mean-field VI."""

import functools

import numpy as np

from benchmarks.process import CpuClock

UNITS, SEEDS, SECONDS = 10, 3, 5.0  # of the hidden layer; splits; CPU seconds for each split
TEST, VALID, BATCH, CHUNK, THIN, DRAWS = 88, 60, 32, 500, 25, 400
RATES = {
    "structured SGLD, groups": (3e-5, 1e-4, 3e-4),
    "structured SGLD, Bernoulli": (3e-5, 1e-4, 3e-4),
    "SGLD": (3e-5, 1e-4, 3e-4),
    "SGHMC": (1e-5, 3e-5, 1e-4),
}
METHODS = "mean field", *RATES
FRICTION = 0.1  # what SGHMC's momentum loses in a step
FEATURES = 10
D = UNITS * (FEATURES + 2) + 2  # weights in, biases, weights out, last bias, log noise


def rows(seed: int) -> tuple:
    """Diabetes: standardised training, validation and test rows of a split."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    order = np.random.default_rng(seed).permutation(len(data.target))
    x, y = data.data[order], data.target[order]
    rest = slice(TEST, None)
    x = (x - x[rest].mean(0)) / x[rest].std(0)
    y = (y - y[rest].mean()) / y[rest].std()
    table = np.column_stack([x, y]).astype(np.float32)
    return table[TEST + VALID :], table[TEST : TEST + VALID], table[:TEST]


def log_rows(z, table):
    """Log likelihoods of rows."""
    import jax
    import jax.numpy as jnp

    x, y = table[:, :-1], table[:, -1]
    first = z[: UNITS * FEATURES].reshape(FEATURES, UNITS)
    bias, out = z[UNITS * FEATURES : -2].reshape(2, UNITS)
    mean = jnp.tanh(x @ first / FEATURES**0.5 + bias) @ out / UNITS**0.5 + z[-2]
    return jax.scipy.stats.norm.logpdf(y, mean, jnp.exp(z[-1]))


def log_density(z, table):
    """Of all weights, with unit normal priors."""
    return log_rows(z, table).sum() - 0.5 * (z**2).sum()


def groups() -> list[list[int]]:
    """A hidden unit, its weights in and out, is a group; the rest is one more."""
    index = np.arange(UNITS * (FEATURES + 2)).reshape(FEATURES + 2, UNITS)
    return [*index.T.tolist(), [D - 2, D - 1]]


def networks(method: str) -> dict:
    """CPU seconds, and log density of a held-out row, by split."""
    import jax
    import jax.numpy as jnp

    import vi

    score = jax.jit(lambda z, table: jax.vmap(log_rows, (0, None))(z, table))
    look = lambda z, table: float(
        np.mean(jax.scipy.special.logsumexp(score(z, table), axis=0) - np.log(len(z)))
    )
    told, cpus = [], []
    for seed in range(SEEDS):
        train, valid, test = rows(seed)
        clock = CpuClock()
        if method == "mean field":
            whole = np.concatenate([train, valid])
            how = {"key": jax.random.key(seed), "family": "mean_field", "on_failure": "return"}
            z = vi.fit(log_density, jnp.zeros(D), whole, **how).q.sample(jax.random.key(1), 400)
            cpus.append(clock.read())
            told.append(look(z, test))
            continue
        found = []
        for number, rate in enumerate(RATES[method]):
            z = _chain(method, rate, train, seed, clock, SECONDS * (number + 1) / 3)
            found.append((look(z, valid), look(z, test), rate))
        cpus.append(clock.read())
        told.append(max(found)[1])
    return {"cpu": float(np.median(cpus)), "scores": told}


def _chain(method, rate, train, seed, clock, until):
    """Draws of the second half of a chain that ends at a time of the clock."""
    import jax

    keys = jax.random.split(jax.random.key(seed), 10_000)
    start = 0.3 * np.random.default_rng(seed).normal(size=D).astype(np.float32)
    init, run = _compiled(method)
    state, kept = init(start), []
    while not kept or clock.read() < until:
        state, z = run(keys[len(kept)], state, train, rate)
        kept.append(np.asarray(z))
    draws = np.concatenate(kept)
    half = draws[len(draws) // 2 :]
    return half[np.linspace(0, len(half) - 1, DRAWS).astype(int)]


@functools.cache
def _compiled(method):
    """A chain's first state, and some of its steps."""
    import jax
    import jax.numpy as jnp

    from samplers import structured_sgld

    def density(z, key, train):
        chosen = jax.random.randint(key, (BATCH,), 0, len(train))
        return log_rows(z, train[chosen]).sum() * (len(train) / BATCH) - 0.5 * (z**2).sum()

    def langevin(train, rate):
        kind = [list(range(D))] if method == "SGLD" else groups()
        mask = "bernoulli" if method.endswith("Bernoulli") else "group"
        return structured_sgld(lambda z, key: density(z, key, train), kind, rate, mask=mask)

    def momentum(key, state, train, rate):
        """Chen, Fox and Guestrin (2014), equation 15."""
        batch, other = jax.random.split(key)
        z, v = state
        z = z + v
        noise = jnp.sqrt(2 * FRICTION * rate) * jax.random.normal(other, z.shape)
        return z, (1 - FRICTION) * v + rate * jax.grad(density)(z, batch, train) + noise

    @jax.jit
    def run(key, state, train, rate):
        def step(state, key):
            if method == "SGHMC":
                return momentum(key, state, train, rate), None
            return langevin(train, rate).step(key, state)[0], None

        def some(state, key):
            state, _ = jax.lax.scan(step, state, jax.random.split(key, THIN))
            return state, state[0]

        return jax.lax.scan(some, state, jax.random.split(key, CHUNK // THIN))

    if method == "SGHMC":
        return lambda z: (jnp.asarray(z), jnp.zeros(D)), run
    return lambda z: langevin(None, 0.0).init(z), run
