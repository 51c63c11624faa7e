"""Options for resources that hold data which cannot be created again.

In production they are protected (the engine refuses to delete or replace them) and retained (dropping one from the
program leaves it in Azure). Does not guard against deletion outside of Pulumi.
"""

from typing import Any

import pulumi


def stateful(parent: pulumi.Resource, guarded: bool, **options: Any) -> pulumi.ResourceOptions:
    return pulumi.ResourceOptions(parent=parent, protect=guarded, retain_on_delete=guarded, **options)
