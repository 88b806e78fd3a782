"""What production runs: the command line, the settings, the logs and the processes. `dev/` runs only on a
development machine.

The cyclic garbage collector runs rarely. A batch allocates about ten thousand objects, which reference counting frees,
and loading the operations allocates many more, which stay. With Python's default thresholds, the collector scans all
objects some hundred times a second: this cost a third of a worker's throughput and of its start time.
"""

import gc

gc.set_threshold(200_000, 20, 20)
