"""Options of a JVM that a test starts: it ends before the second compiler has paid for itself, and without that one the
JVM sets too little room aside for the code of the first."""

QUICK_JAVA = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m"
