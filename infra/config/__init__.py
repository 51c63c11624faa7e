"""Configuration of a stack: settings, names, tags, addresses and aliases. Declares no resources."""
