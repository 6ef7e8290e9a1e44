"""The pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from flask import Blueprint, abort, flash, g, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import select
from sqlalchemy.orm import joinedload

from example.cohort.models import Member, Post, db, rindle
from flask_rindle.models import Asset

pages = Blueprint("pages", __name__)

LONGEST_TITLE = 120
LONGEST_BODY = 20_000


def pictures_of(owners: Iterable[object], *slots: str) -> Callable[[object, str], list[Asset]]:
    """The pictures of a whole page, fetched in three statements however many owners there are."""
    found = rindle.attachments_for(list(owners), *slots)
    return lambda owner, slot: [attachment.asset for attachment in found[rindle.owner_key(owner)][slot]]


def all_members() -> list[Member]:
    return list(db.session.scalars(select(Member).order_by(Member.name)))


@pages.get("/")
def front() -> ResponseReturnValue:
    """The newest posts, each with its first picture"""
    posts = db.session.scalars(select(Post).options(joinedload(Post.author)).order_by(Post.id.desc()).limit(30)).all()
    authors = {post.author for post in posts}
    return render_template("front.html", posts=posts, pictures=pictures_of([*posts, *authors], "images", "avatar"))


@pages.get("/members")
def members() -> ResponseReturnValue:
    """Everybody, with their portraits"""
    everybody = all_members()
    return render_template("members.html", members=everybody, pictures=pictures_of(everybody, "avatar"))


@pages.get("/members/<int:member_id>")
def member(member_id: int) -> ResponseReturnValue:
    """One member; your own page has the portrait upload"""
    found = db.get_or_404(Member, member_id)
    return render_template("member.html", member=found, pictures=pictures_of(found.posts, "images"))


@pages.get("/posts/<int:post_id>")
def post(post_id: int) -> ResponseReturnValue:
    """One post with all its pictures; your own posts have the picture upload"""
    return render_template("post.html", post=db.get_or_404(Post, post_id))


@pages.get("/posts/new")
def new_post() -> ResponseReturnValue:
    """A form to write a post"""
    return redirect(url_for(".sign_in")) if g.member is None else render_template("write.html", draft={}, problem=None)


@pages.post("/posts/new")
def create_post() -> ResponseReturnValue:
    """Takes that form, and goes on to the post, where its pictures are added"""
    if g.member is None:
        return redirect(url_for(".sign_in"), 303)
    title = request.form.get("title", "").strip()
    body = request.form.get("body", "").replace("\r\n", "\n").strip()
    if not (0 < len(title) <= LONGEST_TITLE and 0 < len(body) <= LONGEST_BODY):
        problem = f"A post needs a title of at most {LONGEST_TITLE} characters, and some text."
        return render_template("write.html", draft={"title": title, "body": body}, problem=problem), 422
    written = Post(title=title, body=body, author=g.member)
    db.session.add(written)
    db.session.commit()
    flash("Your post is out. Add pictures to it below.")
    return redirect(url_for(".post", post_id=written.id), 303)


@pages.get("/sign-in")
def sign_in() -> ResponseReturnValue:
    """Choose who you are; this example has no passwords"""
    everybody = all_members()
    return render_template("sign_in.html", members=everybody, pictures=pictures_of(everybody, "avatar"))


@pages.post("/sign-in")
def take_sign_in() -> ResponseReturnValue:
    """Takes that choice"""
    chosen = db.session.get(Member, request.form.get("member", type=int) or 0)
    if chosen is None:
        abort(404)
    session["member"] = str(chosen.id)
    return redirect(url_for(".member", member_id=chosen.id), 303)


@pages.post("/sign-out")
def sign_out() -> ResponseReturnValue:
    """Forgets who you are"""
    session.clear()
    return redirect(url_for(".front"), 303)
