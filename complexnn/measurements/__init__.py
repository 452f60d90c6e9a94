"""What a trained network is like, beside what it leaks: one file a measurement.

:mod:`~complexnn.measurements.linearity` asks how much of a rotated server one fixed matrix does;
:mod:`~complexnn.measurements.gaussianity`, how Gaussian released features are;
:mod:`~complexnn.measurements.remote_network`, what a server costs and learns that does the linear
layers under a guarantee. Each has a config, a ``check`` of the network, an ``evaluate`` that
returns a row's metrics, and a ``table``; :mod:`complexnn.commands.measure` runs them. Start with
linearity.
"""
