"""What draws that are too rare to be seen would add to moments, by the law of the weights' tail."""

import math

import numpy as np

from vi.posterior.diagnostics import Diagnostics
from vi.posterior.psis import Psis, psis

_HEAVIEST = 4  # coordinates that are looked at


def unseen(found: Diagnostics) -> float:
    r"""The share that draws rarer than one in S would add to the mass, or to a variance.

    k-hat above 0.7 says that importance sampling may miss what matters, not how much. Where
    products :math:`h_s = w_s f(z_s)` have a generalised Pareto tail of shape k, the mean of what
    lies beyond their quantile x at 1 - 1/S is :math:`x / (1 - k)`, once in S draws. The largest
    smoothed one is the quantile at 1 - 1/(2S), which is :math:`2^k x`. So beside their sum it is

    .. math::

       u = \frac{2^{-k}}{1 - k} \frac{\max_s h_s}{\sum_s h_s}

    and infinite from k = 1 on. The largest u is returned, of f = 1 and of the squared distances
    :math:`(z_j - \bar z_j)^2` of those four coordinates in which one draw has the largest share.
    A standard deviation of the weighted draws is too small by :math:`1 - \sqrt{1 - u}`, if the
    tail goes on as it began.

    Args:
      found: from S fresh draws.

    Returns:
      u, of the first batch of draws.

    Complexity:
      O(S D), and five sorts.
    """
    ratios = found.log_p.astype(float) - found.log_q.astype(float)
    draws = found.draws.reshape(len(ratios), -1).astype(float)
    whole = psis(ratios)
    weights = np.exp(whole.log_weights)
    with np.errstate(all="ignore"):
        squares = (draws - weights @ draws) ** 2
        largest = (weights[:, None] * squares).max(0) / (weights @ squares)
        heaviest = np.argsort(largest)[-_HEAVIEST:]
        tails = [whole, *(psis(ratios + np.log(squares[:, j])) for j in heaviest)]
    return max(_beyond(tail) for tail in tails)


def _beyond(tail: Psis) -> float:
    if not tail.khat < 1:
        return math.inf
    return 2.0**-tail.khat / (1 - tail.khat) * math.exp(tail.log_weights.max())
