"""The accuracy study: networks trained with the device's arithmetic, paired with float runs.

``python -m reports.accuracy`` runs what is missing and prints the tables; results are committed
in ``reports/data/accuracy``.
"""
