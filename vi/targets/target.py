"""What is to be approximated: an unconstrained log density with its sites and data."""

import dataclasses
import functools
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from vi.errors import LOOKS_AT_DATA, TargetError, blame_model, check_call
from vi.module import module, static
from vi.targets.arguments import Arguments
from vi.targets.density import PlainDensity
from vi.targets.identity import key_after_run, model_key
from vi.targets.layout import Layout
from vi.targets.points import over_points
from vi.targets.rows import sources_in
from vi.targets.running import RUNNING_A_MODEL

_STRUCTURES: OrderedDict[tuple, Any] = OrderedDict()  # so that equal calls share compiled code
_MAX_STRUCTURES = 256
_AT_ONCE = 256  # points


@module
class Target:
    """An unconstrained log density over a flat vector ``z`` of shape ``(D,)``, with its data.

    A pytree: the data are leaves, so a jitted function of a target does not compile again for
    new data of the same shapes. Methods take one point; use `jax.vmap` for many.

    Attributes:
      data: arrays of the model or of the log density: the leaves.
      structure: how they are used, the same for all data of these shapes.
      bound: positional arguments and names that `functools.partial` has fixed.
      points_over: devices that share the points of many, if any.
    """

    data: list
    structure: Any = static()
    bound: tuple[int, tuple[str, ...]] = static(default=(0, ()))
    points_over: Mesh | None = static(default=None)

    @property
    def layout(self) -> Layout:
        """Names and shapes of the latent sites in the flat vector."""
        return self.structure.layout

    @property
    def dim(self) -> int:
        """Number D of unconstrained coordinates."""
        return self.layout.dim

    @property
    def operations(self) -> float:
        """Scalar operations of one evaluation of the log density, as `count_operations` counts."""
        return self.structure.cost.operations

    @property
    def subsampled(self) -> bool:
        """Whether the model has a plate that draws minibatches of its rows."""
        return bool(self.structure.plates) and self.structure.all_rows

    def log_density(self, z: Float[Array, " D"], key: Array | None = None) -> Float[Array, ""]:
        """Log density at ``z``, in nats, up to the model's own normalisation.

        Args:
          z: unconstrained point, shape ``(D,)``.
          key: if given, plates with ``subsample_size`` draw a minibatch with this key and the
            result is an unbiased estimate; if not, all rows are used.

        Returns:
          Shape ``()``.

        Complexity:
          One evaluation of the model.
        """
        return self.structure.log_density(self.data, z, key)

    def value_and_grad(
        self, z: Float[Array, " D"], key: Array | None = None
    ) -> tuple[Float[Array, ""], Float[Array, " D"]]:
        """Log density and gradient at ``z``; one reverse sweep, about three evaluations."""
        return jax.value_and_grad(self.log_density)(z, key)

    def values_and_grads(
        self, z: Float[Array, "S D"]
    ) -> tuple[Float[Array, " S"], Float[Array, "S D"]]:
        """`value_and_grad` at many points, side by side or in turns by what is faster."""
        one = lambda target, z: target.structure.cost.map(target.value_and_grad, z)
        return over_points(one, self, z, self.points_over)

    def log_densities(self, z: Float[Array, "S D"]) -> Float[Array, " S"]:
        """`log_density` at many points, in blocks that bound the memory."""
        one = lambda target, z: jax.lax.map(target.log_density, z, batch_size=_AT_ONCE)
        return over_points(one, self, z, self.points_over)

    def hvp(self, z: Float[Array, " D"], v: Float[Array, " D"]) -> Float[Array, " D"]:
        """Hessian of the log density at ``z`` times ``v``, forward over reverse: O(1) gradients."""
        return jax.jvp(jax.grad(self.log_density), (z,), (v,))[1]

    def hessian(self, z: Float[Array, " D"]) -> Float[Array, "D D"]:
        """Dense Hessian of the log density at ``z``: D Hessian-vector products, O(D²) memory."""
        return jax.hessian(self.log_density)(z)

    def constrain(self, z: Float[Array, " D"]) -> dict[str, Array]:
        """Constrained values of the latent sites at ``z``, and of the deterministic sites."""
        return self.structure.constrain(self.data, z)

    def prior_point(self) -> Float[Array, " D"]:
        """The unconstrained vector of the prior means; zero where there is none."""
        return self.structure.prior_point(self.data)

    def with_bound(self, model: Callable) -> Callable:
        """The model with the arguments that `functools.partial` had bound to it."""
        args, kwargs = self.structure.arguments.join(self.data)
        count, names = self.bound
        return functools.partial(model, *args[:count], **{name: kwargs[name] for name in names})

    def unconstrain(self, values: dict[str, Array]) -> Float[Array, " D"]:
        """The point ``z`` at which the latent sites have the given constrained values.

        Args:
          values: one value for every latent site; scalars are broadcast to the site's shape.

        Returns:
          Shape ``(D,)``.

        Raises:
          TargetError: if a name is not a latent site, or a latent site is missing.
        """
        unknown = set(values) - set(self.layout.names)
        missing = set(self.layout.names) - set(values)
        if unknown or missing:
            wrong = f"unknown {sorted(unknown)}" if unknown else f"no {sorted(missing)}"
            raise TargetError(
                f"Target.unconstrain: expected a value for each of {list(self.layout.names)}; "
                f"got {wrong}. Name every latent site once."
            )
        return self.structure.unconstrain(self.data, values)


