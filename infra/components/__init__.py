"""Components of the infrastructure, one Azure service each, and their shared functions."""
