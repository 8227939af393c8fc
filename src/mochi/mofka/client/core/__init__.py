"""What a client decides, without I/O: cores are plain data and transitions; rims carry out what they ask for.

A core has an enum of states and a table of transitions. Its methods are events: they change it, and return actions.
It knows no sockets, locks, threads or clocks. `machine` makes a core safe from interruption.
"""
