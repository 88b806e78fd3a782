"""What the operator has to correct before a process can work."""


class Misconfigured(Exception):
    """A setting, or something that a setting names, has to be corrected: a file, a port, a password. The message says
    which, and how. The command line prints it and exits with status 2."""
