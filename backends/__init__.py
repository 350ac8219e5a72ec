"""Engines and upstreams behind two small contracts; see `backends.api`."""
