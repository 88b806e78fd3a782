"""An edge with short time limits and few open files: `python -m tests.support.impatient edge`."""

import resource

from edge import http_protocol
from runtime import cli

FILES = 1_024
HEADERS_SECONDS = 2.0
REQUEST_SECONDS = 3.0

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    http_protocol.HEADERS_SECONDS, http_protocol.REQUEST_SECONDS = HEADERS_SECONDS, REQUEST_SECONDS
    http_protocol.WATCH_SECONDS = 0.1
    cli.main()
