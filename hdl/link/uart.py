"""A serial line, 8 data bits, no parity, one stop bit."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

__all__ = ["UartReceiver", "UartTransmitter", "phase_step"]

#: Width of the phase accumulators: the bit clock is exact to ``2**-_PHASE_BITS``.
_PHASE_BITS = 16


def phase_step(clock, baud):
    """What a phase accumulator adds per clock to overflow ``baud`` times a second.

    >>> phase_step(25_000_000, 3_000_000)
    7864
    """
    if not 4 * baud <= clock:
        raise ValueError(f"baud must be at most a quarter of the clock of {clock} Hz, got {baud}")
    step = round((baud << _PHASE_BITS) / clock)
    if abs(step * clock / (baud << _PHASE_BITS) - 1) > 0.005:
        raise ValueError(f"baud is too slow for a clock of {clock} Hz, got {baud}")
    return step


class UartReceiver(wiring.Component):
    """Receives bytes from a serial line.

    The line passes two flip-flops. A start bit must still be low in its middle; every bit is
    sampled in its middle, give or take one clock. The bit clock is a phase accumulator, so
    ``clock / baud`` need not be whole; 4 is the least. A byte without a stop bit is dropped, and
    the line must be high before the next. A byte that is not taken before the next one is
    complete is lost. Either damages the frame, which its CRC shows.

    Parameters
    ----------
    clock, baud : int
        Frequency of the domain ``sync`` and of the line, Hz.

    Members
    -------
    rx : In(1, init=1)
    o : Out(stream.Signature(8))
    """
    def __init__(self, clock, baud):
        self._step = phase_step(clock, baud)
        super().__init__({"rx": In(1, init=1), "o": Out(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        rx = Signal(init=1)
        m.submodules.synchroniser = FFSynchronizer(self.rx, rx, init=1, stages=2)
        phase = Signal(_PHASE_BITS)
        middle = Signal()
        bits = Signal(8)
        left = Signal(range(9))
        m.d.sync += Cat(phase, middle).eq(phase + Const(self._step, _PHASE_BITS))

        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                # The middle of the start bit is half a bit from here, less the clocks until
                # ``middle`` is seen.
                m.d.sync += phase.eq((1 << (_PHASE_BITS - 1)) + 3 * self._step // 2)
                m.d.sync += middle.eq(0), left.eq(8)
                with m.If(~rx):
                    m.next = "START"
            with m.State("START"):
                with m.If(middle & rx):
                    m.next = "IDLE"
                with m.Elif(middle):
                    m.next = "DATA"
            with m.State("DATA"), m.If(middle):
                m.d.sync += bits.eq(Cat(bits[1:], rx)), left.eq(left - 1)
                with m.If(left == 1):
                    m.next = "STOP"
            with m.State("STOP"), m.If(middle):
                m.next = "BREAK"
                with m.If(rx):
                    m.next = "IDLE"
                    m.d.sync += self.o.payload.eq(bits), self.o.valid.eq(1)
            with m.State("BREAK"), m.If(rx):
                m.next = "IDLE"
        return m


class UartTransmitter(wiring.Component):
    """Sends bytes to a serial line.

    A byte takes ``10 * clock / baud`` clocks and one more before the next.

    Parameters
    ----------
    clock, baud : int
        Frequency of the domain ``sync`` and of the line, Hz; ``clock / baud`` need not be whole.

    Members
    -------
    i : In(stream.Signature(8))
    tx : Out(1, init=1)
    """
    def __init__(self, clock, baud):
        self._step = phase_step(clock, baud)
        super().__init__({"i": In(stream.Signature(8)), "tx": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        phase = Signal(_PHASE_BITS)
        tick = Signal()
        bits = Signal(9, init=0x1FF)
        left = Signal(range(11))
        m.d.sync += self.tx.eq(bits[0])
        m.d.comb += self.i.ready.eq(left == 0)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += bits.eq(Cat(Const(0, 1), self.i.payload)), left.eq(10)
            m.d.sync += phase.eq(self._step), tick.eq(0)
        with m.Elif(left != 0):
            m.d.sync += Cat(phase, tick).eq(phase + Const(self._step, _PHASE_BITS))
            with m.If(tick):
                m.d.sync += bits.eq(Cat(bits[1:], Const(1, 1))), left.eq(left - 1)
        return m
