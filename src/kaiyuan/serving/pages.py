"""The chat page's files: read once, served from memory by exact name, under a strict content security policy."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from kaiyuan.serving.errors import Reply

STATIC = Path(__file__).parent / "static"

POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_TYPES = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml", ".png": "image/png", ".ico": "image/x-icon", ".json": "application/json",
    ".txt": "text/plain; charset=utf-8", ".woff2": "font/woff2", ".webmanifest": "application/manifest+json",
    ".mjs": "text/javascript; charset=utf-8", ".webp": "image/webp", ".jpg": "image/jpeg",
}  # fmt: skip


@dataclass(frozen=True)
class Page:
    """One file."""

    body: bytes
    media_type: str
    tag: str

    def reply(self, if_none_match: str = "") -> Reply:
        headers = {"content-security-policy": POLICY, "cache-control": "no-cache", "etag": self.tag}
        if self.tag in (part.strip().removeprefix("W/") for part in if_none_match.split(",")):
            return Reply(b"", 304, self.media_type, headers)
        return Reply(self.body, 200, self.media_type, headers)


def load_pages(folder: Path = STATIC) -> dict[str, Page]:
    """The page for each path: ``/`` is ``index.html``; others are found as ``/name`` and ``/static/name``.

    Only files of known types, and none in or behind a name that begins with a dot. Empty without the folder.
    """
    pages: dict[str, Page] = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.suffix in _TYPES and not any(part.startswith(".") for part in name.split("/")):
            body = path.read_bytes()
            page = Page(body, _TYPES[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')
            pages[f"/{name}"] = pages[f"/static/{name}"] = page
    if "/index.html" in pages:
        pages["/"] = pages["/index.html"]
    return pages
