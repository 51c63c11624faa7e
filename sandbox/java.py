"""Options of a JVM that Spark runs in on this machine."""

# On few cores the collector that stops all is the one that takes least of them.
COLLECTOR = "-XX:+UseParallelGC"

# A trial's run lasts about a minute on few cores: the second compiler takes more time there than it saves (116 s with
# it, 72 s without, on two cores). Without it the JVM sets aside a fifth of its usual room for compiled code, which a
# training fills: what is hot would be thrown out and compiled again.
QUICK = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m"
