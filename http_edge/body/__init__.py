"""Reading request bodies: JSON, forms, uploads."""
