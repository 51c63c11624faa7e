"""Interactive access for people: cluster, cluster policy, notebooks and the endpoint's key."""
