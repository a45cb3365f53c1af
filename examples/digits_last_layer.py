"""Handwritten digits: Bayesian last layers beside a plain network and MC dropout.

The networks learn the digits 0 to 7. Held-out ones measure accuracy and calibration; 8 and 9, which
no network has seen, and digits whose pixels are shuffled measure whether it knows what it does not
know. Then a stream: the names of the digits change every 300 images, and a last layer that forgets
follows.

    python examples/digits_last_layer.py [--out out] [--seeds 3]
"""

import argparse
import functools
import itertools
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax

from gp import last_layers

matplotlib.use("Agg")
WIDTHS, CLASSES, BATCH, STEPS, DROPPED = (64, 64, 32), 8, 100, 1500, 0.2
METHODS = "plain", "dropout", "discriminative", "generative"


class Digits(NamedTuple):
    """Images as rows of pixels in [0, 1], and their labels."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    unseen: np.ndarray  # 8 and 9
    shuffled: np.ndarray  # known digits with pixels in another order


def load(seed: int) -> Digits:
    """Half of the digits 0 to 7 to learn, half to test."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, rng = (x / 16).astype(np.float32), np.random.default_rng(seed)
    known = rng.permutation(np.flatnonzero(y < CLASSES))
    train, test = known[:700], known[700:]
    shuffled = x[test][:, rng.permutation(64)]
    return Digits(x[train], y[train], x[test], y[test], x[y >= CLASSES], shuffled)


def network(key: jax.Array) -> list:
    """Weights and biases."""
    pairs = itertools.pairwise(WIDTHS)
    keys = jax.random.split(key, len(WIDTHS))
    return [
        (jnp.sqrt(2 / m) * jax.random.normal(k, (m, n)), jnp.zeros(n))
        for k, (m, n) in zip(keys, pairs, strict=False)
    ]


def features(params: list, x: Any, key: Any = None) -> jax.Array:
    """The network's outputs, of mean square one, and a one; dropout if there is a key."""
    for number, (weights, bias) in enumerate(params):
        x = jax.nn.relu(x @ weights + bias)
        if key is not None:
            kept = jax.random.bernoulli(jax.random.fold_in(key, number), 1 - DROPPED, x.shape)
            x = jnp.where(kept, x / (1 - DROPPED), 0.0)
    x = x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)
    return jnp.concatenate([x, jnp.ones_like(x[:, :1])], 1)


def head(method: str, key: jax.Array) -> Any:
    """The last layer."""
    size = WIDTHS[-1] + 1
    if method == "generative":
        return last_layers.generative(key, size, CLASSES)
    if method == "discriminative":
        return last_layers.discriminative(key, size, CLASSES)
    return 0.1 * jax.random.normal(key, (CLASSES, size))


def loss(method: str, state: tuple, x: Any, y: Any, key: Any, num_data: int) -> jax.Array:
    """What is minimised, for each datum; a little weight decay where nothing is Bayesian."""
    params, layer = state
    phi = features(params, x, key if method == "dropout" else None)
    decay = 1e-4 * optax.global_norm(params) ** 2
    if method in ("plain", "dropout"):
        logits = phi @ layer.T
        fit = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return fit + decay + 1e-4 * jnp.sum(layer**2)
    return decay - layer.elbo(phi, y, num_data=num_data) / num_data


@functools.partial(jax.jit, static_argnums=0)
def train(method: str, key: jax.Array, x: Any, y: Any) -> tuple:
    """Adam with a decaying rate."""
    first, second, third = jax.random.split(key, 3)
    state = network(first), head(method, second)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, STEPS))

    def step(carry: tuple, number: jax.Array) -> tuple:
        state, opt = carry
        rows, drop = jax.random.split(jax.random.fold_in(third, number))
        chosen = jax.random.choice(rows, len(x), (BATCH,))
        slope = jax.grad(loss, 1)(method, state, x[chosen], y[chosen], drop, len(x))
        updates, opt = optimizer.update(slope, opt, state)
        return (optax.apply_updates(state, updates), opt), None

    (state, _), _ = jax.lax.scan(step, (state, optimizer.init(state)), jnp.arange(STEPS))
    return state


