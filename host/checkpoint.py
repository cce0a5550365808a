"""Checkpoints: all of a training run's state, written so that a kill at any moment loses nothing.

A checkpoint is one ``.npz`` file: every layer's masters, velocities and running statistics, and
the recipe and progress as JSON. It is written beside its place and renamed.
"""

import hashlib
import json
import os
import zipfile
from pathlib import Path

import numpy as np

from hdl.params import MASTER_BITS, VELOCITY_BITS
from host.errors import ArgumentError, HostError

__all__ = ["load_checkpoint", "save_checkpoint", "state_sha256", "sweep", "weights_sha256"]


def _int32(array):
    return np.ascontiguousarray(array).astype("<i4").tobytes()


def weights_sha256(network):
    """SHA-256 of the int32 masters [in, out], then gamma, beta or bias, layer by layer."""
    digest = hashlib.sha256()
    for layer in network.layers:
        for parameter in layer.parameters().values():
            digest.update(_int32(parameter.master))
    return digest.hexdigest()


def state_sha256(network):
    """SHA-256 of the weights as above, then each layer's velocities and running statistics."""
    digest = hashlib.sha256(bytes.fromhex(weights_sha256(network)))
    for layer in network.layers:
        for parameter in layer.parameters().values():
            digest.update(_int32(parameter.velocity))
        for array in layer.statistics().values():
            digest.update(_int32(array))
    return digest.hexdigest()


def save_checkpoint(path, network, recipe, progress):
    """Write ``path`` whole or not at all."""
    arrays = {}
    for number, layer in enumerate(network.layers):
        for name, parameter in layer.parameters().items():
            arrays[f"{number}.{name}"] = parameter.master.astype(np.int32)
            arrays[f"{number}.{name}.velocity"] = parameter.velocity.astype(np.int32)
        for name, array in layer.statistics().items():
            arrays[f"{number}.running_{name}"] = array.astype(np.int32)
    path = Path(path)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(beside, "wb") as file:
            np.savez(file, recipe=json.dumps(recipe), progress=json.dumps(progress), **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise HostError(f"cannot write the checkpoint {path}: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)


def sweep(path):
    """Remove what runs that were killed while they wrote ``path`` have left beside it."""
    path = Path(path)
    for beside in path.parent.glob(f"{path.name}.*.part"):
        try:
            os.kill(int(beside.name.split(".")[-2]), 0)
        except ProcessLookupError:
            beside.unlink(missing_ok=True)
        except (OSError, ValueError):
            # Somebody else's.
            pass


def load_checkpoint(path, network, recipe):
    """Restore ``network`` and return the progress; refuse another recipe's checkpoint."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        # Once all had these widths, and as many hidden channels.
        stored = {"master_bits": MASTER_BITS, "velocity_bits": VELOCITY_BITS, "hidden": "64",
                  **json.loads(str(arrays["recipe"]))}
        progress = json.loads(str(arrays["progress"]))
    except FileNotFoundError:
        raise ArgumentError(f"there is no checkpoint {path} to resume from") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise HostError(f"the checkpoint {path} is damaged: {error}") from None
    for name, value in recipe.items():
        if stored.get(name) != value:
            raise ArgumentError(f"the checkpoint {path} was made with {name.replace('_', '-')} "
                                f"{stored.get(name)}, not {value}: resume with the same options")
    try:
        for number, layer in enumerate(network.layers):
            for name, parameter in layer.parameters().items():
                parameter.master = arrays[f"{number}.{name}"].astype(np.int64)
                parameter.velocity = arrays[f"{number}.{name}.velocity"].astype(np.int64)
            if layer.statistics():
                layer.running_mean = arrays[f"{number}.running_mean"].astype(np.int64)
                layer.running_deviation = arrays[f"{number}.running_deviation"].astype(np.int64)
    except KeyError as error:
        raise HostError(f"the checkpoint {path} is damaged: {error.args[0]}") from None
    return progress
