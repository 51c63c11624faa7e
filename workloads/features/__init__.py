"""Raw columns to features: levels, target statistics and encodings."""
