"""What lies beyond the draws that judge a fit, by the law of the tail of their weights."""

import math

import numpy as np

from vi.posterior.psis import Psis, psis

_HEAVIEST = 4  # coordinates that are looked at


def unseen(draws: np.ndarray, log_ratios: np.ndarray, weighed: Psis) -> float:
    r"""The share of the mass, or of a variance, that lies beyond the draws.

    k-hat above 0.7 says that importance sampling may miss what matters, not how much. Where
    products :math:`h_s = w_s f(z_s)` have a generalised Pareto tail of shape k, the mean of what
    lies beyond their quantile x at 1 - 1/S is :math:`x / (1 - k)`, once in S draws. The largest
    smoothed one is the quantile at 1 - 1/(2S), which is :math:`2^k x`. So its share is

    .. math::

       u = \frac{2^{-k}}{1 - k} \frac{\max_s h_s}{\sum_s h_s}

    and infinite from k = 1 on. The largest u is returned, of f = 1 and of the squared distances
    :math:`(z_j - \bar z_j)^2` of those four coordinates in which one draw has the largest share.
    It is an estimate, if the tail goes on as it began. Where the target's tails are heavier than
    those of any family of the same form, weights grow faster than any power, and it is too low.

    Args:
      draws: S of them, shape ``(S, D)``.
      log_ratios: log p - log q there, shape ``(S,)``.
      weighed: what `psis` makes of these.

    Returns:
      u.

    Complexity:
      O(S D), and four sorts.
    """
    draws, weights = draws.astype(float), np.exp(weighed.log_weights)
    with np.errstate(all="ignore"):
        squares = (draws - weights @ draws) ** 2
        largest = (weights[:, None] * squares).max(0) / (weights @ squares)
        heaviest = np.argsort(largest)[-_HEAVIEST:]
        tails = [weighed, *(psis(log_ratios + np.log(squares[:, j])) for j in heaviest)]
    return max(_beyond(tail) for tail in tails)


def _beyond(tail: Psis) -> float:
    if not tail.khat < 1:
        return math.inf
    return 2.0**-tail.khat / (1 - tail.khat) * math.exp(tail.log_weights.max())
