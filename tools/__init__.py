"""Prepares a machine: Python environment, Pulumi CLI, Java.

`bootstrap.py` and the modules it imports load with the standard library only: they run before the environment exists.
The others also use PyYAML, cryptography, and Pulumi's SDK with gRPC and protobuf. No other package imports this one.
"""
