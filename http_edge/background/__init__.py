"""Background tasks: retention, exports, webhooks."""
