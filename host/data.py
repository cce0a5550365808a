"""Data sets: whole numbers from 0 upwards, and labels.

The folder for files is ``SHIFTGRAD_DATA``, else ``data/``, else the system's.
"""

import gzip
import hashlib
import io
import os
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from host.errors import ArgumentError, HostError
from sim.model import noise

__all__ = ["DATA_SETS", "Dataset", "load_dataset", "load_graph", "load_text"]

#: SHA-256 of the digits' split: x then y, training then test, each as bytes.
_DIGITS_SHA256 = "069565391bf3a2f3deba32294499a526732afd92841e1a7b2d63b36b045110d0"
#: The key of the digits' fixed shuffle.
_DIGITS_KEY = (0x6469, 0x6769, 0x7473, 0x0001)
_DIGITS_TEST = 360

#: Where Debian's package dataset-fashion-mnist puts its files.
_SYSTEM_FASHION = Path("/usr/share/datasets/fashion-mnist")

#: SHA-256 of the graph's file and of the text: both are small, and a study names its data.
_CORA_SHA256 = "39b5aacdd7cba2c68273439799fd28823dedeaa866bbcca392d611b367b8b3c1"
_SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

#: Largest input value.
_INPUT_LIMIT = 2**24


@dataclass(frozen=True)
class Dataset:
    """``x`` [samples, features] of whole numbers >= 0, ``y`` [samples] of labels; both int64.

    Samples that are images have ``image``, (height, width, channels); features are in that order.
    """
    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    image: tuple | None = None

    @property
    def features(self):
        """Features of a sample."""
        return self.x_train.shape[1]

    @property
    def classes(self):
        """Number of labels."""
        return int(max(self.y_train.max(), self.y_test.max())) + 1

    def limited(self, count):
        """Only the first ``count`` training samples."""
        return replace(self, x_train=self.x_train[:count], y_train=self.y_train[:count])


def whole_numbers(name, array):
    """``array`` as int64, or a sentence about the first value that is not a whole number >= 0."""
    array = np.asarray(array)
    if array.dtype.kind not in "iufb":
        raise HostError(f"{name} must hold numbers, got an array of {array.dtype}")
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise HostError(f"{name} must hold finite numbers, got {array[where]} at {where}")
        if (array != np.floor(array)).any():
            where = tuple(int(i) for i in np.argwhere(array != np.floor(array))[0])
            raise HostError(f"{name} must hold whole numbers, got {array[where]} at {where}: "
                            "scale it first")
    if array.size and (array.min() < 0 or array.max() > _INPUT_LIMIT):
        raise HostError(f"{name} must lie between 0 and {_INPUT_LIMIT}, "
                        f"got {array.min()} to {array.max()}")
    return array.astype(np.int64)


def _digits():
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise HostError("the digits come with scikit-learn, which is not installed: "
                        "pip install scikit-learn") from None
    digits = load_digits()
    x, y = digits.data.astype(np.int64), digits.target.astype(np.int64)
    order = noise.permutation(_DIGITS_KEY, len(x))
    x, y = x[order], y[order]
    data = Dataset("digits", x[:-_DIGITS_TEST], y[:-_DIGITS_TEST],
                   x[-_DIGITS_TEST:], y[-_DIGITS_TEST:], (8, 8, 1))
    arrays = (data.x_train, data.y_train, data.x_test, data.y_test)
    digest = hashlib.sha256(b"".join(a.astype(np.uint8).tobytes() for a in arrays)).hexdigest()
    if digest != _DIGITS_SHA256:
        raise HostError(f"the digits of this scikit-learn are not those of this project: "
                        f"SHA-256 {digest}, expected {_DIGITS_SHA256}")
    return data


def _find(relative, system):
    folder = os.environ.get("SHIFTGRAD_DATA")
    if folder and not Path(folder).is_dir():
        raise HostError(f"the data folder SHIFTGRAD_DATA={folder} does not exist")
    candidates = [Path(folder or "data") / relative, system / Path(relative).name]
    for path in candidates:
        if path.is_file():
            return path
    raise HostError(f"{candidates[0]} is missing (looked in {system} too): "
                    "install Debian's dataset-fashion-mnist or put the file there")


#: What numpy, zipfile and gzip raise on files that are cut off, altered or of another kind.
_DAMAGE = (OSError, EOFError, ValueError, TypeError, IndexError, NotImplementedError, RuntimeError,
           MemoryError, zipfile.BadZipFile, zlib.error)


def _idx(name, *dimensions):
    """``(path, array)`` of one of MNIST's files of bytes, with dimensions of these names."""
    path = _find(f"fashion-mnist/{name}.gz", _SYSTEM_FASHION)
    try:
        raw = gzip.decompress(path.read_bytes())
        shape = np.frombuffer(raw, ">u4", raw[3], 4)
        array = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)
    except _DAMAGE as error:
        raise HostError(f"{path} is damaged: {error}") from None
    if array.ndim != len(dimensions):
        raise HostError(f"{path} must hold {' x '.join(dimensions)}, got an array of shape "
                        f"{array.shape}")
    if not array.size:
        raise HostError(f"{path} is empty")
    return path, array


