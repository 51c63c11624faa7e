#!/bin/sh
# install.sh PREFIX native|spark: install the scoring service and its dependencies into one folder, which must not be moved.
#
# The Dockerfile calls it. Call it yourself to run the service without a container engine. Needs no root. Environment:
#   PYTHON  the interpreter to build on (default python3; must be 3.11)
#   UV      path of uv; without it pip is used
# A second run gives the same result, immediately if nothing changed. Java 17 and libgomp1 must be installed already.
set -eu

fail() {
    echo "install.sh: $1" >&2
    exit 1
}

[ $# -eq 2 ] || fail "usage: install.sh PREFIX native|spark"
engine=$2
case $engine in native | spark) ;; *) fail "engine $engine: expected native or spark" ;; esac
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
mkdir -p "$1"
prefix=$(CDPATH='' cd -- "$1" && pwd)
base=$(command -v "${PYTHON:-python3}") || fail "${PYTHON:-python3} not found: set PYTHON to a Python 3.11"
"$base" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || fail "$base is not Python 3.11: set PYTHON"

requirements=$here/requirements-$engine.txt
installed=$prefix/venv/.requirements.txt
python=$prefix/venv/bin/python
# The lock lacks only lightgbm's own dependencies, which its library does not need: hence --no-deps.
if ! cmp -s "$requirements" "$installed"; then
    if [ -n "${UV:-}" ]; then
        "$UV" venv --quiet --clear --python "$base" "$prefix/venv"
        "$UV" pip install --quiet --python "$python" --no-deps --require-hashes --compile-bytecode -r "$requirements"
    else
        "$base" -m venv --clear "$prefix/venv"
        "$python" -m pip install --quiet --no-deps --require-hashes -r "$requirements"
        "$python" -m pip uninstall --quiet --yes setuptools pip
    fi
    cp "$requirements" "$installed"
fi
"$python" -P -c '
import ctypes, importlib.metadata
ctypes.CDLL(str(importlib.metadata.distribution("lightgbm").locate_file("lightgbm/lib/lib_lightgbm.so")))
' || fail "LightGBM's library does not load: install libgomp1"

rm -rf "$prefix/app"
mkdir -p "$prefix/app/scoring/engines" "$prefix/app/scoring/http" "$prefix/bin"
cp "$here"/*.py "$prefix/app/scoring/"
cp "$here"/http/*.py "$prefix/app/scoring/http/"
cp "$here"/engines/*.py "$here"/engines/*.properties "$prefix/app/scoring/engines/"
"$python" -m compileall -q "$prefix/app"

if [ "$engine" = spark ] && [ ! -d "$prefix/jars" ]; then
    if [ -n "${HOME:-}" ]; then cache=${XDG_CACHE_HOME:-$HOME/.cache}/personalization-azure/ivy; else cache=$prefix/ivy; fi
    PYTHONPATH=$prefix/app "$python" -P -m scoring.engines.spark_jars "$prefix/jars" "$cache" ||
        fail "the SynapseML jars were not found (see above): needs Java 17 and Maven Central, or jars in $cache"
fi

cat >"$prefix/bin/serve.new" <<END
#!/bin/sh
export PYTHONPATH="$prefix/app" SCORING_ENGINE="\${SCORING_ENGINE:-$engine}" SCORING_SPARK_JARS="$prefix/jars"
exec "$python" -P -m scoring
END
chmod +x "$prefix/bin/serve.new"
mv "$prefix/bin/serve.new" "$prefix/bin/serve"
