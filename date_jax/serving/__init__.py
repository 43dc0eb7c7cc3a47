"""The server: a finished run that answers over HTTP, and its page for people."""
