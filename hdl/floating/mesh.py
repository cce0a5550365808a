"""A mesh of floating-point elements between packed numbers."""

from amaranth.hdl import Module, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.array.skew import Delay
from hdl.floating.edges import Decode, Encode
from hdl.floating.systolic import Systolic

__all__ = ["FloatMesh"]


class FloatMesh(wiring.Component):
    """:class:`~hdl.floating.systolic.Systolic` with one :class:`~hdl.floating.edges.Decode` for
    each row and column and one :class:`~hdl.floating.edges.Encode` for each column.

    ``sums[c]`` is ``round(... round(round(a[0] * w[0][c]) + a[1] * w[1][c]) ...)``, row 0 first;
    see :func:`sim.model.floating.column`. The rules of the mesh hold for ``load`` and ``swap``.

    Parameters
    ----------
    params : hdl.params.Params
    pe : callable
        Element of :mod:`hdl.floating.mac`.

    Attributes
    ----------
    latency : int
        Cycles from ``a`` of row 0 to ``sums``.
    swap_cycles : int
        Cycles after ``swap`` in which there must be no ``load``.

    Members
    -------
    load, swap : In(1)
    weights : In(ArrayLayout(operand.layout, cols))
        One row of weights, with ``load``.
    a : In(ArrayLayout(operand.layout, rows))
        That of row r comes r times ``STEP`` of the element late.
    sums : Out(ArrayLayout(total.layout, cols))
    """
    def __init__(self, params, pe):
        self.params = params
        self._mesh = Systolic(params, pe)
        self._arithmetic = form = self._mesh.elements[0][0].arithmetic
        self._encoders = [Encode(form) for _ in range(params.cols)]
        self.latency = Decode.latency + self._mesh.latency + self._encoders[0].latency
        self.swap_cycles = self._mesh.swap_cycles
        super().__init__({
            "load": In(1), "swap": In(1),
            "weights": In(data.ArrayLayout(form.operand.layout, params.cols)),
            "a": In(data.ArrayLayout(form.operand.layout, params.rows)),
            "sums": Out(data.ArrayLayout(form.total.layout, params.cols)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.mesh = mesh = self._mesh
        form = self._arithmetic
        for name in ("load", "swap"):
            delay = m.submodules[name] = Delay(1, Decode.latency)
            m.d.comb += [delay.i.eq(getattr(self, name)), getattr(mesh, name).eq(delay.o)]
        for row in range(self.params.rows):
            decode = m.submodules[f"row{row}"] = Decode(form, form.offset)
            m.d.comb += [decode.i.eq(self.a[row]), Value.cast(mesh.a[row]).eq(decode.o)]
        for col, encode in enumerate(self._encoders):
            decode = m.submodules[f"col{col}"] = Decode(form)
            m.submodules[f"sum{col}"] = encode
            m.d.comb += [decode.i.eq(self.weights[col]),
                         Value.cast(mesh.weights[col]).eq(decode.o),
                         encode.i.eq(mesh.sums[col]), Value.cast(self.sums[col]).eq(encode.o)]
        return m
