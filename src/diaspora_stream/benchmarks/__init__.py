"""Programs that measure a service: `producer` and `consumer`, alone or as the ranks of mpirun."""
