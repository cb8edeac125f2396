"""``tenfold tune``: see ``plan``, which it shares everything with."""

from tenfold.cli.plan import TUNE_HELP as HELP
from tenfold.cli.plan import tune

__all__ = ["HELP", "tune"]
