"""What every room of the edge needs: errors, settings, the request's context, limits."""
