"""What holds for all tests: how many examples a property is tried with, and that Ctrl-C is heard."""

import signal

from hypothesis import settings

settings.register_profile("default", deadline=None, max_examples=50)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile("default")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in background jobs
    signal.signal(signal.SIGINT, signal.default_int_handler)
