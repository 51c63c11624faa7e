"""Raw files, typed tables and the split by time."""
