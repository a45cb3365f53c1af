"""Random keys whose draws are cheap to compile."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def fast_key(key: Array) -> Array:
    """Turn any JAX key into an ``rbg`` key that carries the same seed.

    Compiling one draw from a default (threefry) key costs several times what compiling the
    gradient of a small model costs; a draw from an ``rbg`` key does not. Streams of the two
    differ, both are deterministic on one machine and one version of JAX.

    Args:
      key: a typed key from `jax.random.key`, or a legacy ``uint32[2]`` key.

    Returns:
      A typed key of implementation ``rbg``.

    Raises:
      TypeError: if ``key`` is neither.

    Example:
      >>> import jax
      >>> from vi.random import fast_key
      >>> jax.random.normal(fast_key(jax.random.key(0)), (2,)).shape
      (2,)
    """
    check_key("fast_key", key)
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    data = jax.random.key_data(key) if typed else key
    return jax.random.wrap_key_data(jnp.resize(data, (4,)), impl="rbg")


def check_key(owner: str, key: Any, how: str = "Pass key=jax.random.key(seed).") -> None:
    """Raise a `TypeError` if this is not one key, typed or legacy; it ends with what to do."""
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
    if not typed and not (dtype == jnp.uint32 and shape in ((2,), (4,))):
        raise TypeError(f"{owner}: expected a key from jax.random.key; got {key!r}. {how}")


def check_count(owner: str, name: str, value: Any, least: int = 1) -> None:
    """Raise a `ValueError` if this is not a whole number, of at least so much."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(
            f"{owner}: expected {name} to be a whole number >= {least}; got {value!r}."
        )


def host_words(key: Array) -> list[int]:
    """The data of a typed or legacy key, as Python integers.

    Raises:
      TypeError: if ``key`` is not a key.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    elif dtype != jnp.uint32:
        raise TypeError(f"expected a key from jax.random.key; got {key!r}.")
    return [int(word) for word in np.asarray(key).reshape(-1)]


def host_generator(key: Array | list[int], *stream: int) -> np.random.Generator:
    """A NumPy generator seeded by a key: for the few draws made on the host, at no compilation.

    Args:
      key: a typed or legacy key, or its `host_words`, which are dear to read many times.
      *stream: integers that tell one use of the key from another.

    Returns:
      The generator; the same for the same arguments.
    """
    words = key if isinstance(key, list) else host_words(key)
    seed = np.random.SeedSequence([*words, *stream])
    return np.random.Generator(np.random.Philox(seed))
