"""The guardian process: learns the process groups of a program's children, and kills them when the program is gone.

Run by path with ``python -I -S``, so that it starts in milliseconds and stays small; imports nothing of fuseline. Its
standard input is a socket, from which it reads lines: ``+PID``, ``-PID``, ``=FILE`` with a descriptor that holds a
lock, and ``~FILE`` to let go of it. The end of that input means that the program has ended, however it did: the kernel
closes the socket even after SIGKILL.
"""

import os
import signal
import socket


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    groups = set()
    held = {}
    fds = []
    unread = b""
    with socket.socket(fileno=0) as program:
        while True:
            try:
                data, new_fds, _, _ = socket.recv_fds(program, 65536, 16)
            except ConnectionResetError:
                break
            if not data:
                break
            fds += new_fds
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                kind, rest = line[:1], line[1:]
                if kind == b"+":
                    groups.add(int(rest))
                elif kind == b"-":
                    groups.discard(int(rest))
                elif kind == b"=" and fds:
                    held[rest] = fds.pop(0)
                elif kind == b"~" and rest in held:
                    os.close(held.pop(rest))
        for leader in groups:
            try:
                os.killpg(leader, signal.SIGKILL)
            except OSError:
                pass


if __name__ == "__main__":
    main()
