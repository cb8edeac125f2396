"""Which Tenfold this is."""

from importlib.metadata import PackageNotFoundError, version

UNINSTALLED = "0+source"


def tenfold_version() -> str:
    """The installed version; ``0+source`` when run from a source tree that is not installed."""
    try:
        return version("tenfold")
    except PackageNotFoundError:
        return UNINSTALLED