def _fashion_mnist():
    parts = {}
    for prefix in ("train", "t10k"):
        images, x = _idx(f"{prefix}-images-idx3-ubyte", "images", "rows", "columns")
        labels, y = _idx(f"{prefix}-labels-idx1-ubyte", "labels")
        if len(x) != len(y):
            raise HostError(f"{images} has {len(x)} images, but {labels} has {len(y)} labels")
        parts[prefix] = images, x, y
    (images, x, y), (tests, x_test, y_test) = parts.values()
    if x.shape[1:] != x_test.shape[1:]:
        raise HostError(f"{images} has images of {x.shape[1]} x {x.shape[2]}, but {tests} of "
                        f"{x_test.shape[1]} x {x_test.shape[2]}")
    return Dataset("fashion-mnist", *(a.reshape(len(a), -1).astype(np.int64) if a.ndim > 1
                                      else a.astype(np.int64) for a in (x, y, x_test, y_test)),
                   (*x.shape[1:], 1))


def _npz(path):
    """A file of arrays x_train, y_train, x_test, y_test; x [samples, features], or images
    [samples, height, width] or [samples, height, width, channels]."""
    names = "x_train", "y_train", "x_test", "y_test"
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in names if name not in file.files]
            arrays = {} if missing else {name: file[name] for name in names}
    except FileNotFoundError:
        raise HostError(f"{path} is missing") from None
    except _DAMAGE as error:
        raise HostError(f"{path} is damaged or no .npz file of numpy: "
                        f"{str(error) or type(error).__name__}") from None
    if missing:
        raise HostError(f"{path} has no array {missing[0]}")
    arrays = {name: whole_numbers(f"{name} of {path}", a) for name, a in arrays.items()}
    shapes = []
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if not x.size or y.ndim != 1 or x.shape[:1] != y.shape:
            raise HostError(f"{path} must hold as many labels as samples and at least one, "
                            f"got x_{part} {x.shape} and y_{part} {y.shape}")
        arrays[f"x_{part}"] = x.reshape(len(x), -1)
        shapes.append(x.shape[1:])
    if arrays["x_train"].shape[1] != arrays["x_test"].shape[1]:
        raise HostError(f"{path} must have the same features in training and test, "
                        f"got {arrays['x_train'].shape[1]} and {arrays['x_test'].shape[1]}")
    shape, tested = shapes
    image = (*shape, 1)[:3] if shape == tested and len(shape) in (2, 3) else None
    return Dataset(Path(path).name, *arrays.values(), image)


def _checked(relative, digest, source):
    """The bytes of a small file, if they are the ones this project knows."""
    folder = os.environ.get("SHIFTGRAD_DATA")
    if folder and not Path(folder).is_dir():
        raise HostError(f"the data folder SHIFTGRAD_DATA={folder} does not exist")
    path = Path(folder or "data") / relative
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise HostError(f"{path} cannot be read ({error.strerror}): {source}, and put it there or "
                        "name its folder in SHIFTGRAD_DATA") from None
    found = hashlib.sha256(raw).hexdigest()
    if found != digest:
        raise HostError(f"{path} is damaged or another version: SHA-256 {found}, "
                        f"expected {digest}")
    return raw


def load_text(name):
    """``(codes, vocabulary)``: a text as the int64 ranks of its characters."""
    if name != "tinyshakespeare":
        raise ArgumentError(f"text must be tinyshakespeare, got {name!r}")
    raw = _checked("tinyshakespeare.txt", _SHAKESPEARE_SHA256,
                   "fetch data/tinyshakespeare/input.txt of github.com/karpathy/char-rnn")
    characters = np.frombuffer(raw, np.uint8)
    used, codes = np.unique(characters, return_inverse=True)
    return codes.astype(np.int64), len(used)


def load_graph(name):
    """``(x, labels, edges, (train, validation, test))`` of a citation graph.

    x [n, features] of 0 and 1, labels [n], edges [e, 2] undirected, and the nodes of the usual
    split.
    """
    if name != "cora":
        raise ArgumentError(f"graph must be cora, got {name!r}")
    raw = _checked("cora.npz", _CORA_SHA256,
                   "convert the Cora of github.com/kimiyoung/planetoid to arrays x (features, bits "
                   "packed along rows), y and e (edges)")
    with np.load(io.BytesIO(raw), allow_pickle=False) as file:
        x = np.unpackbits(file["x"], axis=1)[:, :1433].astype(np.int64)
        labels, edges = file["y"].astype(np.int64), file["e"].astype(np.int64)
    return x, labels, edges, (np.arange(140), np.arange(140, 640), np.arange(1708, 2708))


#: Data sets by name.
DATA_SETS = {"digits": _digits, "fashion-mnist": _fashion_mnist}


def load_dataset(name):
    """A data set by name, or a ``.npz`` file."""
    if name in DATA_SETS:
        return DATA_SETS[name]()
    if name.endswith(".npz"):
        return _npz(name)
    raise ArgumentError(f"data must be one of {', '.join(DATA_SETS)} or a .npz file, got {name!r}")
