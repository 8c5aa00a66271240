"""Ground floor of the edge: errors, settings, the request's context, limits."""
