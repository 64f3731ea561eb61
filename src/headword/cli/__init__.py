"""The command line. A file a command group; heavy imports happen inside the commands, so that --help is
quick.
"""

from headword.cli.app import app, main

__all__ = ["app", "main"]
