"""What strangers show in place of the cluster's token."""

from __future__ import annotations

from rostral_gcs.auth import generate_token


def wrong_headers(token: str) -> dict[str, str | None]:
    """Values of the header `authorization` by what is wrong with each; None: no header."""
    return {
        "none": None,
        "empty": "",
        "no token": "Bearer ",
        "no scheme": token,
        "another scheme": f"Basic {token}",
        "scheme in lower case": f"bearer {token}",
        "cut short by one": f"Bearer {token[:-1]}",
        "longer by one": f"Bearer {token}A",
        "very long": "Bearer " + token * 90,
        "of another cluster": f"Bearer {generate_token()}",
        "only a prefix": f"Bearer {token[:16]}",
        "two in one": f"Bearer {token},{token}",
    }
