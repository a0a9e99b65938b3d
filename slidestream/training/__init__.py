"""Training runs of the command line, with their folder, evaluation and folds."""
