"""The command line. A file a command group; heavy imports happen inside the commands, so that --help is
quick.
"""

import os

# Said before torch is loaded, which reads it once: its threads then sleep between two operations.
# If they spin, a command of a few seconds takes half as much processor time again.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Each adds its command to `app`.
from headword.cli import (  # noqa: F401
    cache,
    classify,
    demo,
    duplicates,
    embed,
    evaluate,
    explain,
    export,
    index,
    inspect,
    locate,
    push,
    recycle,
    search,
    serve,
    tag,
    teach,
    train,
)
from headword.cli.app import app, main

__all__ = ["app", "main"]
