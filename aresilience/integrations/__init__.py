"""One third-party library to a file; nothing else in this package imports them. Each is an extra."""
