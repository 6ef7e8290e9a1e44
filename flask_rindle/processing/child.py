"""The decoder child: reads a request, answers it, and never opens a path that belongs to one.

Its whole world is the socket on descriptor 0. What it does to itself first is in `confinement`;
who starts, watches and kills it is in `sandbox`.
"""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, BinaryIO

from PIL import Image

from flask_rindle.errors import RindleError, SandboxFailed
from flask_rindle.processing import image
from flask_rindle.processing.confinement import allow_cpu, confine
from flask_rindle.processing.sniffing import sniff_type
from flask_rindle.processing.wire import MAX_FILES, MAX_LINE_BYTES, describe, pack
from flask_rindle.recipes.image import ImageRecipe

Request = dict[str, Any]


def main(*, memory_bytes: int, output_bytes: int, cpu_seconds: int) -> None:
    """Answer requests until the parent closes the socket."""
    _warm_up()
    confine(memory_bytes=memory_bytes, output_bytes=output_bytes)
    with socket.socket(fileno=0) as wire:
        while received := _receive(wire):
            allow_cpu(cpu_seconds)
            wire.sendall(pack(_answer(*received)))


def _warm_up() -> None:
    """Whatever is loaded on first use is loaded now: later there are neither files nor much memory."""
    sniff_type(io.BytesIO(b"<svg/>"))
    for content_type, name in image.FORMATS.items():
        sample = io.BytesIO()
        Image.new("RGB", (8, 8)).save(sample, name)
        image.inspect(sample, content_type, None)


def _receive(wire: socket.socket) -> tuple[Request, list[int]] | None:
    line, descriptors, _, _ = socket.recv_fds(wire, MAX_LINE_BYTES, MAX_FILES)
    while line and not line.endswith(b"\n"):
        more = wire.recv(MAX_LINE_BYTES)
        line = line + more if more else b""
    return (json.loads(line), descriptors) if line else None


def _answer(request: Request, descriptors: list[int]) -> dict[str, object]:
    """The operation's result, or its error. Anything unforeseen ends the process: the parent starts a fresh one."""
    with ExitStack() as files:
        opened = [files.enter_context(os.fdopen(fd, "r+b" if at else "rb")) for at, fd in enumerate(descriptors)]
        try:
            return {"ok": _OPERATIONS[request["operation"]](request, opened[0], opened[1:])}
        except RindleError as error:
            return {"error": describe(error)}
        except MemoryError:
            return {"error": describe(SandboxFailed("memory"))}


def _probe(request: Request, source: BinaryIO, _targets: Sequence[BinaryIO]) -> dict[str, object]:
    content_type = sniff_type(source)
    wanted = request["allow_mime"] is None or content_type in request["allow_mime"]
    if not wanted or content_type not in image.FORMATS:
        return {"content_type": content_type}
    return {"content_type": content_type, **image.inspect(source, content_type, request["max_pixels"])}


def _render(request: Request, source: BinaryIO, targets: Sequence[BinaryIO]) -> list[dict[str, object]]:
    recipes = [ImageRecipe(**recipe) for recipe in request["recipes"]]
    return image.render(source, request["content_type"], request["max_pixels"], recipes, targets)


_OPERATIONS: dict[str, Callable[[Request, BinaryIO, Sequence[BinaryIO]], object]] = {
    "probe": _probe,
    "render": _render,
}
