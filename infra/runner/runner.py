"""A runner of GitHub's workflows inside the private network: machines without a public address or open port.

Exists if `runner:repository` is set. Each machine runs one job after another, with a new registration for each, as a
GitHub App. The App's owner puts the App's private key into the stack's vault (docs/operations.md), where the machines'
identity reads it; the key is never part of this program, its state or the machine's definition. The identity may read
that secret and nothing else. A job logs in to Azure with its own OIDC token.

A change of the definition does not change running machines, because `up` itself may run on one: it applies to machines
that are created later, or with `az vmss update-instances`. Does not create the App, the secret or the variable RUNNERS.
Source: MicrosoftDocs/azure-docs#68668 (Azure Resource Manager writes secrets into a vault without public access)
"""

from dataclasses import dataclass
from typing import Self

import pulumi
from pulumi_azure_native import compute, managedidentity

from infra.components.key_vault import KeyVault
from infra.config.naming import RUNNER_SECRET, Names
from infra.config.settings import RunnerSettings, Settings
from infra.runner import machine

# Not the name of a group of Ubuntu's, such as `operator`: cloud-init could not create the user.
# Source: canonical/cloud-init#3641 ("group … exists"); azure-mgmt-compute==39.0.0 azure/mgmt/compute/models/_models.py
# (`admin_username`: the names that Azure refuses)
_ADMINISTRATOR = "azureuser"


@dataclass(frozen=True)
class RunnerArgs:
    resource_group_name: pulumi.Input[str]
    names: Names
    settings: RunnerSettings
    label: str
    """Label for `runs-on` in workflows: the stack's name."""
    subnet_id: pulumi.Input[str]
    vault_id: pulumi.Input[str]
    vault_uri: pulumi.Input[str]
    """The vault's URL with a slash at its end, as Azure returns it."""

    @classmethod
    def of(
        cls,
        settings: Settings,
        resource_group_name: pulumi.Input[str],
        names: Names,
        vault: KeyVault,
        *,
        subnet_id: pulumi.Input[str],
    ) -> Self:
        label = pulumi.get_stack()
        return cls(resource_group_name, names, settings.runner, label, subnet_id, vault.vault_id, vault.vault_uri)


