"""CNNs that train end to end on images too large for memory, exact to rounding."""
