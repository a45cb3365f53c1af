"""Streams that change: conformal radii, and a particle filter that learns, beside simpler ways."""

import functools

import numpy as np

from benchmarks.process import CpuClock

# ---- conformal radii -----------------------------------------------------------------------------

LENGTH, CALIBRATION, WINDOW, SEEDS = 2000, 500, 500, 5  # of a piece between changes; of the rest
SCALES = 1.0, 4.0, 0.5, 2.0, 1.0
STREAMS = "scales", "heavy tails", "a predictor behind"
ALPHAS = 0.05, 0.1, 0.2
STEP = 0.05  # of gradient steps, in scales
RADII = "online_conformal", "sliding window", "gradient steps", "fixed"


def residuals(stream: str, seed: int) -> np.ndarray:
    """Absolute residuals, four changes in them; the first piece is longer by the calibration set.

    The predictor behind is the mean of the last hundred values of a series whose level jumps.
    """
    rng = np.random.default_rng(seed)
    lengths = [LENGTH + CALIBRATION, *[LENGTH] * (len(SCALES) - 1)]
    if stream == "a predictor behind":
        level = np.repeat([0.0, 5.0, -5.0, 10.0, 0.0], lengths)
        y = level + rng.normal(size=len(level))
        sums = np.cumsum(np.concatenate([np.zeros(100), y]))
        before = np.concatenate([[0.0], (sums[100:] - sums[:-100])[:-1] / 100])
        return np.abs(y - before)
    noise = rng.standard_t(3, size=sum(lengths)) if stream == "heavy tails" else None
    noise = rng.normal(size=sum(lengths)) if noise is None else noise
    return np.abs(np.repeat(SCALES, lengths) * noise)


def radii(method: str, r: np.ndarray, alpha: float, scale: float) -> np.ndarray:
    """A radius for each residual after the calibration set, by those before it."""
    import jax.numpy as jnp

    first, rest = r[:CALIBRATION], r[CALIBRATION:]
    quantile = np.quantile(first, 1 - alpha)
    if method == "fixed":
        return np.full(len(rest), quantile)
    if method == "sliding window":
        last = np.lib.stride_tricks.sliding_window_view(r[:-1], CALIBRATION)
        return np.quantile(last, 1 - alpha, axis=1)[: len(rest)]
    if method == "gradient steps":  # of the pinball loss, one rate
        out, s, rate = [], quantile, 0.05 * scale
        for x in rest:
            out.append(s)
            s = s + rate * ((x > s) - alpha)
        return np.array(out)
    return np.asarray(_learned()(jnp.asarray(r, jnp.float32), scale, alpha))[CALIBRATION:]


@functools.cache
def _learned():
    import jax

    from samplers import online_conformal

    def run(r, scale, alpha):
        how = online_conformal(scale, alpha=alpha)
        step = lambda state, x: (how.update(state, x)[0], state.radius)
        return jax.lax.scan(step, how.init(), r)[1]

    return jax.jit(run)


def conformal(method: str) -> dict:
    """Coverage, overall and in the worst window, mean radius and pinball loss, by stream and level.

    The scale is the largest residual of the calibration set: nothing of what comes is in it.
    """
    clock, rows = CpuClock(), []
    for stream in STREAMS:
        for alpha in ALPHAS:
            told = []
            for seed in range(SEEDS):
                r = residuals(stream, seed)
                radius = radii(method, r, alpha, r[:CALIBRATION].max())
                covered = (r[CALIBRATION:] <= radius).astype(float)
                parts = covered.reshape(-1, WINDOW).mean(1)
                worst = parts[np.argmax(np.abs(parts - 1 + alpha))]
                beyond = r[CALIBRATION:] - radius
                loss = np.maximum((1 - alpha) * beyond, -alpha * beyond).mean()
                told.append((covered.mean(), worst, radius.mean(), loss))
            each = np.array(told)
            rows.append({
                "stream": stream, "alpha": alpha, "coverage": each[:, 0].tolist(),
                "window": float(np.median(each[:, 1])), "radius": float(each[:, 2].mean()),
                "loss": float(each[:, 3].mean()),
            })  # fmt: skip
    return {"cpu": clock.read(), "rows": rows}


