"""Which requests may come from a browser. A page may have the browser of whoever runs a server send
requests to it, also to a loopback address; what is refused here is what the page has no right to.

- A page of another origin (`Origin`, `Sec-Fetch-Site`: browsers set them, pages cannot), unless
  `--cors-origins` names it. Following a link to a page of ours is all that is left to it.
- A server without a key that is asked for by a name which is not its own: a page's own name, which
  its owner lets point to a loopback address, makes the server a part of the page's origin (DNS
  rebinding). An IP address cannot be made to. Where there are keys the page would need one.
- A GET that does something, sent by a browser: an `<img>` anywhere is one.

Who is no browser is not concerned.
"""

import ipaddress
import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import Scope

from llamastream.errors import Forbidden, MisdirectedRequest, quoted

ORIGIN = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[^/:@?#\s]+)(?::(\d{1,5}))?", re.IGNORECASE)
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^/:@?#\s]+)(?::(\d{1,5}))?", re.IGNORECASE)
PORTS = {"http": "80", "https": "443"}
GETS_WITH_EFFECT = frozenset({"/stream"})
OWN = ("same-origin", "none")  # "none": typed in, or a bookmark
ANY = "*"


class BrowserRules:
    """`check` is called for every HTTP request and WebSocket."""

    def __init__(self, *, origins: Collection[str], hosts: Collection[str]) -> None:
        """origins: those that may, or `*`. hosts: names of this server beside the loopback's."""
        self._origins = {origin.lower() for origin in origins}
        self._hosts = {host.lower() for host in hosts}

    def check(self, scope: Scope, *, is_open: bool) -> None:
        """is_open: no key is needed. Raises Forbidden, MisdirectedRequest."""
        headers = Headers(scope=scope)
        if is_open:
            self._check_host(headers.getlist("host"))
        if ANY in self._origins:
            return
        is_get = scope.get("method") in ("GET", "HEAD")
        has_effect = not is_get or scope["path"] in GETS_WITH_EFFECT
        origins = headers.getlist("origin")
        for origin in origins:
            if not self._may(origin, headers):
                raise _foreign(f"The origin {quoted(origin)}")
        if not origins and not _is_own(headers) and (has_effect or not _follows_a_link(headers)):
            raise _foreign("A page of another origin")
        if is_get and has_effect and not origins and _is_browser(headers):
            raise Forbidden(
                f"A browser may not GET {quoted(scope['path'], mark=False)} for another page, or "
                "from its address bar: any page could make it. POST the document instead."
            )

    def _check_host(self, hosts: list[str]) -> None:
        for given in hosts:
            found = HOST.fullmatch(given.strip())
            host = found[1].lower().rstrip(".") if found else None
            if len(hosts) > 1 or host is None or not self._is_ours(host):
                raise MisdirectedRequest(
                    f"The host {quoted(given)} is not one of this server's: --allowed-hosts names "
                    "them. Without --api-key only loopback names and IP addresses are."
                )

    def _is_ours(self, host: str) -> bool:
        if ANY in self._hosts or host in self._hosts:
            return True
        return host == "localhost" or host.endswith(".localhost") or _is_address(host)

    def _may(self, origin: str, headers: Headers) -> bool:
        """Whether a page of `origin` may call: one that was named, or our own.

        `same-origin` is the browser's word for the latter where a proxy has changed `Host`.
        """
        if origin.lower() in self._origins or headers.getlist("sec-fetch-site") == ["same-origin"]:
            return True
        page, host = ORIGIN.fullmatch(origin), HOST.fullmatch(headers.get("host", ""))
        if page is None or host is None:
            return False
        default = PORTS[page[1].lower()]
        ours = (host[1].lower(), host[2] or default)
        return (page[2].lower(), page[3] or default) == ours


def _is_own(headers: Headers) -> bool:
    """Sent for a page of ours, by the person, or by no browser of today."""
    return all(site in OWN for site in headers.getlist("sec-fetch-site"))


def _follows_a_link(headers: Headers) -> bool:
    return (
        headers.getlist("sec-fetch-mode") == ["navigate"]
        and headers.getlist("sec-fetch-dest") == ["document"]
    )  # fmt: skip


def _is_browser(headers: Headers) -> bool:
    """Any but one that says it is at a page of ours; old ones say their name at least."""
    sites = headers.getlist("sec-fetch-site")
    says_so = headers.get("user-agent", "").startswith("Mozilla/")
    return sites != ["same-origin"] if sites else says_so


def _foreign(who: str) -> Forbidden:
    return Forbidden(f"{who} may not call this server: name it in --cors-origins.", param="Origin")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
