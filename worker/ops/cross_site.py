"""Whether a browser asks because our own page wants it to, or because another page does (CSRF).

Every browser of today says so in ``Sec-Fetch-Site``; older ones, and those that reach us by plain
HTTP under another name than localhost, at least say the page's ``Origin`` when something changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.ops.sign_in import cookie_names

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["comes_from_our_page", "says_it_comes_from_elsewhere"]


def comes_from_our_page(request: Request) -> bool:
    """True if the browser says so. Needed where a cookie is what opens the door."""
    site, origin = said(request)
    if site is not None:
        return site == "same-origin"
    return origin is not None and is_ours(origin, request)


def says_it_comes_from_elsewhere(request: Request) -> bool:
    """True if the browser says so; a program says nothing."""
    site, origin = said(request)
    return (site is not None or origin is not None) and not comes_from_our_page(request)


def said(request: Request) -> tuple[str | None, str | None]:
    return request.headers.get("sec-fetch-site"), request.headers.get("origin")


def is_ours(origin: str, request: Request) -> bool:
    scheme, mark, place = origin.partition("://")
    ours = request.headers.get("host", "").lower()
    secure, _ = cookie_names(request)
    # Only the browser knows of a proxy that speaks TLS for us: it then has a cookie for TLS alone.
    schemes = ("https",) if secure in request.cookies else ("http", "https")
    return bool(mark) and scheme in schemes and place.lower() == ours != ""
