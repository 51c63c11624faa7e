"""Azure ML: workspaces, the extension, attached compute, online endpoints and their router."""
