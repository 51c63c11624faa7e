"""Components of the infrastructure, one Azure service each, and what they share."""
