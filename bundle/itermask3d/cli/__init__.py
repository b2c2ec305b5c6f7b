"""The command ``itermask3d``: one thin verb a file."""
