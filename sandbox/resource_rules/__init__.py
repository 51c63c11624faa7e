"""Rules of single resource types that `resource_types.yaml` cannot express."""
