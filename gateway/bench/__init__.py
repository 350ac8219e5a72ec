"""Implements `hostelry bench`: speed and quality over HTTP, optionally compared with another OpenAI server."""
