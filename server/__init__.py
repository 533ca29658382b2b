"""The service: wires protocol/ and storage/ to sockets, and answers the documented REST contract."""
