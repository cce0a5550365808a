"""The host: driver, links, layers and the training loop. It needs no gateware tools.

>>> from hdl.params import Params
>>> from host import Device
>>> with Device.open("model:", Params()) as device:
...     device.status().bad_frames
0
"""

from host.device import Device
from host.errors import HostError

__all__ = ["Device", "HostError"]
