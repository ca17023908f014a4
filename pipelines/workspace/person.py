"""Who works here, for what is recorded."""

from __future__ import annotations

import getpass
import os
import socket


def person() -> str:
    """The present user: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        user = f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"
