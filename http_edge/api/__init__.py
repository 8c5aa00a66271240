"""The HTTP APIs, a package a family."""
