"""LightningModules for training streamed classifiers: steps, tasks and metrics."""