@functools.partial(jax.jit, static_argnums=0)
def predict(method: str, state: tuple, x: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log probabilities, and how unknown each input looks."""
    params, layer = state
    if method == "dropout":
        keys = jax.random.split(key, 64)
        one = lambda k: jax.nn.log_softmax(features(params, x, k) @ layer.T)
        found = jax.scipy.special.logsumexp(jax.lax.map(one, keys), 0) - jnp.log(64.0)
    else:
        phi = features(params, x)
        if method == "plain":
            found = jax.nn.log_softmax(phi @ layer.T)
        elif method == "discriminative":
            found = layer.log_probabilities(phi, key=key)
        else:
            found = layer.log_probabilities(phi)
    return found, -jnp.sum(jnp.exp(found) * found, -1)  # entropy


def calibration_error(log_p: np.ndarray, y: np.ndarray, bins: int = 10) -> float:
    """Mean gap of confidence and accuracy over bins of confidence."""
    confidence, right = np.exp(log_p.max(1)), log_p.argmax(1) == y
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(right[place == b].mean() - confidence[place == b].mean()) * (place == b).mean()
        for b in np.unique(place)
    ]
    return float(sum(gaps))


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """How often an unknown input looks more unknown than a known one."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([inside, outside]))[len(inside) :]
    m, n = len(outside), len(inside)
    return float((ranks.sum() - m * (m + 1) / 2) / (m * n))


def compare(seed: int) -> dict[str, list[float]]:
    """Accuracy, NLPD, calibration error, two AUROCs and seconds of each method."""
    data, found = load(seed), {}
    for method in METHODS:
        start, key = time.process_time(), jax.random.key(seed)
        state = jax.block_until_ready(train(method, key, data.x, data.y))
        log_p, score = map(np.asarray, predict(method, state, data.x_test, key))
        away = [np.asarray(predict(method, state, x, key)[1]) for x in data[4:]]
        found[method] = [
            100 * np.mean(log_p.argmax(1) == data.y_test),
            -np.mean(log_p[np.arange(len(log_p)), data.y_test]),
            100 * calibration_error(log_p, data.y_test),
            *(auroc(score, other) for other in away),
            time.process_time() - start,
        ]
    return found


def stream(seed: int = 0) -> dict[str, np.ndarray]:
    """Whether each image of a stream was named rightly, by layers that forget and one that keeps.

    Every 300 images the digits change their names. Features are 200 random ones of the pixels.
    """
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))[:1500]
    weights = rng.normal(size=(64, 200))
    phi = np.maximum((x[order] / 16 - 0.3) @ weights, 0).astype(np.float32) / np.sqrt(200)
    names = np.stack([rng.permutation(10) for _ in range(5)])
    labels = names[np.arange(1500) // 300, y[order]]
    runs = {"never forgets": (1.0, 0.0), "forgets": (0.9999, 0.0), "learns how fast": (0.99, 1.0)}
    found = {}
    for name, (gamma, rate) in runs.items():
        layer = last_layers.kalman(200, 10, noise=0.05, retention=gamma)
        run = layer.filter(phi, labels, key=jax.random.key(seed), learning_rate=rate)
        found[name] = np.asarray(run.mean).argmax(1) == labels
        print(
            f"stream, {name:16s} right {100 * found[name].mean():.1f} %, "
            f"last retention {float(run.retention[-1]):.5f}"
        )
    return found


def main(out: pathlib.Path, seeds: int) -> dict[str, np.ndarray]:
    """Compare, print a table, and save a picture under ``out``."""
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    every = [compare(seed) for seed in range(seeds)]
    means = {m: np.mean([one[m] for one in every], 0) for m in METHODS}
    spread = {m: np.std([one[m] for one in every], 0) for m in METHODS}
    print(f"{'':15s} accuracy %    NLPD   ECE %  AUROC 8, 9  AUROC shuffled  CPU s")
    for method, row in means.items():
        print(
            f"{method:15s} {row[0]:8.1f}  {row[1]:8.3f}  {row[2]:5.1f}  {row[3]:9.3f}  "
            f"{row[4]:13.3f}  {row[5]:6.1f}"
        )
    right = stream()
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), constrained_layout=True)
    titles = {2: "calibration error, %", 3: "AUROC, unseen digits 8 and 9"}
    for axis, (column, title) in zip(axes, titles.items(), strict=False):
        axis.bar(
            METHODS,
            [means[m][column] for m in METHODS],
            color="#30638e",
            yerr=[spread[m][column] for m in METHODS],
            capsize=3,
        )
        axis.set_title(title)
        axis.tick_params(axis="x", labelrotation=20)
    axes[1].set_ylim(0.5, 1)
    for name, hits in right.items():
        axes[2].plot(np.convolve(hits, np.ones(50) / 50, "valid"), label=name)
    axes[2].set_title("a stream whose names change every 300")
    axes[2].set_ylabel("right, of the last 50")
    axes[2].set_ylim(0, 1.25)
    axes[2].set_yticks([0, 0.5, 1])
    axes[2].legend(fontsize=8, loc="upper left", ncols=3)
    figure.savefig(out / "digits_last_layer.png", dpi=110)
    print(f"Picture: {out}/digits_last_layer.png")
    return means


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out"))
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    main(given.out, given.seeds)
