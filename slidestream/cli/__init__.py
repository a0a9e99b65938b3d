"""The commands of `slidestream` on the command line, one a module; each has `add_arguments` and `run`.

Heavy imports wait until a command runs, so that `slidestream --help` answers at once.
"""
