"""ResNets, global pooling and input normalization."""
