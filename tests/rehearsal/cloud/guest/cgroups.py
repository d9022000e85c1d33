"""Owns the guests' control groups on this machine: their names, entering and removing them. Knows nothing of what runs
in them, and needs nothing but Python, because control.py removes the groups of a cloud that has crashed."""

import errno
import os
import time
from contextlib import suppress

# systemd keeps its services in control groups, so each guest gets groups of its own: below the unified hierarchy, and
# below systemd's named one where the host still has that.
HIERARCHIES = [
    path for path in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd") if os.path.isdir(path)
] or ["/sys/fs/cgroup"]


def groups(instance: str) -> list[str]:
    """The control groups of one guest, by their folders."""
    return [os.path.join(hierarchy, f"efa-gen-rehearsal-{instance}") for hierarchy in HIERARCHIES]


def in_groups(instance: str) -> list[str]:
    """The beginning of a command line: it enters the guest's groups and becomes what follows."""
    for group in groups(instance):
        os.makedirs(group, exist_ok=True)
    enter = "".join(f"echo $$ >'{group}/cgroup.procs' && " for group in groups(instance))
    return ["sh", "-c", enter + 'exec "$@"', "sh"]


def processes(instance: str) -> list[int]:
    """The processes of a guest's groups, systemd-nspawn's own among them."""
    found: list[int] = []
    for folder, _, _ in os.walk(groups(instance)[0]):
        with suppress(OSError), open(os.path.join(folder, "cgroup.procs"), encoding="ascii") as file:
            found += [int(line) for line in file]
    return found


def remove_groups(instance: str) -> None:
    """Ends the guest's groups, deepest first. Its processes are killed, and gone in a moment."""
    end = time.monotonic() + 10
    for group in groups(instance):
        for folder, _, _ in os.walk(group, topdown=False):
            while not removed(folder):
                if time.monotonic() > end:
                    raise RuntimeError(f"processes of {instance} are still in {folder}")
                time.sleep(0.1)


def removed(folder: str) -> bool:
    """Removes a group if nothing runs in it; returns whether it is gone."""
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True
