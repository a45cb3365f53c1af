"""The verdict: what can be trusted, how that is known, and what to do if it is not enough."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from vi.posterior.diagnostics import Diagnostics
from vi.posterior.psis import LIMIT
from vi.status import Status

Grade = Literal["good", "fair", "poor", "failed"]

CONFIDENCE = 3.0  # standard errors: "good" is not said by luck of the draws
SHIFT = 0.2, 0.5  # of a moment by the weights, for "good" at most, and for "fair"
EFFECTIVE = 0.02  # share of the draws that must be, for more than "poor"
MISSED = 0.05, 0.005  # share of the mass at another optimum for "poor", and for "fair" at best
UNSEEN = 0.05  # share beyond the draws: where tails are heavy there is a few times as much
TOLD = 0.1  # share of the draws that must be effective for their tail to tell of that
CUT = 0.01  # share of the mass beyond the draws for "poor"; for "fair" at best, any


class Verdict(NamedTuple):
    """A grade and its reasons; prints as a few sentences.

    Attributes:
      grade: ``"good"``, ``"fair"``, ``"poor"`` or ``"failed"``.
      text: the reasons, what is wrong and what to try, in sentences.
    """

    grade: Grade
    text: str

    def __str__(self) -> str:
        """The grade and the text."""
        return f"{self.grade}: {self.text}"


def judge(
    found: Diagnostics,
    status: Status,
    family: str,
    worst: list[str],
    notes: list[str],
    cautions: Sequence[str] = (),
) -> Verdict:
    """Grade a fit by its diagnostics.

    ``good``: k-hat is below 0.7 by three standard errors, it is below 0.5 or the weights are
    nearly even, and importance weights move no mean by more than 0.2 standard deviations and no
    standard deviation by more than 20 %.
    ``fair``: k-hat is below 0.7, and importance resampling corrects what is left; or it is
    above, but the weights are so even that only the far tails are wrong, or a tenth of the draws
    is effective and, as the tail of their weights goes on, no more than 5 % of the mass or a
    variance lies beyond them (`vi.posterior.unseen`).
    ``poor``: k-hat is above and neither holds, weights move a moment by more than 0.5, less than
    2 % of the draws are effective, some have no density, or more than 5 % of the mass found is at
    another optimum; or more than 1 % of it, or what moves a moment by more than 0.2, lies beyond
    the draws of a flow or a mixture. Of the last two k-hat sees nothing.
    ``failed``: the run broke down, and this is its last good state.

    Args:
      found: from fresh draws.
      status: how the run ended.
      family: a phrase for q, as in ``"full-rank Gaussian (D = 7)"``.
      worst: names of the coordinates along which the fit is worst, worst first.
      notes: further sentences: what was chosen, what else was seen.
      cautions: sentences on what the draws cannot show; with any, the grade is at best fair.

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
    even, sure = _body_fits(found), k + CONFIDENCE * sem < LIMIT
    far_only = even or (found.efficiency >= TOLD and found.unseen <= UNSEEN)
    shift = max(found.mean_shift, found.sd_shift)
    if status.failed:
        grade, text = "failed", f"{status.message} {_sentence(measured)}"
    elif found.bad:
        grade = "poor"
        text = (
            f"the target has no finite density at {100 * found.bad:.2g} % of the draws of the "
            f"{family} ({measured}). Use 64-bit floats if the model is "
            f"ill-conditioned, or a family with lighter tails.{where}"
        )
    elif not k < LIMIT and not far_only:
        grade = "poor"
        advice = "reparameterise the model along those directions" if worst else "reparameterise"
        beyond = f"; about {found.unseen:.0%} of a variance lies beyond these draws"
        text = (
            f"the {family} does not fit the posterior: {measured}; above {LIMIT} means and "
            f"variances may be wrong{beyond if found.unseen < 1 else ''}.{where}"
        )
        if status != Status.INTERRUPTED:
            text += f" Try family='auto' for a richer family, {advice}, or run MCMC."
    elif found.missed > MISSED[0]:
        grade = "poor"
        text = (
            f"the {family} covers one of several modes: other searches ended where "
            f"{found.missed:.0%} of the mass found lies and this fit has none. Around its own mode "
            f"it has {measured}, which says nothing of the others. Try family='auto', which starts "
            "a mixture from all, or run MCMC from several starts."
        )
    elif found.cut > CUT or found.cut_shift > SHIFT[0]:
        grade = "poor"
        text = (
            f"the {family} ends where the posterior goes on: about {found.cut:.1%} of the mass "
            "lies where it has next to none, to which moves from its draws have led, and changes "
            f"a mean or standard deviation by {found.cut_shift:.2f} standard deviations or more. "
            f"Its own draws show nothing of this ({measured}), and resample() does not correct it. "
            "Try another key or family, family='auto', or run MCMC."
        )
    elif shift > SHIFT[1]:
        grade = "poor"
        text = (
            f"the {family} is off: {_moved(found)} ({measured}). "
            "resample() corrects for that; take more steps, larger minibatches if there are any, "
            f"other options or a richer family.{where}"
        )
    elif found.efficiency < EFFECTIVE:
        grade = "poor"
        text = (
            f"the {family} is far from the posterior: {found.efficiency:.1%} of the draws are "
            f"effective, and {gap:.2g} nats of the log evidence are left ({measured}). Take more "
            f"steps, another optimizer or learning_rate, or a richer family.{where}"
        )
    elif sure and (k < 0.5 or even) and shift <= SHIFT[0]:
        grade = "good"
        text = f"the {family} fits: {measured}."
        if math.isfinite(gap):
            text += f" About {max(gap, 0.0):.2g} nats of the log evidence are left."
    elif even and shift <= SHIFT[0]:
        grade = "fair"
        text = (
            f"the body of the posterior fits the {family}, its far tails may not: {measured}; "
            f"{_doubt(found)}, so tail probabilities may be wrong. But the ELBO is within "
            f"{max(gap, 0.0):.2g} nats of the log evidence and {found.efficiency:.0%} of the draws "
            "are effective, so means and standard deviations are hardly touched."
        )
    else:
        grade = "fair"
        doubt = _moved(found) if shift > SHIFT[0] or (sure and k < 0.5) else _doubt(found)
        if not k < LIMIT and found.unseen <= UNSEEN:
            doubt += (
                f"; by the tail of the weights about {found.unseen:.1%} of a variance or less lies "
                "beyond the draws, a few times as much if the posterior's tails are heavy"
            )
        text = (
            f"the {family} is usable with care: {doubt} ({measured}). "
            "Take draws with resample(), which corrects for what its draws show; summary, "
            f"predictive and to_arviz take corrected=True.{where}"
        )
    if found.missed > MISSED[1] and "several modes" not in text:
        grade = "fair" if grade == "good" else grade
        text += f" Other searches ended where {found.missed:.1%} of the mass lies, not covered."
    if found.cut and "goes on" not in text:
        grade = "fair" if grade == "good" else grade
        text += f" Beyond its draws lies {found.cut:.1%} of the mass, which no weights correct."
    if cautions:
        grade = "fair" if grade == "good" else grade
        text = " ".join([text, *cautions])
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


def _moved(found: Diagnostics) -> str:
    """What importance weights say of the moments of q."""
    return (
        f"importance weights move a mean by {found.mean_shift:.2f} standard deviations and a "
        f"standard deviation by {found.sd_shift:.0%}"
    )


def _doubt(found: Diagnostics) -> str:
    """Why k-hat is not enough for "good"."""
    k, limit = found.khat, found.khat + CONFIDENCE * found.khat_sem
    if k > LIMIT:
        return f"k-hat is above {LIMIT}"
    if limit < LIMIT:
        return "k-hat is above 0.5"
    return (
        f"k-hat + {CONFIDENCE:.0f} standard errors = {limit:.2f} is not below {LIMIT} "
        f"(num_draws={4 * found.num_draws} would halve the errors)"
    )


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
