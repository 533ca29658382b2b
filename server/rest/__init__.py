"""The HTTP routes: each parses a request, calls the services and builds the response; no rule about records is here."""
