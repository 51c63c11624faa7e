"""What is seen of an environment: where logs go, what is sent there, who is told of what, and what it may cost."""
