"""What speaks with people, for all packages: hints at near names, log lines and command lines.

Modules
-------
hints
    "Did you mean": the end of a message about a name that is not known.
logs
    One form of log lines, and the names of the levels.
commands
    Command lines made with click: flags, dotted options, exit statuses.

This package stands on the ground and imports nothing of ours. Its modules are imported one by one, so that who needs a
hint does not load click.
"""
