"""The page at /docs: Swagger UI out of the installed package, and nothing from any other address.

The page comes with a content security policy under which only the package's two files, the lines here that start them, and requests to
this service run.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.util import find_spec
from pathlib import Path

#: The package's files that the page loads, from below its own address, and their media types.
FILES = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
}

_STYLE = """
body{margin:0;background:#fafafa}
"""

#: A page at /docs and one at /docs/ are the same, and the document is beside the former. `validatorUrl`: it is sent to no other service.
_SCRIPT = """
'use strict';
SwaggerUIBundle({
  url: new URL(/\\/$/.test(location.pathname) ? '../openapi.json' : 'openapi.json', location.href).href,
  dom_id: '#swagger-ui',
  deepLinking: true,
  filter: true,
  docExpansion: 'list',
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
});
"""


def _source(text: str) -> str:
    """Text as a content security policy names it: by its digest."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


#: Swagger UI draws its icons from `data:`, and shows pictures and clips that were made from `blob:`.
POLICY = (
    f"default-src 'none'; script-src 'self' {_source(_SCRIPT)}; style-src 'self' {_source(_STYLE)}; img-src 'self' data: blob:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(base: str) -> str:
    """Return the page; `base` leads from its address to where /docs/FILE is, as "docs/"."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>Zoetrope API</title><link rel="icon" href="data:,">
<link rel="stylesheet" href="{base}swagger-ui.css"><style>{_STYLE}</style></head>
<body><div id="swagger-ui"></div><noscript>This page reads openapi.json with JavaScript.</noscript>
<script src="{base}swagger-ui-bundle.js"></script><script>{_SCRIPT}</script></body></html>
"""


def read(name: str) -> bytes:
    """Return the bytes of one of `FILES`. Raises `OSError` when the package is not installed as it should be."""
    # The package's own code stays out: it would bring a template engine and a YAML reader into every edge process.
    spec = find_spec("swagger_ui")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the package swagger-ui-py is not installed")
    return (Path(spec.submodule_search_locations[0]) / "static" / name).read_bytes()