def target(model: Callable | Target, *args: Any, **kwargs: Any) -> Target:
    r"""Make a `Target` from a NumPyro model with its data, or from a log density.

    For a model with latent sites :math:`x` and data :math:`y`, with :math:`x = T(z)` NumPyro's
    own map from the reals to the supports, the target is

    .. math:: \log p(T(z), y) + \log |\det \partial T / \partial z| .

    Arrays and Python floats among the arguments are data: they may change without a new
    compilation. Everything else (integers, strings, ...) is structure. A model that looks at
    the values of its data (``if y.max() > 3``) is compiled for those values.

    Args:
      model: a NumPyro model; or a log density ``f(point, *args, **kwargs) -> scalar``, whose
        first argument in ``args`` is then an example point (any pytree of floating arrays).
      *args: arguments of the model, or an example point and the density's other arguments.
      **kwargs: keyword arguments of the same.

    Returns:
      The target. A target is returned as it is.

    Raises:
      TargetError: if a latent site is discrete, has no density or no bijection to the reals, if
        there is no latent site, or if the model fails on its arguments.
      TypeError: if the arguments are not those of the model.

    Complexity:
      One abstract trace of the model for new shapes, nothing for known ones.

    Example:
      >>> import jax.numpy as jnp
      >>> import vi
      >>> t = vi.target(lambda x, scale: -0.5 * jnp.sum((x / scale) ** 2), jnp.zeros(2), 3.0)
      >>> t.dim, float(t.log_density(jnp.array([3.0, 0.0])))
      (2, -0.5)
    """
    if isinstance(model, Target):
        if args or kwargs:
            raise TypeError(
                "vi.target: expected no further arguments with a Target, which has its data; "
                f"got {len(args)} positional and {sorted(kwargs)}. Pass the model instead."
            )
        return model
    count, names = 0, ()
    while isinstance(model, functools.partial):  # so that data bound by partial stay data
        count, names = count + len(model.args), (*names, *model.keywords)
        args, kwargs = (*model.args, *args), {**model.keywords, **kwargs}
        model = model.func
    check_call(model, args, kwargs, "vi.target")
    if sources_in((args, kwargs)):
        from vi.targets.streamed import streamed

        made = streamed(target, model, args, kwargs)
        return dataclasses.replace(made, bound=(count, names))
    with RUNNING_A_MODEL:
        try:
            made = _build(model, args, kwargs, bake=False)
        except LOOKS_AT_DATA:
            made = _look_at_data(model, args, kwargs)
        except Exception as error:
            _blame_pandas(args, kwargs, error)
            raise
    return dataclasses.replace(made, bound=(count, names)) if count or names else made


