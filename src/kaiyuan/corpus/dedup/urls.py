"""URLs in one form, so that the same page under two spellings of its address counts as one."""

from __future__ import annotations

import contextlib
import re
from urllib.parse import parse_qsl, unquote_plus, urlencode, urlsplit

_TRACKING = re.compile(
    r"utm_\w+|fbclid|gclid|dclid|msclkid|yclid|mc_[ce]id|igshid|spm|scm|_hs\w+|ref|ref_src|share_\w+|sessionid"
    r"|phpsessid|jsessionid|spm_id_from|vd_source",
    re.IGNORECASE,
)
_INDEX = re.compile(r"/(?:index|default)\.(?:html?|php|aspx?|jsp)$", re.IGNORECASE)
_PORTS = {"http": ":80", "https": ":443"}


def normalized_url(url: str) -> str:
    """The address without what does not change the page; "" if it is none.

    Scheme, ``www.`` and ``m.``, default port, user, fragment, tracking parameters, ``index.html`` and a slash at the
    end go; the host is in small letters, percent-escapes are undone and parameters sorted.
    """
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").removeprefix("www.").removeprefix("m.")
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or not host:
        return ""
    if port == _PORTS[parts.scheme]:
        port = ""
    with contextlib.suppress(UnicodeError):
        host = host.encode("ascii").decode("idna") if "xn--" in host else host
    path = _INDEX.sub("/", unquote_plus(re.sub(r";jsessionid=[^/?]*", "", parts.path, flags=re.IGNORECASE)))
    query = sorted((key, value) for key, value in parse_qsl(parts.query, keep_blank_values=True)
                   if not _TRACKING.fullmatch(key))  # fmt: skip
    return f"{host.rstrip('.')}{port}{re.sub('/+', '/', path).rstrip('/')}" + (f"?{urlencode(query)}" if query else "")
