"""Data over planes and boxes for the benchmarks of `gp`, with NumPy alone, for peers too."""

import numpy as np


def terrain(count, left_out):
    """The elevation grid that ships with matplotlib, standardised, at random points."""
    import matplotlib.cbook

    with matplotlib.cbook.get_sample_data("jacksboro_fault_dem.npz") as file:
        height = file["elevation"].astype(float)
    rows, columns = np.indices(height.shape)
    x = np.stack([rows.ravel(), columns.ravel()], 1).astype(float)
    x, y = (x - x.mean(0)) / x.std(0), height.ravel()
    y = (y - y.mean()) / y.std()
    order = np.random.default_rng(0).permutation(len(y))[: count + left_out]
    return x[order[:count]], y[order[:count]], x[order[count:]], y[order[count:]]


def matern(x, lengthscale):
    """The Matérn-3/2 covariance of unit variance."""
    squares = np.sum(x**2, 1)
    square = np.maximum(squares[:, None] + squares - 2 * x @ x.T, 0) / lengthscale**2
    scaled = np.sqrt(3 * square)
    return (1 + scaled) * np.exp(-scaled)


def draw(count, left_out, dimension=2, lengthscale=0.15, noise=0.01, seed=0):
    """A draw of a Matérn-3/2 process on the unit box, with noise."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(count + left_out, dimension))
    covariance = matern(x, lengthscale)
    covariance[np.diag_indices(len(x))] += 1e-8
    f = np.linalg.cholesky(covariance) @ rng.normal(size=len(x))
    y = f + np.sqrt(noise) * rng.normal(size=len(x))
    return x[:count], y[:count], x[count:], y[count:]


def surface(x):
    """A smooth function of two coordinates."""
    return np.sin(3 * x[:, 0]) * np.cos(4 * x[:, 1])


def labels(count, left_out):
    """Labels whose log odds are twice the surface, on a square of a fixed density of points."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(count + left_out, 2)) * 2 * np.sqrt(count / 1000)
    y = (rng.uniform(size=len(x)) < 1 / (1 + np.exp(-2 * surface(x)))).astype(float)
    return x[:count], y[:count], x[count:], y[count:]


def counts(count, left_out):
    """Poisson counts whose log rate is one plus the surface."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(count + left_out, 2)) * 2 * np.sqrt(count / 1000)
    y = rng.poisson(np.exp(1 + surface(x))).astype(float)
    return x[:count], y[:count], x[count:], y[count:]


FIELDS = {
    "terrain": lambda: terrain(5000, 2000),
    "draw": lambda: draw(5000, 1000),
    "labels": lambda: labels(20_000, 5000),
    "counts": lambda: counts(20_000, 5000),
}
LIKELIHOODS = {"labels": "bernoulli_logit", "counts": "poisson"}
