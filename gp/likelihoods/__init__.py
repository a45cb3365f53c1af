"""Likelihoods: laws of a datum given the latent function, with their Gaussian expectations."""

from gp.likelihoods.classes import Categorical, Ordinal, ordinal
from gp.likelihoods.continuous import Gaussian, HeteroscedasticGaussian, StudentT
from gp.likelihoods.discrete import Bernoulli, Beta, NegativeBinomial, Poisson
from gp.likelihoods.likelihood import Expectation, Likelihood

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "Expectation",
    "Gaussian",
    "HeteroscedasticGaussian",
    "Likelihood",
    "NegativeBinomial",
    "Ordinal",
    "Poisson",
    "StudentT",
    "ordinal",
]
