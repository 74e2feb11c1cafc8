"""HTML pages from the templates beside this file; each is one file that needs no other."""

from __future__ import annotations

import base64

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: object) -> str:
    """The page that `templates/<template>` makes of `values`, whose text is escaped.

    `png | data_uri` puts a PNG file into the page.
    """
    environment = Environment(
        loader=PackageLoader("fmgs_nerfstudio.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    return environment.get_template(template).render(values)


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
