"""The native engine: LightGBM's C API on the artefact's `model.txt`, in this process, on the event loop's thread.

Only `lib_lightgbm.so` of the lightgbm wheel is used: its Python package would need scipy and convert data frames.
Every call uses one thread: distributing a call over OpenMP threads adds milliseconds to p99 when cores are shared.
"""

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_double, c_int, c_int64, c_void_p
from importlib import metadata
from pathlib import Path

import numpy

from scoring.artefact import Artefact, ArtefactError
from scoring.contract import Row
from scoring.engines.encoder import RowEncoder
from scoring.engines.model_text import check_trees

# LightGBM's c_api.h
_FLOAT64, _ROW_MAJOR, _PREDICT_NORMAL, _FIRST_TREE, _ALL_TREES = 1, 1, 0, 0, -1
_PREDICT = (_PREDICT_NORMAL, _FIRST_TREE, _ALL_TREES)
_PARAMETERS = b"num_threads=1 verbosity=-1"


class Booster:
    """A loaded model. Not thread-safe: the single-row call has one set of buffers."""

    def __init__(self, model_file: Path, width: int) -> None:
        # PyDLL does not release the interpreter lock: a call takes microseconds, and no other thread needs the lock.
        self._library = ctypes.PyDLL(str(metadata.distribution("lightgbm").locate_file("lightgbm/lib/lib_lightgbm.so")))
        self._library.LGBM_GetLastError.restype = ctypes.c_char_p
        self._width = width
        self._booster, self._single = c_void_p(), c_void_p()
        self._result = c_double()
        self._at_written, self._at_result = byref(c_int64()), byref(self._result)
        iterations, features, classes = c_int(), c_int(), c_int()
        self._call("BoosterCreateFromModelfile", bytes(model_file), byref(iterations), byref(self._booster))
        self._call("BoosterGetNumFeature", self._booster, byref(features))
        self._call("BoosterGetNumClasses", self._booster, byref(classes))
        if (features.value, classes.value) != (width, 1):
            raise ArtefactError(
                f"{model_file.name} takes {features.value} columns and gives {classes.value} values; "
                f"contract.json names {width} columns and one probability"
            )
        init = (*_PREDICT, _FLOAT64, width, _PARAMETERS, byref(self._single))
        self._call("BoosterPredictForMatSingleRowFastInit", self._booster, *init)
        self._predict_row = self._library.LGBM_BoosterPredictForMatSingleRowFast

    def predict(self, vectors: bytes | numpy.ndarray) -> list[float]:
        """Probabilities of `vectors`: (rows, width) float64, row-major, or the bytes of one such row."""
        if isinstance(vectors, bytes):
            if self._predict_row(self._single, vectors, self._at_written, self._at_result) != 0:
                raise self._error()
            return [self._result.value]
        results = numpy.empty(len(vectors))
        matrix = (c_void_p(vectors.ctypes.data), _FLOAT64, *vectors.shape, _ROW_MAJOR)
        result = (_PARAMETERS, self._at_written, c_void_p(results.ctypes.data))
        self._call("BoosterPredictForMat", self._booster, *matrix, *_PREDICT, *result)
        probabilities: list[float] = results.tolist()
        return probabilities

    def _call(self, name: str, *arguments: object) -> None:
        if getattr(self._library, f"LGBM_{name}")(*arguments) != 0:
            raise self._error()

    def _error(self) -> ArtefactError:
        return ArtefactError(f"LightGBM: {self._library.LGBM_GetLastError().decode(errors='replace')}")


class NativeEngine:
    ready = True

    def __init__(self, artefact: Artefact) -> None:
        self._encoder = RowEncoder(artefact.contract, artefact.folder / "encoder.npz")
        check_trees(artefact.folder / "model.txt", self._encoder.width)
        self._booster = Booster(artefact.folder / "model.txt", self._encoder.width)

    async def start(self) -> None:
        """Do nothing: the model is loaded at construction."""

    async def probabilities(self, rows: Sequence[Row]) -> list[float]:
        return self._booster.predict(self._encoder.vectors(rows))

    async def close(self) -> None:
        """Do nothing: the engine starts no process."""
