"""What every process of the service needs besides messages: settings, logs, signals, limits, key files, pictures."""
