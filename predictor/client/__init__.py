"""Clients of a running server: the load generator, the bench command and the chat in a terminal."""
