"""``python -m dcls_ops``."""

import argparse

from dcls_ops._info import info
from dcls_ops.bench import run as bench


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dcls_ops", description="DCLS operators for PyTorch")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("info", help="what is installed, and which operator has which backend (the default)")
    bench.add_arguments(
        commands.add_parser("bench", help="standard shapes and whole models, beside what else computes them")
    )
    arguments = parser.parse_args()
    if arguments.command == "bench":
        bench.main(arguments)
    else:
        print(info())


if __name__ == "__main__":
    main()
