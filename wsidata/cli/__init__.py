"""The commands of `wsidata` on the command line, one a module; each has `add_arguments` and `run`.

Heavy imports wait until a command runs, so that `wsidata --help` answers at once.
"""
