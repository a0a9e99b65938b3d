"""Color transforms: tone, blur, stain jitter and stain normalization."""
