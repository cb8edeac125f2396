"""The command line: ``tenfold serve | chat | generate | pull | models | bench``."""

import sys


def main() -> None:
    """Entry of the ``tenfold`` command."""
    try:
        from tenfold.cli.app import app

        code = app()
    except KeyboardInterrupt:  # while the program was still being imported
        code = 130
    sys.exit(code)
