"""The columns of a file as the arguments of a model."""

import inspect
import pathlib
from collections.abc import Callable, Collection, Sequence

import numpy as np


def read(path: str) -> dict[str, np.ndarray]:
    """The columns of a CSV file with a header, or the arrays of a ``.npz`` file, by name.

    Columns of text become codes 0, 1, ... in sorted order of their values.

    Args:
      path: the file.

    Raises:
      ValueError: if the file is of another kind or has no rows.
    """
    file = pathlib.Path(path)
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    if file.suffix != ".csv":
        raise ValueError(f"{path}: expected a .csv or an .npz file; got {file.suffix!r}.")
    import pandas

    try:
        table = pandas.read_csv(file)
    except (pandas.errors.EmptyDataError, pandas.errors.ParserError) as error:
        raise ValueError(f"{path}: expected a CSV file with a header; {error}.") from error
    if table.empty:
        raise ValueError(f"{path}: expected rows below the header {list(table.columns)}; got none.")
    return {str(name): _numbers(table[name]) for name in table}


def _numbers(column) -> np.ndarray:
    import pandas

    if pandas.api.types.is_bool_dtype(column):
        return column.to_numpy().astype(np.int32)
    if pandas.api.types.is_integer_dtype(column):
        return column.to_numpy().astype(np.int32 if column.abs().max() < 2**31 else float)
    if pandas.api.types.is_numeric_dtype(column):
        return column.to_numpy(float)
    codes, _ = pandas.factorize(column, sort=True)
    return np.where(codes < 0, np.nan, codes) if (codes < 0).any() else codes.astype(np.int32)


def arguments(
    model: Callable, columns: dict[str, np.ndarray], mapped: Sequence[str]
) -> dict[str, np.ndarray]:
    """Keyword arguments of a model out of columns.

    Args:
      model: a function of data.
      columns: by name.
      mapped: ``"argument=column"`` or ``"argument=column,column"``; the other arguments take the
        column of their name, and those with a default may lack one.

    Returns:
      Arrays by argument, ``(N,)`` or, for several columns, ``(N, P)``.

    Raises:
      ValueError: if an argument or a column is unknown, or has missing values.
    """
    parameters = inspect.signature(model).parameters
    chosen = {}
    for pair in mapped:
        name, _, listed = pair.partition("=")
        if name not in parameters or not listed:
            raise ValueError(
                f"--map {pair}: expected ARG=COL[,COL] with an argument out of {list(parameters)}."
            )
        chosen[name] = listed.split(",")
    for name, parameter in parameters.items():
        if name in chosen or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name in columns:
            chosen[name] = [name]
        elif parameter.default is parameter.empty:
            raise ValueError(
                f"the model's argument {name!r}: expected a column of that name out of "
                f"{list(columns)}; choose others with --map {name}=COL[,COL]."
            )
    return {name: _joined(name, listed, columns) for name, listed in chosen.items()}


def without_one(model: Callable, given: Collection[str]) -> list[str]:
    """Arguments of a model that were not given and have the default None, as data often do.

    Args:
      model: a function of data.
      given: names of the arguments that it was given.
    """
    parameters = inspect.signature(model).parameters.values()
    return [p.name for p in parameters if p.name not in given and p.default is None]


def _joined(name: str, listed: list[str], columns: dict[str, np.ndarray]) -> np.ndarray:
    unknown = [column for column in listed if column not in columns]
    if unknown:
        raise ValueError(
            f"--map {name}: expected columns out of {list(columns)}; got unknown {unknown}."
        )
    for column in listed:
        values = columns[column]
        missing = np.isnan(values) if np.issubdtype(values.dtype, np.floating) else np.zeros(1)
        if missing.any():
            raise ValueError(
                f"column {column!r}: expected a value in each row; {int(missing.sum())} are "
                f"missing, first in row {int(np.argwhere(missing)[0][0]) + 1}. Drop or fill them."
            )
    return columns[listed[0]] if len(listed) == 1 else np.column_stack([columns[c] for c in listed])
