"""What production runs: the command line, the settings, the logs and the processes. `dev/` has what only a
development machine runs.

A batch allocates some ten thousand objects that reference counting frees again, and loading the operations allocates
many more that stay. By default the collector would look through all that lives some hundred times a second, which took
a third of a worker's pace and of its start.
"""

import gc

gc.set_threshold(200_000, 20, 20)
