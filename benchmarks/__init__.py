"""What the service delivers on this machine, beside what the machine can deliver at most: `python -m benchmarks.run`."""
