"""Steps of a release, as data-plane resources for which no resource provider exists, with state, diff and delete.

They are dynamic resources of an installed package, so the engine pickles them by reference and `destroy` runs the
current code. Rules for all: `diff` never uses the network; `create` may be killed at any point and run again.
"""
