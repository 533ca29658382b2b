"""What operators run beside the service: export, import, rebuild and the checks of a store."""
