"""The quantised memory: as wide as a row of the array's operands, which it streams with their skew.
"""

from amaranth.hdl import Cat, Module, Signal, Value, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hdl.crossing import array_domain, crossed_level
from hdl.memory import ADDRESS_BITS, LaneWritePort, ReadPort, StreamPort, merged, several
from hdl.unit import quant_word

__all__ = ["OperandMemory"]


class OperandMemory(wiring.Component):
    """One memory with a stream and, independent of it, one read or one write of a word per cycle.

    Every lane is block RAM of its own with two ports. The address of a stream travels from array
    row to array row, which takes fewer flip-flops than to delay what is read. Units take turns at
    the other port: in a cycle at most one reader or one writer may be enabled; units that cannot
    wait announce each access (:func:`hdl.memory.announced_ahead`) to those that can. A stream of a
    lane in the same cycle as a write to it returns an undefined element; no unit does that.

    An access beyond the end raises ``fault`` in the next cycle, that of a stream one later; such a
    write has no effect.

    Parameters
    ----------
    params : hdl.params.Params
    readers, writers, streams : int
        Number of ports.
    conflicts : bool
        Whether ``conflict`` is there.

    Members
    -------
    s : In(StreamPort(quant_word)) x streams
    r : In(ReadPort(quant_word)) x readers
    w : In(LaneWritePort(quant_word)) x writers
    fault : Out(1)
    conflict : Out(1)
        In the cycle before more than one reader or writer was enabled.
    """
    def __init__(self, params, *, readers, writers, streams=1, conflicts=False):
        self.params = params
        self.conflicts = conflicts
        word = quant_word(params)
        members = {
            "s": In(StreamPort(word)).array(streams), "r": In(ReadPort(word)).array(readers),
            "w": In(LaneWritePort(word)).array(writers), "fault": Out(1),
        }
        if conflicts:
            members["conflict"] = Out(1)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        params, depth = self.params, self.params.quant_words
        domain = array_domain(params)
        inside = (depth - 1).bit_length()
        wen, word_en, stream_en = (Cat(port.en for port in ports).any() for ports in (
            self.w, [*self.r, *self.w], self.s))
        beyond_word, beyond_write, beyond_stream = Signal(), Signal(), Signal()
        word_addr, stream_addr = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        m.d.comb += [
            word_addr.eq(merged([*self.r, *self.w], "addr")),
            stream_addr.eq(merged(self.s, "addr")),
            beyond_word.eq(word_addr[inside:].any()),
            # Of writers alone it is known sooner.
            beyond_write.eq(merged(self.w, "addr")[inside:].any()),
            beyond_stream.eq(stream_addr[inside:].any()),
        ]
        stream_fault = Signal()
        m.d[domain] += stream_fault.eq(stream_en & beyond_stream)
        m.d.sync += self.fault.eq(word_en & beyond_word
                                  | crossed_level(m, "stream_fault", params, stream_fault))
        if self.conflicts:
            m.d.sync += self.conflict.eq(several(Cat(port.en for port in [*self.r, *self.w])))

        # Requests, without a reset but for what would destroy something.
        written = Signal(quant_word(params), reset_less=True)
        lanes, address = Signal(params.slots), Signal(inside, reset_less=True)
        m.d.sync += [
            Value.cast(written).eq(merged(self.w, "data")), address.eq(word_addr),
            lanes.eq(merged(self.w, "lanes") & (wen & ~beyond_write).replicate(params.slots)),
        ]
        row_addr = stream_addr[:inside]
        words, streamed = (Signal(quant_word(params), name=name, reset_less=True)
                           for name in ("words", "streamed"))
        for row in range(params.rows):
            following = Signal(inside, name=f"row{row}", reset_less=True)
            m.d[domain] += following.eq(row_addr)
            row_addr = following
            for lane in range(row * params.depth, (row + 1) * params.depth):
                # See hdl.buffer.Buffer for why reads are unclocked.
                m.submodules[f"lane{lane}"] = memory = Memory(
                    shape=unsigned(params.bits), depth=depth, init=[], attrs={"no_rw_check": 1})
                stream, read, write = (memory.read_port(domain="comb"),
                                       memory.read_port(domain="comb"), memory.write_port())
                m.d.comb += [
                    stream.addr.eq(row_addr), read.addr.eq(address), write.addr.eq(address),
                    write.data.eq(written[lane]), write.en.eq(lanes[lane]),
                ]
                for clock, data, output in ((domain, stream.data, streamed),
                                            ("sync", read.data, words)):
                    word = Signal(params.bits, reset_less=True)
                    m.d[clock] += [word.eq(data), output[lane].eq(word)]
        for ports, output in ((self.s, streamed), (self.r, words)):
            for port in ports:
                m.d.comb += Value.cast(port.data).eq(output)
        return m
