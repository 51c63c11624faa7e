"""The Pulumi CLI and its plugins: found, downloaded or built."""
