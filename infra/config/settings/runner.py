"""Settings `runner:`: the machines that run GitHub's workflows inside a private network."""

from typing import Self

from pydantic import Field, model_validator

from infra.config.settings.fields import Group, VmSize, rule


class RunnerSettings(Group):
    repository: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+$",
        description="GitHub repository whose workflows run on a runner that the stack creates inside the private "
        "network. Unset: no runner is created.",
        examples=["octo-org/personalization"],
        json_schema_extra=rule("<owner>/<name>"),
    )
    app: int | None = Field(
        None,
        ge=1,
        description="Id of the GitHub App that registers the runner. The App needs the repository permission "
        "Administration (read and write).",
        examples=[1234],
    )
    installation: int | None = Field(
        None, ge=1, description="Id of the App's installation in the owner's account.", examples=[5678]
    )
    # Source: hashicorp/terraform-provider-azurerm internal/services/compute/validate/ssh_key.go
    ssh_key: str | None = Field(
        None,
        pattern=r"^(ssh-rsa|ssh-ed25519) [A-Za-z0-9+/=]+( .*)?$",
        description="SSH public key for logins to the machine from inside the network. Azure requires one.",
        examples=["$(cat operator.pub)"],
        json_schema_extra=rule("one line: ssh-rsa or ssh-ed25519, the key, and optionally a comment"),
    )
    api: str = Field(
        "https://api.github.com",
        pattern=r"^https://[^/]+[^ ]*[^/ ]$",
        description="Address of GitHub's REST API.",
        examples=["https://github.example.com/api/v3"],
        json_schema_extra=rule("an https:// address without spaces and without a slash at the end"),
    )
    size: VmSize = Field("Standard_D2s_v5", description="VM size of a runner.", examples=["Standard_D4s_v5"])
    count: int = Field(1, ge=1, le=20, description="Number of machines. Each runs one job at a time.", examples=[2])

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        given = {name: getattr(self, name) for name in ("repository", "app", "installation", "ssh_key")}
        missing = [f"runner:{name}" for name, value in given.items() if value is None]
        if 0 < len(missing) < len(given):
            raise ValueError(
                f"a runner also needs {', '.join(missing)}: set all of them (docs/operations.md, 'A private stack')."
            )
        return self