class Runner(pulumi.ComponentResource):
    principal_id: pulumi.Output[str]
    secret_id: pulumi.Output[str]
    """Resource id of the vault's secret that the identity reads."""

    def __init__(self, name: str, args: RunnerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("personalization:operations:Runner", name, None, opts)
        identity = managedidentity.UserAssignedIdentity(
            name,
            resource_name_=args.names.identity("runner"),
            resource_group_name=args.resource_group_name,
            opts=pulumi.ResourceOptions(parent=self),
        )
        compute.VirtualMachineScaleSet(
            name,
            vm_scale_set_name=args.names.runner,
            resource_group_name=args.resource_group_name,
            # Source: azure-mgmt-compute==39.0.0 azure/mgmt/compute/models/_models.py (`Sku`: Standard or Basic)
            sku=compute.SkuArgs(name=args.settings.size, tier="Standard", capacity=args.settings.count),
            identity=compute.VirtualMachineScaleSetIdentityArgs(
                type=compute.ResourceIdentityType.USER_ASSIGNED, user_assigned_identities=[identity.id]
            ),
            orchestration_mode=compute.OrchestrationMode.UNIFORM,
            overprovision=False,
            upgrade_policy=compute.UpgradePolicyArgs(mode=compute.UpgradeMode.MANUAL),
            virtual_machine_profile=_profile(args, identity.client_id),
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.principal_id = identity.principal_id
        self.secret_id = pulumi.Output.format("{0}/secrets/{1}", args.vault_id, RUNNER_SECRET)
        self.register_outputs({})


def _profile(args: RunnerArgs, client_id: pulumi.Output[str]) -> "compute.VirtualMachineScaleSetVMProfileArgs":
    """Definition of each machine."""
    return compute.VirtualMachineScaleSetVMProfileArgs(
        os_profile=_os_profile(args, client_id),
        storage_profile=_storage_profile(),
        network_profile=_network_profile(args.subnet_id),
        security_profile=compute.SecurityProfileArgs(
            security_type=compute.SecurityTypes.TRUSTED_LAUNCH,
            uefi_settings=compute.UefiSettingsArgs(secure_boot_enabled=True, v_tpm_enabled=True),
        ),
        # Console output, for diagnosis: it is the only view of the machine from outside.
        diagnostics_profile=compute.DiagnosticsProfileArgs(boot_diagnostics=compute.BootDiagnosticsArgs(enabled=True)),
    )


def _os_profile(args: RunnerArgs, client_id: pulumi.Output[str]) -> "compute.VirtualMachineScaleSetOSProfileArgs":
    """First boot and login. Nobody logs in: no port is open, and only the holder of the key could."""
    settings = args.settings
    data = pulumi.Output.all(client_id, args.vault_uri).apply(
        lambda known: machine.custom_data(
            {
                "repository": settings.repository,
                "app": settings.app,
                "installation": settings.installation,
                "label": args.label,
                "github": settings.api,
                "identity": known[0],
                "secret": f"{known[1]}secrets/{RUNNER_SECRET}",
                "vault_resource": "https://vault.azure.net",
                "metadata": "http://169.254.169.254",
                "folder": "/opt/personalization",
                "user": machine.USER,
            }
        )
    )
    return compute.VirtualMachineScaleSetOSProfileArgs(
        computer_name_prefix="runner",
        admin_username=_ADMINISTRATOR,
        custom_data=data,
        linux_configuration=compute.LinuxConfigurationArgs(
            disable_password_authentication=True,
            provision_vm_agent=True,
            # Azure refuses a Linux machine without a way to log in, and its agent expects the key at this path.
            # Source: hashicorp/terraform-provider-azurerm
            # internal/services/compute/linux_virtual_machine_scale_set_resource.go;
            # hashicorp/terraform-provider-azurerm internal/services/compute/ssh_keys.go
            ssh=compute.SshConfigurationArgs(
                public_keys=[
                    compute.SshPublicKeyArgs(
                        path=f"/home/{_ADMINISTRATOR}/.ssh/authorized_keys", key_data=settings.ssh_key
                    )
                ]
            ),
        ),
    )


def _storage_profile() -> "compute.VirtualMachineScaleSetStorageProfileArgs":
    """Image and disk of the operating system."""
    return compute.VirtualMachineScaleSetStorageProfileArgs(
        # Source: canonical/ubuntu-cloud-docs docs/azure/azure-how-to/instances/find-ubuntu-images.rst
        image_reference=compute.ImageReferenceArgs(
            publisher="Canonical", offer="ubuntu-24_04-lts", sku="server", version="latest"
        ),
        os_disk=compute.VirtualMachineScaleSetOSDiskArgs(
            create_option=compute.DiskCreateOptionTypes.FROM_IMAGE,
            caching=compute.CachingTypes.READ_WRITE,
            disk_size_gb=64,
            managed_disk=compute.VirtualMachineScaleSetManagedDiskParametersArgs(
                storage_account_type=compute.StorageAccountTypes.STANDARD_SS_D_LRS
            ),
        ),
    )


def _network_profile(subnet_id: pulumi.Input[str]) -> "compute.VirtualMachineScaleSetNetworkProfileArgs":
    """One interface inside the subnet, without a public address."""
    return compute.VirtualMachineScaleSetNetworkProfileArgs(
        network_interface_configurations=[
            compute.VirtualMachineScaleSetNetworkConfigurationArgs(
                name="inside",
                primary=True,
                ip_configurations=[
                    compute.VirtualMachineScaleSetIPConfigurationArgs(
                        name="inside",
                        primary=True,
                        private_ip_address_version=compute.IPVersion.I_PV4,
                        subnet=compute.ApiEntityReferenceArgs(id=subnet_id),
                    )
                ],
            )
        ]
    )
