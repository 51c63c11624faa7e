"""The infrastructure and the release of content-based personalization, as a Pulumi program.

Python looks for cycles among objects after every 700 new ones. The program makes a few hundred thousand, nearly all to
stay, and spent two fifths of its time looking; the plugin that runs the release's resources is alike, once Azure's SDKs
are loaded.
"""

import gc

gc.set_threshold(100_000, 20, 50)
