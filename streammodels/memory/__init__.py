"""Memory of a training step, its estimate and forecast, and the strip height for a budget."""
