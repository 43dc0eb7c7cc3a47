"""Folders that belong to one process at a time, on file systems that can say so."""

import fcntl
import sys
from pathlib import Path
from typing import IO


def take(lock: IO[str], folder: Path, advice: str) -> bool | None:
    """Takes `lock` unless another process has it; closing the file gives it back.

    Args:
        lock: a file in `folder`, open.
        folder: for the warning.
        advice: what being without a lock means to the user.

    Returns:
        Whether this process has it now; None, with a warning, on a file system without locks.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        print(f"warning: {folder}: cannot be locked ({error.strerror}); {advice}", file=sys.stderr)
        return None
    return True
