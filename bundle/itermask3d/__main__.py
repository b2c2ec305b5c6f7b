"""``python -m itermask3d``: the same as the command ``itermask3d``."""

from itermask3d.cli.app import main

main()
