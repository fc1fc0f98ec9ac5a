"""Print the table of the admin routes and the scopes that open them, for server/docs/keys.md.

python -m tempo_server.admin.route_table
"""

from tempo_server.admin.route import KeyRoute, PublicRoute
from tempo_server.admin.router import router
from tempo_server.keys import SCOPES


def scope_of_routes() -> dict[tuple[str, str], str | None]:
    """Return by method and path the scope that a route needs; None for a route without a key."""
    return {
        (method, route.path): route.scope if isinstance(route, KeyRoute) else None
        for route in router.routes
        if isinstance(route, PublicRoute)
        for method in sorted(route.methods)
    }


def markdown() -> str:
    """Return the table: a row for each route, a column for each scope."""
    lines = [
        f"| route | no key | {' | '.join(SCOPES)} |",
        f"|---|---|{'---|' * len(SCOPES)}",
    ]
    for (method, path), scope in scope_of_routes().items():
        cells = ["yes" if scope in (None, column) else "" for column in SCOPES]
        cells.insert(0, "yes" if scope is None else "")
        lines.append(f"| `{method} {path.removeprefix('/tempo')}` | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
