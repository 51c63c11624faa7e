"""LightGBM's library is unpacked once per session, not at every fit."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from testing.workloads import clicks
from workloads.training import fit, native_library

pytest_plugins = ["testing.workloads.spark"]
pytestmark = pytest.mark.spark


def test_fits_unpack_no_further_copies(spark: SparkSession) -> None:
    temporary = Path(spark.sparkContext._jvm.System.getProperty("java.io.tmpdir"))
    with fit.laid_out(clicks.rows(spark, 2_000), 2) as rows:
        for _ in range(2):
            fit.fit(rows, clicks.dataset(num_iterations=3))
    assert list(temporary.glob("mml-natives*")) == []
    own = Path(spark.sparkContext.getConf().get(native_library.FOLDER))
    assert sorted(path.name for path in own.iterdir()) == ["lib_lightgbm.so", "lib_lightgbm_swig.so"]
    mapped = Path(f"/proc/{spark.sparkContext._jvm.ProcessHandle.current().pid()}/maps").read_text()
    assert {line.split()[-1] for line in mapped.splitlines() if "lightgbm" in line and ".so" in line} == {
        str(path) for path in own.iterdir()
    }


def test_jvm_temporary_folder_is_inside_the_run_folder(spark: SparkSession) -> None:
    scratch = Path(spark.sparkContext.getConf().get("spark.local.dir")).parent
    temporary = Path(spark.sparkContext._jvm.System.getProperty("java.io.tmpdir"))
    assert temporary.parent == scratch
