"""Azure Resource Manager: one generic store of resources, with rules as data."""
