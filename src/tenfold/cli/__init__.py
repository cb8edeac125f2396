"""The command line: ``tenfold serve`` and the other commands of :mod:`tenfold.cli.app`."""

import os
import signal
import sys


def main() -> None:
    """Entry of the ``tenfold`` command."""
    child = None
    try:
        if sys.argv[1:2] == ["serve"] and not {"-h", "--help"} & set(sys.argv):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # it waits until the server can obey it
            from tenfold.engine.hatch import Child

            # Only the reference backend multiplies with BLAS, whose idle threads spin at first.
            if not any("reference" in argument for argument in sys.argv):
                os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
            child = Child()  # it imports what it needs while we do, and leaves if we have no use for it
        from tenfold.cli.app import COMMANDS, make_app

        named = sys.argv[1:2]
        code = make_app(named if named and named[0] in COMMANDS else COMMANDS)(obj=child)
    except KeyboardInterrupt:  # while the program was still being imported
        code = 130
    finally:
        if child is not None:
            child.kill()  # nothing where it has ended, as it has after serving
    sys.exit(code)
