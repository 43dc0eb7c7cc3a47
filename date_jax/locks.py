"""Folders that belong to one process at a time, on file systems that can say so."""

import fcntl
import sys
from pathlib import Path
from typing import IO


def taken(lock: IO[str], folder: Path, see_that: str) -> bool:
    """Takes `lock` unless another process has it; it is given back when the file is closed.

    Some network file systems have no locks: there it warns, and counts as taken.

    Args:
        lock: a file in `folder`, open.
        folder: for the warning.
        see_that: what the user has to look after without a lock.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        reason = f"cannot be locked ({error.strerror}); see that {see_that}"
        print(f"warning: {folder}: {reason}", file=sys.stderr)
    return True
