"""The link, from bytes inwards: SLIP, frames and, for boards, a UART.

Bytes enter :class:`hdl.link.slip.Unescaper`, on machines that keep masters through
:class:`hdl.link.queue.LinkQueue`, become a verified frame in
:class:`hdl.link.frame.FrameReceiver`, and an answer leaves through
:class:`hdl.link.frame.FrameSender` and :class:`hdl.link.slip.Escaper`. The layout of a frame is
that of :mod:`hdl.protocol`. Every stream between them is elastic.
"""
