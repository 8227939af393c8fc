"""What the service delivers on this machine, and what the machine can: `python -m benchmarks.run`."""
