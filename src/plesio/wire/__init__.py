"""Typed messages over framed, authenticated channels."""
