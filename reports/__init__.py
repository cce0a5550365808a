"""Measurements of the gateware, and the tables and pictures drawn from them.

``python -m reports.measure`` measures points into ``reports/data/*.json``, one file a design;
``python -m reports`` draws ``reports/README.md`` and the pictures beside it from those files.
"""
