"""Gaussian processes: exact, and variational on sites of their priors, for any likelihood."""

from gp.fitting import (
    fit,
)
from gp.inducing.keeping import (
    load_stream,
)
from gp.inducing.latent_processes import (
    LatentInputs,
)
from gp.inducing.minibatch import (
    Minibatches,
)
from gp.inducing.spherical import (
    OrthogonalFeatures,
    SphericalFeatures,
)
from gp.inducing.stream import (
    Stream,
    stream,
)
from gp.kernels import (
    ActiveDimensions,
    ArcCosine,
    Constant,
    Coregional,
    Deep,
    Kernel,
    Linear,
    Matern,
    Periodic,
    Pointwise,
    Product,
    RationalQuadratic,
    Scaled,
    SquaredExponential,
    Sum,
    ZonalMatern,
    coregional,
    deep,
    from_gpjax,
    from_tinygp,
    pointwise,
)
from gp.latent import (
    latent,
    latent_at,
)
from gp.likelihoods import (
    Bernoulli,
    Beta,
    Categorical,
    Expectation,
    Gaussian,
    HeteroscedasticGaussian,
    Likelihood,
    NegativeBinomial,
    Ordinal,
    Poisson,
    StudentT,
    ordinal,
)
from gp.loading import (
    load,
)
from gp.means import (
    ConstantMean,
    FunctionMean,
    LinearMean,
    Zero,
    function_mean,
)
from gp.outputs import (
    OutputMeans,
    stack_outputs,
)
from gp.paths import (
    Paths,
)
from gp.posterior import (
    Posterior,
)
from gp.prior import (
    Conditional,
    Prior,
)
from gp.proposing import (
    Proposal,
    propose,
)
from gp.search import (
    Best,
    search_box,
)
from gp.sites import (
    Sites,
)
from gp.tensor import (
    FunctionalTensor,
    functional_tensor,
)
from gp.within import (
    WithinPosterior,
    sparse_within_sparse,
)

__all__ = [
    "ActiveDimensions",
    "ArcCosine",
    "Bernoulli",
    "Best",
    "Beta",
    "Categorical",
    "Conditional",
    "Constant",
    "ConstantMean",
    "Coregional",
    "Deep",
    "Expectation",
    "FunctionMean",
    "FunctionalTensor",
    "Gaussian",
    "HeteroscedasticGaussian",
    "Kernel",
    "LatentInputs",
    "Likelihood",
    "Linear",
    "LinearMean",
    "Matern",
    "Minibatches",
    "NegativeBinomial",
    "Ordinal",
    "OrthogonalFeatures",
    "OutputMeans",
    "Paths",
    "Periodic",
    "Pointwise",
    "Poisson",
    "Posterior",
    "Prior",
    "Product",
    "Proposal",
    "RationalQuadratic",
    "Scaled",
    "Sites",
    "SphericalFeatures",
    "SquaredExponential",
    "Stream",
    "StudentT",
    "Sum",
    "WithinPosterior",
    "Zero",
    "ZonalMatern",
    "coregional",
    "deep",
    "fit",
    "from_gpjax",
    "from_tinygp",
    "function_mean",
    "functional_tensor",
    "latent",
    "latent_at",
    "load",
    "load_stream",
    "ordinal",
    "pointwise",
    "propose",
    "search_box",
    "sparse_within_sparse",
    "stack_outputs",
    "stream",
]
