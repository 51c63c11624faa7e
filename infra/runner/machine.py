"""First boot of a runner's machine, for cloud-init. It holds no secret: `agent.py` reads the key from the vault."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from infra.runner import agent

USER = "runner"
_AGENT, _SERVICE = "/opt/personalization/agent.py", "personalization-runner.service"
_RULES = "/etc/personalization-runner.nft"
_UNIT = f"""\
[Unit]
Description=GitHub runner for one job after another
After=network-online.target
Wants=network-online.target

[Service]
ExecStartPre=/usr/sbin/nft -f {_RULES}
ExecStart=/usr/bin/python3 {_AGENT} {agent.CONFIG}
Restart=always
RestartSec=15
PrivateTmp=yes
KillMode=control-group

[Install]
WantedBy=multi-user.target
"""
# The metadata service issues tokens of the machine's identity to every process, so only root may reach its address.
# Source: MicrosoftDocs/azure-compute-docs articles/virtual-machines/instance-metadata-service.md
_FIREWALL = """\
table inet personalization
delete table inet personalization
table inet personalization {
  chain output {
    type filter hook output priority filter; policy accept;
    ip daddr 169.254.169.254 meta skuid != 0 reject
  }
}
"""
PACKAGES = ("git", "jq", "make", "nftables", "openssl", "unzip")
"""Programs that the workflows' steps and the agent call and that Ubuntu's server image lacks."""


def custom_data(config: Mapping[str, Any]) -> str:
    """First boot of a machine whose agent reads `config`, in base64, as Azure requires it."""
    files = {
        agent.CONFIG: json.dumps(dict(config), indent=1),
        _AGENT: Path(agent.__file__).read_text(),
        f"/etc/systemd/system/{_SERVICE}": _UNIT,
        _RULES: _FIREWALL,
    }
    first_boot = {
        "package_update": True,
        "packages": list(PACKAGES),
        "users": ["default", {"name": USER, "system": True, "shell": "/bin/bash", "lock_passwd": True}],
        "write_files": [{"path": path, "content": content} for path, content in files.items()],
        "runcmd": [["systemctl", "enable", "--now", _SERVICE]],
    }
    return base64.b64encode(f"#cloud-config\n{yaml.safe_dump(first_boot, sort_keys=False)}".encode()).decode()
