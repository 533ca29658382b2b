"""The service: connects sockets and HTTP to protocol/ and storage/, which decide how records join and are stored."""
