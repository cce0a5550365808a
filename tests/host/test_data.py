"""host.data: what is wrong with a data file is said in one sentence."""

import gzip

import numpy as np
import pytest

from host.data import load_dataset
from host.errors import HostError

GOOD = {"x_train": np.arange(24).reshape(8, 3), "y_train": np.arange(8) % 2,
        "x_test": np.arange(12).reshape(4, 3), "y_test": np.arange(4) % 2}


def saved(path, compressed=False, **arrays):
    (np.savez_compressed if compressed else np.savez)(path, **{**GOOD, **arrays})
    return path


def refused(name):
    with pytest.raises(HostError) as error:
        load_dataset(str(name))
    sentence = str(error.value)
    assert "\n" not in sentence and len(sentence) < 400
    return sentence


def test_arrays_of_a_file(tmp_path):
    data = load_dataset(str(saved(tmp_path / "own.npz")))
    assert (data.x_train == GOOD["x_train"]).all() and (data.y_test == GOOD["y_test"]).all()
    assert data.features == 3 and data.classes == 2
    images = saved(tmp_path / "images.npz", x_train=np.ones((8, 2, 2)), x_test=np.ones((4, 2, 2)))
    assert load_dataset(str(images)).features == 4
    assert load_dataset(str(images)).image == (2, 2, 1) and data.image is None


@pytest.mark.parametrize(("arrays", "words"), [
    ({"y_train": np.zeros(7)}, "as many labels as samples and at least one, got x_train (8, 3) "
                               "and y_train (7,)"),
    ({"y_test": np.zeros((4, 1))}, "got x_test (4, 3) and y_test (4, 1)"),
    ({"x_train": np.array(5)}, "got x_train () and y_train (8,)"),
    ({"x_train": np.zeros((8, 0))}, "got x_train (8, 0)"),
    ({"x_test": np.zeros((4, 2))}, "same features in training and test, got 3 and 2"),
    ({"x_train": np.full((8, 3), "a")}, "must hold numbers"),
    ({"x_train": np.full((8, 3), None)}, "is damaged or no .npz file of numpy"),
])
def test_arrays_that_do_not_agree(tmp_path, arrays, words):
    assert words in refused(saved(tmp_path / "own.npz", **arrays))


def test_a_file_that_is_no_archive(tmp_path):
    assert "is missing" in refused(tmp_path / "none.npz")
    path = tmp_path / "own.npz"
    np.savez(path, x_train=GOOD["x_train"])
    assert refused(path).endswith("has no array y_train")
    np.save(tmp_path / "array", GOOD["x_train"])
    for raw in (b"", b"text", b"PK\3\4 no archive", (tmp_path / "array.npy").read_bytes()):
        path.write_bytes(raw)
        assert "is damaged or no .npz file of numpy" in refused(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_any_damage_to_a_file_is_a_sentence_or_changes_no_shape(tmp_path, compressed):
    raw = saved(tmp_path / "own.npz", compressed).read_bytes()
    path = tmp_path / "bad.npz"
    for length in range(0, len(raw), 37):
        path.write_bytes(raw[:length])
        refused(path)
    rng = np.random.default_rng(0)
    said = 0
    for start in range(0, len(raw), 11):
        damaged = bytearray(raw)
        damaged[start:start + 16] = rng.bytes(16)
        path.write_bytes(damaged)
        try:
            data = load_dataset(str(path))
        except HostError:
            said += 1
        else:
            assert data.x_train.shape == (8, 3)
    assert said > 20


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(np.uint8).tobytes()


@pytest.fixture
def fashion(tmp_path, monkeypatch):
    """A small set in MNIST's files; ``write(name, bytes)`` replaces one, whole or compressed."""
    monkeypatch.setenv("SHIFTGRAD_DATA", str(tmp_path))
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()

    def write(name, raw, packed=True):
        (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(raw) if packed else raw)
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 60), ("t10k", 20)):
        write(f"{prefix}-images-idx3", idx(rng.integers(0, 256, (count, 7, 7))))
        write(f"{prefix}-labels-idx1", idx(rng.integers(0, 10, count)))
    return write


def test_images_and_labels(fashion):
    data = load_dataset("fashion-mnist")
    assert data.x_train.shape == (60, 49) and data.y_test.shape == (20,)
    assert data.image == (7, 7, 1)
    assert data.x_train.dtype == data.y_train.dtype == np.int64


@pytest.mark.parametrize(("name", "array", "words"), [
    ("train-images-idx3", np.zeros(60), "must hold images x rows x columns, got an array of "
                                        "shape (60,)"),
    ("t10k-labels-idx1", np.zeros((20, 7, 7)), "must hold labels, got an array"),
    ("train-labels-idx1", np.zeros(10), "has 60 images, but"),
    ("t10k-images-idx3", np.zeros((20, 7, 8)), "images of 7 x 7, but"),
    ("t10k-labels-idx1", np.zeros(0), "is empty"),
])
def test_files_of_images_that_do_not_agree(fashion, name, array, words):
    fashion(name, idx(array))
    assert words in refused("fashion-mnist")


def test_damaged_files_of_images(fashion):
    raw = idx(np.random.default_rng(1).integers(0, 256, (60, 7, 7)))
    packed = gzip.compress(raw)
    middle = bytearray(packed)
    middle[len(packed) // 2:len(packed) // 2 + 200] = bytes(200)
    for bad in (b"", b"text", packed[:-300], bytes(middle), gzip.compress(raw[:-1]),
                gzip.compress(b""), gzip.compress(b"\0\0\10\3")):
        fashion("train-images-idx3", bad, packed=False)
        assert "train-images-idx3-ubyte.gz is damaged" in refused("fashion-mnist")
