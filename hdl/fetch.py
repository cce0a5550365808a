"""The address of every operand of a GEMM: from a slot of the schedule to an element."""

from itertools import pairwise

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.memory import ADDRESS_BITS, READ_LATENCY, ReadPort
from hdl.params import INDEX_BITS
from hdl.protocol import TABLE_HEADER, GemmFlag
from hdl.unit import INSTRUCTION_LAYOUT, ORDER_ENTRY, quant_word

__all__ = ["Fetch", "FetchPort", "request_layout"]

#: What a request is for; it comes back with the element.
TAG = {
    #: For the mesh's weights; else for the streamed operand.
    "stationary": 1,
    #: The row of operands is complete.
    "last": 1,
    #: It was the last row of its tile.
    "end": 1,
    #: The row has a mark.
    "mark": 1,
    #: The element is the code of the streamed operand that stands for 0, whatever is stored.
    "zero": 1,
}


def request_layout(params):
    """A request for one element, at one index of the inner dimension and one of the outer."""
    return data.StructLayout({
        #: Slot of the schedule, which stands for an index of the inner dimension.
        "slot": range(params.stream_words * params.slots + params.slots),
        #: Index of the outer dimension, its quotient and its remainder by ``vector``.
        "outer": INDEX_BITS, "tile": INDEX_BITS, "lane": range(params.vector),
        #: There is no such element; nothing is read, the result is 0.
        "skip": 1,
        **TAG,
    })


class FetchPort(wiring.Signature):
    """Requests to :class:`Fetch` and its results, from the requester's point of view.

    Members
    -------
    valid : Out(1)
    request : Out(request_layout)
    done : In(1)
        A result, :attr:`Fetch.latency` cycles after ``valid``.
    tag : In(StructLayout(TAG))
    element : In(signed(bits))
    word : In(quant_word)
        The whole word that holds the element, 0 as the element is.
    """
    def __init__(self, params):
        super().__init__({
            "valid": Out(1), "request": Out(request_layout(params)),
            "done": In(1), "tag": In(data.StructLayout(TAG)),
            "element": In(signed(params.bits)), "word": In(quant_word(params)),
        })


