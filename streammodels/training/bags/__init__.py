"""LightningModules on bags of features, the second stage of patch methods."""
