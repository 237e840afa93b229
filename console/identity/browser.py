"""What a browser says about who made it send a request: a pure judgement of two headers.

A page of another site can make a browser post a form to us, with everything the browser adds by itself. Each
browser of today says so in Sec-Fetch-Site (Fetch Metadata), the older ones in Origin (RFC 6454 §7). Programs
that aren't browsers send neither, and nobody can be tricked into running them.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit


def sent_by_other_site(headers: Mapping[str, str]) -> bool:
    """Whether a page of another origin made the browser send this request.

    Args:
        headers: The request's, by names in any case. Its host may be forged by a program, which could then
            forge the rest as well; a browser doesn't.
    """
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("Origin")
    if origin is None:
        return False
    try:
        return urlsplit(origin).netloc.lower() != headers.get("Host", "").lower()
    except ValueError:
        # No address of ours is written like that.
        return True
