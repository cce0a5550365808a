"""``python -m host.train``: train a network on a device, the simulated board by default.

The result is a pure function of data, network and recipe: the same weights, bit for bit, on every
device and array shape.
"""

import argparse
import json
import sys
from collections import namedtuple
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

from hdl.params import (
    MASTER_BITS,
    MAX_DEPTH,
    MAX_N,
    VELOCITY_BITS,
    Formats,
    ParameterError,
    Params,
    parse_groups,
)
from host.checkpoint import load_checkpoint, save_checkpoint, state_sha256, sweep, weights_sha256
from host.data import DATA_SETS, load_dataset
from host.device import Device
from host.errors import ArgumentError, HostError, MemoryFullError
from host.events import EventLog
from host.layers import Hosted, Network
from host.network import check_machine, convolutional, lenet, perceptron, residual
from host.plan import plan, plan_lines
from host.progress import (
    NO_COST,
    Cost,
    Meter,
    Pace,
    Position,
    Progress,
    epoch_line,
    epoch_scalars,
    step_line,
    step_scalars,
)
from host.resident import Resident
from host.tensor_ids import Noise, tensor_id
from host.trace import Trace
from sim.model import noise
from sim.model.softmax import LOSS_FRACTION

__all__ = ["MODELS", "Rate", "Recipe", "main", "train"]

#: A learning rate: ``rate * 2**-shift``.
Rate = namedtuple("Rate", "rate shift")

#: The learning rate falls linearly from ``_RATE * 2**-_RATE_SHIFT`` (about 0.1) to 0.
_RATE, _RATE_SHIFT = 400, 12

#: Hidden layers of a perceptron unless told otherwise.
HIDDEN = "64"

#: What decides a run's result, besides the data; ``hidden`` as ``--hidden`` has it, None where the
#: model has layers of its own.
Recipe = namedtuple("Recipe", "data model bits groups seed epochs batch limit master_bits "
                              "velocity_bits hidden",
                    defaults=(MASTER_BITS, VELOCITY_BITS, HIDDEN))


def _perceptron(data, recipe):
    return perceptron((data.features, *hidden_sizes(recipe.hidden), data.classes))


def _of_images(layers):
    """What makes the layers for images, from their shape and the number of classes."""
    def make(data, recipe):
        if data.image is None:
            raise ArgumentError(f"model {recipe.model} needs images, x_train [samples, height, "
                                "width] or with channels behind, got samples of "
                                f"{data.features} numbers in {data.name}")
        return layers(data.image, data.classes)
    return make


#: What makes the layers of the networks by name, from data and recipe.
MODELS = {"mlp": _perceptron, "cnn": _of_images(convolutional), "lenet": _of_images(lenet),
          "resnet": _of_images(residual)}


def hidden_sizes(text):
    """Channels of the hidden layers of ``--hidden``.

    >>> hidden_sizes("128,64")
    (128, 64)
    """
    parts = text.split(",")
    if not all(part.isdecimal() and 1 <= int(part) <= MAX_N for part in parts):
        raise ArgumentError(f"hidden must be whole numbers from 1 to {MAX_N} with commas between, "
                            f"got {text}")
    return tuple(map(int, parts))


