"""``python -m dcls_ops``."""

import argparse

from dcls_ops._info import info


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dcls_ops", description="DCLS operators for PyTorch")
    commands = parser.add_subparsers()
    commands.add_parser("info", help="what is installed, and which operator has which backend (the default)")
    parser.parse_args()
    print(info())


if __name__ == "__main__":
    main()
