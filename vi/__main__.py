"""The command line: ``python -m vi fit`` and ``python -m vi check``."""

import argparse
import sys
from collections.abc import Sequence

from vi.errors import CheckpointError, FitError, TargetError


def parser() -> argparse.ArgumentParser:
    """The options of all commands."""
    top = argparse.ArgumentParser(
        prog="python -m vi", description="Posteriors with a verdict, from a model and a file."
    )
    commands = top.add_subparsers(dest="command", required=True)
    fit = commands.add_parser(
        "fit",
        help="fit a NumPyro model to the columns of a file",
        description="Fit a NumPyro model to the columns of a file. Exit status: 0 if the verdict "
        "is good or fair, 1 if it is poor or failed, 2 if nothing could be fitted.",
    )
    fit.add_argument("model", help="FILE.py:FUNCTION, a NumPyro model")
    fit.add_argument("data", help="a CSV file with a header, or a NumPy .npz file")
    fit.add_argument("--out", default="out", help="folder for the results (default: out)")
    fit.add_argument(
        "--map", nargs="+", action="extend", default=[], metavar="ARG=COL[,COL]", dest="columns",
        help="columns for an argument of the model, one: a vector, more: a matrix; by default "
        "the column of the argument's name",
    )  # fmt: skip
    fit.add_argument("--family", help="as for vi.fit; 'auto' tries richer ones where needed")
    fit.add_argument("--seed", type=int, default=0)
    fit.add_argument("--samples", type=int, default=4000, help="draws that are written")
    fit.add_argument("--x64", action="store_true", help="64-bit floats")
    fit.add_argument("--quiet", action="store_true", help="no progress bar")
    fit.add_argument("--checkpoint", help="a file to save the run to, and to continue it from")
    check = commands.add_parser("check", help="versions, devices, and a fit with a known answer")
    check.add_argument("--x64", action="store_true", help="64-bit floats")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    given = parser().parse_args(arguments)
    import jax

    if given.x64:
        jax.config.update("jax_enable_x64", val=True)
    from vi.command import check, fit

    try:
        return check.run() if given.command == "check" else fit.run(given)
    except (CheckpointError, FitError, TargetError, OSError, TypeError, ValueError) as error:
        print(f"python -m vi {given.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
