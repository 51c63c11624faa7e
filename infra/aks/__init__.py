"""The AKS cluster: its node pools, the order of writes to it, and its attachment to Azure ML."""
