"""Servers, models, independent references, clients and records for every end-to-end suite."""