def rate_at(step, steps):
    """The learning rate of a step, at least 2**-12.

    >>> rate_at(0, 100), rate_at(99, 100)
    (Rate(rate=400, shift=12), Rate(rate=4, shift=12))
    """
    return Rate(max(1, _RATE * (steps - step) // steps), _RATE_SHIFT)


def _step(data, steps, step, index):
    """The arguments of a step, one of so many, with the samples of ``index``."""
    return data.x_train[index], data.y_train[index], rate_at(step, steps), step


def train(device, data, recipe, *, out=None, resume=False, progress=None, checkpoint_every=None,
          events=None):
    """Train; returns the report that ``--json`` prints.

    ``out`` is a folder for ``checkpoint.npz``, written after every epoch and every
    ``checkpoint_every`` steps, and ``report.json``. ``events`` is a :class:`host.events.EventLog`.
    """
    progress = progress or Progress()
    _check_batch(data, recipe)
    batch, steps_per_epoch = recipe.batch, len(data.x_train) // recipe.batch
    network = network_of(data, recipe)
    total = recipe.epochs * steps_per_epoch
    at = Position([])
    checkpoint = Path(out) / "checkpoint.npz" if out else None
    if checkpoint:
        sweep(checkpoint)
    if resume:
        saved = load_checkpoint(checkpoint, network, recipe._asdict())
        at = Position(**{**saved, "cost": Cost(*saved.get("cost", NO_COST))})
        progress.say(f"resumed after {at.words(recipe.epochs)}")
    trainer = _trainer(network, device, batch, progress)
    done = len(at.epochs) * steps_per_epoch + at.steps
    pace = Pace(total - done)
    if events:
        events.begin(done + 1)

    def save():
        if events:
            events.flush()
        if checkpoint:
            save_checkpoint(checkpoint, network, recipe._asdict(), vars(at))

    for epoch in range(len(at.epochs), recipe.epochs):
        key = noise.key(recipe.seed, epoch, tensor_id(0, Noise.SHUFFLE))
        order = noise.permutation(key, len(data.x_train))
        steps = [(epoch * steps_per_epoch + i, order[i * batch:(i + 1) * batch])
                 for i in range(steps_per_epoch)]
        meter, following = Meter(device, at.cost), None
        for i in range(at.steps, steps_per_epoch):
            given = following or _step(data, total, *steps[i])
            following = _step(data, total, *steps[i + 1]) if i + 1 < steps_per_epoch else None
            (*_, rate, step), own = given, Meter(device)
            with device.phase(f"step {step}"):
                loss, correct = trainer.train_step(*given, following)
            at.steps, at.loss, at.correct = i + 1, at.loss + loss, at.correct + correct
            pace.step()
            progress.tick(step_line(at, meter, pace, recipe, steps_per_epoch, network))
            if events:
                events.scalars(step + 1, step_scalars(loss, correct, rate, batch, own, network))
            # After the last one there is the test.
            if checkpoint_every and (step + 1) % checkpoint_every == 0 and i + 1 < steps_per_epoch:
                trainer.fetch()
                at.cost = meter.cost
                save()
        seen = steps_per_epoch * batch
        report = {"loss": at.loss / seen / 2**LOSS_FRACTION,
                  "train_accuracy": 100 * at.correct / seen}
        cost = meter.report(seen * network.macs_per_sample)
        with device.phase(f"the test after epoch {epoch + 1}"):
            correct = trainer.count_correct(data.x_test, data.y_test, batch)
            report["test_accuracy"] = 100 * correct / len(data.x_test)
        trainer.fetch()
        at = Position([*at.epochs, {**report, **cost}])
        progress.say(epoch_line(at.epochs, seen, pace, recipe))
        if events:
            events.scalars((epoch + 1) * steps_per_epoch, epoch_scalars(at.epochs[-1], seen))
        save()
    epochs = at.epochs
    status = device.status()
    return {
        "fingerprint": device.params.fingerprint, **recipe._asdict(),
        "resident": isinstance(trainer, Resident),
        "test_accuracy": epochs[-1]["test_accuracy"],
        "weights_sha256": weights_sha256(network), "state_sha256": state_sha256(network),
        "bad_frames": status.bad_frames, "saturations": status.saturations,
        "epochs": epochs,
    }


def _trainer(network, device, batch, progress):
    """What trains: the device by itself, if it keeps masters and has room for the network, else
    with weights that the host streams."""
    if not device.params.masters:
        return Hosted(network, device, batch)
    try:
        return Resident(network, device, batch)
    except MemoryFullError as error:
        try:
            trainer = Hosted(network, device, batch)
        except MemoryFullError:
            raise error from None
        progress.say(f"{error}; as it is the host keeps all weights and streams them")
        return trainer


def _check_batch(data, recipe):
    if recipe.batch > len(data.x_train):
        raise ArgumentError(f"batch must be at most the {len(data.x_train)} training samples, "
                            f"got {recipe.batch}")


def network_of(data, recipe):
    """The network that a recipe begins with."""
    return Network(MODELS[recipe.model](data, recipe), recipe.seed,
                   Formats.of(recipe.master_bits, recipe.velocity_bits))


# The command.


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise ArgumentError(message)


def _whole(name, low, high):
    def convert(text):
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise ArgumentError(f"{name} must be a whole number from {low} to {high}, got {text}")
        return value
    return convert


def _width(text):
    """A number, or what Params refuses in its own words."""
    return int(text) if text.isdecimal() else text


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default to an option's help where there is one."""
    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


def _arguments(arguments):
    parser = _Parser(prog="python -m host.train", description=__doc__.split("\n\n")[0],
                     formatter_class=_Formatter)
    parser.add_argument("--data", default="digits",
                        help=f"{', '.join(DATA_SETS)}, or a .npz file with x_train, y_train, "
                             "x_test, y_test")
    parser.add_argument("--model", default="mlp",
                        help="mlp, a perceptron; for images and a device with --masters cnn, "
                             "convolutions with strides, lenet, with pooling, and dense layers, or "
                             "resnet, with shortcuts")
    parser.add_argument("--hidden", default=None, metavar="N[,N...]",
                        help=f"channels of the hidden layers of mlp (default {HIDDEN})")
    parser.add_argument("--bits", type=_whole("bits", 2, 8), default=Params.bits,
                        help="width of the numbers, 2..8")
    parser.add_argument("--groups", default="4x4", help="sample x channel groups: 1, 2, 4 or 8")
    parser.add_argument("--epochs", type=_whole("epochs", 1, 10**6), default=20,
                        help="times through the training samples")
    parser.add_argument("--batch", type=_whole("batch", 1, 10**6), default=64,
                        help="samples of a step")
    parser.add_argument("--limit", type=_whole("limit", 1, 10**9), default=None,
                        help="use only the first N training samples")
    parser.add_argument("--seed", type=_whole("seed", 0, 2**32 - 1), default=0,
                        help="decides initial weights, order and rounding")
    parser.add_argument("--device", default="sim:",
                        help="sim:, model: or serial:PORT[?baud=N]; sim:?baud=N for the pace of a "
                             "serial port")
    parser.add_argument("--rows", type=_whole("rows", 1, 64),
                        help=f"rows of the array (default {Params.rows})")
    parser.add_argument("--cols", type=_whole("cols", 1, 64),
                        help=f"columns of the array (default {Params.cols})")
    parser.add_argument("--depth", type=_whole("depth", 1, MAX_DEPTH), default=Params.depth,
                        help="products per element per clock")
    parser.add_argument("--arith", default=None,
                        help="shift, or int: the same array without groups (default shift)")
    parser.add_argument("--memory", type=_whole("memory", 4, 256), default=Params.memory,
                        help="wide memory in units of 1,024 elements")
    parser.add_argument("--codes", type=_whole("codes", 0, 512), default=Params.codes,
                        help="quantised memory in units of 1,024 elements, 0 for twice the wide "
                             "memory")
    parser.add_argument("--tables", type=_whole("tables", 1, 2), default=Params.tables,
                        help="tables of groups and orders in units of 1,024 words")
    parser.add_argument("--lanes", type=_whole("lanes", 0, 64), default=Params.lanes,
                        help="lanes of the quantiser and the norms, 0 for the most there can be")
    parser.add_argument("--array-clock", type=_whole("array-clock", 1, 4),
                        default=Params.array_clock,
                        help="clocks of the array in one of the machine's; decides how long it "
                             "takes, and nothing else")
    parser.add_argument("--masters", type=_whole("masters", 0, 256), default=Params.masters,
                        help="weights, with their velocities, that the device keeps and updates "
                             "itself, in units of 1,024; 0: the host keeps them")
    parser.add_argument("--master-bits", type=_width, default=Params.master_bits,
                        help="width of those weights, 16 or 24")
    parser.add_argument("--velocity-bits", type=_width, default=Params.velocity_bits,
                        help="width of their velocities, 8, 16 or 24")
    parser.add_argument("--layer-norm", action="store_true",
                        help="with --masters: a device that has the norm of channels, too")
    parser.add_argument("--out", default=None, help="folder for checkpoint.npz and report.json")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument("--checkpoint-every", type=_whole("checkpoint-every", 1, 10**9),
                        default=None, metavar="STEPS",
                        help="write checkpoint.npz after so many steps too, not after epochs alone")
    parser.add_argument("--tensorboard", default=None, metavar="DIR",
                        help="write loss, accuracies, rate and speed there, for TensorBoard; needs "
                             "the package tensorboardX")
    parser.add_argument("--trace", default=None, metavar="FILE",
                        help="write a timeline of all instructions, for Perfetto, and say what "
                             "each unit took; for devices with a clock")
    parser.add_argument("--plan", action="store_true",
                        help="train nothing: print where everything is in the memories, and the "
                             "clocks that a step and a test will take; of machines with masters")
    parser.add_argument("--json", action="store_true",
                        help="print the report, or the plan, as JSON on standard output")
    return parser.parse_args(arguments)


def _write_trace(trace, path):
    try:
        trace.write(path)
    except OSError as error:
        raise ArgumentError(f"cannot write the trace {path}: {error.strerror}") from None


@contextmanager
def _traced(device, path):
    """The trace of what is done on a device within, which is written even if that fails; None
    without a path."""
    if path is None:
        yield None
        return
    if device.clock is None:
        raise ArgumentError("--trace needs a device that counts clocks, sim: or a board")
    trace = Trace(device)
    # It can be written, which is better known now.
    _write_trace(trace, path)
    try:
        yield trace
    finally:
        _write_trace(trace, path)


def _train_command(arguments):
    options = _arguments(arguments)
    sample_groups, channel_groups = parse_groups(options.groups)
    params = Params(
        bits=options.bits, sample_groups=sample_groups, channel_groups=channel_groups,
        rows=options.rows or Params.rows, cols=options.cols or Params.cols, depth=options.depth,
        memory=options.memory, codes=options.codes, tables=options.tables, lanes=options.lanes,
        masters=options.masters, array_clock=options.array_clock,
        master_bits=options.master_bits, velocity_bits=options.velocity_bits,
        layer_norm=options.layer_norm,
        arith=options.arith or "shift")
    if options.model not in MODELS:
        raise ArgumentError(f"model must be one of {', '.join(MODELS)}, got {options.model!r}")
    if options.hidden and options.model != "mlp":
        raise ArgumentError(f"--hidden is for --model mlp, got --model {options.model}")
    if options.resume and not options.out:
        raise ArgumentError("--resume needs --out, the folder of the run to continue")
    if options.checkpoint_every and not options.out:
        raise ArgumentError("--checkpoint-every needs --out, the folder of checkpoint.npz")
    data = load_dataset(options.data)
    if options.limit:
        data = data.limited(options.limit)
    hidden = None
    if options.model == "mlp":
        hidden = ",".join(map(str, hidden_sizes(options.hidden or HIDDEN)))
    recipe = Recipe(options.data, options.model, options.bits, params.groups, options.seed,
                    options.epochs, options.batch, options.limit, params.master_bits,
                    params.velocity_bits, hidden)
    if options.plan:
        _check_batch(data, recipe)
        found = plan(params, network_of(data, recipe), data.x_train[:options.batch],
                     data.y_train[:options.batch], [rate_at(step, 100) for step in range(2)])
        print(json.dumps(found, indent=1) if options.json else "\n".join(plan_lines(found)))
        return
    out = Path(options.out) if options.out else None
    if out:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArgumentError(f"cannot make the folder {out}: {error.strerror}") from None
    # Boards are built for no network in vain; that there are too few samples is said later.
    check_machine(params, MODELS[recipe.model](data, recipe),
                  min(recipe.batch, len(data.x_train)))
    progress = Progress()
    log = closing(EventLog(options.tensorboard)) if options.tensorboard else nullcontext()
    with (log as events,
          Device.open(options.device, params, progress=progress.say) as device,
          _traced(device, options.trace) as trace):
        report = {"device": options.device, **train(
            device, data, recipe, out=out, resume=options.resume, progress=progress,
            checkpoint_every=options.checkpoint_every, events=events)}
    if trace:
        report["units"] = {unit.name: used._asdict() for unit, used in trace.used.items()}
        report["queues"] = {queue.name: use._asdict() for queue, use in trace.queues.items()}
        for line in trace.summary():
            progress.say(line)
    if out:
        beside = out / "report.json.part"
        beside.write_text(json.dumps(report, indent=1) + "\n")
        beside.replace(out / "report.json")
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        print(f"test accuracy {report['test_accuracy']:.2f} %\n"
              f"weights {report['weights_sha256']}")


def main(arguments=None):
    """The command; returns its exit code."""
    try:
        _train_command(arguments)
    except (HostError, ParameterError) as error:
        code = getattr(error, "exit_code", 2)
        print(f"host.train: {error}", file=sys.stderr)
        return code
    except KeyboardInterrupt:
        print("\nhost.train: interrupted; the last checkpoint is in --out, "
              "continue with --resume", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
