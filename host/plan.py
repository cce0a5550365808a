"""What training a network on a machine takes, before there is a machine: ``host.train --plan``.

The network is compiled as for a device (:mod:`host.resident`), over a link at whose end there is
nothing: places in the memories, the stored programs, and what travels are those of a real run.
Clocks are predicted (:mod:`host.predict`).
"""

from collections import Counter

from hdl.instructions import Opcode, opcode_of, unpack_instruction
from hdl.protocol import (
    END,
    Kind,
    Space,
    Status,
    decode,
    encode,
    number_bytes,
    unescape,
    word_bytes,
)
from host.device import Device
from host.errors import ArgumentError
from host.predict import bound, predict
from host.resident import Resident
from host.tensors import element_bits

__all__ = ["plan", "plan_lines"]

_NAMES = {"wide": "wide memory", "quant": "quantised memory",
          "master": "masters, with velocities at the same words", "group": "tables"}


class _Nothing:
    """A transport that says of every request that it has been done; what is read is 0."""
    cycles, clocked = None, False

    def __init__(self, params):
        self._params = params
        self._answers = b""

    def send(self, data):
        for frame in filter(None, data.split(bytes([END]))):
            seq, kind, body = decode(unescape(frame))
            count = int.from_bytes(body[4:6], "little") if kind == Kind.READ else 0
            size = count * word_bytes(Space(body[0]), self._params) if count else 0
            # RUN and WAIT count instructions and clocks.
            ended = number_bytes(self._params) + 5
            rest = bytes(ended if kind in (Kind.RUN, Kind.WAIT) else size)
            self._answers += encode(seq, kind | Kind.ANSWER, bytes([Status.OK]) + rest)

    def receive(self, deadline):
        answers, self._answers = self._answers, b""
        return answers

    def close(self):
        pass


def plan(params, network, x, labels, rates):
    """The plan of steps of as many samples as ``x`` has, and of tests, as plain JSON types:
    memories with their places, and of a step and a test the program, predicted clocks, a bound and
    bytes on the link. ``rates`` are the learning rates of two steps, one after the other.

    What does not fit is a :class:`~host.errors.MemoryFullError`.
    """
    if not params.masters:
        raise ArgumentError("--plan is of machines that keep masters: choose --masters 1 or more, "
                            "got 0")
    device = Device(_Nothing(params), params)
    resident = Resident(network, device, len(x))
    found = {
        "machine": params.name, "batch": len(x),
        "weights": [list(layer.parameters()["weight"].master.shape) for layer in network.layers],
        "memories": {arena.space.name.lower(): _memory(arena) for arena in resident.arenas}}
    for step, rate in enumerate(rates):
        before = device.bytes_down, device.bytes_up
        resident.train_step(x, labels, rate, step)
        # The first step is not like the others.
        link = {"down": device.bytes_down - before[0], "up": device.bytes_up - before[1]}
    found["step"] = {**_program(params, resident.parts), "link_bytes": link}
    resident.count_correct(x, labels, len(x))
    found["test"] = _program(params, resident.parts)
    return found


def _memory(arena):
    """What is where in a memory."""
    taken = set()
    for place in arena.places:
        taken.update(range(place.base, place.base + place.words))
    places = sorted(arena.places, key=lambda place: (place.base, place.words))

    def meet(one, other):
        return (one is not other and one.base < other.base + other.words
                and other.base < one.base + one.words)

    return {
        "words": arena.size, "lanes": arena.lanes,
        "bits": element_bits(arena.space, arena.params), "bytes": arena.bytes(arena.size),
        "used_words": len(taken), "used_bytes": arena.bytes(len(taken)),
        "places": [{
            "tensor": place.name, "shapes": [list(shape) for shape in place.shapes],
            "from": place.base, "to": place.base + place.words - 1,
            "bytes": arena.bytes(place.words),
            "shares": [number for number, other in enumerate(places) if meet(place, other)],
        } for place in places],
    }


def _program(params, parts):
    """What a program takes that runs in such parts; ``share_of_peak`` is what its products without
    padding would, at the array's peak, of its clocks."""
    count, busy, predicted = Counter(), Counter(), 0
    for part in parts:
        found = predict(part, params)
        predicted += found.clocks
        for step in found.steps:
            count[step.opcode] += 1
            busy[step.opcode] += step.done - step.started
    program = [packed for part in parts for packed in part]
    least = bound(program, params)
    fields = [unpack_instruction(packed) for packed in program]
    products = sum(f["m"] * f["k"] * f["n"] for f in fields
                   if opcode_of(f["op"], params) == Opcode.GEMM)
    return {
        "instructions": len(program), "clocks": predicted,
        "share_of_peak": products / (params.macs * params.array_clock * predicted),
        "units": {op.name: {"instructions": count[op], "clocks": clocks}
                  for op, clocks in busy.most_common()},
        "bound": {**least._asdict(), "share": least.path / predicted},
    }


def plan_lines(found):
    """A plan for people, line by line."""
    yield (f"weights of {', '.join(f'{k}x{n}' for k, n in found['weights'])}, batch "
           f"{found['batch']}, on {found['machine']}")
    for space, memory in found["memories"].items():
        yield ""
        yield (f"{_NAMES[space]}, {memory['words']:,} words of {memory['lanes']} x "
               f"{memory['bits']} bits: {memory['used_bytes']:,} of {memory['bytes']:,} bytes, "
               f"{_percent(memory['used_words'] / memory['words'])}")
        rows = [[f"{number}:", place["tensor"], ", ".join(f"{a}x{b}" for a, b in place["shapes"]),
                 f"{place['from']:,} to {place['to']:,}", f"{place['bytes']:,} bytes",
                 "shares words with " + ", ".join(map(str, place["shares"]))
                 if place["shares"] else ""] for number, place in enumerate(memory["places"])]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            yield "  " + "  ".join(text.rjust(width) if number in (0, 3, 4) else text.ljust(width)
                                   for number, (text, width) in enumerate(
                                       zip(row, widths, strict=True))).rstrip()
    for name in "step", "test":
        yield ""
        yield from _program_lines({"step": "a training step", "test": "a test"}[name], found[name])


def _program_lines(name, found):
    clocks, least = found["clocks"], found["bound"]
    yield (f"{name}: {found['instructions']} instructions, {clocks:,} clocks, "
           f"{_percent(found['share_of_peak'])} of the array's peak")
    for unit, used in found["units"].items():
        yield (f"  {unit:13} {used['instructions']:4} instructions {used['clocks']:11,} clocks  "
               f"{_percent(used['clocks'] / clocks):>7}")
    yield (f"  bound {least['path']:,} clocks, {_percent(least['share'])} of those (alone: array "
           f"{least['array']:,}, vector units {least['vector']:,}, mover {least['mover']:,}, "
           f"the quantised memory's port {least['port']:,}, longest chain {least['chain']:,})")
    if "link_bytes" in found:
        yield f"  on the link {found['link_bytes']['down']:,} bytes down, " + (
            f"{found['link_bytes']['up']:,} up")


def _percent(share):
    return f"{100 * share:.1f} %"
