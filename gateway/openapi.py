def render_document() -> str: return "{}"
