"""The scaler unit."""

from amaranth.hdl import C, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from hdl.instructions import COLUMN_UNIT, ScaleFlag, ScaleRow
from hdl.memory import ADDRESS_BITS, READ_LATENCY, ReadPort, WritePort
from hdl.noise import Noise
from hdl.params import INDEX_BITS, MAX_K, MAX_N, WIDE_BITS
from hdl.scale.align import Alignment
from hdl.scale.lane import LANE_CONTROL, PRODUCT, RESCALED, UPDATE, WRITTEN, Lane
from hdl.scale.schedule import Schedule
from hdl.scale.update import GRADIENT_BITS, MAX_SHIFT, RATE_BITS, STEP_BITS, Update
from hdl.unit import UnitPort, lanes_word, wide_word

__all__ = ["Scaler"]


class Scaler(wiring.Component):
    """Scales a tensor by columns or makes a step of it: the unit of ``SCALE``, ``sim.model.scale``.

    ``vector`` lanes, one row per clock and pass; nothing stalls. There are two passes with
    ``ALIGN``, else one; with ``PLUS`` a row takes two clocks, since what is added comes through the
    same port. :class:`Schedule` has the order, :class:`Lane` the arithmetic,
    :meth:`cycles` the time.

    Source and destination may be the same. Pad lanes, those from column n on, influence nothing,
    and what is written to them does not matter. Of the flags ``UPDATE`` excludes ``ALIGN``,
    ``SUM``, ``BIAS`` and ``MASTER``, whose port it needs; ``ALIGN`` excludes ``BIAS`` and ``SUM``,
    which together are ``PLUS``.

    Parameters
    ----------
    params : hdl.params.Params

    Members
    -------
    control : Out(UnitPort())
        Of the instruction: flags, m, n, src0, src1, dst0, dst1, tab0, tab1, tab2, arg, k, shift,
        key0, key1.
    wide_r : Out(ReadPort(wide_word(params)))
    wide_w : Out(WritePort(wide_word(params)))
    master_r, velocity_r : Out(ReadPort(lanes_word(params, bits)))
    master_w, velocity_w : Out(WritePort(lanes_word(params, bits)))
    """
    def __init__(self, params):
        master, speed = params.formats
        self.params = params
        self.schedule = Schedule(params.vector)
        self.lanes = [Lane(master, speed) for _ in range(params.vector)]
        masters, velocities = lanes_word(params, master[0]), lanes_word(params, speed[0])
        super().__init__({
            "control": Out(UnitPort()),
            "wide_r": Out(ReadPort(wide_word(params))),
            "wide_w": Out(WritePort(wide_word(params))),
            "master_r": Out(ReadPort(masters)),
            "master_w": Out(WritePort(masters)),
            "velocity_r": Out(ReadPort(velocities)),
            "velocity_w": Out(WritePort(velocities)),
        })

    def cycles(self, m, n, *, align=False, plus=False):
        """Cycles from ``start`` to ``done``; the data do not matter."""
        return self.schedule.cycles(m, n, align=align, plus=plus)

    def elaborate(self, platform):
        m = Module()
        m.submodules.schedule = schedule = self.schedule
        m.submodules.alignment = alignment = Alignment()
        m.submodules.noise = noise = Noise(len(self.lanes))
        control, fields = self.control, self.control.instruction
        flags = {flag: (fields.flags & int(flag)).any() for flag in ScaleFlag}
        update, summing, plus = flags[ScaleFlag.UPDATE], schedule.summing, schedule.plus

        # Rows on their way: bit k was read k cycles ago.
        at, first = Signal(Schedule.DEPTH + 1), Signal(READ_LATENCY + RESCALED)
        final = Signal(READ_LATENCY + WRITTEN + 1)
        scale = [Signal(READ_LATENCY + 1, name=f"scale_{row}") for row in range(3)]
        scalar = Signal(READ_LATENCY + 1)
        for line, signal in ((at, schedule.step), (first, schedule.first), (final, schedule.final),
                             (scalar, schedule.scalar), *zip(scale, schedule.scale, strict=True)):
            behind = Signal(len(line) - 1)
            m.d.sync += behind.eq(line)
            m.d.comb += line.eq(Cat(signal, behind))
        m.d.comb += [
            schedule.start.eq(control.start),
            schedule.instruction.eq(fields),
            control.done.eq(schedule.done),
        ]

        # Read rows. Masters and velocities of a step come when the gradient is there, and what is
        # added to a row when that is rescaled.
        row, scale_row, parameter, other = (Signal(ADDRESS_BITS) for _ in range(4))
        beside = plus & at[Schedule.BESIDE]
        m.d.comb += [
            self.wide_r.en.eq(schedule.scalar | schedule.scale.any()
                              | beside | schedule.step & ~flags[ScaleFlag.MASTER]),
            self.wide_r.addr.eq(Mux(schedule.step, row, Mux(schedule.scalar, fields.tab1, Mux(
                beside, other, scale_row)))),
            self.velocity_r.en.eq(update & at[UPDATE]),
            self.master_r.en.eq(Mux(update, at[UPDATE], schedule.step & flags[ScaleFlag.MASTER])),
            self.master_r.addr.eq(parameter),
            self.velocity_r.addr.eq(parameter),
        ]
        with m.If(schedule.step):
            m.d.sync += row.eq(row + 1)
        with m.If(schedule.scale.any()):
            m.d.sync += scale_row.eq(scale_row + 1)
        with m.If(self.master_r.en):
            m.d.sync += parameter.eq(parameter + 1)
        with m.If(control.start | schedule.again):
            m.d.sync += [row.eq(fields.src0), scale_row.eq(fields.src1),
                         parameter.eq(Mux(update, fields.dst0, fields.src0))]

        # The exponents' beginning.
        m.d.comb += [
            alignment.start.eq(control.start),
            alignment.constant.eq(summing),
            alignment.invert.eq(~flags[ScaleFlag.NEGATE]),
            alignment.common.eq(fields.tab2),
            alignment.add.eq(scalar[READ_LATENCY] & ~summing),
            alignment.more.eq(self.wide_r.data[0]),
            alignment.take.eq(schedule.gather),
            alignment.magnitude.eq(self.lanes[0].longest),
            alignment.amount.eq(self.lanes[0].amount),
            alignment.settle.eq(schedule.settle),
        ]

        # What stays the same during an instruction, before the first row needs it. The rate is
        # shifted place by place.
        bits, places = Signal(range(WIDE_BITS)), Signal(range(MAX_SHIFT + 1))
        assert 1 + MAX_SHIFT <= Schedule.LEAD + READ_LATENCY + UPDATE + Update.VELOCITY
        mask = Signal(WIDE_BITS, reset_less=True)
        step = Signal(STEP_BITS, reset_less=True)
        m.d.sync += [
            # The sign bit's place.
            bits.eq(Mux(update, GRADIENT_BITS - 1,
                        Mux(summing | flags[ScaleFlag.ALIGN], WIDE_BITS - 1, fields.arg - 1))),
            mask.eq(Cat(bits <= place for place in range(WIDE_BITS))),
        ]
        with m.If(control.start):
            m.d.sync += [places.eq(fields.shift), step.eq(fields.k[:RATE_BITS] << MAX_SHIFT)]
        with m.Elif(places != 0):
            m.d.sync += [places.eq(places - 1), step.eq(step >> 1)]
        with m.If(schedule.searching):
            # Nothing is clamped in that pass, and the lanes can put the mask out.
            m.d.sync += mask.eq(alignment.exponent)

        # Random bits: the block of the row's first element in this tile, ``ceil(columns / 8)``
        # further every row of a tensor of so many.
        noise_stage = Schedule.NOISE
        block = Signal(range((MAX_K + 1) * -(-2 * MAX_N // Noise.BLOCK)))
        blocks, place = Signal(INDEX_BITS + 1 - 3), Signal(3)
        first_block = fields.arg * (COLUMN_UNIT // Noise.BLOCK)
        m.d.comb += [
            Cat(noise.key).eq(Cat(fields.key0, fields.key1)),
            noise.block.eq(block),
            noise.place.eq(place),
        ]
        m.d.sync += blocks.eq(fields.n + fields.dst1 + Noise.BLOCK - 1 >> 3)
        with m.If(first[noise_stage - 2]):
            m.d.sync += place.eq(schedule.channel)
        with m.If(first[noise_stage - 1]):
            m.d.sync += block.eq((schedule.channel >> 3) + first_block)
        with m.Elif(at[noise_stage]):
            m.d.sync += block.eq(block + blocks)

        # The lanes.
        lane_control = Signal(LANE_CONTROL)
        counted = ~schedule.searching
        m.d.comb += [
            lane_control.divide.eq(flags[ScaleFlag.DIVIDE] & ~summing),
            lane_control.master.eq(flags[ScaleFlag.MASTER]),
            lane_control.negate.eq(flags[ScaleFlag.NEGATE]),
            lane_control.biased.eq(flags[ScaleFlag.BIAS] & ~summing),
            lane_control.summing.eq(summing),
            lane_control.mask.eq(mask),
            lane_control.load_factor.eq(scale[ScaleRow.FACTOR][READ_LATENCY]),
            lane_control.load_exponent.eq(scale[ScaleRow.EXPONENT][READ_LATENCY]),
            # A row for the tile, or one for each.
            lane_control.load_bias.eq(scale[ScaleRow.BIAS][READ_LATENCY]
                                      | plus & at[READ_LATENCY + Schedule.BESIDE]),
            lane_control.begin_shift.eq(first[READ_LATENCY + PRODUCT - 1]),
            lane_control.begin_bias.eq(Mux(plus, at, first)[READ_LATENCY + RESCALED - 1]),
            lane_control.search.eq(at[READ_LATENCY + PRODUCT] & schedule.searching),
            lane_control.gather.eq(schedule.gather),
            lane_control.rescaled.eq(at[READ_LATENCY + RESCALED] & counted),
            lane_control.written.eq(at[READ_LATENCY + WRITTEN] & counted),
            lane_control.put_mask.eq(schedule.put_exponent),
        ]
        for k, lane in enumerate(self.lanes):
            m.submodules[f"lane_{k}"] = lane
            after = self.lanes[k + 1] if k + 1 < len(self.lanes) else None
            m.d.comb += [
                lane.control.eq(lane_control),
                lane.used.eq(schedule.used[k]),
                lane.wide.eq(self.wide_r.data[k]),
                lane.master.eq(self.master_r.data[k]),
                lane.velocity.eq(self.velocity_r.data[k]),
                lane.base.eq(alignment.base),
                lane.noise.eq(noise.bits[k]),
                lane.step.eq(step),
                lane.decay.eq(fields.tab0),
                lane.next_longest.eq(after.longest if after else C(0)),
                lane.next_number.eq(after.number if after else C(0)),
                self.wide_w.data[k].eq(lane.o),
                self.velocity_w.data[k].eq(lane.new_velocity),
                self.master_w.data[k].eq(lane.new_master),
            ]
        m.d.sync += control.clamped.eq(sum((lane.clamped for lane in self.lanes), C(0)))

        # Write exponents, then rows, or the last of each tile with a sum; or parameters. ``other``
        # counts velocities that are written, or what is read to be added.
        exponents, target = Signal(), Signal(ADDRESS_BITS)
        m.d.sync += exponents.eq(schedule.put_exponent)
        m.d.comb += [
            self.wide_w.en.eq(exponents | lane_control.written & ~update & (
                final[READ_LATENCY + WRITTEN] | ~summing)),
            self.velocity_w.en.eq(update & at[READ_LATENCY + UPDATE + Update.VELOCITY]),
            self.master_w.en.eq(update & at[READ_LATENCY + UPDATE + Update.WEIGHT]),
            self.wide_w.addr.eq(target),
            self.master_w.addr.eq(target),
            self.velocity_w.addr.eq(other),
        ]
        with m.If(self.wide_w.en | self.master_w.en):
            m.d.sync += target.eq(target + 1)
        with m.If(self.velocity_w.en | beside):
            m.d.sync += other.eq(other + 1)
        with m.If(control.start):
            m.d.sync += [target.eq(Mux(flags[ScaleFlag.ALIGN], fields.dst1, fields.dst0)),
                         other.eq(Mux(plus, fields.dst1, fields.dst0))]
        with m.If(schedule.again):
            m.d.sync += target.eq(fields.dst0)
        return m
