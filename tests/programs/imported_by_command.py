"""Run the command line with these arguments, then print which heavy libraries it imported."""

import sys

from pipeline.cli import main


def run() -> None:
    code: object = 0
    try:
        main()
    except SystemExit as done:
        code = done.code
    print([name for name in ("tensorflow", "keras", "lance", "sklearn", "jax") if name in sys.modules])
    sys.exit(code)


if __name__ == "__main__":
    run()
