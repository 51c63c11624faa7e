"""The infrastructure and the release of content-based personalization, as a Pulumi program.

The plugin for dynamic resources imports this package by the module names in a stack's state. Some of them are from
before a module moved, so importing this package makes the earlier names known, and does nothing else.
"""

from infra.dynamic.moved_modules import find_moved_modules

find_moved_modules()