def _blame_pandas(args: tuple, kwargs: dict, error: Exception) -> None:
    """Raise an error that names the arguments that are series or tables, if there are any."""
    given = {**{f"argument {i}": x for i, x in enumerate(args)}, **kwargs}
    pandas = [name for name, x in given.items() if type(x).__module__.split(".")[0] == "pandas"]
    if pandas:
        raise TargetError(
            f"vi.target: expected arrays; got pandas objects as {', '.join(pandas)}. Pass "
            "their values, as in frame.to_numpy()."
        ) from error


def _look_at_data(model: Callable, args: tuple, kwargs: dict) -> Target:
    """Compile a model for the values of its data, which it looks at."""
    try:
        return _build(model, args, kwargs, bake=True)
    except LOOKS_AT_DATA as error:
        _blame_pandas(args, kwargs, error)
        raise TargetError(
            "vi.target: expected a model that JAX can trace; it turns a random value into a NumPy "
            f"array, number or condition ({str(error).splitlines()[0]}). Use jax.numpy in the "
            "model, and pass arrays."
        ) from error


def _build(model: Callable, args: tuple, kwargs: dict, *, bake: bool) -> Target:
    arguments = Arguments(args, kwargs, bake=bake)
    data = arguments.data(args, kwargs)
    shapes = tuple((x.shape, x.dtype, getattr(x, "weak_type", False)) for x in data)
    rest = (arguments, shapes, jnp.result_type(float))
    key = (model_key(model), *rest)
    if key in _STRUCTURES:
        _STRUCTURES.move_to_end(key)
    else:
        made = _inspect(model, args, kwargs, arguments, data, bake=bake)
        key = (key_after_run(model, key[0]), *rest)
        _STRUCTURES[key] = made
        if len(_STRUCTURES) > _MAX_STRUCTURES:
            _STRUCTURES.popitem(last=False)
    structure = _STRUCTURES[key]
    if isinstance(structure, PlainDensity):
        data = structure.arguments.data(args[1:], kwargs)
    return Target(data, structure)


class _IsModel(Exception):
    """Raised at the first NumPyro statement a callable executes."""


def _is_model(model: Callable, arguments: Arguments, data: list) -> tuple[bool, Any]:
    """Whether a callable has NumPyro statements, and the abstract value it returns if not."""
    if "numpyro.primitives" not in sys.modules:  # then only one that imports it could be a model
        try:
            returned = jax.eval_shape(lambda data: _call(model, arguments, data), data)
        except Exception:
            if "numpyro.primitives" not in sys.modules:
                raise
        else:
            if "numpyro.primitives" not in sys.modules:
                return False, returned
    from numpyro.primitives import Messenger

    class Detector(Messenger):
        def process_message(self, msg: dict) -> None:
            raise _IsModel

    try:
        with Detector():
            return False, jax.eval_shape(lambda data: _call(model, arguments, data), data)
    except _IsModel:
        return True, None


def _call(model: Callable, arguments: Arguments, data: list) -> Any:
    args, kwargs = arguments.join(data)
    return model(*args, **kwargs)


def _inspect(
    model: Callable, args: tuple, kwargs: dict, arguments: Arguments, data: list, *, bake: bool
) -> Any:
    """Learn the structure of a NumPyro model or of a log density."""
    with blame_model("vi.target", args, kwargs):
        is_model, returned = _is_model(model, arguments, data)
        if is_model:
            from vi.targets.numpyro_model import NumPyroModel

            return NumPyroModel(model, arguments, data)
        if args and getattr(returned, "shape", None) == ():
            rest = Arguments(args[1:], kwargs, bake=bake)
            return PlainDensity(model, rest, args[0], rest.data(args[1:], kwargs))
    raise TargetError(
        "vi.target: expected a NumPyro model, or a log density with an example point that "
        f"returns a scalar; got a callable without numpyro statements that returns {returned}."
    )
