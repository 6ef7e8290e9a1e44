"""The site's own rows. Pictures are in slots: no column holds a path or an address."""

from __future__ import annotations

from datetime import date

from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import ForeignKey, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from example.cohort.profiles import Avatar, PostImage
from flask_rindle import Rindle, attached, attached_many


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)
migrate = Migrate()
rindle = Rindle()


class Member(db.Model):
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    about: Mapped[str]
    posts: Mapped[list[Post]] = relationship(back_populates="author", order_by="Post.id.desc()")

    avatar = attached("avatar", Avatar)


class Post(db.Model):
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    body: Mapped[str]
    written_on: Mapped[date] = mapped_column(server_default=func.current_date())
    author_id: Mapped[int] = mapped_column(ForeignKey(Member.id))
    author: Mapped[Member] = relationship(back_populates="posts")

    images = attached_many("images", PostImage)
