"""What the service delivers on this machine, and what the machine can, in the same run.

`python -m benchmarks.run` measures one producer and one consumer by transport, kind of partition and sizes;
`benchmarks.durable` what is stored on disk before it is acknowledged, for several producers; `benchmarks.replay`
reading a partition from its start, cold and warm; `benchmarks.selectors` what a data selector costs a consumer;
`benchmarks.servers` several servers and producers; `benchmarks.threads` small RPCs beside a slow disk;
`benchmarks.uring` file operations on threads and on io_uring.
"""
