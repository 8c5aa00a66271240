"""The HTTP edge: translates HTTP into calls on the broker, and artefacts into downloads."""
