"""Color transforms, which change tone, blur and stains."""
