"""The HTTP routes: each takes a request apart, asks a service, and puts the answer together."""
