"""Rank-normalised R-hat and effective sample sizes of many scalars at once, on the host.

ArviZ has the same computation, but importing it takes longer than a run of a small model.
"""

import math

import numpy as np
from jaxtyping import Float

TAILS = 0.05, 0.95  # quantiles whose effective sizes are the tail's
BLOCK = 2**20  # numbers that are worked on at once


def rhat_and_ess(x: np.ndarray) -> Float[np.ndarray, "3 ..."]:
    r"""R-hat, and effective sample sizes of bulk and tail, of each scalar.

    .. math:: \hat R = \sqrt{\frac{S - 1}{S} + \frac{B}{S W}}, \quad
        \mathrm{ESS} = \frac{C S}{-1 + 2 \sum_k (\hat ρ_{2k} + \hat ρ_{2k + 1})}, \quad
        \hat ρ_t = 1 - \frac{W - \bar γ_t}{\widehat{\mathrm{var}}^+}

    over half chains, of the normal scores of ranks; R-hat is the larger of that of the draws and
    of their distances from the median. The sum ends where a pair of autocorrelations is no longer
    positive, and no pair counts more than the one before (Geyer 1992, "Practical Markov chain
    Monte Carlo"). The tail's size is the less of those of the indicators of both quantiles.

    Args:
      x: draws, shape ``(C, S, *shape)``; the halves of a single chain are compared.

    Returns:
      R-hat, bulk and tail sizes, shape ``(3, *shape)``; NaN for constants, where a draw is not
      finite, and for fewer than 4 draws a chain.

    Complexity:
      O(C S log(C S)) for each scalar, in blocks.

    Example:
      >>> import numpy as np
      >>> from samplers.mixing import rhat_and_ess
      >>> rhat, bulk, tail = rhat_and_ess(np.random.default_rng(0).normal(size=(4, 500, 3)))
      >>> bool((rhat < 1.01).all() and (bulk > 1000).all() and (tail > 1000).all())
      True

    Reference:
      Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), "Rank-normalization, folding, and
      localization: an improved R-hat for assessing convergence of MCMC", Equations 3, 4, 10 and 13
      to 15.
    """
    x = np.asarray(x)
    chains, samples, *shape = x.shape
    if samples < 4:
        return np.full((3, *shape), np.nan)
    flat = x.reshape(chains, samples, -1)
    width = max(BLOCK // (chains * samples), 1)
    parts = [flat[..., i : i + width] for i in range(0, flat.shape[-1], width)]
    found = [_block(np.moveaxis(part, -1, 0).astype(float)) for part in parts]
    return np.concatenate(found, axis=1).reshape(3, *shape) if found else np.empty((3, *shape))


def _block(x: Float[np.ndarray, "D C S"]) -> Float[np.ndarray, "3 D"]:
    told = np.isfinite(x).all((1, 2)) & (np.ptp(x, axis=(1, 2)) > 0)
    found = np.full((3, len(x)), np.nan)
    x = x[told]
    halves = _halves(x)
    compared = halves if x.shape[1] > 1 else _halves(halves)
    folded = np.abs(compared - np.median(compared, axis=(1, 2), keepdims=True))
    rhat = np.fmax(_rhat(_scores(compared)), _rhat(_scores(folded)))
    bulk = _ess(_scores(halves))
    cuts = np.quantile(x, TAILS, axis=(1, 2))
    tail = np.minimum(*(_ess(_halves(x <= cut[:, None, None])) for cut in cuts))
    found[:, told] = rhat, bulk, tail
    return found


def _halves(x: np.ndarray) -> np.ndarray:
    """Twice as many chains of half the length; a draw in the middle is left out."""
    half = x.shape[2] // 2
    return np.concatenate([x[:, :, :half], x[:, :, -half:]], axis=1)


def _scores(x: np.ndarray) -> np.ndarray:
    """Normal scores of ranks over all chains, Blom's; equal draws have their mean rank."""
    from scipy.special import ndtri

    flat = x.reshape(len(x), -1)
    order = np.argsort(flat, axis=1)
    ranked = np.take_along_axis(flat, order, axis=1)
    size = flat.shape[1]
    at = np.arange(size)
    steps = np.diff(ranked, axis=1) != 0
    edge = np.ones((len(x), 1), bool)
    first = np.maximum.accumulate(np.where(np.hstack([edge, steps]), at, 0), axis=1)
    ends = np.where(np.hstack([steps, edge]), at, size)
    last = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty_like(flat)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, axis=1)
    return ndtri((ranks - 3 / 8) / (size + 1 / 4)).reshape(x.shape)


def _rhat(x: np.ndarray) -> np.ndarray:
    samples = x.shape[2]
    between, within = x.mean(2).var(1, ddof=1), x.var(2, ddof=1).mean(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt((samples - 1) / samples + between / within)


def _ess(x: np.ndarray) -> np.ndarray:
    _, chains, samples = x.shape
    centred = x - x.mean(2, keepdims=True)
    power = np.abs(np.fft.rfft(centred, n=1 << (2 * samples - 1).bit_length())) ** 2
    covariance = np.fft.irfft(power.mean(1))[:, :samples] / samples  # mean over chains, by lag
    within = covariance[:, :1] * samples / (samples - 1)
    total = covariance[:, :1] + x.mean(2).var(1, ddof=1)[:, None]
    constant = total[:, 0] == 0  # as an indicator may be
    rho = 1 - (within - covariance) / np.where(total == 0, 1, total)
    rho[:, 0] = 1
    pairs = rho[:, : samples // 2 * 2].reshape(len(x), -1, 2)[:, : max((samples - 1) // 2, 1)]
    sums = pairs.sum(2)
    ended = sums <= 0
    last = np.where(ended.any(1), ended.argmax(1), sums.shape[1] - 1)
    counted = np.arange(sums.shape[1]) < last[:, None]
    even, both = (np.take_along_axis(a, last[:, None], 1)[:, 0] for a in (pairs[:, :, 0], sums))
    rest = np.where(both < 0, np.maximum(even, 0), even)
    tau = 2 * np.sum(np.minimum.accumulate(sums, axis=1) * counted, axis=1) + rest - 1
    size = chains * samples
    return np.where(constant, size, size / np.maximum(tau, 1 / math.log10(size)))
