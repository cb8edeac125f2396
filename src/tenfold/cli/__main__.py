"""``python -m tenfold.cli``: where the command is not on the path."""

from tenfold.cli import main

main()
