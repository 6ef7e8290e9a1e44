"""Blinker signals: the telemetry vocabulary. Each fires after the commit of what it tells.

The sender of a state change is the kind of row (`"asset"`), of `job.stop` the kind of job, of a range request the
storage's name, of anything else the profile's name; facts come as keyword arguments. `job.stop` tells that a worker
has let go of a job, whatever became of it. No signal carries a signed URL, a session URI, a token or a
provider id.
"""

from __future__ import annotations

from blinker import Namespace

_namespace = Namespace()

upload_start = _namespace.signal("rindle.upload.start")
upload_stop = _namespace.signal("rindle.upload.stop")
asset_state_change = _namespace.signal("rindle.asset.state_change")
variant_state_change = _namespace.signal("rindle.variant.state_change")
upload_session_state_change = _namespace.signal("rindle.upload_session.state_change")
provider_asset_state_change = _namespace.signal("rindle.provider_asset.state_change")
job_stop = _namespace.signal("rindle.job.stop")
delivery_signed = _namespace.signal("rindle.delivery.signed")
delivery_range_request = _namespace.signal("rindle.delivery.range_request")

ALL = {
    signal.name: signal
    for signal in (
        upload_start,
        upload_stop,
        asset_state_change,
        variant_state_change,
        upload_session_state_change,
        provider_asset_state_change,
        job_stop,
        delivery_signed,
        delivery_range_request,
    )
}
