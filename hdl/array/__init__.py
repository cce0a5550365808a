"""The systolic array: elements, the mesh that connects them, and its delay lines."""
