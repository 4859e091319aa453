"""The command line: ``bayestl demo``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import bayestl
from bayestl.demo import run
from bayestl.errors import DataError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bayestl", description=bayestl.__doc__)
    parser.add_argument("--version", action="version", version=f"bayestl {bayestl.__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    told = "fit four models to real data, then colours beside gaps; write pictures and posterior files (a minute)"
    demo = commands.add_parser("demo", help=told)
    demo.add_argument("--folder", default="bayestl-demo", help="where the files go (default: %(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="of the choice of the measured dozen (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        run(options.folder, options.seed)
    except DataError as error:
        print(f"bayestl: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
