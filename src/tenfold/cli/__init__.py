"""The command line: ``tenfold serve | chat | generate | pull | models | bench``."""

from tenfold.cli.app import main

__all__ = ["main"]
