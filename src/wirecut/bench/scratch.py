"""A folder that is gone when the process that made it is, however that ended.

with folder_that_vanishes() as folder:
    (folder / "weights").write_bytes(many)
"""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folder_that_vanishes() -> Iterator[Path]:
    """A new folder that is gone afterwards, even when this process is killed outright.

    A shell waits for the pipe from this process to close, and removes the folder then.
    """
    folder = tempfile.mkdtemp(prefix="wirecut-")
    try:
        keeper = subprocess.Popen(
            ["sh", "-c", 'cat; rm -rf -- "$0"', folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is this process's to act on
        )
    except OSError:
        shutil.rmtree(folder)
        raise
    assert keeper.stdin is not None
    try:
        yield Path(folder)
    finally:
        keeper.stdin.close()
        keeper.wait()
