"""Ends the process that imports it."""

import os
import signal

os.kill(os.getpid(), signal.SIGKILL)
while True:  # a signal to oneself may take a moment
    pass
