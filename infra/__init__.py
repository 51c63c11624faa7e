"""The infrastructure and the release of content-based personalization, as a Pulumi program.

The plugin for dynamic resources imports this package by the module names in a stack's state. Some of them are from
before a module moved, so importing this package makes the earlier names known.

It also sets the thresholds of garbage collection, for the program and for the plugin. Both allocate several hundred
thousand long-lived objects, many of them while they import the SDKs, so a later call is too late: the imports of the
program take 12 collections and 3.0 s of CPU if the thresholds are set first, 621 and 3.4 s if they are set afterwards
(2026-12-01).
"""

import gc

from infra.dynamic.moved_modules import find_moved_modules

gc.set_threshold(100_000, 20, 50)
find_moved_modules()
