"""Upload tickets: what a rendered page allows its visitor to upload."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from flask_rindle.attachments import OwnerKey
from flask_rindle.errors import ExpiredToken, InvalidToken, TicketExpired, TicketInvalid
from flask_rindle.security.tokens import Purpose, Tokens
from flask_rindle.types import Clock, new_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """Profile, place, actor and number of files; `view` says how the page shows the result."""

    id: uuid.UUID = field(default_factory=new_id)
    profile: str
    owner: OwnerKey | None = None
    slot: str | None = None
    append: bool = False
    actor: str | None = None
    max_files: int = 1
    view: Mapping[str, Any] | None = None
    expires_at: datetime | None = None  # of one that was opened


class Tickets:
    """Signs and opens tickets."""

    def __init__(self, tokens: Tokens, clock: Clock) -> None:
        self._tokens = tokens
        self._clock = clock

    def issue(self, ticket: Ticket, *, expires_in: timedelta) -> str:
        """The ticket as text for a header or a hidden field. Its holder can read it, not change it."""
        owner = ticket.owner
        payload = {
            "id": ticket.id.hex,
            "profile": ticket.profile,
            "owner": None if owner is None else [owner.type, owner.id],
            "slot": ticket.slot,
            "append": ticket.append,
            "actor": ticket.actor,
            "max_files": ticket.max_files,
            "view": None if ticket.view is None else dict(ticket.view),
        }
        return self._tokens.sign(Purpose.TICKET, payload, expires_at=self._clock() + expires_in)

    def open(self, text: str, *, actor: str | None, late: bool = False) -> Ticket:
        """The ticket, if it is genuine, in time, and not made out to somebody else.

        `late`: also one that has expired, for what was begun while it was good. Raises TicketInvalid and TicketExpired.
        """
        try:
            payload = self._tokens.open(Purpose.TICKET, text, late=late)
        except ExpiredToken as error:
            raise TicketExpired from error
        except InvalidToken as error:
            raise TicketInvalid from error
        if payload["actor"] is not None and payload["actor"] != actor:
            raise TicketInvalid
        owner = payload["owner"]
        return Ticket(
            id=uuid.UUID(payload["id"]),
            profile=payload["profile"],
            owner=None if owner is None else OwnerKey(*owner),
            slot=payload["slot"],
            append=payload["append"],
            actor=payload["actor"],
            max_files=payload["max_files"],
            view=payload["view"],
            expires_at=datetime.fromtimestamp(payload["exp"], UTC),
        )
