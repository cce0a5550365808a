"""What goes wrong on the host, each in one sentence for the user."""

__all__ = ["ArgumentError", "DeviceError", "HostError", "LinkError", "MemoryFullError"]


class HostError(Exception):
    """Base class; the message is one whole sentence. ``exit_code`` is the command's."""
    exit_code = 1


class ArgumentError(HostError):
    """The user asked for something that does not exist or is out of range."""
    exit_code = 2


class LinkError(HostError):
    """The device cannot be reached, or does not answer in time."""


class DeviceError(HostError):
    """The device answered with an error, or is not the device that was asked for."""


class MemoryFullError(HostError):
    """A tensor does not fit the device's memory."""
