"""Networks and heads: ResNets, global pooling and input normalization."""