class Fetch(wiring.Component):
    """Finds an element of either operand of a GEMM in the quantised memory.

    Element (r, s) of a tensor stored with I rows is lane ``s % vector`` of word
    ``base + (s // vector) * I + r``. One of r and s is the request's outer index, the other is the
    inner index k that takes its slot: the slot itself, or with ``INNER_GROUPS`` what the order
    table says. Slots from ``used`` on and padding give 0 without a read.

    One request per clock, lock step, ``latency`` cycles.

    Parameters
    ----------
    params : hdl.params.Params

    Attributes
    ----------
    latency : int

    Members
    -------
    instruction : In(INSTRUCTION_LAYOUT)
    used : In(INDEX_BITS)
        Slots in use.
    port : In(FetchPort(params))
    quant_r : Out(ReadPort(quant_word))
    order_r : Out(ReadPort(ORDER_ENTRY))
        Idle on a machine without groups.
    """
    def __init__(self, params):
        self.params = params
        self.lookup_latency = 1 + READ_LATENCY if params.max_groups > 1 else 1
        self.latency = self.lookup_latency + 5 + READ_LATENCY + 1
        super().__init__({
            "instruction": In(INSTRUCTION_LAYOUT),
            "used": In(INDEX_BITS),
            "port": In(FetchPort(params)),
            "quant_r": Out(ReadPort(quant_word(params))),
            "order_r": Out(ReadPort(ORDER_ENTRY)),
        })

    def elaborate(self, platform):
        m = Module()
        fields, flags = self.instruction, self.instruction.flags
        bits, vector = self.params.bits, self.params.vector
        grouped = self.params.max_groups > 1
        inner = Signal()
        if grouped:
            m.d.comb += inner.eq((flags & GemmFlag.INNER_GROUPS).any())

        # The request, as it passes every stage.
        passing = [self.port.request]
        for stage in range(self.latency):
            passing.append(Signal(self.port.request.shape(), name=f"passing{stage + 1}",
                                  reset_less=True))
            m.d.sync += passing[-1].eq(passing[-2])
        valid = Signal(self.latency)
        m.d.sync += valid.eq(Cat(self.port.valid, valid))

        # Stage 1: the slot's entry in the order table.
        slot = self.port.request.slot
        inside = Signal(self.lookup_latency, reset_less=True)
        m.d.sync += inside.eq(Cat((slot < self.used) & ~self.port.request.skip, inside))
        if grouped:
            table = Signal(ADDRESS_BITS, reset_less=True)
            m.d.sync += table.eq(fields.tab0 + TABLE_HEADER + slot)
            m.d.comb += [self.order_r.en.eq(inner & valid[0] & inside[0]),
                         self.order_r.addr.eq(table)]

        # Stage 2: the index.
        now = self.lookup_latency
        index, present = Signal(INDEX_BITS, reset_less=True), Signal(5, reset_less=True)
        entry = self.order_r.data
        m.d.sync += [
            index.eq(Mux(inner, entry.index, passing[now].slot)),
            present.eq(Cat(inside[-1] & ~(inner & entry.pad), present)),
        ]
        # Stage 3: its quotient by the constant vector, times a reciprocal that is exact up to
        # 2**INDEX_BITS, since k * (reciprocal - 2**scale / vector) / 2**scale < 1 / vector.
        scale = INDEX_BITS + (vector - 1).bit_length()
        quotient = Signal(INDEX_BITS, reset_less=True)
        index_3 = Signal(INDEX_BITS, reset_less=True)
        m.d.sync += [quotient.eq((index * -(-(1 << scale) // vector)) >> scale), index_3.eq(index)]
        # Stage 4: which index goes across the tensor's tiles, and which along their rows.
        request = passing[now + 2]
        across = Mux(request.stationary, (flags & GemmFlag.B_TRANSPOSED).any(),
                     ~(flags & GemmFlag.A_TRANSPOSED).any())
        tile, along, rows = (Signal(INDEX_BITS, reset_less=True) for _ in range(3))
        lanes = [Signal(range(vector), name=f"lane{stage}", reset_less=True)
                 for stage in range(3 + READ_LATENCY)]
        m.d.sync += [
            tile.eq(Mux(across, quotient, request.tile)),
            along.eq(Mux(across, request.outer, index_3)),
            lanes[0].eq(Mux(across, index_3 - quotient * vector, request.lane)),
            rows.eq(Mux(across, Mux(request.stationary, fields.n, fields.m), fields.k)),
        ]
        # Stage 5: the tile's place.
        place, along_5 = Signal(ADDRESS_BITS, reset_less=True), Signal.like(along)
        m.d.sync += [place.eq(tile * rows), along_5.eq(along)]
        # Stage 6: the address.
        address = Signal(ADDRESS_BITS, reset_less=True)
        base = Mux(passing[now + 4].stationary, fields.src1, fields.src0)
        m.d.sync += address.eq(base + place + along_5)
        m.d.comb += [self.quant_r.en.eq(valid[now + 4] & present[4]),
                     self.quant_r.addr.eq(address)]
        # Stage 7: the element's lane, once the word has come.
        arrived = Signal(READ_LATENCY, reset_less=True)
        zero = Mux((flags & GemmFlag.UNSIGNED).any(), Const(-1 << bits - 1, signed(bits)), 0)
        m.d.sync += [
            arrived.eq(Cat(present[4], arrived)),
            *(lane.eq(before) for before, lane in pairwise(lanes)),
            self.port.word.eq(Mux(arrived[-1], Value.cast(self.quant_r.data), 0)),
            self.port.element.eq(Mux(passing[-2].zero, zero, Mux(
                arrived[-1], self.quant_r.data[lanes[-1]], 0))),
        ]
        m.d.comb += [
            self.port.done.eq(valid[-1]),
            *(self.port.tag[name].eq(passing[-1][name]) for name in TAG),
        ]
        return m
