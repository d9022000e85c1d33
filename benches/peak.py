"""The peak memory of a command, for the other programs of this folder."""

import os
import subprocess
import time


def memory(child: subprocess.Popen[bytes], program: str) -> float:
    """Waits until the child has ended. Its high-water mark (MB), looked at while it runs: the one that the kernel hands
    over at the end includes the interpreter from which it was forked."""
    peak = 0
    while child.poll() is None:
        try:
            with open(f"/proc/{child.pid}/status") as status:
                fields = dict(line.split(":", 1) for line in status)
            # Until it is replaced, the child is this interpreter.
            if fields["Name"].strip() == os.path.basename(program)[:15]:
                peak = max(peak, int(fields.get("VmHWM", "0 kB").split()[0]))
        except (FileNotFoundError, ProcessLookupError):
            pass
        time.sleep(0.002)
    return peak / 1024
