"""Rindle's rows. They have a metadata of their own and work in any SQLAlchemy session."""

from flask_rindle.models.asset import Asset, Variant
from flask_rindle.models.attachment import Attachment
from flask_rindle.models.base import Base
from flask_rindle.models.event import Event
from flask_rindle.models.job import Job, ProcessingRun
from flask_rindle.models.provider import ProviderAsset
from flask_rindle.models.upload import UploadSession

metadata = Base.metadata

__all__ = [
    "Asset",
    "Attachment",
    "Base",
    "Event",
    "Job",
    "ProcessingRun",
    "ProviderAsset",
    "UploadSession",
    "Variant",
    "metadata",
]
