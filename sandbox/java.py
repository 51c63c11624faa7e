"""Options and locale of a JVM that Spark runs in on this machine."""

from collections.abc import Mapping

# On few cores the collector that stops all is the one that takes least of them.
COLLECTOR = "-XX:+UseParallelGC"

# A trial's run lasts about a minute on few cores: the second compiler takes more time there than it saves (116 s with
# it, 72 s without, on two cores). Without it the JVM sets aside a fifth of its usual room for compiled code, which a
# training fills: what is hot would be thrown out and compiled again.
QUICK = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m"


def locale(environment: Mapping[str, str]) -> dict[str, str]:
    """Return variables to add to the environment, so that a JVM can open files whose names are not ASCII.

    Java takes the encoding of file names from the locale, and no option changes it (JEP 400, sun.jnu.encoding). In the
    locale C, which cron and slim containers have, it cannot open such a file.
    """
    named = next(filter(None, map(environment.get, ("LC_ALL", "LC_CTYPE", "LANG"))), "C")
    return {} if "utf" in named.lower() else {"LC_ALL": "C.UTF-8"}
