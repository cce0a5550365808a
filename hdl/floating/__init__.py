"""Floating-point elements of the array: what the integers are compared with."""
