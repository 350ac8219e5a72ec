"""Fakes, references and model makers that are shipped, so that whoever writes a backend can test it."""
