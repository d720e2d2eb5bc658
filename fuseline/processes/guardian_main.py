"""The guardian process: learns the process groups of a program's children, and kills them when the program is gone.

Run by path with ``python -I -S``, so that it starts in milliseconds and stays small; imports nothing of fuseline. Reads
lines ``+PID``, ``-PID`` and ``=FILE`` from its standard input. The end of that input means that the program has ended,
however it did: the kernel closes the pipe even after SIGKILL.
"""

import fcntl
import os
import signal
import sys


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    groups = set()
    for line in sys.stdin.buffer:
        if line.startswith(b"+"):
            groups.add(int(line[1:]))
        elif line.startswith(b"="):
            fcntl.flock(os.open(line[1:-1], os.O_RDWR), fcntl.LOCK_SH)  # until this process ends
        else:
            groups.discard(int(line[1:]))
    for leader in groups:
        try:
            os.killpg(leader, signal.SIGKILL)
        except OSError:
            pass


if __name__ == "__main__":
    main()
