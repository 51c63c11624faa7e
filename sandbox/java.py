"""Options and locale of Spark's JVM on this machine."""

from collections.abc import Mapping

# On few cores the collector that pauses the program uses the least CPU.
COLLECTOR = "-XX:+UseParallelGC"

# A local run lasts about a minute on few cores, and there the second compiler takes more time than it saves: 116 s with
# it, 72 s without, on two cores. Without it the JVM reserves a fifth of its usual memory for compiled code; a training
# fills that, and then hot code would be discarded and compiled again.
QUICK = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m"


def locale(environment: Mapping[str, str]) -> dict[str, str]:
    """Return variables to add to the environment, so that a JVM can open files whose names are not ASCII.

    Java takes the encoding of file names from the locale, and no option changes it (JEP 400, sun.jnu.encoding). In the
    locale C, which cron and slim containers have, it cannot open such a file.
    """
    named = next(filter(None, map(environment.get, ("LC_ALL", "LC_CTYPE", "LANG"))), "C")
    return {} if "utf" in named.lower() else {"LC_ALL": "C.UTF-8"}
