"""Raw columns to features: categories, target statistics and encodings."""
