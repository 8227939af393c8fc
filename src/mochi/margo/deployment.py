"""Mistakes in a deployment with which it goes on: told, once, to who made them.

The commands show what is logged here on standard error, and not among the lines of a server's log.
"""

import logging

log = logging.getLogger("mochi.deployment")
