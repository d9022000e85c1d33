"""Holds a package manager's lock, as that itself does, until the script's log says that it waits for it:
hold_lock.py FILE LOG. Says so once it has the lock; gives up after a minute.
"""

import fcntl
import os
import pathlib
import sys
import time

lock, log = sys.argv[1], pathlib.Path(sys.argv[2])
file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o640)
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
for _ in range(600):
    time.sleep(0.1)
    if log.exists() and f"waiting for the lock on {lock}\n" in log.read_text():
        break
