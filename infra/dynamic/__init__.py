"""The base of every dynamic resource: inputs, differences, ownership."""
