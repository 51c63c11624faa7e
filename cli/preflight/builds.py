"""Registry builds: whether this kind of subscription can run them. If not, `up` would fail at the image after an hour.

Azure has paused ACR Tasks for subscriptions on free credits, without an end date. Offers with a monthly credit get a
warning, because the rule does not define these credits. For a while after an upgrade to pay-as-you-go Azure still
returns the old offer.
Source: MicrosoftDocs/azure-management-docs articles/container-registry/container-registry-tasks-overview.md;
Azure-Samples/azure-search-openai-demo#2592; MicrosoftDocs/azure-aks-docs#112;
MicrosoftDocs/azure-docs articles/cost-management-billing/costs/understand-cost-mgt-data.md
"""

from collections.abc import Iterator
from functools import partial

from cli.azure_resource_manager import NotAnswered
from cli.preflight.arm_models import Subscription
from cli.preflight.check import Check, Finding, Level, Target

_VERSION = "2022-12-01"
_FREE = {
    "AzureForStudents_2018-01-01": "Azure for Students",
    "AzurePass_2014-09-01": "an Azure Pass",
    "DreamSpark_2015-02-01": "Azure for Students Starter",
    "FreeTrial_2014-09-01": "a free trial",
}
_CREDIT = {
    "AzureInOpen_2014-09-01": "Azure in Open",
    "MPN_2014-09-01": "a partner's subscription",
    "MSDN_2014-09-01": "a Visual Studio subscription",
    "Sponsored_2016-01-01": "a sponsored subscription",
}


def checks(target: Target) -> Iterator[Check]:
    yield Check("image builds", "this subscription", partial(_builds, target))


def _builds(target: Target) -> Iterator[Finding]:
    subscription = target.arm.get(Subscription, target.scope, _VERSION)
    if subscription is None:
        raise NotAnswered(f"subscription {target.subscription} does not exist, or this login cannot read it", 404)
    release, offer = target.settings.release, subscription.subscription_policies.quota_id
    if release.image or offer not in {**_FREE, **_CREDIT}:
        yield Finding("image builds", Level.OK, offer or "unnamed offer")
        return
    remedy = (
        "# file a support request for ACR Tasks in this subscription: https://aka.ms/azuresupport\n"
        f"{target.set('release:image', 'sha256:…')}  # an image built elsewhere and pushed to the stack's registry"
    )
    if offer in _FREE:
        message = f"the subscription is {_FREE[offer]} ({offer}), for which the registry refuses builds"
        yield Finding("image builds", Level.BLOCKING if release.enabled else Level.WARNING, message, remedy)
    else:
        message = f"the subscription is {_CREDIT[offer]} ({offer}), for which the registry may refuse builds"
        yield Finding("image builds", Level.WARNING, message, remedy)
