"""What a release does: data-plane resources that exist in no resource provider, each with state, diff and delete.

They are dynamic resources of an installed package, so the engine pickles them by reference and `destroy` runs today's
code. Rule for all: `diff` never touches the network, and `create` may be killed at any point and run again.
"""
