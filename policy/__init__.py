"""A policy pack on azure-native types: `pulumi preview --policy-pack policy`."""
