"""Memory of a training step: estimate, forecast, and strip height for a budget."""
