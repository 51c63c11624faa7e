"""Spark's classes as the JVM holds them in memory, in a file that the next JVM maps instead of loading them one by one.

Java's class-data sharing (JEP 350). The JVM writes the file when it ends, of the classes that it used, which takes ten
to twenty seconds once and 200 MB; after that a short training takes a tenth less. It belongs to one Java and one set of
jars: the JVM sees for itself whether it has these, and does without the file if not. A file that is not whole would
crash it, so none is kept that was not tried.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path


def option() -> str:
    """Of a JVM of Spark; empty where there is no file, for with the name of none the JVM would not share even its own
    classes."""
    kept = _file()
    return f'"-XX:SharedArchiveFile={kept}"' if kept.exists() else ""


def wanted() -> bool:
    """Our file comes on top of that of Java's own classes. Without that one, which not every Java brings along, a JVM
    that is to write a file does not start."""
    return not _file().exists() and os.access(sys.prefix, os.W_OK) and _shares_its_own()


def record(to: Path) -> str:
    """The option of a JVM that is to write a file when it ends, and has the time to."""
    return f'"-XX:ArchiveClassesAtExit={to}"'


def keep(recorded: Path) -> None:
    """For the drivers to come, if it is good. Raises `OSError` where there is none, or no room for it."""
    command = [str(_java()), f"-XX:SharedArchiveFile={recorded}", "-version"]
    tried = subprocess.run(command, cwd=recorded.parent, capture_output=True, check=False)
    if tried.returncode:
        return
    partial = _file().with_suffix(f".{os.getpid()}")
    try:
        shutil.copyfile(recorded, partial)
        os.replace(partial, _file())
    finally:
        partial.unlink(missing_ok=True)


def _shares_its_own() -> bool:
    try:
        tried = subprocess.run([str(_java()), "-Xshare:on", "-version"], capture_output=True, check=False)
    except OSError:  # there is no Java: Spark will say so
        return False
    return tried.returncode == 0


def _java() -> Path:
    return Path(home, "bin", "java") if (home := os.environ.get("JAVA_HOME")) else Path(shutil.which("java") or "java")


def _file() -> Path:
    """Beside the packages, and gone with them."""
    import pyspark  # not in the environment of `make preview`, where commands import this module and do not use it

    of = (_java(), Path(pyspark.__file__).with_name("jars"))
    made_of = [f"{path.resolve()} {path.stat().st_mtime_ns}" for path in of if path.exists()]
    return Path(sys.prefix, f"spark-classes-{hashlib.sha256('|'.join(made_of).encode()).hexdigest()[:16]}.jsa")
