"""The declarative base, the column types, and what every table shares."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, DateTime, Integer, MetaData, String, Text, Uuid
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine

from flask_rindle.types import new_id, utcnow

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}

# MariaDB compares text without regard to case unless told otherwise: owner "A" would be owner "a".
TABLE_OPTIONS: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("charset", "utf8mb4"), ("collate", "utf8mb4_bin"), ("engine", "InnoDB"))
}


class UTCDateTime(TypeDecorator[datetime]):
    """An aware UTC moment, with microseconds, on every database."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment = value.astimezone(UTC)
        return moment if dialect.name == "postgresql" else moment.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


# What UTCDateTime is in DDL, in words that a host's own migrations can repeat without importing us.
PLAIN_DATETIME = DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")

# SQLite counts up by itself only in a column that is called INTEGER.
AutoId = BigInteger().with_variant(Integer, "sqlite")

Id = Annotated[uuid.UUID, mapped_column(Uuid, primary_key=True, default=new_id)]
Name = Annotated[str, mapped_column(String(64))]
OptionalName = Annotated[str | None, mapped_column(String(64))]
Key = Annotated[str | None, mapped_column(String(512), unique=True)]
Label = Annotated[str | None, mapped_column(String(255))]
Prose = Annotated[str | None, mapped_column(Text)]
Bytes = Annotated[int | None, mapped_column(BigInteger)]
Pixels = Annotated[int | None, mapped_column(Integer)]
Moment = Annotated[datetime | None, mapped_column(UTCDateTime)]
Created = Annotated[datetime, mapped_column(UTCDateTime, default=utcnow)]
Json = Annotated[Any, mapped_column(JSON)]


class Base(DeclarativeBase):
    """The base of Rindle's own tables, apart from the host's."""

    metadata = MetaData(naming_convention=NAMING)


class Timestamped:
    """Rows that remember when they were made and last changed."""

    created_at: Mapped[Created]
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime, default=utcnow, onupdate=utcnow)


def one_of(column: str, values: Iterable[StrEnum | str]) -> CheckConstraint:
    """A CHECK that a column holds one of these words."""
    words = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({words})", name=column)
