"""Archive of Spark's loaded classes, which later JVMs map into memory instead of loading the classes one by one.

This is Java's class-data sharing (JEP 350). The JVM writes the archive at its end, with the classes that it used: once,
10 to 20 seconds and 200 MB. An archive belongs to one Java and one set of jars; the JVM checks that itself, and ignores
an archive of others. An incomplete archive would crash the JVM, so `install` accepts only one that a JVM could map.

The gain, measured on 2026-11-27 on two cores (docs/benchmarks.md): `prepare` and `train` together took 42.6 s instead
of 46.9 s, and in a slower hour 48.3 s instead of 57.3 s, with 7 % and 13 % less CPU.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path


def use_option() -> str:
    """JVM option that maps the archive; empty without an archive.

    A JVM that is given the name of a missing archive would not even map the archive of Java's own classes.
    """
    archive = _archive()
    return f'"-XX:SharedArchiveFile={archive}"' if archive.exists() else ""


def is_missing() -> bool:
    """Whether the next JVM should record an archive: there is none, the folder is writable, and Java can record one.

    The archive extends that of Java's own classes, which some distributions of Java lack. Without it, a JVM that is to
    record an archive does not start.
    """
    return not _archive().exists() and os.access(sys.prefix, os.W_OK) and _shares_own_classes()


def record_option(target: Path) -> str:
    """JVM option that writes the archive to `target` when the JVM ends by itself or by SIGTERM."""
    return f'"-XX:ArchiveClassesAtExit={target}"'


def install(recorded: Path) -> None:
    """Copy a recorded archive to its place if a JVM can map it. Raises `OSError` if there is none or no disk space."""
    command = [str(_java()), f"-XX:SharedArchiveFile={recorded}", "-version"]
    trial = subprocess.run(command, cwd=recorded.parent, capture_output=True, check=False)
    if trial.returncode:
        return
    partial = _archive().with_suffix(f".{os.getpid()}")
    try:
        shutil.copyfile(recorded, partial)
        os.replace(partial, _archive())
    finally:
        partial.unlink(missing_ok=True)


def _shares_own_classes() -> bool:
    try:
        trial = subprocess.run([str(_java()), "-Xshare:on", "-version"], capture_output=True, check=False)
    except OSError:  # Java is not installed, which Spark reports itself
        return False
    return trial.returncode == 0


def _java() -> Path:
    return Path(home, "bin", "java") if (home := os.environ.get("JAVA_HOME")) else Path(shutil.which("java") or "java")


def _archive() -> Path:
    """Path of the archive of this Java and these jars, in the environment's folder, which removes it with itself."""
    import pyspark  # missing in the preview environment, where this module is imported but not used

    inputs = (_java(), Path(pyspark.__file__).with_name("jars"))
    versions = [f"{path.resolve()} {path.stat().st_mtime_ns}" for path in inputs if path.exists()]
    return Path(sys.prefix, f"spark-classes-{hashlib.sha256('|'.join(versions).encode()).hexdigest()[:16]}.jsa")
