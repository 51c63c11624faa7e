"""Requests and responses: bodies, parsing, content negotiation and problem documents."""
