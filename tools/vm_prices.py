"""Write `infra/planning/vm_prices.yaml` from the price list that Karpenter's provider for Azure generates and commits.

    python -m tools.vm_prices zz_generated.pricing.go COMMIT

The file is `pkg/providers/pricing/zz_generated.pricing.go` of Azure/karpenter-provider-azure at that commit: the Retail
Prices service's Consumption rows of every region, without Windows, Spot and Low Priority. Rows of "Cloud Services" are
still in it, at the price of Windows (for example D8as_v5 in eastus2). So the rate of a series is the lowest price of a
vCPU among its sizes, and a series is left out of a region where fewer than half of its sizes agree, or where the rate
is out of proportion to the region's others (Das_v5 in malaysiawest).
Does not call the Retail Prices service.
"""

import re
import statistics
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import yaml

_PLANNING = Path(__file__).parents[1] / "infra" / "planning"
_AGREEMENT = 0.005
"""Prices are rounded to four digits, so sizes of one series differ by up to 0.4 % in the price of a vCPU."""
_PROPORTION = 1.4
"""Windows costs about twice as much; regions differ by up to 0.3 from series to series."""
_HEADER = """\
# List price of a vCPU for an hour in USD, pay-as-you-go, Linux, by region and series of vm_sizes.yaml: a size
# costs its vCPUs times this, to within 0.4 %. Written by tools/vm_prices.py, which names the omissions.
# The list of that source was generated on {date} from the Retail Prices service.
sources: Azure/karpenter-provider-azure pkg/providers/pricing/zz_generated.pricing.go (at {commit:.10})
date: {date}
vcpu_hours:
"""


def prices(generated: str) -> dict[str, dict[str, float]]:
    """USD per hour by region and size."""
    by_region: dict[str, dict[str, float]] = {}
    region: dict[str, float] = {}
    for line in generated.splitlines():
        if start := re.search(r'initialOnDemandPrices\["(\w+)"\] =', line):
            region = by_region.setdefault(start[1], {})
        elif row := re.match(r'\s*"(\w+)":\s*([\d.e+-]+),', line):
            region[row[1]] = float(row[2])
    return by_region


def rates(of_region: dict[str, float]) -> Iterator[tuple[str, float]]:
    """Price of a vCPU by series, such as `Ds_v5`."""
    families = yaml.safe_load((_PLANNING / "vm_sizes.yaml").read_text())["families"]
    for series, family in families.items():
        sizes = [(vcpus, of_region.get(series.format(vcpus))) for vcpus in family["vcpus"]]
        each = [price / vcpus for vcpus, price in sizes if price]
        if each and 2 * sum(price <= min(each) * (1 + _AGREEMENT) for price in each) >= len(each):
            yield series.removeprefix("Standard_").replace("{}", ""), min(each)


def proportionate(of_region: dict[str, float], reference: dict[str, float]) -> dict[str, float]:
    """The rates without outliers: those that exceed `reference` by much more than the region's others do."""
    ratio = statistics.median(rate / reference[series] for series, rate in of_region.items() if series in reference)
    limits = {series: _PROPORTION * ratio * rate for series, rate in reference.items()}
    return {series: rate for series, rate in of_region.items() if rate <= limits.get(series, rate)}


def main(source: str, commit: str) -> None:
    generated = Path(source).read_text()
    regions = yaml.safe_load((_PLANNING / "regions.yaml").read_text())
    names = {name for part in ("zones", "no_zones") for row in regions[part] for name in row}
    match = re.search(r"generated at (\d{4}-\d\d-\d\d)", generated)
    assert match, f"{source} does not say when it was generated"
    lines = [_HEADER.format(commit=commit, date=match[1])]
    by_region = {region: dict(rates(sizes)) for region, sizes in prices(generated).items()}
    for region in sorted(names & by_region.keys()):
        plausible = proportionate(by_region[region], by_region["eastus"])
        row = ", ".join(f"{series}:\N{NO-BREAK SPACE}{rate:.6g}" for series, rate in plausible.items())
        text = textwrap.fill(f"{region}: {{{row}}}", 118, initial_indent="  ", subsequent_indent="    ")
        lines.append(text.replace("\N{NO-BREAK SPACE}", " ") + "\n")
    (_PLANNING / "vm_prices.yaml").write_text("".join(lines))


if __name__ == "__main__":
    main(*sys.argv[1:])
