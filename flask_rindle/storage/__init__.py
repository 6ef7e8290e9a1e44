"""Storage: the port in `base`, one adapter a module. SDKs are imported by their adapter only."""
