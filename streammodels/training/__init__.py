"""LightningModules for training streamed classifiers, with their tasks and metrics."""