# ---- a filter that learns ------------------------------------------------------------------------

L, WINDOWS, SHIFT, PARTICLES = 10, 300, 100, 100
BEFORE, AFTER = (0.9, 0.5, 0.3), (-0.6, 1.0, 0.3)  # decay, noise of the state, of what is seen
FILTERS = "online", "online, bootstrap", "frozen", "told"
RATE = 0.03


def series(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """States and observations."""
    rng, z, states, seen = np.random.default_rng(seed), 0.0, [], []
    for t in range(L * WINDOWS):
        decay, q, r = AFTER if t >= L * SHIFT else BEFORE
        z = decay * z + q * rng.normal()
        states.append(z)
        seen.append(z + r * rng.normal())
    return np.array(states), np.array(seen)


def following(method: str) -> dict:
    """Scores of each window before it is learnt from, squared errors, and parameters."""
    import jax
    import jax.numpy as jnp
    import numpyro.distributions as dist
    import optax

    from samplers.filters import StateSpace, online_filter, particle_filter

    def model(theta):
        decay, q, r = theta[0], jnp.exp(theta[1]), jnp.exp(theta[2])
        return StateSpace(
            dist.Normal(jnp.zeros(1), 1.0).to_event(1),
            lambda z, t: dist.Normal(decay * z, q).to_event(1),
            lambda z, t: dist.Normal(z, r).to_event(1),
        )

    def proposal(theta):
        """The best one: the law of a state given the one before and what is seen."""
        decay, q, r = theta[0], jnp.exp(theta[1]), jnp.exp(theta[2])
        gain = q**2 / (q**2 + r**2)
        mean = lambda z, y: decay * z + gain * (y - decay * z)
        return lambda z, y, t: dist.Normal(mean(z, y), jnp.sqrt(1 - gain) * q).to_event(1)

    guided = method != "online, bootstrap"
    space = lambda p: jnp.array([p[0], np.log(p[1]), np.log(p[2])])
    learner = online_filter(
        model,
        optax.adam(RATE if method.startswith("online") else 0.0, b2=0.9),
        proposal=proposal if guided else None,
        num_particles=PARTICLES,
    )

    def run(key, y):
        state, _ = learner.init(key, space(BEFORE), y[0])

        def step(state, given):
            key, y, t = given
            if method == "told":
                theta = jnp.where(t >= SHIFT, space(AFTER), space(BEFORE))
                how = {"num_particles": PARTICLES, "proposal": proposal(theta)}
                found = particle_filter(key, y, model(theta), before=state.before, **how)
                state = state._replace(params=theta, before=found.last((t + 1) * L))
            else:
                state, found = learner.update(key, state, y)
            return state, (state.params, found.log_evidence, found.mean()[:, 0])

        given = jax.random.split(key, WINDOWS - 1), y[1:], jnp.arange(1, WINDOWS)
        return jax.lax.scan(step, state, given)[1]

    clock = CpuClock()
    run = jax.jit(run)
    scores, errors, thetas = [], [], []
    for seed in range(SEEDS):
        z, y = series(seed)
        told = run(jax.random.key(seed), jnp.asarray(y, jnp.float32).reshape(WINDOWS, L, 1))
        theta, score, mean = map(np.asarray, told)
        scores.append(score / L)
        errors.append(((mean - z[L:].reshape(-1, L)) ** 2).mean(1))
        thetas.append(theta)
    return {
        "cpu": clock.read(),
        "score": np.mean(scores, 0).tolist(),
        "squared": np.mean(errors, 0).tolist(),
        "decay": np.mean(thetas, 0)[:, 0].tolist(),
        "noises": np.exp(np.mean(thetas, 0)[-1, 1:]).tolist(),
    }
