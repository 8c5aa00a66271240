"""The asyncio client of the broker, and its errors."""
