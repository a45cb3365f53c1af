"""The verdict: what can be trusted, how that is known, and what to do if it is not enough."""

import math
from typing import Literal, NamedTuple

from vi.posterior.diagnostics import Diagnostics
from vi.status import Status

Grade = Literal["good", "fair", "poor", "failed"]

LIMIT = 0.7  # k-hat above which importance weights, and so the approximation, are not reliable
CONFIDENCE = 3.0  # standard errors: "good" is not said by luck of the draws
MISSED = 0.05, 0.005  # share of the mass at another optimum for "poor", and for "fair" at best


class Verdict(NamedTuple):
    """A grade and its reasons; prints as a few sentences."""

    grade: Grade
    text: str

    def __str__(self) -> str:
        """The grade and the text."""
        return f"{self.grade}: {self.text}"


def judge(
    found: Diagnostics, status: Status, family: str, worst: list[str], notes: list[str]
) -> Verdict:
    """Grade a fit by its diagnostics.

    ``good``: k-hat is below 0.7 by three standard errors, and it is below 0.5 or the weights
    are nearly even.
    ``fair``: k-hat is below 0.7, and importance resampling corrects what is left; or it is
    above, but the weights are so even that only the far tails are wrong.
    ``poor``: k-hat is above, some draws have no density, or more than 5 % of the mass found is
    at another optimum, which k-hat cannot see; moments may be wrong.
    ``failed``: the run broke down, and this is its last good state.

    Args:
      found: from fresh draws.
      status: how the run ended.
      family: a phrase for q, as in ``"full-rank Gaussian (D = 7)"``.
      worst: names of the coordinates along which the fit is worst, worst first.
      notes: further sentences: what was chosen, what else was seen.

    Returns:
      The verdict.
    """
    k, sem = found.khat, found.khat_sem
    said = [f"k-hat {k:.2f} ± {sem:.2f}" if math.isfinite(k) else "k-hat could not be estimated"]
    if k == -math.inf:
        said = ["importance weights equal to four digits"]
    if math.isfinite(found.elbo):
        said.append(f"ELBO {found.elbo:.3f} ± {found.elbo_sem:.3f} nats")
    measured = ", ".join(said) + f" from {found.num_draws} fresh draws"
    where = f" The misfit is largest along {', '.join(worst)}." if worst else ""
    gap = found.log_evidence - found.elbo
    share = found.efficiency
    if status.failed:
        grade, text = "failed", f"{status.message} {_sentence(measured)}"
    elif found.bad:
        grade = "poor"
        text = (
            f"the target has no finite density at {100 * found.bad:.2g} % of the draws of the "
            f"{family} ({measured}). Use 64-bit floats if the model is "
            f"ill-conditioned, or a family with lighter tails.{where}"
        )
    elif found.missed > MISSED[0]:
        grade = "poor"
        text = (
            f"the {family} covers one of several modes: other starts found an optimum with "
            f"{found.missed:.0%} of the mass of both, where this fit has none. Around its own mode "
            f"it has {measured}, which says nothing of the other. Try family='auto', which starts "
            "a mixture from both, or run MCMC from several starts."
        )
    elif k + CONFIDENCE * sem < LIMIT and (k < 0.5 or _body_fits(found)):
        grade = "good"
        text = f"the {family} fits: {measured}."
        if math.isfinite(gap):
            text += f" About {max(gap, 0.0):.2g} nats of the log evidence are left."
    elif _body_fits(found):
        grade = "fair"
        text = (
            f"the body of the posterior fits the {family}, its far tails may not: {measured}; "
            f"near {LIMIT} and above, tail probabilities may be wrong. But the ELBO is within "
            f"{max(gap, 0.0):.2g} nats of the log evidence and {share:.0%} of the draws are "
            "effective, so means and standard deviations are hardly touched."
        )
    elif not k < LIMIT:
        grade = "poor"
        text = (
            f"the {family} does not fit the posterior: {measured}; above {LIMIT} means and "
            f"variances may be wrong.{where} Try family='auto' for a richer family, "
            "reparameterise the model along those directions, or run MCMC."
        )
    else:
        grade = "fair"
        text = (
            f"the {family} is usable with care: {measured}, below {LIMIT} but not by enough. "
            f"Take draws with resample(), which corrects for the misfit.{where}"
        )
    if found.missed > MISSED[1] and not found.missed > MISSED[0]:
        grade = "fair" if grade == "good" else grade
        text += f" Other starts found an optimum with {found.missed:.1%} of the mass, not covered."
    if status not in (Status.CONVERGED, Status.RUNNING) and not status.failed:
        text += " " + status.message
    return Verdict(grade, " ".join([text, *notes]))


def judge_point(found: Diagnostics, status: Status, notes: list[str]) -> Verdict:
    """Grade a point estimate, which k-hat cannot: at best ``fair``, since it has no spread."""
    text = (
        f"a point estimate with log density {found.log_p[0]:.3f}; it says nothing of uncertainty."
    )
    if status == Status.CONVERGED:
        return Verdict("fair", " ".join([text, *notes]))
    advice = "The density may have no maximum, as in hierarchical models; fit a Gaussian instead."
    grade = "failed" if status.failed else "poor"
    return Verdict(grade, " ".join([text, status.message, advice, *notes]))


def _body_fits(found: Diagnostics) -> bool:
    """Whether the weights are so even that only far tails can have made k-hat large."""
    return found.efficiency > 0.9 and found.log_evidence - found.elbo < 0.05


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
