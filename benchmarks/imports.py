"""Failures of imports in dynamic providers: `python benchmarks/imports.py [--interpreters 100] [--without]`.

In each new interpreter one thread for each function of `infra/` starts, all together. Each is a provider's `create`
that runs the import statements of its function. Without `import_sdks` two of them can deadlock (python/cpython#83065).
Prints the number of interpreters with an error, and the errors.
"""

import argparse
import ast
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

_INFRA = Path(__file__).parents[1] / "infra"
_PROGRAM = """
import json, sys, threading
from infra.dynamic import provider as dynamic
from infra.dynamic.inputs import InputField, Inputs, Outputs, not_compared

statements, threads, without = json.loads(sys.argv[1])
if without:
    dynamic.import_sdks = lambda: None

class Statements(Inputs):
    statements: InputField[str] = not_compared()

class Provider(dynamic.ReleaseProvider[Statements, Outputs]):
    def create_object(self, inputs):
        exec(inputs.statements)
        return dynamic.Creation("id", Outputs())

errors, together = [], threading.Barrier(threads)

def create(number):
    together.wait()
    try:
        Provider().create({"statements": statements[number % len(statements)]})
    except BaseException as error:
        errors.append(f"{type(error).__name__}: {error}")

running = [threading.Thread(target=create, args=(number,)) for number in range(threads)]
for thread in running: thread.start()
for thread in running: thread.join()
print(json.dumps(errors))
"""


def lazy_imports() -> list[str]:
    """The import statements inside each function of `infra/`."""
    return list(dict.fromkeys(_lazy_imports()))


def _lazy_imports() -> Iterator[str]:
    for path in sorted(_INFRA.rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                statements = [each for each in ast.walk(function) if isinstance(each, ast.Import | ast.ImportFrom)]
                if statements:
                    yield "\n".join(map(ast.unparse, statements))


def errors_of_one(*, without: bool = False) -> list[str]:
    """Errors of one new interpreter. `without`: without `import_sdks`, so that each provider imports by itself."""
    statements = lazy_imports()
    given = json.dumps([statements, len(statements), without])
    done = subprocess.run([sys.executable, "-c", _PROGRAM, given], capture_output=True, text=True, cwd=_INFRA.parent)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return list(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interpreters", type=int, default=100)
    parser.add_argument("--without", action="store_true", help="without importing the SDKs first")
    arguments = parser.parse_args()
    results = [errors_of_one(without=arguments.without) for _ in range(arguments.interpreters)]
    print(
        f"{sum(map(bool, results))} of {len(results)} interpreters with an error, {len(lazy_imports())} threads in each"
    )
    for error, count in Counter(error[:100] for errors in results for error in errors).most_common(5):
        print(f"{count:5} {error}")


if __name__ == "__main__":
    main()
