"""LightGBM's C API on the artefact's `model.txt`, in this process, on the event loop's thread.

Only `lib_lightgbm.so` of the lightgbm wheel is used: its Python package would bring scipy and a data-frame path.
One thread per call, always: OpenMP's fan-out costs milliseconds of tail as soon as cores are shared.
"""

import ctypes
from array import array
from collections.abc import Sequence
from ctypes import byref, c_double, c_int, c_int64, c_void_p
from importlib import metadata
from pathlib import Path

from scoring.artefact import Artefact, ArtefactError
from scoring.contract import Row
from scoring.engines.encoder import RowEncoder

# LightGBM's c_api.h
_FLOAT64, _ROW_MAJOR, _PREDICT_NORMAL, _FIRST_TREE, _ALL_TREES = 1, 1, 0, 0, -1
_PREDICT = (_PREDICT_NORMAL, _FIRST_TREE, _ALL_TREES)
_PARAMETERS = b"num_threads=1 verbosity=-1"


class Booster:
    """A loaded model. Not for two threads at once: the single-row call has one set of buffers."""

    def __init__(self, model_file: Path, width: int) -> None:
        # PyDLL keeps the interpreter lock: a call takes microseconds, and no other thread waits for it.
        self._library = ctypes.PyDLL(str(metadata.distribution("lightgbm").locate_file("lightgbm/lib/lib_lightgbm.so")))
        self._library.LGBM_GetLastError.restype = ctypes.c_char_p
        self._width = width
        self._booster, self._single = c_void_p(), c_void_p()
        self._written, self._result = c_int64(), c_double()
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

    def predict(self, matrix: "array[float]") -> list[float]:
        """Probabilities of a row-major matrix."""
        values = c_void_p(matrix.buffer_info()[0])
        count = len(matrix) // self._width
        if count == 1:
            single = (self._single, values, byref(self._written), byref(self._result))
            self._call("BoosterPredictForMatSingleRowFast", *single)
            return [self._result.value]
        results = (c_double * count)()
        shape = (_FLOAT64, count, self._width, _ROW_MAJOR)
        result = (_PARAMETERS, byref(self._written), results)
        self._call("BoosterPredictForMat", self._booster, values, *shape, *_PREDICT, *result)
        return list(results)

    def _call(self, name: str, *arguments: object) -> None:
        if getattr(self._library, f"LGBM_{name}")(*arguments) != 0:
            raise ArtefactError(f"LightGBM: {self._library.LGBM_GetLastError().decode(errors='replace')}")


class NativeEngine:
    ready = True

    def __init__(self, artefact: Artefact) -> None:
        self._encoder = RowEncoder(artefact.contract, artefact.folder / "encoder.npz")
        self._booster = Booster(artefact.folder / "model.txt", self._encoder.width)

    async def start(self) -> None:
        """Loaded at construction."""

    async def probabilities(self, rows: Sequence[Row]) -> list[float]:
        return self._booster.predict(self._encoder.vectors(rows))

    async def close(self) -> None:
        """Nothing to stop: the process holds all of it."""
