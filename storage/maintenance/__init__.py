"""What operators run beside the service, such as export, import and rebuild; nothing here is part of a request."""
