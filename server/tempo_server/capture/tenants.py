"""Name the tenant of a request: who asks, as far as it is proven and not only claimed.

A tenant is the first of these that a request has:

1. the header TEMPO_TENANT_HEADER, if one of TEMPO_TRUSTED_PROXIES sent the request;
2. a key that vLLM checks (`--api-key`);
3. with TEMPO_TENANT_BY_ADDRESS the address of the client, for IPv6 its /64 network.

All other requests are of one tenant, "anonymous", whose id is "". The other ids are hashes.
"""

import hashlib
import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

from starlette.datastructures import Headers

from tempo_server.settings import Network, ServerSettings

ANONYMOUS = ""
ID_DIGITS = 16
IPV6_PREFIX = 64  # a provider gives each of its customers a network of this size
FORWARDED = "x-forwarded-for"


@dataclass(frozen=True, slots=True)
class Tenants:
    """The rules by which a request's tenant is named."""

    header: str = ""
    proxies: Collection[Network] = ()
    by_address: bool = False
    keys: Collection[str] = ()

    @classmethod
    def of(cls, settings: ServerSettings, keys: Collection[str]) -> Self:
        """Return the rules of the settings; vLLM checks `keys`."""
        proxies = settings.proxy_networks
        return cls(settings.tenant_header, proxies, settings.tenant_by_address, frozenset(keys))

    def name(self, headers: Headers, peer: str) -> str:
        """Return the tenant's id: 16 hex digits, or "" for the tenant "anonymous".

        `peer` is the address of the connection. A proxy may add its value of the header behind one
        that the client sent, so the last value counts.
        """
        if self.header and self._is_proxy(peer):
            value = (headers.getlist(self.header) or [""])[-1].strip()
            if value:
                return id_of(value)
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        for key in (bearer if scheme.lower() == "bearer" else "", headers.get("x-api-key", "")):
            if key in self.keys:
                return id_of(f"Bearer {key}")
        return id_of(self._client(headers, peer)) if self.by_address and peer else ANONYMOUS

    def _client(self, headers: Headers, peer: str) -> str:
        """Return the address, or the IPv6 network, of the client behind trusted proxies."""
        hops = [hop.strip() for hop in ",".join(headers.getlist(FORWARDED)).split(",")]
        address = peer
        # Each proxy appends the address from which it got the request.
        while self._is_proxy(address) and hops and _parsed(hops[-1]):
            address = hops.pop()
        parsed = _parsed(address)
        if isinstance(parsed, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((parsed, IPV6_PREFIX), strict=False))
        return str(parsed or address)

    def _is_proxy(self, address: str) -> bool:
        parsed = _parsed(address)
        return parsed is not None and any(parsed in network for network in self.proxies)


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed


def id_of(text: str) -> str:
    """Return the id of what names a tenant: the first 16 hex digits of its sha256."""
    return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]
