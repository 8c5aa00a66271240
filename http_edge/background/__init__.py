"""What runs beside requests: retention, exports, webhooks."""
