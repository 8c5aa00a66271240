"""Parts that every process uses besides messages: settings, logs, signals, limits, key files, pictures."""
