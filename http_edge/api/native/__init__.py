"""The native API, and the routes of the service itself."""
