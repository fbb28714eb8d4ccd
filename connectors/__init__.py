"""The edges: bytes to events on the way in, changes and dead letters to bytes on the way out."""
