"""Everything after the upload button of a Flask app.

Names are imported when first used, so that the decoder's child process, which needs only
`flask_rindle.processing`, starts without Flask and SQLAlchemy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask_rindle import presets as presets
    from flask_rindle.extension import Rindle as Rindle
    from flask_rindle.jobs.celery import install_tasks as install_tasks
    from flask_rindle.profiles import Profile as Profile
    from flask_rindle.recipes import audio as audio
    from flask_rindle.recipes import image as image
    from flask_rindle.recipes import video as video
    from flask_rindle.recipes import waveform as waveform
    from flask_rindle.slots import attached as attached
    from flask_rindle.slots import attached_many as attached_many
    from flask_rindle.types import GB as GB
    from flask_rindle.types import KB as KB
    from flask_rindle.types import MB as MB

_HOMES = {
    "GB": "flask_rindle.types",
    "KB": "flask_rindle.types",
    "MB": "flask_rindle.types",
    "Profile": "flask_rindle.profiles",
    "Rindle": "flask_rindle.extension",
    "attached": "flask_rindle.slots",
    "attached_many": "flask_rindle.slots",
    "audio": "flask_rindle.recipes",
    "image": "flask_rindle.recipes",
    "install_tasks": "flask_rindle.jobs.celery",
    "presets": "flask_rindle",
    "video": "flask_rindle.recipes",
    "waveform": "flask_rindle.recipes",
}

__all__ = [
    "GB",
    "KB",
    "MB",
    "Profile",
    "Rindle",
    "attached",
    "attached_many",
    "audio",
    "image",
    "install_tasks",
    "presets",
    "video",
    "waveform",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    if name in ("audio", "image", "presets", "video", "waveform"):
        return import_module(f"{home}.{name}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
