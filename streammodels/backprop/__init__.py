"""Back-propagation through time over strips."""
