"""The promises about abilities that are declared, URLs that are made, and secrets that are kept."""

from __future__ import annotations

import re
from datetime import timedelta
from functools import partial

from flask_rindle.errors import CapabilityMissing
from flask_rindle.storage.base import Ability, Capability, PresignsPut, can, require
from flask_rindle.testing.contracts.checks import expect, expect_error, logged
from flask_rindle.testing.contracts.trial import Trial, any_url, link_terms, promise, put_terms


@promise()
def declares_what_it_implements(trial: Trial) -> None:
    """Each ability is declared and implemented, or neither."""
    for ability in Ability.__subclasses__():
        declared = ability.capability in trial.storage.capabilities
        implemented = isinstance(trial.storage, ability)
        expect(implemented or not declared, f"{ability.capability} is declared and {ability.__name__} not implemented")
        expect(declared or not implemented, f"{ability.__name__} is implemented and {ability.capability} not declared")


@promise()
def makes_the_urls_that_it_declares(trial: Trial) -> None:
    """Signed or public as declared, whether or not there is an object; others are refused, not downgraded."""
    key = trial.key("not there")
    for capability, expires_in in ((Capability.SIGNED_URL, timedelta(minutes=5)), (Capability.PUBLIC_URL, None)):
        if capability in trial.storage.capabilities:
            expect(trial.storage.url(key, link_terms(expires_in)), f"the {capability} is empty")
        else:
            ask = partial(trial.storage.url, key, link_terms(expires_in))
            expect_error(CapabilityMissing, ask, f"asking for a {capability}, which is not declared,")


@promise()
def shows_no_secrets(trial: Trial) -> None:
    """Neither its repr nor its log has a URL that it made or a credential that it holds."""
    key = trial.key("secret")
    with logged() as heard:
        secrets = [any_url(trial.storage, key)]
        if can(trial.storage, PresignsPut):
            secrets.append(require(trial.storage, PresignsPut).presign_put(key, put_terms()).url)
    named = re.compile("secret|token|password|credential|access_?key|private_?key", re.IGNORECASE)
    secrets += [value for name, value in vars(trial.storage).items() if named.search(name) and isinstance(value, str)]
    for secret in filter(None, secrets):
        expect(secret not in repr(trial.storage), "repr shows a URL or a credential")
        expect(not any(secret in sentence for sentence in heard), "the log shows a URL or a credential")


@promise(PresignsPut)
def presigned_upload_hides_its_url(trial: Trial) -> None:
    """The URL is a bearer secret; what stands beside it may be shown."""
    upload = require(trial.storage, PresignsPut).presign_put(trial.key("incoming"), put_terms())
    expect(upload.url, "the presigned URL is empty")
    expect(upload.url not in repr(upload), "the repr of a presigned upload shows its URL")
    expect(upload.expires_at.tzinfo is not None, "expires_at has no time zone")
